"""Nearest neighbours and kernel densities: what loops compute and what scikit-learn finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity, KNeighborsClassifier
from torch import Tensor

from utils.data import load
from utils.data.episodes import EpisodeSampler
from utils.fewshot.baselines import (
    k_nearest_neighbours,
    kernel_density,
    nearest_neighbour,
    pixel_nearest_neighbour,
)
from utils.training import episode_accuracies


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_labels_are_those_of_scikit_learn(metric):
    support, query = vectors(6, 15, 8), vectors(6, 40, 8, seed=1)
    labels = torch.stack([torch.randperm(15, generator=torch.Generator().manual_seed(t)) % 5 for t in range(6)])
    found = nearest_neighbour(support, labels, query, metric)
    assert found.shape == (6, 40) and found.dtype == torch.int64
    for task in range(6):
        model = KNeighborsClassifier(1, metric=metric, algorithm="brute").fit(support[task].numpy(), labels[task])
        assert np.array_equal(found[task].numpy(), model.predict(query[task].numpy()))


def test_the_two_metrics_differ():
    support, query = torch.tensor([[[10.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.9]]])
    labels = torch.tensor([[7, 3]])
    assert nearest_neighbour(support, labels, query, "cosine").item() == 7
    assert nearest_neighbour(support, labels, query, "euclidean").item() == 3


def test_another_metric_is_refused():
    with pytest.raises(ValueError, match='metric must be "cosine" or "euclidean"; got \'manhattan\''):
        nearest_neighbour(vectors(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), vectors(1, 2, 3), "manhattan")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_pixels_of_real_digits_as_scikit_learn(metric):
    sampler = EpisodeSampler(load("digits", "test"), 5, 3, 10, batch_size=4)
    episode = sampler.sample(0)
    found = pixel_nearest_neighbour(episode, metric)
    for task in range(4):
        model = KNeighborsClassifier(1, metric=metric, algorithm="brute")
        model.fit(episode.support_x[task].flatten(1).numpy(), episode.support_y[task].numpy())
        assert (found[task].numpy() == model.predict(episode.query_x[task].flatten(1).numpy())).mean() > 0.99
    assert 0.6 < float((found == episode.query_y).double().mean()) < 1


def test_a_query_that_is_in_the_support_is_found():
    episode = EpisodeSampler(load("digits", "test"), 10, 3, 1).sample(0)
    pixels = episode.support_x.flatten(2)
    assert torch.equal(nearest_neighbour(pixels, episode.support_y, pixels), episode.support_y)


def test_glyphs_are_as_hard_as_omniglot_for_pixels():
    """Omniglot: 48 / 72 % (5-way 1-shot, 5-shot); the embedded set was made so that it is about as hard."""
    images = load("glyphs", "test")
    for k_shot, low, high in ((1, 0.38, 0.60), (5, 0.60, 0.84)):
        sampler = EpisodeSampler(images, 5, k_shot, 5, batch_size=50)
        assert low < float(episode_accuracies(pixel_nearest_neighbour, sampler, 200).mean()) < high


# -------------------------------------------------------------------------------------------- k nearest neighbours


def classes(n_tasks: int, size: int, n_way: int, seed: int = 0) -> Tensor:
    """Every class at least once, unequal shots, in random order."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n_tasks):
        row = torch.cat([torch.arange(n_way), torch.randint(n_way, (size - n_way,), generator=generator)])
        rows.append(row[torch.randperm(size, generator=generator)])
    return torch.stack(rows)


def naive_votes(support: Tensor, labels: Tensor, query: Tensor, n_way: int, k: int, metric: str) -> Tensor:
    """Sort, count, and give each class that has votes the bonus of its nearest."""
    scores = torch.zeros(len(query), n_way, dtype=torch.float64)
    for q, point in enumerate(query):
        if metric == "euclidean":
            far = [float(((point - x) ** 2).sum()) for x in support]
        else:
            far = [-float(point @ x / point.norm() / x.norm()) for x in support]
        nearest = sorted(range(len(support)), key=lambda i: far[i])[:k]
        votes = [int(labels[i]) for i in nearest]
        for c in set(votes):
            scores[q, c] = votes.count(c) + (k - votes.index(c)) / (k + 1)
    return scores


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 15])
def test_votes_are_those_of_a_loop_and_of_scikit_learn(k, metric):
    support, query, labels = vectors(4, 15, 8), vectors(4, 30, 8, seed=1), classes(4, 15, 5)
    scores = k_nearest_neighbours(support, labels, query, 5, k, metric)
    assert scores.shape == (4, 30, 5) and scores.dtype == torch.float64
    for task in range(4):
        expected = naive_votes(support[task], labels[task], query[task], 5, k, metric)
        torch.testing.assert_close(scores[task], expected)
        model = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(support[task].numpy(), labels[task])
        votes = scores[task].floor()
        np.testing.assert_allclose(votes.numpy() / k, model.predict_proba(query[task].numpy()))
        untied = (votes == votes.amax(-1, keepdim=True)).sum(-1) == 1
        assert np.array_equal(scores[task].argmax(-1)[untied], model.predict(query[task].numpy())[untied])


def test_one_neighbour_is_the_nearest():
    support, query, labels = vectors(4, 15, 8), vectors(4, 30, 8, seed=1), classes(4, 15, 5)
    for metric in ("cosine", "euclidean"):
        scores = k_nearest_neighbours(support, labels, query, 5, 1, metric)
        assert torch.equal(scores.argmax(-1), nearest_neighbour(support, labels, query, metric))


def test_of_tied_classes_the_nearest_wins():
    """On a line, seen from 0: class 2 at 1, class 0 at 2, class 0 at 3, class 2 at 4, class 1 at 5."""
    support = torch.tensor([[[3.0], [5.0], [1.0], [4.0], [2.0]]])
    labels, query = torch.tensor([[0, 1, 2, 2, 0]]), torch.zeros(1, 1, 1)
    winners = [2, 2, 0, 2, 2]  # 1 : 0, tie, 1 : 2, tie, tie
    for k, winner in enumerate(winners, start=1):
        scores = k_nearest_neighbours(support, labels, query, 3, k, "euclidean")[0, 0]
        assert int(scores.argmax()) == winner, k
        assert int(scores.floor().sum()) == k  # k neighbours, and not k - 1
    assert scores.floor().tolist() == [2, 1, 2]


def test_with_all_neighbours_the_largest_class_wins():
    labels = torch.tensor([[0, 1, 1, 2, 2, 2, 3]])
    scores = k_nearest_neighbours(vectors(1, 7, 4), labels, vectors(1, 20, 4, seed=1), 4, 7)
    assert (scores.argmax(-1) == 2).all() and scores.floor()[0, 0].tolist() == [1, 2, 3, 1]


def test_the_support_itself_is_classified_without_error_by_one_neighbour():
    support, labels = vectors(3, 25, 6), classes(3, 25, 5)
    for metric in ("cosine", "euclidean"):
        assert torch.equal(k_nearest_neighbours(support, labels, support, 5, 1, metric).argmax(-1), labels)


def test_one_shot_and_one_class():
    support, query = vectors(1, 4, 3), vectors(1, 6, 3, seed=1)
    labels = torch.tensor([[2, 0, 3, 1]])
    whole = k_nearest_neighbours(support, labels, query, 4, 4)
    assert torch.equal(whole.argmax(-1), nearest_neighbour(support, labels, query))
    alone = k_nearest_neighbours(support, torch.zeros_like(labels), query, 1, 3)
    assert alone.shape == (1, 6, 1) and (alone.floor() == 3).all()


# ---------------------------------------------------------------------------------------------------- kernel density


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 4.0])
def test_densities_are_those_of_a_loop_and_of_scikit_learn(bandwidth):
    support, query, labels = vectors(3, 14, 4), vectors(3, 9, 4, seed=1), classes(3, 14, 4)
    support.requires_grad_(), query.requires_grad_()
    scores = kernel_density(support, labels, query, 4, bandwidth)
    tasks = []
    for task in range(3):
        rows = []
        for x in query[task]:
            row = []
            for k in range(4):
                members = support[task][labels[task] == k]
                kernels = [torch.exp(-((x - s) ** 2).sum() / (2 * bandwidth**2)) for s in members]
                density = sum(kernels) / len(members) / (2 * math.pi * bandwidth**2) ** (4 / 2)
                row.append(torch.log(density) + math.log(len(members) / 14))
            rows.append(torch.stack(row))
        tasks.append(torch.stack(rows))
    expected = torch.stack(tasks)
    torch.testing.assert_close(scores, expected)
    slopes = torch.autograd.grad(scores.logsumexp(-1).sum() + scores[..., 1].sum(), [support, query])
    wanted = torch.autograd.grad(expected.logsumexp(-1).sum() + expected[..., 1].sum(), [support, query])
    for slope, other in zip(slopes, wanted, strict=True):
        assert float(other.abs().max()) > 0.01
        torch.testing.assert_close(slope, other, rtol=1e-8, atol=1e-10)
    for task in range(3):
        for k in range(4):
            members = support[task][labels[task] == k].detach().numpy()
            log_density = KernelDensity(bandwidth=bandwidth).fit(members).score_samples(query[task].detach().numpy())
            np.testing.assert_allclose(
                scores[task, :, k].detach(), log_density + math.log(len(members) / 14), rtol=1e-9
            )


def test_the_densities_of_a_class_integrate_to_its_prior():
    support, labels = torch.tensor([[[0.0], [1.0], [4.0]]]), torch.tensor([[0, 0, 1]])
    grid = torch.linspace(-6, 10, 4001).reshape(1, -1, 1)
    total = kernel_density(support, labels, grid, 2, 0.7).exp().sum(1) * 16 / 4000
    torch.testing.assert_close(total, torch.tensor([[2 / 3, 1 / 3]]), rtol=1e-4, atol=0)


def test_a_small_bandwidth_is_the_nearest_neighbour_and_a_large_one_the_prior():
    support, query, labels = vectors(4, 15, 8), vectors(4, 30, 8, seed=1), classes(4, 15, 5)
    small = kernel_density(support, labels, query, 5, 1e-3)
    assert torch.equal(small.argmax(-1), nearest_neighbour(support, labels, query, "euclidean"))
    large = kernel_density(support, labels, query, 5, 1e6).softmax(-1)
    prior = torch.stack([(labels == k).double().mean(-1) for k in range(5)], dim=-1)
    torch.testing.assert_close(large, prior[:, None].expand_as(large))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bandwidth", [1e-4, 0.01, 0.2])
def test_nothing_underflows_with_784_pixels(bandwidth, dtype):
    """The densities themselves: 0 for every class but the nearest, in both precisions."""
    support, labels = vectors(1, 20, 784).to(dtype), classes(1, 20, 5)
    query = support[:, :7] + 0.1 * vectors(1, 7, 784, seed=1).to(dtype)
    scores = kernel_density(support, labels, query, 5, bandwidth)
    assert scores.isfinite().all() and scores.dtype == dtype
    assert torch.equal(scores.argmax(-1), labels[:, :7])
    assert int((scores.exp() > 0).sum()) <= 7


def test_of_one_shot_each_the_nearest_is_the_densest():
    support, query, labels = vectors(2, 5, 6), vectors(2, 9, 6, seed=1), torch.stack([torch.arange(5)] * 2).flip(1)
    for bandwidth in (0.1, 1.0, 10.0):
        found = kernel_density(support, labels, query, 5, bandwidth).argmax(-1)
        assert torch.equal(found, nearest_neighbour(support, labels, query, "euclidean"))


# ------------------------------------------------------------------------------------------------------ what is refused


def everything(support: Tensor, labels: Tensor, query: Tensor, n_way: int = 3):
    """The three functions at the same arguments."""
    return (
        lambda: nearest_neighbour(support, labels, query),
        lambda: k_nearest_neighbours(support, labels, query, n_way, 1),
        lambda: kernel_density(support, labels, query, n_way, 1.0),
    )


def test_an_empty_support_and_shapes_that_do_not_fit_are_refused():
    support, query, labels = vectors(2, 5, 4), vectors(2, 6, 4), classes(2, 5, 3)
    for call in everything(support[:, :0], labels[:, :0], query):
        with pytest.raises(ValueError, match="the support set is empty: there is nothing to compare the queries with"):
            call()
    for call in everything(support, labels, query[:1]) + everything(support, labels, query[..., :3]):
        with pytest.raises(ValueError, match=r"expected support \[B, S, D\] and query \[B, Q, D\]; got \[2, 5, 4\]"):
            call()
    for call in everything(support[0], labels[0], query[0]):
        with pytest.raises(ValueError, match=r"got \[5, 4\] and \[6, 4\]"):
            call()
    for call in everything(support, labels[:, :4], query):
        with pytest.raises(ValueError, match=r"expected labels \[2, 5\], one a vector; got \[2, 4\]"):
            call()


def test_other_and_mixed_dtypes_are_refused():
    support, query, labels = vectors(2, 5, 4), vectors(2, 6, 4), classes(2, 5, 3)
    for call in everything(support.float(), labels, query):
        with pytest.raises(TypeError, match=r"must have the same dtype; got torch\.float32 and torch\.float64"):
            call()
    for call in everything(support.to(torch.uint8), labels, query.to(torch.uint8)):
        with pytest.raises(TypeError, match=r"floating-point vectors; got torch\.uint8"):
            call()


def test_labels_out_of_range_and_empty_classes_are_refused():
    support, query, labels = vectors(2, 5, 4), vectors(2, 6, 4), classes(2, 5, 3)
    for call in everything(support, labels, query, n_way=2)[1:] + everything(support, labels - 1, query)[1:]:
        with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. [12]; got"):
            call()
    for call in everything(support, labels, query, n_way=4)[1:]:
        with pytest.raises(ValueError, match="class 3 of task 0 has no support image"):
            call()


@pytest.mark.parametrize("k", [0, -1, 6, 2.0, True])
def test_k_must_fit_the_support(k):
    with pytest.raises(ValueError, match=rf"k must be a whole number from 1 to 5, the size of the support; got {k!r}"):
        k_nearest_neighbours(vectors(2, 5, 4), classes(2, 5, 3), vectors(2, 6, 4), 3, k)


@pytest.mark.parametrize("bandwidth", [0, -1.0, math.nan, math.inf])
def test_a_bandwidth_must_be_positive_and_finite(bandwidth):
    with pytest.raises(ValueError, match=f"bandwidth must be positive and finite; got {bandwidth}"):
        kernel_density(vectors(2, 5, 4), classes(2, 5, 3), vectors(2, 6, 4), 3, bandwidth)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_computes_the_same():
    support, query, labels = vectors(4, 15, 8), vectors(4, 30, 8, seed=1), classes(4, 15, 5)
    there = support.cuda(), labels.cuda(), query.cuda()
    for metric in ("cosine", "euclidean"):
        expected = k_nearest_neighbours(support, labels, query, 5, 4, metric)
        torch.testing.assert_close(k_nearest_neighbours(*there, 5, 4, metric).cpu(), expected)
    torch.testing.assert_close(kernel_density(*there, 5, 0.5).cpu(), kernel_density(support, labels, query, 5, 0.5))
