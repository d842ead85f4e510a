"""The score of every pair of two sets, as Siamese networks compute it, without all coordinates of all pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK = 2**18
"""Differences held at a time: 1 MB in float32, which stays in a core's cache."""


def pairwise_weighted_l1(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """All weighted city-block distances ``s_nm = sum_d w_d |a_nd - b_md|``, the weights of any sign.

    Parameters: ``a`` ``[..., N, D]``, ``b`` ``[..., M, D]`` with the same leading axes, ``weight`` ``[D]``, all of one
    floating-point dtype. Returns ``[..., N, M]``. Where two coordinates coincide the derivative of ``|.|`` is taken as
    0, its mean from both sides.

    Memory O(NM), forward and backward: the ``N x M x D`` differences are made a piece at a time and made again for the
    gradient. Only a second derivative (``create_graph=True``) keeps them.

    Raises ``ValueError`` for shapes that do not fit, ``TypeError`` for other dtypes.
    """
    if a.ndim < 2 or a.shape[:-2] != b.shape[:-2] or not a.shape[-1] == b.shape[-1] == weight.shape[-1]:
        raise ValueError(
            "expected [..., N, D], [..., M, D] and [D] with the same leading axes and the same D; "
            f"got {list(a.shape)}, {list(b.shape)} and {list(weight.shape)}"
        )
    if weight.ndim != 1:
        raise ValueError(f"expected one weight a coordinate, [D]; got {list(weight.shape)}")
    if not a.is_floating_point() or not a.dtype == b.dtype == weight.dtype:
        raise TypeError(f"expected one floating-point dtype; got {a.dtype}, {b.dtype} and {weight.dtype}")
    lead = a.shape[:-2]
    n_tasks = math.prod(lead)
    scores = _PairwiseWeightedL1.apply(a.reshape(n_tasks, *a.shape[-2:]), b.reshape(n_tasks, *b.shape[-2:]), weight)
    return scores.reshape(*lead, a.shape[-2], b.shape[-2])


def _pieces(a: Tensor, b: Tensor) -> list[slice]:
    """Ranges of rows of ``a`` whose differences to all of ``b`` are about ``CHUNK`` numbers."""
    rows = max(1, CHUNK // max(1, b.shape[-2] * b.shape[-1]))
    return [slice(first, first + rows) for first in range(0, max(1, a.shape[-2]), rows)]


class _PairwiseWeightedL1(torch.autograd.Function):
    """``[B, N, D]``, ``[B, M, D]``, ``[D]`` to ``[B, N, M]``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        tasks = []
        for x, y in zip(a, b, strict=True):
            tasks.append(torch.cat([(x[piece, None] - y).abs() @ weight for piece in _pieces(x, y)]))
        return torch.stack(tasks)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        """``ds_nm / da_nd = w_d sign(a_nd - b_md) = -ds_nm / db_md`` and ``ds_nm / dw_d = |a_nd - b_md|``."""
        a, b, weight = ctx.saved_tensors
        by_a, by_b, by_weight = [], [], 0.0
        for x, y, g in zip(a, b, gradient, strict=True):
            rows, columns = [], 0.0
            for piece in _pieces(x, y):
                difference = x[piece, None] - y
                signs = difference.sign()
                rows.append((g[piece, None] @ signs)[:, 0])  # sum over m of g_nm sign_nmd
                columns = columns - torch.einsum("nm,nmd->md", g[piece], signs)
                by_weight = by_weight + g[piece].flatten() @ difference.abs().flatten(0, 1)
            by_a.append(torch.cat(rows) * weight)
            by_b.append(columns * weight)
        return torch.stack(by_a), torch.stack(by_b), by_weight
