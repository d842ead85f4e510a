"""Reference solutions of the exercises in ``chapters/04_maml.ipynb``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def inner_step(loss: Callable[[dict[str, Tensor]], Tensor], params: dict[str, Tensor], alpha: float):
    """``create_graph`` keeps how the gradient depends on the parameters."""
    slopes = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
    return {name: value - alpha * slope for (name, value), slope in zip(params.items(), slopes, strict=True)}


def meta_gradient(
    support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, w: Tensor, alpha: float
) -> Tensor:
    """(I - alpha H) grad L_Q(phi) with H = 2 X'X / n and phi = w - alpha 2 X'(Xw - y) / n."""
    n, m = len(support_x), len(query_x)
    phi = w - alpha * 2 / n * support_x.T @ (support_x @ w - support_y)
    at_phi = 2 / m * query_x.T @ (query_x @ phi - query_y)
    return at_phi - alpha * 2 / n * support_x.T @ (support_x @ at_phi)


def is_transductive(predict: Callable[[Tensor], Tensor], queries: Tensor) -> bool:
    """Predict all at once and one by one."""
    singly = torch.cat([predict(query[None]) for query in queries])
    return not torch.allclose(predict(queries), singly, rtol=1e-4, atol=1e-5)
