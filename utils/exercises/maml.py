"""Exercises of the chapter on MAML."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.exercises.check import Exercise

Params = dict[str, Tensor]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _test_inner_step(answer: Callable[[Callable[[Params], Tensor], Params, float], Params]) -> None:
    params = {"weight": _random(2, 3).requires_grad_(), "bias": _random(2, seed=1).requires_grad_()}
    before = {name: value.detach().clone() for name, value in params.items()}
    x, y = _random(5, 3, seed=2), _random(5, 2, seed=3)

    def loss(p: Params) -> Tensor:
        return F.mse_loss(x @ p["weight"].T + p["bias"], y)

    found = answer(loss, params, 0.3)
    assert isinstance(found, dict) and set(found) == set(params), "Return a dictionary with the same names."
    for name, value in params.items():
        assert torch.equal(value.detach(), before[name]), f"The parameter {name!r} itself was changed: return new ones."
    slopes = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
    wanted = {name: value - 0.3 * slope for (name, value), slope in zip(params.items(), slopes, strict=True)}
    for name, value in wanted.items():
        assert torch.allclose(found[name], value), (
            f"The new {name!r} is not the old one minus alpha times its gradient."
        )
    assert all(value.requires_grad for value in found.values()), (
        "The result does not depend on the parameters any more: it cannot be differentiated."
    )
    gradient = torch.autograd.grad(loss(found), list(params.values()))
    expected = torch.autograd.grad(loss(wanted), list(params.values()))
    assert all(torch.allclose(a, b) for a, b in zip(gradient, expected, strict=True)), (
        "The step is right, but its derivative is not: the gradient is treated as a constant. "
        "What does create_graph do?"
    )


def _test_meta_gradient(answer: Callable[..., Tensor]) -> None:
    x, y, q, t, w = (_random(*shape, seed=i) for i, shape in enumerate([(6, 3), (6,), (9, 3), (9,), (3,)]))
    w = w.requires_grad_()
    step = torch.autograd.grad((x @ w - y).square().mean(), w, create_graph=True)[0]
    phi = w - 0.1 * step
    (wanted,) = torch.autograd.grad((q @ phi - t).square().mean(), w, retain_graph=True)
    (first_order,) = torch.autograd.grad((q @ phi - t).square().mean(), phi)
    found = answer(x, y, q, t, w.detach(), 0.1)
    assert isinstance(found, Tensor) and found.shape == (3,), "Return a vector as long as w."
    assert not torch.allclose(found, first_order), (
        "That is the gradient at the adapted weights: the factor I - alpha H is missing."
    )
    assert torch.allclose(found, wanted), (
        f"The gradient is off by up to {float((found - wanted).abs().max()):.2g}. "
        "Mind the factor 2 / n of the squared error, in the gradient and in H."
    )


def _test_is_transductive(answer: Callable[[Callable[[Tensor], Tensor], Tensor], bool]) -> None:
    weight, queries = _random(4, 3), _random(12, 4, seed=1)

    def alone(x: Tensor) -> Tensor:
        return x @ weight

    def rounded(x: Tensor) -> Tensor:
        return alone(x) + 1e-9 * len(x)

    def normalised(x: Tensor) -> Tensor:
        return (x - x.mean(0)) @ weight

    def of_neighbours(x: Tensor) -> Tensor:  # the first three queries do not notice
        scores = alone(x)
        return torch.cat([scores[:3], scores[3:] - scores[3:].sum(0) / len(x)])

    for predict, wanted, what in (
        (alone, False, "a predictor that looks at each query by itself"),
        (rounded, False, "a predictor that differs by rounding alone"),
        (normalised, True, "a predictor that subtracts the mean of the queries"),
        (of_neighbours, True, "a predictor in which only some queries depend on others"),
    ):
        found = answer(predict, queries)
        assert found in (True, False), f"Return True or False, not {found!r}."
        assert bool(found) == wanted, f"You say {bool(found)} of {what}."


inner_step = Exercise("a differentiable inner step", _test_inner_step)
meta_gradient = Exercise("meta-gradient of linear regression", _test_meta_gradient)
is_transductive = Exercise("transductive or not", _test_is_transductive)
