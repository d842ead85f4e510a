"""Exercises of the chapter on EWC and MAS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.exercises.check import Exercise


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _test_fisher(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    for n, d, classes in ((7, 4, 3), (5, 6, 2)):
        x, weight = _random(n, d), _random(classes, d, seed=1)
        p = (x @ weight.mT).softmax(1)
        found = answer(x.clone(), weight.clone())
        assert isinstance(found, Tensor) and found.shape == (classes, d), (
            f"Return one number for every weight: a tensor [{classes}, {d}], the shape of the weight."
        )
        found, wanted = found.detach(), (p * (1 - p)).mT @ x.square() / n
        assert not torch.allclose(found, wanted * n), "That is the sum over the examples; F is their mean."
        assert not torch.allclose(found, p.mT @ x.square() / n), (
            "That weights x^2 with p_c. If the answer is class k, the gradient is (1[k = c] - p_c) x: what is the mean "
            "of (1[k = c] - p_c)^2?"
        )
        likeliest = (torch.eye(classes, dtype=p.dtype)[p.argmax(1)] - p).square()
        assert not torch.allclose(found, likeliest.mT @ x.square() / n), (
            "That takes the likeliest class as the answer. The expectation is over all classes, each as probable as "
            "it is."
        )
        assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-12), (
            f"With {n} examples, {d} inputs and {classes} classes F is off by up to "
            f"{float((found - wanted).abs().max()):.2g}. Square the gradient of one example and one answer; "
            "then the expectation over answers; then the mean over examples."
        )


def _test_one_parabola(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    for n_tasks in (2, 5):
        curvatures, centres = _random(n_tasks, 6).square() + 0.1, _random(n_tasks, 6, seed=1)
        found = answer(curvatures.clone(), centres.clone())
        assert isinstance(found, tuple) and len(found) == 2, "Return two tensors: (importance, anchor)."
        importance, anchor = found
        assert importance.shape == anchor.shape == (6,), "Importance and anchor have one number for every weight: [6]."
        assert not torch.allclose(importance, curvatures.mean(0)), "A sum of parabolas: curvatures add up."
        assert torch.allclose(importance, curvatures.sum(0)), (
            "The importance is wrong: what is the second derivative of the sum?"
        )
        assert not torch.allclose(anchor, centres[-1]), (
            "That is the anchor of the online form. Here the sum itself is asked for, with each parabola around its "
            "own centre."
        )
        assert not torch.allclose(anchor, centres.mean(0)), (
            "The centres do not count equally: steep parabolas count more."
        )
        theta = _random(4, 6, seed=2)
        summed = (curvatures * (theta[:, None] - centres).square()).sum((1, 2))
        one = (importance * (theta - anchor).square()).sum(1)
        assert torch.allclose((summed - one).diff(), torch.zeros(3, dtype=torch.float64), atol=1e-9), (
            "The parabola and the sum differ by more than a constant. Where is the slope of the sum zero?"
        )
    curvatures, centres = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    importance, anchor = answer(curvatures, centres)
    assert bool(importance.isfinite().all()) and bool(anchor.isfinite().all()), (
        "A weight that mattered to no task makes 0 / 0, and the penalty of everything is then not a number. Any finite "
        "anchor will do for it."
    )


def _test_hebbian_importance(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    before, weight, bias = _random(9, 5).abs(), _random(4, 5, seed=1), _random(4, seed=2)
    after = (before @ weight.mT + bias).relu()
    found = answer(before.clone(), weight.clone(), bias.clone())
    assert isinstance(found, Tensor), f"Return a tensor, not a {type(found).__name__}."
    assert found.shape == (4, 5), "Return one number for every weight: [4, 5], neurons by inputs."
    found, wanted = found.detach(), 2 * after.mT @ before / 9
    linear = before @ weight.mT + bias
    assert not torch.allclose(found, 2 * linear.mT @ before / 9) and not torch.allclose(
        found, 2 * linear.abs().mT @ before / 9
    ), "A neuron that does not fire learns nothing: mind the ReLU."
    assert not torch.allclose(found, 2 * (before @ weight.mT).relu().mT @ before / 9), "The bias is missing."
    assert not torch.allclose(found, 2 * after.mean(0)[:, None] * before.mean(0)), (
        "That is a product of means. Hebb wants the mean of products: both ends active for the *same* image."
    )
    assert not torch.allclose(2 * found, wanted), "A factor is missing: the derivative of a square."
    assert not torch.allclose(found, 9 * wanted), "That is the sum over the images; the importance is their mean."
    assert torch.allclose(found, wanted), f"The importance is off by up to {float((found - wanted).abs().max()):.2g}."


fisher = Exercise("Fisher information of softmax regression", _test_fisher)
one_parabola = Exercise("many parabolas as one", _test_one_parabola)
hebbian_importance = Exercise("importance by Hebb's rule", _test_hebbian_importance)
