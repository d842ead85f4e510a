"""The scores of all pairs in Triton with two layouts of the tile: only the axis of the sum differs.

For the page "From formula to kernel", which shows their source and what the compiler makes of it. What the course
computes with is ``utils.kernels.weighted_l1``.
"""

import triton
import triton.language as tl

TILE = {"BN": 64, "BM": 64, "BD": 4}
LAUNCH = {"num_warps": 8, "enable_fp_fusion": True}


# fmt: off
@triton.jit
def first_axis(
    a_ptr, b_ptr, w_ptr, out_ptr, N, M, D,
    BN: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
):
    """d lies on the first axis of the tile: a thread holds all of a sum."""
    i = tl.program_id(0) * BN + tl.arange(0, BN)
    j = tl.program_id(1) * BM + tl.arange(0, BM)
    total = tl.zeros((BN, BM), dtype=tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        in_a = (i[None, :] < N) & (d[:, None] < D)
        in_b = (j[None, :] < M) & (d[:, None] < D)
        a = tl.load(a_ptr + i[None, :] * D + d[:, None], mask=in_a, other=0.0)
        b = tl.load(b_ptr + j[None, :] * D + d[:, None], mask=in_b, other=0.0)
        w = tl.load(w_ptr + d, mask=d < D, other=0.0)
        difference = a[:, :, None] - b[:, None, :]
        total += tl.sum(tl.abs(difference) * w[:, None, None], axis=0)
    in_out = (i[:, None] < N) & (j[None, :] < M)
    tl.store(out_ptr + i[:, None] * M + j[None, :], total, mask=in_out)


@triton.jit
def last_axis(
    a_ptr, b_ptr, w_ptr, out_ptr, N, M, D,
    BN: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
):
    """d lies on the last axis, as one writes it down: the threads of a warp share a sum and have to exchange it."""
    i = tl.program_id(0) * BN + tl.arange(0, BN)
    j = tl.program_id(1) * BM + tl.arange(0, BM)
    total = tl.zeros((BN, BM), dtype=tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        in_a = (i[:, None] < N) & (d[None, :] < D)
        in_b = (j[:, None] < M) & (d[None, :] < D)
        a = tl.load(a_ptr + i[:, None] * D + d[None, :], mask=in_a, other=0.0)
        b = tl.load(b_ptr + j[:, None] * D + d[None, :], mask=in_b, other=0.0)
        w = tl.load(w_ptr + d, mask=d < D, other=0.0)
        difference = a[:, None, :] - b[None, :, :]
        total += tl.sum(tl.abs(difference) * w[None, None, :], axis=2)
    in_out = (i[:, None] < N) & (j[None, :] < M)
    tl.store(out_ptr + i[:, None] * M + j[None, :], total, mask=in_out)
