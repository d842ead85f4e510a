"""Infinite mixture prototypes: the paper's algorithm point by point, and the two methods that it lies between."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from comparison_fixtures import noise_episode, parameters
from torch import Tensor, nn
from torch.func import grad

from utils.backbones import STATISTICS, Conv4
from utils.data.episodes import Episode
from utils.fewshot.mixture import (
    Mixture,
    MixtureNetwork,
    by_class,
    classify_embedded,
    estimate_threshold,
    infer_clusters,
    mixture_logits,
)
from utils.fewshot.prototypical import Prototypical, prototypical_logits
from utils.functional import class_means

N_TASKS, N_WAY, K_SHOT, N_QUERY = 2, 3, 4, 2


@pytest.fixture(scope="module")
def episode() -> Episode:
    """Noise with a common part a class, in float64."""
    return noise_episode(N_WAY, K_SHOT, N_QUERY, N_TASKS)


@pytest.fixture
def network() -> MixtureNetwork:
    torch.manual_seed(0)
    network = MixtureNetwork(Conv4(1, 5, 16), sigma=1.5).double()
    for _ in range(20):  # running statistics as after some training
        network(torch.rand(10, 1, 16, 16, dtype=torch.float64))
    nn.init.constant_(network.embedding.norms[-1].weight, 3.0)
    return network.eval()


def points(seed: int = 0, counts: tuple[int, ...] = (4, 1, 3), d: int = 3, n_tasks: int = 2) -> tuple[Tensor, ...]:
    """Support, labels in no order and queries, with classes in several pieces."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(n_tasks)])
    support = torch.randn(*labels.shape, d, generator=generator, dtype=torch.float64)
    support = support + 2 * torch.randint(-1, 2, labels.shape, generator=generator)[..., None]
    return support, labels, torch.randn(n_tasks, 6, d, generator=generator, dtype=torch.float64) * 2


def paper(
    support: Tensor, labels: Tensor, query: Tensor, n_way: int, threshold: float | None, sigma, steps: int, alpha: float
) -> tuple[Tensor, list[int]]:
    """Allen et al. (2019), algorithm 1 with labels everywhere, for one task; scores and clusters a class."""
    d = support.shape[1]
    centres, of = [], []
    for k in range(n_way):
        members = [h for h, y in zip(support, labels, strict=True) if y == k]
        centres.append(sum(members) / len(members))
        of.append(k)
    if threshold is None:
        rho = 0.0
        if n_way > 1:
            grand = sum(centres) / n_way
            rho = sum(((c - grand) ** 2).sum() for c in centres) / (n_way - 1) / d
        threshold = (-2 * sigma * torch.log(torch.as_tensor(alpha / (1 + rho / sigma) ** (d / 2)))).item()
    for _ in range(steps):
        for h, y in zip(support, labels, strict=True):
            if min(((h - c) ** 2).sum().item() for c, k in zip(centres, of, strict=True) if k == y) > threshold:
                centres.append(h)
                of.append(int(y))
        weight = torch.zeros(len(support), len(centres), dtype=support.dtype)
        for i, (h, y) in enumerate(zip(support, labels, strict=True)):
            own = [c for c in range(len(centres)) if of[c] == y]
            density = torch.stack([torch.exp(-((h - centres[c]) ** 2).sum() / (2 * sigma)) for c in own])
            weight = weight.index_put((torch.tensor([i]), torch.tensor(own)), density / density.sum())
        mass = weight.sum(0)
        kept = [c for c in range(len(centres)) if mass[c] > 1e-3]
        centres = [sum(weight[i, c] * support[i] for i in range(len(support))) / mass[c] for c in kept]
        of = [of[c] for c in kept]
    rows = []
    for x in query:
        nearest = [
            torch.stack([((x - c) ** 2).sum() for c, l in zip(centres, of, strict=True) if l == k]).min()
            for k in range(n_way)
        ]
        rows.append(-torch.stack(nearest) / (2 * sigma))
    return torch.stack(rows), [of.count(k) for k in range(n_way)]


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("threshold", [None, 0.5, 4.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_scores_and_gradients_are_those_of_the_paper(seed, threshold, steps):
    support, labels, query = points(seed)
    support.requires_grad_()
    log_sigma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    sigma = log_sigma.exp()
    clusters = infer_clusters(support, labels, 3, threshold, sigma, steps, alpha=0.5)
    logits = mixture_logits(clusters, query, sigma)
    assert logits.shape == (2, 6, 3) and logits.dtype == torch.float64
    per_task = [paper(*task, 3, threshold, sigma, steps, 0.5) for task in zip(support, labels, query, strict=True)]
    assert clusters.counts.tolist() == [count for _, count in per_task]
    expected = torch.stack([scores for scores, _ in per_task])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    slopes = torch.autograd.grad((logits * weights).sum(), [support, log_sigma], retain_graph=True)  # sigma is shared
    wanted = torch.autograd.grad((expected * weights).sum(), [support, log_sigma])
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-8, atol=1e-10)


def test_there_was_something_to_infer():
    """The cases above have classes of one cluster and of several, and clusters that were removed again."""
    support, labels, _ = points(0)
    few, some, many = (infer_clusters(support, labels, 3, t).counts for t in (30.0, 4.0, 0.5))
    assert few.sum() == 6 and 6 < some.sum() < many.sum()
    assert infer_clusters(support, labels, 3, 0.5, sigma=0.01).counts.sum() < many.sum()


# ------------------------------------------------------------------------------------------------- between two methods


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_an_infinite_threshold_leaves_prototypical_networks(steps):
    support, labels, query = points(1)
    support.requires_grad_()
    sigma = torch.tensor(0.7, dtype=torch.float64)
    logits = mixture_logits(infer_clusters(support, labels, 3, math.inf, sigma, steps), query, sigma)
    expected = prototypical_logits(class_means(support, labels, 3), query) / (2 * sigma)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-13)
    for value in (logits, expected):
        value.sum().backward(retain_graph=True)
    slope = torch.autograd.grad(logits.square().sum(), support)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(expected.square().sum(), support)[0])


def test_the_learner_then_is_a_prototypical_network(network, episode):
    for statistics in STATISTICS:
        learner = Mixture(network, statistics, threshold=math.inf)
        prototypical = Prototypical(network.embedding, statistics, temperature=2 * 1.5)
        torch.testing.assert_close(learner.logits(None, episode), prototypical.logits(None, episode))
        torch.testing.assert_close(learner.loss(None, episode), prototypical.loss(None, episode))


@pytest.mark.parametrize("seed", range(3))
def test_a_threshold_of_zero_and_small_clusters_leave_the_nearest_neighbour(seed):
    """Each point opens a cluster; narrow ones do not share points, so no point moves, and no mean of a class stays."""
    support, labels, query = points(seed, counts=(4, 1, 3))
    sigma = 1e-4
    clusters = infer_clusters(support, labels, 3, 0.0, sigma)
    assert clusters.counts.tolist() == [[4, 1, 3]] * 2
    logits = mixture_logits(clusters, query, sigma)
    distances = torch.cdist(query, support).square()
    expected = torch.stack([distances.masked_fill((labels != k)[:, None], math.inf).amin(-1) for k in range(3)], dim=-1)
    torch.testing.assert_close(-logits * 2 * sigma, expected, rtol=1e-10, atol=1e-12)


def test_points_that_coincide_open_one_cluster():
    """Nor does a later step open another where one is."""
    support = torch.tensor([[[0.0], [0.0], [9.0], [9.0], [9.0]]], dtype=torch.float64)
    labels = torch.zeros(1, 5, dtype=torch.int64)
    for steps in (1, 3):
        clusters = infer_clusters(support, labels, 1, 0.0, 0.01, steps)
        assert sorted(clusters.means[clusters.exists][:, 0].tolist()) == [0.0, 9.0]


def test_rounding_opens_no_second_cluster_however_far_from_the_origin():
    support = 1000 + torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    twice = support.repeat(1, 2, 1)
    assert infer_clusters(twice, torch.zeros(1, 8, dtype=torch.int64), 1, 0.0, sigma=0.01).counts.item() == 4


def test_wide_clusters_share_their_points():
    support = torch.tensor([[[0.0], [3.0]]], dtype=torch.float64)
    clusters = infer_clusters(support, torch.zeros(1, 2, dtype=torch.int64), 1, 1.0, sigma=4.0)
    means = clusters.means[clusters.exists][:, 0]
    assert len(means) == 3 and 0 < means.min() < 1.4 and 1.6 < means.max() < 3  # the class mean stays, at 1.5
    torch.testing.assert_close(means[0], torch.tensor(1.5, dtype=torch.float64))


def test_two_pieces_of_a_class_need_two_clusters():
    """One class surrounds another: its mean lies on the other's, its clusters do not."""
    support = torch.tensor([[[-4.0], [-4.2], [4.0], [4.2], [0.0], [0.1]]], dtype=torch.float64)
    labels = torch.tensor([[0, 0, 0, 0, 1, 1]])
    query = torch.tensor([[[-4.1], [4.1], [0.05]]], dtype=torch.float64)
    one = mixture_logits(infer_clusters(support, labels, 2, math.inf), query)
    several = mixture_logits(infer_clusters(support, labels, 2, 2.0), query)
    assert several.argmax(-1).tolist() == [[0, 0, 1]]
    assert (one[0, :2].softmax(-1)[:, 0] < 0.9).all() and (several[0, :2].softmax(-1)[:, 0] > 0.99).all()


# ------------------------------------------------------------------------------------------------------- the threshold


def test_the_threshold_is_estimated_by_the_papers_formula():
    prototypes = torch.tensor([[[0.0, 0.0], [2.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    sigma, alpha = 0.5, 0.1
    threshold = estimate_threshold(prototypes, sigma, alpha)
    rho = (2 + 8) / 2  # unbiased variances 2 and 8
    assert float(threshold[0]) == pytest.approx(-2 * sigma * math.log(alpha / (1 + rho / sigma) ** (2 / 2)))
    assert float(threshold[1]) == pytest.approx(-2 * sigma * math.log(alpha))
    assert float(estimate_threshold(prototypes[:, :1], sigma, alpha)[0]) == pytest.approx(-2 * sigma * math.log(alpha))
    assert (estimate_threshold(prototypes, sigma, 0.5) < threshold).all()  # more concentration, more clusters


def test_each_task_has_its_own_threshold():
    support, labels, _ = points(0)
    both = infer_clusters(support, labels, 3, torch.tensor([0.5, 30.0], dtype=torch.float64)).counts
    assert both[0].equal(infer_clusters(support, labels, 3, 0.5).counts[0])
    assert both[1].equal(infer_clusters(support, labels, 3, 30.0).counts[1])
    estimated = estimate_threshold(class_means(support, labels, 3), 1.0, 0.1)
    given, own = (infer_clusters(support, labels, 3, t) for t in (estimated, None))
    assert torch.equal(given.means, own.means) and torch.equal(given.exists, own.exists)


# ------------------------------------------------------------------------------------------------ order, shapes, types


def test_points_stand_in_rows_of_their_class():
    embedding = torch.arange(12.0).view(1, 6, 2)
    rows, there = by_class(embedding, torch.tensor([[2, 0, 2, 1, 2, 0]]), 3)
    assert rows.shape == (1, 3, 3, 2) and there.tolist() == [[[True, True, False], [True, False, False], [True] * 3]]
    assert rows[0, 0, :2, 0].tolist() == [2, 10] and rows[0, 1, 0, 0] == 6 and rows[0, 2, :, 0].tolist() == [0, 4, 8]


def test_the_order_of_the_classes_does_not_matter():
    support, labels, query = points(2)
    order = labels.argsort(dim=-1, descending=True, stable=True)
    sorted_support = support.gather(1, order[..., None].expand_as(support))
    logits, others = (
        mixture_logits(infer_clusters(s, y, 3, 2.0), query)
        for s, y in ((support, labels), (sorted_support, labels.gather(1, order)))
    )
    torch.testing.assert_close(logits, others)


def test_the_order_within_a_class_may():
    """0, 1.5 and 3, far from the mean: begun at an end they are two clusters, begun in the middle one."""
    line = torch.tensor([[[0.0], [3.0], [1.5], [99.0]]], dtype=torch.float64)
    y = torch.zeros(1, 4, dtype=torch.int64)
    counts = [infer_clusters(x, y, 1, 3.0).counts.item() for x in (line, line[:, [2, 0, 1, 3]])]
    assert counts == [3, 2]


def test_renaming_the_classes_renames_the_scores():
    support, labels, query = points(1)
    new = torch.tensor([2, 0, 1])
    logits, renamed = (mixture_logits(infer_clusters(support, y, 3, 2.0), query) for y in (labels, new[labels]))
    torch.testing.assert_close(renamed[..., new], logits)


def test_tasks_do_not_influence_each_other():
    support, labels, query = points(0)
    together = mixture_logits(infer_clusters(support, labels, 3), query)
    for task in range(2):
        one = slice(task, task + 1)
        alone = mixture_logits(infer_clusters(support[one], labels[one], 3), query[one])
        torch.testing.assert_close(together[one], alone)


def test_one_shot_is_a_prototypical_network_whatever_the_threshold():
    support, labels, query = points(0, counts=(1, 1, 1, 1))
    for threshold in (None, 0.0, 5.0):
        clusters = infer_clusters(support, labels, 4, threshold)
        assert (clusters.counts == 1).all()
        expected = prototypical_logits(class_means(support, labels, 4), query) / 2
        torch.testing.assert_close(mixture_logits(clusters, query), expected)


def test_one_class_has_one_score():
    support, labels, query = points(0, counts=(5,))
    assert mixture_logits(infer_clusters(support, labels, 1), query).shape == (2, 6, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_clusters_and_scores_keep_the_precision_of_the_embedding(dtype):
    support, labels, query = points(0)
    exact = mixture_logits(infer_clusters(support, labels, 3, 4.0), query)
    clusters = infer_clusters(support.to(dtype), labels, 3, 4.0, sigma=torch.tensor(1.0))
    logits = mixture_logits(clusters, query.to(dtype), torch.tensor(1.0))
    assert clusters.means.dtype == logits.dtype == dtype
    tolerance = {torch.float16: 0.05, torch.bfloat16: 0.4, torch.float32: 1e-4}[dtype]
    torch.testing.assert_close(logits.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 0, 2]], "class 1 of task 0 has no support"),
        ([[0, 1, 3]], r"labels must lie in 0 .. 2; got 0 .. 3"),
        ([[0, 1]], r"expected embedding \[B, S, D\] and labels \[B, S\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        infer_clusters(torch.ones(1, 3, 2), torch.tensor(labels), 3)


# ------------------------------------------------------------------------------------------------------- the learner


@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_learner_is_the_functions_on_its_embeddings(network, episode, statistics):
    learner = Mixture(network, statistics, threshold=0.05, clustering_steps=2)
    logits = learner.logits(None, episode)
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    tasks = zip(support, episode.support_y, query, strict=True)
    expected = [paper(*task, N_WAY, 0.05, network.log_sigma.exp(), 2, 0.1) for task in tasks]
    assert any(count > 1 for _, counts in expected for count in counts)
    expected = torch.stack([scores for scores, _ in expected])
    torch.testing.assert_close(logits, expected)
    assert learner.classify(None, episode).equal(expected.argmax(-1))
    chosen = expected.log_softmax(-1).gather(-1, episode.query_y[..., None])
    loss = learner.loss(None, episode)
    torch.testing.assert_close(loss, -chosen.mean())
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    for slope, other in zip(slopes, torch.autograd.grad(-chosen.mean(), list(network.parameters())), strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-6, atol=1e-9)
    assert slopes[[name for name, _ in network.named_parameters()].index("log_sigma")].abs() > 1e-4


def test_entries_of_a_bank_are_classified_as_their_images(network, episode):
    learner = Mixture(network, "running", threshold=0.05)
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    banked = replace(episode, support_x=support, query_x=query)
    scores = classify_embedded(banked, learner.sigma(None), threshold=0.05)
    torch.testing.assert_close(scores, learner.logits(None, episode))
    assert learner.clusters(None, support, episode.support_y, N_WAY).counts.max() > 1


def test_given_parameters_are_used_instead_of_the_networks_own(network, episode):
    learner = Mixture(network, "running", threshold=0.05)
    params = parameters(network)
    own = learner.loss(None, episode)
    assert torch.equal(learner.loss(params, episode), own)
    for name in params:
        other = {**params, name: params[name] + 0.3}
        assert not torch.equal(learner.loss(other, episode), own), name


def test_the_loss_can_be_differentiated_as_a_function_of_the_parameters(network, episode):
    for threshold in (None, 0.05):
        learner = Mixture(network, "running", threshold, clustering_steps=2)
        slopes = grad(learner.loss)(parameters(network), episode)
        wanted = torch.autograd.grad(learner.loss(None, episode), list(network.parameters()))
        for slope, other in zip(slopes.values(), wanted, strict=True):
            torch.testing.assert_close(slope, other)


@pytest.mark.parametrize("statistics", ["running", "support"])
def test_without_transduction_queries_can_come_one_by_one(network, episode, statistics):
    learner = Mixture(network, statistics, threshold=0.05)
    alone = [
        learner.logits(None, replace(episode, query_x=episode.query_x[:, q : q + 1])) for q in range(N_WAY * N_QUERY)
    ]
    torch.testing.assert_close(torch.cat(alone, dim=1), learner.logits(None, episode))


def test_an_empty_support_is_refused(network, episode):
    empty = replace(episode, support_x=episode.support_x[:, :0], support_y=episode.support_y[:, :0])
    with pytest.raises(ValueError, match="the support set is empty"):
        Mixture(network).logits(None, empty)


def test_images_of_another_precision_are_torchs_error(network, episode):
    with pytest.raises(RuntimeError, match="type"):
        Mixture(network).logits(
            None, replace(episode, support_x=episode.support_x.float(), query_x=episode.query_x.float())
        )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("statistics", "query", "statistics must be one of"),
        ("alpha", 0.0, "alpha must be positive; got 0.0"),
        ("threshold", -1.0, "threshold, a squared distance, must not be negative; got -1.0"),
        ("threshold", math.nan, "must not be negative; got nan"),
        ("clustering_steps", -1, "clustering_steps must not be negative; got -1"),
    ],
)
def test_impossible_options_are_refused(network, option, value, message):
    with pytest.raises(ValueError, match=message):
        Mixture(network, **{option: value})


def test_a_variance_is_positive():
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"sigma, a variance, must be positive; got {wrong}"):
            MixtureNetwork(Conv4(1, 4, 16), wrong)
    with pytest.raises(ValueError, match="steps must not be negative; got -1"):
        infer_clusters(torch.ones(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64), 1, steps=-1)


def test_a_learner_is_frozen(network):
    with pytest.raises(FrozenInstanceError):
        Mixture(network).threshold = 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_gpu_computes_the_same_loss(network, episode, statistics):
    expected = Mixture(network, statistics, threshold=0.05).loss(None, episode)
    there = replace(
        episode, **{name: getattr(episode, name).cuda() for name in ("support_x", "support_y", "query_x", "query_y")}
    )
    torch.testing.assert_close(Mixture(network.cuda(), statistics, threshold=0.05).loss(None, there).cpu(), expected)
