"""Relation networks: the paper's module pair by pair, sums of shots, and whose statistics reach which score."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode, parameters
from torch import Tensor, nn
from torch.func import grad

from utils.backbones import STATISTICS, Conv4, EpisodeNorm2d
from utils.data.episodes import Episode
from utils.fewshot import relation as relation_module
from utils.fewshot.relation import (
    Relation,
    RelationModule,
    RelationNetwork,
    class_sums,
    normalise_sums,
    relation_scores,
)

N_TASKS, N_WAY, K_SHOT, N_QUERY, SIZE, WIDTH, SIDE = 2, 3, 2, 2, 20, 3, 5


@pytest.fixture(scope="module")
def episode() -> Episode:
    """Noise with a common part a class, in float64; maps of odd size, so that pooling leaves something out."""
    return noise_episode(N_WAY, K_SHOT, N_QUERY, N_TASKS, SIZE)


@pytest.fixture
def network() -> RelationNetwork:
    torch.manual_seed(0)
    network = RelationNetwork(Conv4(1, WIDTH, SIZE, maps=True), hidden=4).double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, EpisodeNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
        for linear in (network.relation.hidden, network.relation.output):  # scores that differ
            linear.weight.mul_(3)
        for _ in range(20):  # running statistics as after some training
            maps = network.embedding(torch.rand(8, 1, SIZE, SIZE, dtype=torch.float64))
            network.relation(maps[:3] + maps[3:6], maps[6:])
    return network.eval()


def normalised(norm: EpisodeNorm2d, x: Tensor, statistics: str, first: int) -> Tensor:
    if statistics == "running":
        mean, var = norm.running_mean, norm.running_var
    else:
        of = x if statistics == "batch" else x[:first]
        mean = of.mean(dim=(0, 2, 3))
        var = ((of - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
    mean, var, weight, bias = (v[:, None, None] for v in (mean, var, norm.weight, norm.bias))
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


def by_pairs(module: RelationModule, pairs: list[Tensor], statistics: str, first: int = 0) -> Tensor:
    """g_phi of Sung et al. (2018), figure 2, on concatenated maps; ``first`` pairs are those of the support."""
    x = torch.stack(pairs)
    for conv, norm in zip(module.convs, module.norms, strict=True):
        x = F.max_pool2d(F.relu(normalised(norm, F.conv2d(x, conv.weight, padding=1), statistics, first)), 2)
    hidden = F.relu(x.flatten(1) @ module.hidden.weight.T + module.hidden.bias)
    return 1 / (1 + torch.exp(-(hidden @ module.output.weight.T + module.output.bias)[:, 0]))


def paper(network: RelationNetwork, episode: Episode, statistics: str) -> Tensor:
    """Equation 1 for every query and class, from concatenated maps: ``[B, Q, n_way]``."""
    scores = []
    for task in range(episode.n_tasks):
        support_x, query_x = episode.support_x[task], episode.query_x[task]
        s, q = len(support_x), len(query_x)

        def sums(maps: Tensor, task: int = task) -> list[Tensor]:
            labels = episode.support_y[task].tolist()
            return [sum(maps[i] for i in range(len(labels)) if labels[i] == k) for k in range(episode.n_way)]

        def with_all(classes: list[Tensor], maps: Tensor) -> list[Tensor]:
            return [torch.cat([c, m]) for m in maps for c in classes]

        if statistics == "batch":
            both = network.embedding(torch.cat([support_x, query_x]), "batch")
            rows = by_pairs(network.relation, with_all(sums(both[:s]), both[s:]), "batch")
        elif statistics == "running":
            support, query = (
                torch.cat([network.embedding(x[None], "running") for x in xs]) for xs in (support_x, query_x)
            )
            pairs = with_all(sums(support), query)
            rows = torch.cat([by_pairs(network.relation, [pair], "running") for pair in pairs])
        else:  # each query alone with the support
            rows = []
            for x in query_x:
                maps = network.embedding(torch.cat([support_x, x[None]]), "support", s)
                pairs = with_all(sums(maps[:s]), maps)
                n_own = s * episode.n_way
                rows.append(by_pairs(network.relation, pairs, "support", n_own)[n_own:])
            rows = torch.cat(rows)
        scores.append(rows.view(q, episode.n_way))
    return torch.stack(scores)


def paper_loss(scores: Tensor, episode: Episode) -> Tensor:
    """Equation 2, divided by the number of pairs."""
    total, n = 0.0, 0
    for task in range(len(scores)):
        for j in range(scores.shape[1]):
            for k in range(episode.n_way):
                total = total + (scores[task, j, k] - (1.0 if episode.query_y[task, j] == k else 0.0)) ** 2
                n += 1
    return total / n


def unequal(episode: Episode) -> Episode:
    """Shots 3, 2 and 1 a class, in no order of classes."""
    labels = torch.tensor([[1, 0, 0, 2, 0, 1], [2, 1, 1, 0, 1, 0]])
    return replace(episode, support_y=labels)


@pytest.mark.parametrize("shots", ["equal", "unequal"])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_scores_loss_and_gradient_are_those_of_the_paper(network, episode, statistics, shots):
    episode = unequal(episode) if shots == "unequal" else episode
    learner = Relation(network, statistics)
    expected = paper(network, episode, statistics)
    scores = learner.scores(None, episode)
    assert scores.shape == (N_TASKS, N_WAY * N_QUERY, N_WAY) and scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-12)
    assert scores.std() > 5e-3  # else little would have been compared
    loss, wanted_loss = learner.loss(None, episode), paper_loss(expected, episode)
    assert loss.shape == ()
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-10, atol=0)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    wanted = torch.autograd.grad(wanted_loss, list(network.parameters()))
    assert max(float(slope.abs().max()) for slope in wanted) > 1e-3
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-7, atol=1e-11)


def test_logits_are_the_scores_and_lie_between_0_and_1(network, episode):
    learner = Relation(network)
    for bias, value in ((-50.0, 0.0), (50.0, 1.0)):
        nn.init.constant_(network.relation.output.bias, bias)
        scores = learner.scores(None, episode)
        assert torch.equal(learner.logits(None, episode), scores)
        assert scores.min() >= 0 and scores.max() <= 1
        torch.testing.assert_close(scores, torch.full_like(scores, value), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------- classes are sums


def test_a_class_is_the_sum_of_its_maps():
    maps = torch.randn(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 1, 0]])
    sums = class_sums(maps, labels, 2)
    torch.testing.assert_close(sums[0, 0], maps[0, 0] + maps[0, 3])
    torch.testing.assert_close(sums[1, 1], maps[1, :4].sum(0))
    assert sums.shape == (2, 2, 3, 2, 2)


def test_copies_of_one_shot_are_a_multiple_of_it(network, episode):
    """With running statistics K copies of an image are K times its map; a mean would not notice the copies."""
    one = replace(episode, support_x=episode.support_x[:, ::K_SHOT], support_y=episode.support_y[:, ::K_SHOT])
    copies = replace(
        one, support_x=one.support_x.repeat_interleave(3, 1), support_y=one.support_y.repeat_interleave(3, 1)
    )
    learner = Relation(network, "running")
    support, query = learner.embed(None, one.support_x, one.query_x)
    tripled = relation_scores(network, 3 * support, one.support_y, query, N_WAY)
    torch.testing.assert_close(learner.scores(None, copies), tripled)
    assert not torch.allclose(tripled, learner.scores(None, one))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_sums_keep_the_precision_of_the_maps(dtype):
    maps = torch.ones(1, 3, 2, 2, 2, dtype=dtype)
    sums = class_sums(maps, torch.tensor([[0, 1, 1]]), 2)
    assert sums.dtype == dtype and sums[0, :, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 0, 2]], "class 1 of task 0 has no support image"),
        ([[0, 1, 3]], r"labels must lie in 0 .. 2; got 0 .. 3"),
        ([[0, -1, 2]], r"labels must lie in 0 .. 2; got -1 .. 2"),
        ([[0, 1]], r"expected maps \[B, S, ...\] and labels \[B, S\]; got \[1, 3, 2, 2, 2\] and \[1, 2\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        class_sums(torch.ones(1, 3, 2, 2, 2), torch.tensor(labels), 3)


# --------------------------------------------------------------------------------- statistics of sums without the sums


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", [*STATISTICS, None])
def test_sums_are_normalised_as_if_they_had_been_made(statistics, training):
    torch.manual_seed(0)
    a, b = torch.randn(4, 3, 5, 5).double() * 2 + 5, torch.randn(6, 3, 5, 5).double()
    b = b + a.mean(0)  # correlated through their position
    a, b = a.requires_grad_(), b.requires_grad_()
    norm = EpisodeNorm2d(3).double().train(training)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    other = copy.deepcopy(norm)
    weights = torch.randn(24, 3, 5, 5).double()
    of_a, of_b = normalise_sums(norm, a, b, statistics, 2)
    sums = {norm: (of_b[:, None] + of_a).flatten(0, 1), other: other((b[:, None] + a).flatten(0, 1), statistics, 8)}
    results = []
    for one, x in sums.items():
        slopes = torch.autograd.grad((x * weights).sum(), [a, b, one.weight, one.bias])
        results.append([x, *slopes, *one.state_dict().values()])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def test_statistics_of_sums_need_some_support():
    norm, a = EpisodeNorm2d(3), torch.zeros(2, 3, 4, 4)
    for n_support in (None, 0, 3):
        with pytest.raises(ValueError, match=f"needs n_support between 1 and 2, the number of images; got {n_support}"):
            normalise_sums(norm, a, a, "support", n_support)
    with pytest.raises(ValueError, match="statistics must be one of"):
        normalise_sums(norm, a, a, "query")


def one_by_one(learner: Relation, episode: Episode) -> Tensor:
    """The scores of each query, seen alone with the support."""
    queries = range(episode.query_x.shape[1])
    alone = [replace(episode, query_x=episode.query_x[:, q : q + 1]) for q in queries]
    return torch.cat([learner.scores(None, one) for one in alone], dim=1)


@pytest.mark.parametrize("statistics", ["running", "support"])
def test_without_transduction_queries_can_come_one_by_one(network, episode, statistics):
    learner = Relation(network, statistics)
    torch.testing.assert_close(one_by_one(learner, episode), learner.scores(None, episode))


def test_with_statistics_of_the_batch_they_cannot(network, episode):
    learner = Relation(network, "batch")
    difference = (one_by_one(learner, episode) - learner.scores(None, episode)).abs()
    assert (difference.amax(dim=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_running_averages_move_only_in_training_with_the_batch(network, episode, statistics, training):
    network.train(training)
    before = {name: value.clone() for name, value in network.named_buffers()}
    learner = Relation(network, statistics)
    learner.loss(None, episode)
    learner.loss(parameters(network), episode)
    moved = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert moved == (before.keys() if training and statistics == "batch" else set())


@pytest.mark.parametrize("statistics", ["query", "", None])
def test_other_statistics_are_refused(network, statistics):
    with pytest.raises(ValueError, match=r"statistics must be one of \('batch', 'support', 'running'\); got"):
        Relation(network, statistics)


# ------------------------------------------------------------------------------------------------------- the learner


@pytest.mark.parametrize("statistics", STATISTICS)
def test_given_parameters_are_used_instead_of_the_networks_own(network, episode, statistics):
    learner = Relation(network, statistics)
    own = learner.loss(None, episode)
    params = parameters(network)
    assert torch.equal(learner.loss(params, episode), own)
    other = {name: 1.3 * value for name, value in params.items()}
    result = learner.loss(other, episode)
    assert not torch.allclose(result, own)
    network.load_state_dict({**network.state_dict(), **other})
    torch.testing.assert_close(learner.loss(None, episode), result)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_loss_can_be_differentiated_as_a_function_of_the_parameters(network, episode, statistics):
    learner = Relation(network, statistics)
    slopes = grad(learner.loss)(parameters(network), episode)
    wanted = torch.autograd.grad(learner.loss(None, episode), list(network.parameters()))
    for slope, other in zip(slopes.values(), wanted, strict=True):
        torch.testing.assert_close(slope, other)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_order_of_the_support_does_not_matter(network, episode, statistics):
    learner = Relation(network, statistics)
    order = torch.randperm(N_WAY * K_SHOT, generator=torch.Generator().manual_seed(0))
    shuffled = replace(episode, support_x=episode.support_x[:, order], support_y=episode.support_y[:, order])
    torch.testing.assert_close(learner.scores(None, shuffled), learner.scores(None, episode))


def test_renaming_the_classes_renames_the_scores(network, episode):
    new = torch.tensor([2, 0, 1])
    renamed = replace(episode, support_y=new[episode.support_y], query_y=new[episode.query_y])
    for statistics in STATISTICS:
        learner = Relation(network, statistics)
        torch.testing.assert_close(learner.scores(None, renamed)[..., new], learner.scores(None, episode))
        torch.testing.assert_close(learner.loss(None, renamed), learner.loss(None, episode))


def test_tasks_do_not_influence_each_other(network, episode):
    fields = ("support_x", "support_y", "query_x", "query_y")
    for statistics in STATISTICS:
        learner = Relation(network, statistics)
        together = learner.scores(None, episode)
        for task in range(N_TASKS):
            one = replace(episode, **{name: getattr(episode, name)[task : task + 1] for name in fields})
            torch.testing.assert_close(together[task], learner.scores(None, one)[0])


@pytest.mark.parametrize("statistics", STATISTICS)
def test_one_class_and_one_shot(network, episode, statistics):
    one = replace(
        episode,
        support_x=episode.support_x[:, :1],
        support_y=episode.support_y[:, :1],
        query_x=episode.query_x[:, :1],
        query_y=episode.query_y[:, :1],
        n_way=1,
    )
    learner = Relation(network, statistics)
    torch.testing.assert_close(learner.scores(None, one), paper(network, one, statistics))
    torch.testing.assert_close(learner.loss(None, one), (learner.scores(None, one) - 1).square().mean())


@pytest.mark.parametrize("chunk", [1, 300, 2**20])
def test_maps_embedded_before_are_related_the_same_in_any_pieces(network, episode, monkeypatch, chunk):
    monkeypatch.setattr(relation_module, "CHUNK", chunk)
    learner = Relation(network, "running")
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    assert query.shape == (N_TASKS, N_WAY * N_QUERY, WIDTH, SIDE, SIDE)
    scores = relation_scores(network, support, episode.support_y, query, N_WAY)
    torch.testing.assert_close(scores, paper(network, episode, "running"))


# -------------------------------------------------------------------------------------------------------------- errors


def test_an_empty_support_is_refused(network, episode):
    empty = replace(episode, support_x=episode.support_x[:, :0], support_y=episode.support_y[:, :0])
    with pytest.raises(ValueError, match="the support set is empty"):
        Relation(network).scores(None, empty)


@pytest.mark.parametrize("label", [-1, N_WAY])
def test_query_labels_out_of_range_are_refused(network, episode, label):
    wrong = replace(episode, query_y=torch.full_like(episode.query_y, label))
    with pytest.raises(ValueError, match=rf"query labels must lie in 0 .. 2; got {label} .. {label}"):
        Relation(network).loss(None, wrong)


def test_images_of_another_precision_are_torchs_error(network, episode):
    single = replace(episode, support_x=episode.support_x.float(), query_x=episode.query_x.float())
    with pytest.raises(RuntimeError, match="type"):
        Relation(network).scores(None, single)


def test_an_embedding_without_maps_is_refused():
    with pytest.raises(ValueError, match=r"build its embedding as Conv4\(..., maps=True\)"):
        RelationNetwork(Conv4(1, 4, 16))


def test_maps_too_small_or_of_another_size_are_refused(network, episode):
    with pytest.raises(ValueError, match="two halvings need maps of at least 4 x 4; got 3 x 3"):
        RelationModule(4, 3)
    with pytest.raises(ValueError, match=r"as maps \[N, 4, 5, 5\]; got \[1, 4, 5, 5\] and \[2, 4, 4, 4\]"):
        RelationModule(4, 5)(torch.zeros(1, 4, 5, 5), torch.zeros(2, 4, 4, 4))
    maps = torch.zeros(2, 3, WIDTH, SIDE, SIDE)
    with pytest.raises(ValueError, match="of the same B"):
        relation_scores(network, maps, torch.zeros(2, 3, dtype=torch.int64), maps[:1], 1)


def test_the_module_is_the_papers():
    """For 28 x 28 images: convolutions 128 to 64 and 64 to 64, then 64 to 8 to 1."""
    module = RelationNetwork(Conv4(1, 64, maps=True)).relation
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "convs.0.weight": (64, 128, 3, 3),
        "convs.1.weight": (64, 64, 3, 3),
        "norms.0.weight": (64,),
        "norms.1.weight": (64,),
        "hidden.weight": (8, 64),
        "output.weight": (1, 8),
    }
    assert module(torch.zeros(20, 64, 7, 7), torch.zeros(3, 64, 7, 7)).shape == (3, 20)


def test_a_learner_is_frozen(network):
    with pytest.raises(FrozenInstanceError):
        Relation(network).statistics = "running"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_gpu_computes_the_same_loss(network, episode, statistics):
    expected = Relation(network, statistics).loss(None, episode)
    there = replace(
        episode, **{name: getattr(episode, name).cuda() for name in ("support_x", "support_y", "query_x", "query_y")}
    )
    torch.testing.assert_close(Relation(network.cuda(), statistics).loss(None, there).cpu(), expected)
