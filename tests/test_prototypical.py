"""Prototypical networks: the paper's formulas in loops, the linear classifier, and each kind of statistics."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from comparison_fixtures import noise_episode, parameters
from torch import Tensor, nn
from torch.func import grad

from utils.backbones import MLP, STATISTICS, Conv4
from utils.data.episodes import Episode
from utils.fewshot.prototypical import Prototypical, classify_embedded, linear_head, prototypical_logits
from utils.functional import class_means

N_TASKS, N_WAY, K_SHOT, N_QUERY = 3, 4, 2, 3


@pytest.fixture(scope="module")
def episode() -> Episode:
    """Noise with a common part a class, in float64."""
    return noise_episode(N_WAY, K_SHOT, N_QUERY, N_TASKS)


@pytest.fixture
def network() -> Conv4:
    torch.manual_seed(0)
    network = Conv4(1, 5, 16).double()
    for _ in range(20):  # running statistics as after some training
        network(torch.rand(10, 1, 16, 16, dtype=torch.float64))
    nn.init.constant_(network.norms[-1].weight, 3.0)  # distances that matter to the softmax
    return network.eval()


def paper(embed, episode: Episode, temperature: float = 1.0) -> Tensor:
    """Snell et al. (2017), equations 1 and 2 and algorithm 1, task by task and image by image.

    ``embed(task)`` gives the embeddings of the support and of the query images of one task.
    """
    total, n = 0.0, 0
    for task in range(episode.n_tasks):
        support, query = embed(task)
        prototypes = []
        for k in range(episode.n_way):
            members = [support[i] for i in range(len(support)) if episode.support_y[task, i] == k]
            prototypes.append(sum(members) / len(members))
        for j in range(len(query)):
            distances = [((query[j] - prototype) ** 2).sum() / temperature for prototype in prototypes]
            normaliser = torch.log(sum(torch.exp(-distance) for distance in distances))
            total = total + distances[int(episode.query_y[task, j])] + normaliser
            n += 1
    return total / n


def embedder(network: nn.Module, episode: Episode, statistics: str):
    """Embeddings of a task, from the definition of each kind of statistics."""

    def embed(task: int) -> tuple[Tensor, Tensor]:
        support, query = episode.support_x[task], episode.query_x[task]
        if statistics == "running":
            return (torch.cat([network(x[None], "running") for x in images]) for images in (support, query))
        if statistics == "support":  # each query alone with the support
            s = len(support)
            rows = [network(torch.cat([support, x[None]]), "support", s) for x in query]
            return rows[0][:s], torch.stack([row[s] for row in rows])
        both = network(torch.cat([support, query]), "batch")
        return both[: len(support)], both[len(support) :]

    return embed


@pytest.mark.parametrize("statistics", STATISTICS)
def test_loss_and_gradient_are_those_of_the_paper(network, episode, statistics):
    loss = Prototypical(network, statistics).loss(None, episode)
    expected = paper(embedder(network, episode, statistics), episode)
    assert loss.shape == () and loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    wanted = torch.autograd.grad(expected, list(network.parameters()))
    assert max(float(slope.abs().max()) for slope in wanted) > 1e-3
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-8, atol=1e-12)


def test_a_temperature_divides_the_distances(network, episode):
    learner = Prototypical(network, "running", temperature=2.5)
    expected = paper(embedder(network, episode, "running"), episode, temperature=2.5)
    torch.testing.assert_close(learner.loss(None, episode), expected, rtol=1e-12, atol=0)
    plain = Prototypical(network, "running")
    assert torch.equal(learner.logits(None, episode).argmax(-1), plain.logits(None, episode).argmax(-1))
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"temperature must be positive; got {wrong}"):
            Prototypical(network, temperature=wrong)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_given_parameters_are_used_instead_of_the_networks_own(network, episode, statistics):
    learner = Prototypical(network, statistics)
    own = learner.loss(None, episode)
    params = parameters(network)
    assert torch.equal(learner.loss(params, episode), own)
    assert torch.equal(learner.logits(params, episode), learner.logits(None, episode))
    other = {name: 1.3 * value for name, value in params.items()}
    result = learner.loss(other, episode)
    assert not torch.allclose(result, own)
    assert all(torch.equal(value, params[name]) for name, value in network.named_parameters())
    network.load_state_dict({**network.state_dict(), **other})
    torch.testing.assert_close(learner.loss(None, episode), result)


def test_the_loss_can_be_differentiated_as_a_function_of_the_parameters(network, episode):
    learner = Prototypical(network, "running")
    slopes = grad(learner.loss)(parameters(network), episode)
    wanted = torch.autograd.grad(learner.loss(None, episode), list(network.parameters()))
    for slope, other in zip(slopes.values(), wanted, strict=True):
        torch.testing.assert_close(slope, other)


def test_the_mean_is_over_all_queries_of_all_tasks(network, episode):
    learner = Prototypical(network, "batch")
    alone = [learner.loss(None, episode.task(task)) for task in range(N_TASKS)]
    torch.testing.assert_close(learner.loss(None, episode), torch.stack(alone).mean())


# ------------------------------------------------------------------------------------------- the classifier is linear


def embedded(seed: int = 0, n_way: int = 5, d: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(4, n, d, generator=generator, dtype=torch.float64) for n in (n_way, 30))


def test_squared_distances_make_a_linear_classifier():
    prototypes, query = embedded()
    weight, bias = linear_head(prototypes)
    assert weight.shape == prototypes.shape and bias.shape == (4, 5)
    linear = query @ weight.mT + bias[:, None]
    logits = prototypical_logits(prototypes, query)
    torch.testing.assert_close(logits.softmax(-1), linear.softmax(-1), rtol=1e-11, atol=2e-15)
    torch.testing.assert_close(linear - logits, query.square().sum(-1, keepdim=True).expand_as(logits))


def test_distances_that_are_not_squared_do_not():
    prototypes, query = embedded()
    weight, bias = linear_head(prototypes)
    plain = -torch.cdist(query, prototypes)
    assert (plain.softmax(-1) - (query @ weight.mT + bias[:, None]).softmax(-1)).abs().max() > 0.1
    # no linear classifier at all: halfway between two points its log-odds are not halfway
    a, b = query[:, :1], query[:, 1:2]

    def odds(logits: Tensor) -> Tensor:
        return logits[..., 0] - logits[..., 1]

    for score, is_linear in ((prototypical_logits, True), (lambda c, f: -torch.cdist(f, c), False)):
        middle = odds(score(prototypes, (a + b) / 2))
        mean = (odds(score(prototypes, a)) + odds(score(prototypes, b))) / 2
        assert torch.allclose(middle, mean, rtol=1e-10) == is_linear


def test_a_query_on_a_prototype_is_certain():
    prototypes, _ = embedded()
    probability = prototypical_logits(20 * prototypes, 20 * prototypes).softmax(-1)
    torch.testing.assert_close(probability, torch.eye(5, dtype=torch.float64).expand(4, -1, -1))
    equal = prototypical_logits(prototypes[:, :1].expand(-1, 5, -1), prototypes)
    torch.testing.assert_close(equal.log_softmax(-1), torch.full_like(equal, -math.log(5)))


def test_entries_of_a_bank_are_classified_as_their_images(network, episode):
    images = torch.cat([episode.support_x, episode.query_x], dim=1)
    embedding = network(images.flatten(0, 1), "running").unflatten(0, images.shape[:2])
    n_support = N_WAY * K_SHOT
    banked = replace(episode, support_x=embedding[:, :n_support], query_x=embedding[:, n_support:])
    torch.testing.assert_close(classify_embedded(banked), Prototypical(network, "running").logits(None, episode))


# ----------------------------------------------------------------------------------------------- support and queries


@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_order_of_the_support_does_not_matter(network, episode, statistics):
    learner = Prototypical(network, statistics)
    order = torch.randperm(N_WAY * K_SHOT, generator=torch.Generator().manual_seed(0))
    shuffled = replace(episode, support_x=episode.support_x[:, order], support_y=episode.support_y[:, order])
    torch.testing.assert_close(learner.logits(None, shuffled), learner.logits(None, episode))


def test_renaming_the_classes_renames_the_scores(network, episode):
    learner = Prototypical(network, "running")
    new = torch.tensor([2, 0, 3, 1])
    renamed = replace(episode, support_y=new[episode.support_y], query_y=new[episode.query_y])
    torch.testing.assert_close(learner.logits(None, renamed)[..., new], learner.logits(None, episode))
    torch.testing.assert_close(learner.loss(None, renamed), learner.loss(None, episode))


def test_support_and_query_have_different_parts(network, episode):
    learner = Prototypical(network, "running")
    swapped = replace(
        episode,
        support_x=episode.query_x,
        support_y=episode.query_y,
        query_x=episode.support_x,
        query_y=episode.support_y,
    )
    assert learner.logits(None, swapped).shape == (N_TASKS, N_WAY * K_SHOT, N_WAY)
    assert not torch.allclose(learner.loss(None, swapped), learner.loss(None, episode))


def test_query_labels_reach_the_loss_and_not_the_scores(network, episode):
    learner = Prototypical(network, "running")
    lied = replace(episode, query_y=(episode.query_y + 1) % N_WAY)
    assert torch.equal(learner.logits(None, lied), learner.logits(None, episode))
    assert not torch.allclose(learner.loss(None, lied), learner.loss(None, episode))


def test_tasks_do_not_influence_each_other(network, episode):
    for statistics in STATISTICS:
        learner = Prototypical(network, statistics)
        together = learner.logits(None, episode)
        for task in range(N_TASKS):
            torch.testing.assert_close(together[task], learner.logits(None, episode.task(task))[0])


# -------------------------------------------------------------------------------------------- batch-norm statistics


def one_by_one(learner: Prototypical, episode: Episode) -> Tensor:
    """The scores of each query, seen alone with the support."""
    queries = range(episode.query_x.shape[1])
    alone = [
        replace(episode, query_x=episode.query_x[:, q : q + 1], query_y=episode.query_y[:, q : q + 1]) for q in queries
    ]
    return torch.cat([learner.logits(None, one) for one in alone], dim=1)


@pytest.mark.parametrize("statistics", ["running", "support"])
def test_without_transduction_queries_can_come_one_by_one(network, episode, statistics):
    learner = Prototypical(network, statistics)
    torch.testing.assert_close(one_by_one(learner, episode), learner.logits(None, episode))


def test_with_statistics_of_the_batch_they_cannot(network, episode):
    learner = Prototypical(network, "batch")
    difference = (one_by_one(learner, episode) - learner.logits(None, episode)).abs()
    assert (difference.amax(dim=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_running_averages_move_only_in_training_with_the_batch(network, episode, statistics, training):
    network.train(training)
    before = {name: value.clone() for name, value in network.named_buffers()}
    learner = Prototypical(network, statistics)
    learner.loss(None, episode)
    learner.loss(parameters(network), episode)
    moved = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert moved == (before.keys() if training and statistics == "batch" else set())


def test_three_kinds_of_statistics_are_three_predictions(network, episode):
    scores = [Prototypical(network, statistics).logits(None, episode) for statistics in STATISTICS]
    assert all(not torch.allclose(scores[i], scores[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize("statistics", ["query", "", None, "Running"])
def test_other_statistics_are_refused(network, statistics):
    with pytest.raises(ValueError, match=r"statistics must be one of \('batch', 'support', 'running'\); got"):
        Prototypical(network, statistics)


# ------------------------------------------------------------------------------------------------------------- rest


def test_a_learner_is_frozen(network):
    with pytest.raises(FrozenInstanceError):
        Prototypical(network).statistics = "running"
    assert Prototypical(network).statistics == "batch"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_network_decides_the_precision(episode, dtype):
    torch.manual_seed(0)
    learner = Prototypical(MLP(256, (8,)).to(dtype))
    some = replace(episode, support_x=episode.support_x.to(dtype), query_x=episode.query_x.to(dtype))
    assert learner.logits(None, some).dtype == learner.loss(None, some).dtype == dtype


def test_any_network_with_the_two_options_serves(episode):
    class Flat(nn.Module):
        def forward(self, x, statistics=None, n_support=None):
            assert statistics == "support" and n_support == N_WAY * K_SHOT
            return x.flatten(1)

    scores = Prototypical(Flat(), "support").logits(None, episode)
    means = class_means(episode.support_x.flatten(2), episode.support_y, N_WAY)
    torch.testing.assert_close(scores, -torch.cdist(episode.query_x.flatten(2), means).square())


def test_images_without_a_task_axis_are_refused(network, episode):
    learner = Prototypical(network)
    with pytest.raises(ValueError, match=r"expected support \[B, S, C, H, W\].*got \[8, 1, 16, 16\]"):
        learner.embed(None, episode.support_x[0], episode.query_x[0])
    with pytest.raises(ValueError, match="of the same B"):
        learner.embed(None, episode.support_x[:2], episode.query_x)


def test_support_and_query_embeddings_come_back_in_their_places(network, episode):
    support, query = Prototypical(network, "running").embed(None, episode.support_x, episode.query_x)
    assert support.shape == (N_TASKS, N_WAY * K_SHOT, 5) and query.shape == (N_TASKS, N_WAY * N_QUERY, 5)
    torch.testing.assert_close(support[1, 3:4], network(episode.support_x[1, 3:4], "running"))
    torch.testing.assert_close(query[2, 7:8], network(episode.query_x[2, 7:8], "running"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_gpu_computes_the_same_loss(network, episode, statistics):
    expected = Prototypical(network, statistics).loss(None, episode)
    there = replace(
        episode, **{name: getattr(episode, name).cuda() for name in ("support_x", "support_y", "query_x", "query_y")}
    )
    torch.testing.assert_close(Prototypical(network.cuda(), statistics).loss(None, there).cpu(), expected)
