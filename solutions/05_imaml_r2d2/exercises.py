"""Reference solutions of the exercises in ``chapters/05_imaml_r2d2.ipynb``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def system_product(loss: Callable[[Tensor], Tensor], phi: Tensor, v: Tensor, strength: float) -> Tensor:
    """v + H v / lambda, where H v is the gradient of (gradient . v)."""
    (slope,) = torch.autograd.grad(loss(phi), phi, create_graph=True)
    (product,) = torch.autograd.grad(slope @ v, phi)
    return v + product / strength


def implicit_gradient(
    support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, theta: Tensor, strength: float
) -> Tensor:
    """(I + H / lambda)^-1 grad L_Q(phi*) with H = 2 X'X / n and (H + lambda I) phi* = 2 X'y / n + lambda theta."""
    n, m = len(support_x), len(query_x)
    system = 2 / n * support_x.T @ support_x + strength * torch.eye(len(theta), dtype=theta.dtype)
    phi = torch.linalg.solve(system, 2 / n * support_x.T @ support_y + strength * theta)
    at_phi = 2 / m * query_x.T @ (query_x @ phi - query_y)
    return strength * torch.linalg.solve(system, at_phi)


def ridge_weights(x: Tensor, y: Tensor, strength: float) -> Tensor:
    """X' (X X' + lambda I)^-1 Y."""
    return x.T @ torch.linalg.solve(x @ x.T + strength * torch.eye(len(x), dtype=x.dtype), y)
