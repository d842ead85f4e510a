"""The score of every pair of two sets, as Siamese networks compute it, without all coordinates of all pairs.

Three sums over pairs, each the derivative of another, make up the score and its derivatives of every order. With
``sgn(0) = 0``:

    score       s_nm = sum_d w_d |a_nd - b_md|          ds/da = w sign_sum(a, b, g),  ds/db = w sign_sum(b, a, g^T)
    sign_sum    o_nd = sum_m g_nm sgn(a_nd - b_md)      do/dg = sign_score(a, b, v)
    sign_score  p_nm = sum_d v_nd sgn(a_nd - b_md)      dp/dv = sign_sum(a, b, g)

On a GPU each is a kernel; elsewhere the differences are made a piece at a time. Either way memory is O(NM).
"""

# Without ``annotations`` from ``__future__``: PyTorch 2.4 reads an operation's schema from types, not from texts.
import math
from collections.abc import Callable
from itertools import repeat

import torch
from torch import Tensor

from utils import kernels
from utils.functional.vmap import folded

CHUNK = 2**18
"""Differences held at a time: 1 MB in float32, which stays in a core's cache."""
SMALL = 2**17
"""As many are left to PyTorch's own derivatives: saving memory would take longer than the work itself."""


def pairwise_weighted_l1(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """All weighted city-block distances ``s_nm = sum_d w_d |a_nd - b_md|``, the weights of any sign.

    Parameters: ``a`` ``[..., N, D]``, ``b`` ``[..., M, D]`` with the same leading axes, ``weight`` ``[D]``, all of one
    floating-point dtype. Returns ``[..., N, M]``. Where two coordinates coincide the derivative of ``|.|`` is taken as
    0, its mean from both sides.

    Sums are in float32 (float64 for float64). Memory O(NM), for the value and for derivatives of every order; forward-
    mode differentiation works for a few rows and raises otherwise. A NaN makes its scores NaN. Runs as a kernel on
    CUDA, the same bits every time.

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
    lead, n_tasks = a.shape[:-2], math.prod(a.shape[:-2])
    if a.numel() * b.shape[-2] <= min(SMALL, CHUNK) and not kernels.opaque(a, b, weight):
        wide = torch.promote_types(a.dtype, torch.float32)
        return ((a[..., :, None, :] - b[..., None, :, :]).abs().to(wide) @ weight.to(wide)).to(a.dtype)
    tasks = a.reshape(n_tasks, *a.shape[-2:]), b.reshape(n_tasks, *b.shape[-2:]), weight.expand(n_tasks, -1)
    return _Score.apply(*tasks).reshape(*lead, a.shape[-2], b.shape[-2])


# ------------------------------------------------------------------------------------------ the sums, a piece at a time


def _by_pieces(function: Callable[..., Tensor], a: Tensor, b: Tensor, third: Tensor) -> Tensor:
    """``function(a, b, third)`` from pieces of some tasks, or of some rows of ``a`` in one task.

    A piece has about ``CHUNK`` differences. ``third`` is ``[B, N, ...]``, or ``[B, 1, D]`` for all rows.
    """
    tasks, rows = a.shape[:2]
    size = max(1, b.shape[1] * b.shape[2])  # of one row
    if tasks > 1 and tasks * rows * size > CHUNK:
        step = max(1, CHUNK // (rows * size))
        parts = zip(a.split(step), b.split(step), third.split(step), strict=True)
        return torch.cat([_by_pieces(function, *part) for part in parts])
    if rows > 1 and rows * size > CHUNK:
        step = max(1, CHUNK // size)
        thirds = third.split(step, 1) if third.shape[1] == rows else repeat(third)
        return torch.cat([function(x, b, y) for x, y in zip(a.split(step, 1), thirds)], 1)  # noqa: B905
    return function(a, b, third)


def _plain_score(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """``[B, N, D]``, ``[B, M, D]``, ``[B, D]`` to ``[B, N, M]``."""
    wide = torch.promote_types(a.dtype, torch.float32)

    def piece(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return torch.bmm((a[:, :, None] - b[:, None]).abs_().flatten(1, 2), w.mT).view(*a.shape[:2], b.shape[1])

    return _by_pieces(piece, a.to(wide), b.to(wide), w.to(wide)[:, None]).to(a.dtype)


def _plain_sign_score(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """``[B, N, D]``, ``[B, M, D]``, ``[B, N, D]`` to ``[B, N, M]``."""

    def piece(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
        return ((a[:, :, None] - b[:, None]).sign_().to(v.dtype) @ v[..., None])[..., 0]

    return _by_pieces(piece, a, b, v)


def _plain_sign_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """``[B, N, D]``, ``[B, M, D]``, ``[B, N, M]`` to ``[B, N, D]``."""
    wide = torch.promote_types(a.dtype, torch.float32)
    if a.device.type == "cpu":
        # The same sum is the gradient of torch.cdist for p = 1, whose loop on the CPU holds one difference at a time.
        return torch.ops.aten._cdist_backward(g.to(wide), a.to(wide), b.to(wide), 1.0, g.to(wide))

    def piece(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        return (g[:, :, None] @ (a[:, :, None] - b[:, None]).sign_().to(wide))[..., 0, :]

    return _by_pieces(piece, a, b, g.to(wide))


# ------------------------------------------------------------------------------------------------- opaque to PyTorch


@torch.library.custom_op("course::pair_score", mutates_args=())
def _score(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    if not kernels.launches(a, b, w):
        return _plain_score(a, b, w)
    from utils.kernels import weighted_l1

    return weighted_l1.score(a, b, w)


@torch.library.custom_op("course::pair_sign_score", mutates_args=())
def _sign_score(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    if not kernels.launches(a, b, v):
        return _plain_sign_score(a, b, v)
    from utils.kernels import weighted_l1

    return weighted_l1.sign_score(a, b, v)


@torch.library.custom_op("course::pair_sign_sum", mutates_args=())
def _sign_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    if not kernels.launches(a, b, g):
        return _plain_sign_sum(a, b, g)
    from utils.kernels import weighted_l1

    return weighted_l1.sign_sum(a, b, g)


@_score.register_fake
def _(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:2], b.shape[1])


@_sign_score.register_fake
def _(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return v.new_empty(*a.shape[:2], b.shape[1])


@_sign_sum.register_fake
def _(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    return a.new_empty(a.shape, dtype=torch.promote_types(a.dtype, torch.float32))


# ----------------------------------------------------------------------------------------------------- derivatives


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return (_score if kernels.opaque(a, b, w) else _plain_score)(a, b, w)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        a, b, w = ctx.saved_tensors
        for_a, for_b, for_w = ctx.needs_input_grad
        # With a derivative of its own only if one is asked for: PyTorch 2.4's compiler cannot look into it.
        signs = _Signs.apply if torch.is_grad_enabled() else _Signs.forward
        by_a = signs(a, b, gradient, True) if for_a or for_w else None
        by_b = signs(b, a, gradient.mT, True) if for_b or for_w else None
        by_w = None
        if for_w:
            # ds_nm / dw_d = |a_nd - b_md|, summed without another pass over the pairs: |x| = x sgn(x), and the two
            # sums of signs add up to nothing, so any origin serves; their joint mean cancels least.
            origin = (a.sum(1, keepdim=True) + b.sum(1, keepdim=True)) / max(1, a.shape[1] + b.shape[1])
            by_w = (((a - origin) * by_a).sum(1) + ((b - origin) * by_b).sum(1)).to(w.dtype)
        by_a = (by_a * w[:, None]).to(a.dtype) if for_a else None
        by_b = (by_b * w[:, None]).to(b.dtype) if for_b else None
        return by_a, by_b, by_w

    @staticmethod
    def vmap(info, in_dims, *tensors: Tensor):
        return folded(_Score, info, in_dims, tensors)


class _Signs(torch.autograd.Function):
    """``sign_sum`` of ``g`` or ``sign_score`` of ``v``; each is the derivative of the other.

    Both are linear in their third argument, and constant in ``a`` and ``b`` wherever they have a derivative.
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor, x: Tensor, summed: bool) -> Tensor:
        registered, plain = (_sign_sum, _plain_sign_sum) if summed else (_sign_score, _plain_sign_score)
        return (registered if kernels.opaque(a, b, x) else plain)(a, b, x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        a, b, x, ctx.summed = inputs
        ctx.save_for_backward(a, b)
        ctx.dtype = x.dtype

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, None, _Signs.apply(*ctx.saved_tensors, gradient, not ctx.summed).to(ctx.dtype), None

    @staticmethod
    def vmap(info, in_dims, a: Tensor, b: Tensor, x: Tensor, summed: bool):
        return folded(_Signs, info, in_dims, (a, b, x), summed)
