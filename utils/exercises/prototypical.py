"""Exercises of the chapter on prototypical networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.claims.statistics import interval as reference_interval
from utils.exercises.check import Exercise


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _test_prototypes(answer: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    embedding = _random(9, 4)
    labels = torch.tensor([2, 0, 2, 1, 0, 2, 2, 1, 2])  # shuffled, with 2, 2 and 5 images a class
    found = answer(embedding, labels, 3)
    assert isinstance(found, Tensor), f"Return a tensor, not a {type(found).__name__}."
    assert found.shape == (3, 4), f"The shape should be [3, 4], one row a class; it is {list(found.shape)}."
    for k in range(3):
        wanted = embedding[labels == k].mean(0)
        assert torch.allclose(found[k], wanted), (
            f"The prototype of class {k} is not the mean of its {int((labels == k).sum())} embeddings. "
            "Classes may have different numbers of images, in any order."
        )


def _test_linear_head(answer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    prototypes, points = _random(5, 6), _random(40, 6, seed=1)
    found = answer(prototypes)
    assert isinstance(found, tuple) and len(found) == 2, "Return two tensors: weights and biases."
    weight, bias = found
    assert weight.shape == (5, 6) and bias.shape == (5,), (
        f"Weights should be [5, 6] and biases [5]; they are {list(weight.shape)} and {list(bias.shape)}."
    )
    distances = (points[:, None] - prototypes).square().sum(-1)
    wanted, given = (-distances).softmax(-1), (points @ weight.T + bias).softmax(-1)
    assert torch.allclose(given, wanted), (
        f"The probabilities differ from those of the prototypes by up to {float((given - wanted).abs().max()):.2g}. "
        "Multiply out the squared distance and drop what all classes share."
    )


def _test_interval(answer: Callable[[Tensor], tuple[float, float]]) -> None:
    for n in (5, 400):
        accuracies = _random(n, seed=n).sigmoid()
        mean, half = answer(accuracies)
        wanted_mean, wanted_half, sd = reference_interval(accuracies)
        assert abs(float(mean) - wanted_mean) < 1e-9, f"The mean of the {n} accuracies is {wanted_mean:.4f}."
        assert abs(float(half) - sd) > 1e-9, "That is the standard deviation of the accuracies, not of their mean."
        assert abs(float(half) / wanted_half - 1) < 0.02 or n == 5, (
            f"For {n} accuracies the half-width is {wanted_half:.4f}; yours is {float(half):.4f}."
        )
        assert abs(float(half) / wanted_half - 1) < 1e-6, (
            f"For only {n} accuracies the half-width is {wanted_half:.4f}, yours is {float(half):.4f}: "
            "use Student's t with n - 1 degrees of freedom, and n - 1 in the standard deviation."
        )


prototypes = Exercise("prototypes of unequal classes", _test_prototypes)
linear_head = Exercise("prototypes as a linear layer", _test_linear_head)
interval = Exercise("interval of an accuracy", _test_interval)
