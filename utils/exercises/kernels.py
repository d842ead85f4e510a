"""Exercises of the page "From formula to kernel"."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.exercises.check import Exercise


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _test_log_probabilities(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    for offset in (0.0, 1000.0):
        q, c = (_random(30, 16) / 4 + offset).float(), (_random(5, 16, seed=1) / 4 + offset).float()
        found = answer(q, c)
        assert isinstance(found, Tensor), f"Return a tensor, not a {type(found).__name__}."
        assert found.shape == (30, 5), f"The shape should be [30, 5], a row a query; it is {list(found.shape)}."
        assert found.dtype == torch.float32, f"Stay in single precision; the result is {found.dtype}."
        wanted = (-(q.double()[:, None] - c.double()).square().sum(-1)).log_softmax(-1)
        error = float((found.double() - wanted).abs().max())
        assert error < 1e-3 or offset, (
            f"Near the origin the log-probabilities are off by up to {error:.2g}. Mind the signs, the factor 2, and "
            "over which axis they add up to one."
        )
        assert error < 1e-3, (
            f"Near the origin they are right, a thousand away they are off by up to {error:.2g}. Which point could "
            "serve as the origin instead?"
        )


def _test_weight_gradient(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    for offset in (0.0, 1000.0):
        a, b = (_random(40, 6) + offset).float(), (_random(30, 6, seed=1) + offset).float()
        g = _random(40, 30, seed=2)
        difference = a.double()[:, None] - b.double()
        s = torch.einsum("nm,nmd->nd", g, difference.sign())
        t = -torch.einsum("nm,nmd->md", g, difference.sign())
        wanted = torch.einsum("nm,nmd->d", g, difference.abs())
        found = answer(a, b, s.float(), t.float())
        assert isinstance(found, Tensor), f"Return a tensor, not a {type(found).__name__}."
        assert found.shape == (6,), f"The shape should be [6], a number a coordinate; it is {list(found.shape)}."
        error = float((found.double() - wanted).norm() / wanted.norm())
        assert error < 1e-4 or offset, (
            f"Near the origin the gradient is off by {100 * error:.2g} %. Split the absolute value into the difference "
            "and its sign, and the difference into its two terms."
        )
        assert error < 1e-5, (
            f"Near the origin it is right, a thousand away it is off by {100 * error:.2g} %. The sums of signs add "
            "up to nothing: any constant may be taken from both sets of points first."
        )


log_probabilities = Exercise("prototypes far from the origin", _test_log_probabilities)
weight_gradient = Exercise("a gradient for nothing", _test_weight_gradient)
