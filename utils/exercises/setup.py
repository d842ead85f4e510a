"""Exercises of the chapter on the few-shot set-up."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from utils.exercises.check import Exercise
from utils.fewshot.baselines import k_nearest_neighbours, kernel_density

COUNTS = (7, 9, 6, 12, 8, 7, 10, 6)
"""Images of each class in the exercise on episodes."""


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _test_episode(answer: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
    # Every image is its own number, and so tells where it came from.
    n = sum(COUNTS)
    images = torch.arange(n, dtype=torch.float64)[:, None]
    labels = torch.repeat_interleave(10 * torch.arange(len(COUNTS)) + 3, torch.tensor(COUNTS))
    labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    n_way, k_shot, n_query = 4, 2, 3

    classes, supports = set(), set()
    for seed in range(100):
        episode = answer(images, labels, n_way, k_shot, n_query, torch.Generator().manual_seed(seed))
        assert isinstance(episode, tuple) and len(episode) == 4, (
            "Return four tensors: support_x, support_y, query_x, query_y."
        )
        support_x, support_y, query_x, query_y = episode
        for name, x, y, of_class in (("support", support_x, support_y, k_shot), ("query", query_x, query_y, n_query)):
            shape = [n_way * of_class, 1]
            assert list(x.shape) == shape, f"{name}_x should have the shape {shape}; it has {list(x.shape)}."
            assert list(y.shape) == shape[:1], f"{name}_y should have the shape {shape[:1]}; it has {list(y.shape)}."
            assert set(y.tolist()) <= set(range(n_way)), (
                f"Number the classes afresh, from 0 to {n_way - 1}; {name}_y holds {sorted(set(y.tolist()))}."
            )
            assert y.bincount(minlength=n_way).tolist() == [of_class] * n_way, (
                f"Each class needs {of_class} {name} images; yours have {y.bincount(minlength=n_way).tolist()}."
            )
        drawn = torch.cat([support_x, query_x])[:, 0].long()
        shared = set(support_x[:, 0].tolist()) & set(query_x[:, 0].tolist())
        assert not shared, f"A leak: {len(shared)} images are in the support set and in the query set."
        assert len(drawn.unique()) == len(drawn), "The same image was drawn twice."
        origin, given = labels[drawn], torch.cat([support_y, query_y])
        for k in range(n_way):
            assert len(origin[given == k].unique()) == 1, (
                f"The images that you label {k} are of different classes: "
                "support and query must number the classes alike."
            )
        assert len(origin.unique()) == n_way, "The classes of an episode must be distinct."
        classes |= set(origin.tolist())
        supports |= set(support_x[:, 0].tolist())
        again = answer(images, labels, n_way, k_shot, n_query, torch.Generator().manual_seed(seed))
        assert all(torch.equal(a, b) for a, b in zip(episode, again, strict=True)), (
            "The same seed gave another episode: draw everything with the generator."
        )
    assert len(classes) == len(COUNTS), f"In 100 episodes only {len(classes)} of the {len(COUNTS)} classes turned up."
    assert len(supports) == n, (
        f"In 100 episodes only {len(supports)} of the {n} images were ever support: draw the images of a class too."
    )


def _test_vote(answer: Callable[[Tensor, Tensor, Tensor, int, int], Tensor]) -> None:
    # On a line: of the four nearest to 0, two are of class 2 and two of class 1; the nearest is of class 2.
    support = torch.tensor([[1.0], [-2.0], [3.0], [-4.0], [8.0], [-8.0], [9.0]])
    support_y = torch.tensor([2, 1, 1, 2, 0, 0, 0])
    found = answer(support, support_y, torch.zeros(1, 1), 3, 4)
    assert isinstance(found, Tensor), f"Return a tensor, not a {type(found).__name__}."
    assert list(found.shape) == [1], f"One label a query: the shape should be [1]; it is {list(found.shape)}."
    assert int(found[0]) in (1, 2), "Among the four nearest only classes 1 and 2 have votes."
    assert int(found[0]) == 2, "Classes 1 and 2 have two votes each; class 2 has the nearest image and wins."
    support, query = _random(15, 6), _random(40, 6, seed=1)
    support_y = torch.arange(15).remainder(4).flip(0)
    for k in (1, 2, 3, 5, 15):
        wanted = k_nearest_neighbours(support[None], support_y[None], query[None], 4, k, "euclidean")[0].argmax(-1)
        wrong = int((answer(support, support_y, query, 4, k) != wanted).sum())
        assert wrong == 0, (
            f"With k = {k}, {wrong} of 40 queries get another class than that of most of their {k} nearest, "
            "or, in a tie, of the nearest."
        )


def _test_log_density(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    for n, d, h in ((3, 2, 0.7), (5, 784, 0.5)):
        support, query = _random(n, d), _random(6, d, seed=1)
        found = answer(support, query, h)
        assert isinstance(found, Tensor), f"Return a tensor, not a {type(found).__name__}."
        assert list(found.shape) == [6], f"One number a query: the shape should be [6]; it is {list(found.shape)}."
        assert bool(found.isfinite().all()), (
            f"In {d} dimensions some of your logarithms are not finite: the exponentials became zero. "
            "Take their largest exponent out of the sum, or use torch.logsumexp."
        )
        wanted = kernel_density(support[None], torch.zeros(1, n, dtype=torch.int64), query[None], 1, h)[0, :, 0]
        constant = d / 2 * math.log(2 * math.pi * h**2)
        assert not torch.allclose(found, wanted + constant), "The constant in front of the exponential is missing."
        assert not torch.allclose(found, wanted + math.log(n)), f"That is the sum of the {n} hills, not their mean."
        assert torch.allclose(found, wanted), (
            f"In {d} dimensions, with h = {h}, the first of your values is {float(found[0]):.4f}; "
            f"it should be {float(wanted[0]):.4f}."
        )


episode = Exercise("draw an episode", _test_episode)
vote = Exercise("vote of the nearest neighbours", _test_vote)
log_density = Exercise("logarithm of a kernel density", _test_log_density)
