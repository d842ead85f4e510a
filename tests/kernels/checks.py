"""What the tests of all kernels share: tolerances, shapes, layouts."""

from __future__ import annotations

import os

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

TOLERANCE = {
    torch.float32: 1e-6 if INTERPRETED else 2e-6,
    torch.float64: 1e-12,
    torch.float16: 1e-3,
    # The interpreter cuts off where a GPU rounds to the nearest.
    torch.bfloat16: 1e-2 if INTERPRETED else 4e-3,
}
"""Largest relative error against the formula in float64, see ``error``."""

SIZES = (
    (1, 1, 1), (1, 65, 7), (2, 2, 64), (7, 13, 2), (13, 1, 33), (16, 16, 16), (17, 31, 13), (31, 17, 1),
    (33, 64, 65), (63, 7, 31), (64, 64, 4), (65, 65, 5), (101, 2, 17), (64, 101, 3),
)  # fmt: skip
"""Three axes: one, primes, a tile, one less and one more than a tile."""

LAYOUTS = ("transposed", "columns of a wider tensor", "every second row", "behind an offset")


def error(x: Tensor, exact: Tensor) -> float:
    """``||x - exact|| / ||exact||`` in float64; where ``x`` is no number, neither is this, and no comparison holds."""
    x, exact = x.detach().double().cpu(), exact.detach().double().cpu()
    assert x.shape == exact.shape
    size = float(exact.norm())
    return float((x - exact).norm()) / size if size else float(x.norm())


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in another order of memory."""
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "columns of a wider tensor":
        return torch.cat([torch.full_like(x, torch.nan), x, torch.full_like(x, torch.nan)], -1)[
            ..., x.shape[-1] : 2 * x.shape[-1]
        ]
    if layout == "every second row":
        return torch.stack([x, torch.full_like(x, torch.nan)], -2).flatten(-3, -2)[..., ::2, :]
    return torch.cat([torch.full_like(x.flatten()[:3], torch.nan), x.flatten()])[3:].view(x.shape)
