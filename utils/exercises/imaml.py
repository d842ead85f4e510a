"""Exercises of the chapter on iMAML, R2-D2 and their relatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.bench.memory import peak_bytes
from utils.exercises.check import Exercise
from utils.functional import ridge


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _test_system_product(answer: Callable[..., Tensor]) -> None:
    root, phi, v = _random(7, 5), _random(5, seed=1), _random(5, seed=2)

    def loss(p: Tensor) -> Tensor:
        return (root @ p).tanh().square().sum()

    hessian = torch.autograd.functional.hessian(loss, phi)
    (slope,) = torch.autograd.grad(loss(leaf := phi.clone().requires_grad_()), leaf)
    for strength in (0.5, 4.0):
        found = answer(loss, phi.clone().requires_grad_(), v, strength)
        assert isinstance(found, Tensor) and found.shape == (5,), "Return a vector as long as phi."
        found, wanted = found.detach(), v + hessian @ v / strength
        assert not torch.allclose(found, hessian @ v), "That is H v. The system is I + H / lambda."
        assert not torch.allclose(found, v + hessian @ v), "That is (I + H) v: lambda is missing."
        assert not torch.allclose(found, v + slope * v / strength), (
            "That multiplies the gradient by v element by element. H v is the gradient of the number (gradient . v)."
        )
        assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-10), (
            f"For lambda = {strength} the product is off by up to {float((found - wanted).abs().max()):.2g}. "
            "Build the gradient of the loss such that it can be differentiated, multiply it by v, differentiate again."
        )
    big, w = _random(2000, seed=3), _random(2000, seed=4)
    needed = peak_bytes(lambda: answer(lambda p: p.sin().square().sum(), big.clone().requires_grad_(), w, 2.0))
    assert needed < 8 * 2000 * 2000 / 4, (
        f"The product is right, but {needed / 1e6:.0f} MB were needed for 2000 parameters: H is written down somewhere."
    )


def _test_implicit_gradient(answer: Callable[..., Tensor]) -> None:
    x, y, q, t = (_random(*shape, seed=i) for i, shape in enumerate([(4, 6), (4,), (9, 6), (9,)]))
    theta, eye = _random(6, seed=4).requires_grad_(), torch.eye(6, dtype=torch.float64)
    for pull in (0.5, 3.0):
        phi = torch.linalg.solve(2 / 4 * x.T @ x + pull * eye, 2 / 4 * x.T @ y + pull * theta)
        loss = (q @ phi - t).square().mean()
        (wanted,) = torch.autograd.grad(loss, theta, retain_graph=True)
        (at_phi,) = torch.autograd.grad(loss, phi)
        found = answer(x, y, q, t, theta.detach(), pull)
        assert isinstance(found, Tensor) and found.shape == (6,), "Return a vector as long as theta."
        assert not torch.allclose(found, at_phi), (
            "That is the gradient at the adapted weights: the factor (I + H / lambda)^-1 is missing."
        )
        assert not torch.allclose(found * pull, wanted), (
            "It is off by the factor lambda: (H + lambda I)^-1 is not (I + H / lambda)^-1."
        )
        assert torch.allclose(found, wanted), (
            f"For lambda = {pull} the gradient is off by up to {float((found - wanted).abs().max()):.2g}. Two "
            "things are needed: the minimum phi* of the loss with its pull, and the system there. Mind the factor 2 "
            "/ n of the squared error, in the gradients and in H."
        )


def _test_ridge_weights(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    for n, d, strength in ((6, 9, 0.5), (6, 9, 4.0), (10, 1000, 2.0)):
        x, y = _random(n, d), _random(n, 3, seed=1)
        found = answer(x, y, strength)
        assert isinstance(found, Tensor), f"Return a tensor, not a {type(found).__name__}."
        assert found.shape == (d, 3), f"The weights should be [{d}, 3]; they are {list(found.shape)}."
        wanted = ridge(x, y, strength)
        assert not torch.allclose(found, ridge(x, y, n * strength)), (
            "That penalises n times as much as asked for: do not divide by the number of images."
        )
        assert torch.allclose(found, wanted), (
            f"For {n} images, {d} features and lambda = {strength} the weights are off by up to "
            f"{float((found - wanted).abs().max()):.2g}."
        )
    needed = peak_bytes(lambda: answer(x, y, 2.0))
    assert needed < 8 * d * d / 4, (
        f"The weights are right, but {needed / 1e6:.0f} MB were needed for them: a d x d matrix is made somewhere. "
        "Solve the n x n system."
    )


system_product = Exercise("a product with I + H / lambda", _test_system_product)
implicit_gradient = Exercise("implicit gradient of linear regression", _test_implicit_gradient)
ridge_weights = Exercise("ridge regression by the support set", _test_ridge_weights)
