"""Distances and similarities between two sets of vectors, without a tensor of all pairs of coordinates."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"expected [..., N, D] and [..., M, D] with the same D; got {list(a.shape)} and {list(b.shape)}"
        )
    if not (a.is_floating_point() and b.is_floating_point()):
        raise TypeError(f"expected floating-point vectors; got {a.dtype} and {b.dtype}")


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """All squared Euclidean distances ``||a_i - b_j||^2``.

    Computed as ``||a_i||^2 - 2 a_i . b_j + ||b_j||^2`` by one matrix product, after moving the origin to the mean of
    ``b``: distances do not change, but far from the origin the three terms would cancel to noise (at an offset of
    1000 in float32 nothing of a unit distance is left).

    Parameters: ``a`` ``[..., N, D]``, ``b`` ``[..., M, D]``, leading axes broadcast. Returns ``[..., N, M]``, never
    negative. Memory O(NM), where subtracting first takes O(NMD).
    """
    _check(a, b)
    origin = b.mean(dim=-2, keepdim=True).detach()  # any constant serves, so no gradient needs to pass through it
    a, b = a - origin, b - origin
    products = a @ b.mT
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    squared = squares - 2 * products
    # Rounding can leave a distance of coinciding points below zero. A plain clamp would set it to zero, but its
    # derivatives too, of which the second is not zero.
    return squared + (-squared.detach()).clamp_min(0)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """All cosines ``a_i . b_j / (||a_i|| ||b_j||)``: ``[..., N, D]``, ``[..., M, D]`` to ``[..., N, M]``.

    A zero vector has cosine 0 with everything.
    """
    _check(a, b)
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT
