"""Scores of all pairs and their derivatives: three kernels that never hold an N x M x D tensor.

With ``sgn(0) = 0``, for every task (a batch axis that the grid runs over):

    score       s_nm = sum_d w_d |a_nd - b_md|
    sign_sum    o_nd = sum_m g_nm sgn(a_nd - b_md)
    sign_score  p_nm = sum_d v_nd sgn(a_nd - b_md)

``sign_sum`` is the derivative of ``score``, ``sign_score`` that of ``sign_sum`` by ``g``: derivatives of any order
need nothing else.

Floor: two instructions a triple (n, m, d), a subtraction and a multiply-add whose operand takes the absolute value
for free; reading and writing is 4 (ND + MD + NM) bytes in float32, far below that for D >= 16. Tiles put d on the
first axis, so that the sum over d stays inside a thread: on the last axis it would travel between threads and cost
three times as many instructions.
"""

# Without ``annotations`` from ``__future__``: Triton 3.0's interpreter does not know a constexpr that is kept as text.
import torch
import triton
import triton.language as tl
from torch import Tensor

SCORE_TILES = {tl.float32: {"BN": 64, "BM": 64, "BD": 4}, tl.float64: {"BN": 32, "BM": 64, "BD": 4}}
SUM_TILES = {tl.float32: {"BN": 64, "BM": 4, "BD": 64}, tl.float64: {"BN": 32, "BM": 4, "BD": 64}}
"""By the dtype of the sums. Larger tiles read less often, and spill registers."""
LAUNCH = {"num_warps": 8, "enable_fp_fusion": True}


@triton.jit
def score_kernel(
    a_ptr, b_ptr, w_ptr, out_ptr, N, M, D, tiles_n, tiles_m,
    a_task, a_row, a_column, b_task, b_row, b_column, w_task, w_row, w_column,
    SIGN: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``score``, or ``sign_score`` where ``SIGN`` is set (then ``w_row`` is not 0).

    Grid: one program a tile of BN x BM scores, which it alone writes. Passes: ``a`` is read ``M / BM`` times, ``b``
    ``N / BN`` times, from the cache after the first.
    """
    tile = tl.program_id(0)
    task = (tile // (tiles_n * tiles_m)).to(tl.int64)
    i = (tile // tiles_m) % tiles_n * BN + tl.arange(0, BN)
    j = tile % tiles_m * BM + tl.arange(0, BM)
    in_n, in_m = i < N, j < M
    i64, j64 = i.to(tl.int64), j.to(tl.int64)
    total = tl.zeros((BN, BM), dtype=ACC)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        in_d, d64 = d < D, d.to(tl.int64)
        mask_a, mask_b = in_d[:, None] & in_n[None, :], in_d[:, None] & in_m[None, :]
        at_a = a_ptr + task * a_task + i64[None, :] * a_row + d64[:, None] * a_column
        at_b = b_ptr + task * b_task + j64[None, :] * b_row + d64[:, None] * b_column
        a = tl.load(at_a, mask=mask_a, other=0.0).to(ACC)
        b = tl.load(at_b, mask=mask_b, other=0.0).to(ACC)
        difference = a[:, :, None] - b[:, None, :]
        if SIGN:
            at_w = w_ptr + task * w_task + i64[None, :] * w_row + d64[:, None] * w_column
            w = tl.load(at_w, mask=mask_a, other=0.0).to(ACC)[:, :, None]
            signed = tl.where(difference > 0, w, tl.where(difference < 0, -w, w * difference))  # NaN stays NaN
            total += tl.sum(signed, axis=0)
        else:
            w = tl.load(w_ptr + task * w_task + d64 * w_column, mask=in_d, other=0.0).to(ACC)
            total += tl.sum(tl.abs(difference) * w[:, None, None], axis=0)
    at_out = out_ptr + (task * N + i64[:, None]) * M + j64[None, :]
    tl.store(at_out, total.to(out_ptr.dtype.element_ty), mask=in_n[:, None] & in_m[None, :])


@triton.jit
def sign_sum_kernel(
    a_ptr, b_ptr, g_ptr, out_ptr, N, M, D, tiles_n, tiles_d,
    a_task, a_row, a_column, b_task, b_row, b_column, g_task, g_row, g_column,
    BN: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``sign_sum``.

    Grid: one program a tile of BN x BD results, which it alone writes; it goes through all of ``b``. So the other
    sum of a gradient, over the rows of ``a``, is a call of its own with the two exchanged, and nothing is added up
    by several programs.
    """
    tile = tl.program_id(0)
    task = (tile // (tiles_n * tiles_d)).to(tl.int64)
    i = (tile // tiles_d) % tiles_n * BN + tl.arange(0, BN)
    d = tile % tiles_d * BD + tl.arange(0, BD)
    in_n, in_d = i < N, d < D
    i64, d64 = i.to(tl.int64), d.to(tl.int64)
    at_a = a_ptr + task * a_task + i64[:, None] * a_row + d64[None, :] * a_column
    a = tl.load(at_a, mask=in_n[:, None] & in_d[None, :], other=0.0).to(ACC)
    total = tl.zeros((BN, BD), dtype=ACC)
    for first in range(0, M, BM):
        j = first + tl.arange(0, BM)
        in_m = j < M
        j64 = j.to(tl.int64)
        at_b = b_ptr + task * b_task + j64[:, None] * b_row + d64[None, :] * b_column
        at_g = g_ptr + task * g_task + j64[:, None] * g_column + i64[None, :] * g_row
        b = tl.load(at_b, mask=in_m[:, None] & in_d[None, :], other=0.0).to(ACC)
        g = tl.load(at_g, mask=in_m[:, None] & in_n[None, :], other=0.0).to(ACC)[:, :, None]
        difference = a[None, :, :] - b[:, None, :]
        signed = tl.where(difference > 0, g, tl.where(difference < 0, -g, g * difference))
        total += tl.sum(signed, axis=0)
    at_out = out_ptr + (task * N + i64[:, None]) * D + d[None, :]
    tl.store(at_out, total.to(out_ptr.dtype.element_ty), mask=in_n[:, None] & in_d[None, :])


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """Sums are in float32, of float64 in float64."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def _scores(a: Tensor, b: Tensor, w: Tensor, out: Tensor, sign: bool) -> Tensor:
    (tasks, n, d), m, acc = a.shape, b.shape[1], accumulator(a.dtype)
    tile = SCORE_TILES[acc]
    tiles_n, tiles_m = triton.cdiv(n, tile["BN"]), triton.cdiv(m, tile["BM"])
    if out.numel():
        rows = w.stride() if sign else (w.stride(0), 0, w.stride(1))
        with torch.cuda.device_of(out):
            score_kernel[(tasks * tiles_n * tiles_m,)](
                a, b, w, out, n, m, d, tiles_n, tiles_m, *a.stride(), *b.stride(), *rows,
                SIGN=sign, ACC=acc, **tile, **LAUNCH,
            )  # fmt: skip
    return out


def score(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """``[B, N, D]``, ``[B, M, D]``, ``[B, D]`` to ``[B, N, M]``."""
    return _scores(a, b, w, a.new_empty(a.shape[0], a.shape[1], b.shape[1]), sign=False)


def sign_score(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """``[B, N, D]``, ``[B, M, D]``, ``[B, N, D]`` to ``[B, N, M]`` of the dtype of ``v``."""
    return _scores(a, b, v, v.new_empty(a.shape[0], a.shape[1], b.shape[1]), sign=True)


def sign_sum(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """``[B, N, D]``, ``[B, M, D]``, ``[B, N, M]`` to ``[B, N, D]``, float32 at least."""
    (tasks, n, d), m, acc = a.shape, b.shape[1], accumulator(a.dtype)
    tile = SUM_TILES[acc]
    out = a.new_empty(tasks, n, d, dtype=torch.promote_types(a.dtype, torch.float32))
    tiles_n, tiles_d = triton.cdiv(n, tile["BN"]), triton.cdiv(d, tile["BD"])
    if out.numel():
        with torch.cuda.device_of(out):
            sign_sum_kernel[(tasks * tiles_n * tiles_d,)](
                a, b, g, out, n, m, d, tiles_n, tiles_d, *a.stride(), *b.stride(), *g.stride(),
                ACC=acc, **tile, **LAUNCH,
            )  # fmt: skip
    return out
