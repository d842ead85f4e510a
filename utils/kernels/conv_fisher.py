"""Squared gradients of a convolution's weights, summed over the examples that they belong to.

For example b, group by group, with p = (y, x) the positions of the output and k = (c, i, j) the columns of the weight:

    s_bok = sum_p g_bop a_bc,(y stride + i dilation - padding, x stride + j dilation - padding)
    f_ok  = sum_b s_bok^2, or sum_b |s_bok|

The sum over p is a product of matrices, ``O x P`` by ``P x K``; it has to be finished before it is squared, example by
example. So a program holds two tiles of O x K: the sums of the example at hand, and the squares so far. The gradients
of single examples, ``B O K`` numbers, never leave the registers, and the windows of the inputs, ``B P K`` numbers, are
never copied: both are what the plain formula spends its memory and much of its time on.

Floor: ``B O K P`` multiply-adds, and ``4 B (H W C + P O)`` bytes in float32, far below that from a few channels on.
Products are in full float32 and not rounded to the 10 bits of TF32, so they are the work of the ordinary units; half
precision is converted, and takes as long. In the loop of the large tile three of five instructions multiply and add.
"""

# No annotations from __future__: the interpreter of Triton 3.0 does not see a constexpr in them.
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 512
"""Programs to aim for, about four a multiprocessor of a large GPU: of few weights, each for a part of the batch."""
LEAST = 4
"""Examples a part has at least: every part needs memory of the size of the weights."""


@triton.jit
def conv_fisher_kernel(
    inputs_ptr, gradients_ptr, out_ptr, B, C, O, H, W, positions, out_w, kernel_area, kernel_w,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, tiles_o, tiles_k, part_size, out_part,
    a_example, a_channel, a_row, a_column, g_example, g_channel, g_row, g_column,
    ABSOLUTE: tl.constexpr, BO: tl.constexpr, BK: tl.constexpr, BP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``f`` of one part of the batch, ``[O, K]`` for each group; ``C`` and ``O`` are channels a group.

    Grid: one program a tile of BO x BK weights and a part of the batch; it alone writes that tile of that part, and
    whoever launches adds up the parts. Passes: the inputs are read ``O / BO`` times, and each of their pixels for up to
    ``kernel_area`` columns; the gradients ``K / BK`` times. All from the cache after the first.
    """
    tile, part = tl.program_id(0), tl.program_id(1)
    group = tile // (tiles_o * tiles_k)
    o = (tile // tiles_k) % tiles_o * BO + tl.arange(0, BO)
    k = tile % tiles_k * BK + tl.arange(0, BK)
    in_o, in_k = o < O, k < C * kernel_area
    o64, c64 = (group * O + o).to(tl.int64), (group * C + k // kernel_area).to(tl.int64)
    # Where the window's corner lies for output (0, 0): may be outside, then every use of it is masked.
    down = k % kernel_area // kernel_w * dilation_h - padding_h
    across = k % kernel_w * dilation_w - padding_w
    first = part * part_size
    last = tl.minimum(first + part_size, B)
    at_a = inputs_ptr + first.to(tl.int64) * a_example + c64 * a_channel
    at_a += down.to(tl.int64) * a_row + across.to(tl.int64) * a_column
    at_g = gradients_ptr + first.to(tl.int64) * g_example + o64 * g_channel
    total = tl.zeros((BO, BK), dtype=ACC)
    for _ in range(first, last):
        slope = tl.zeros((BO, BK), dtype=ACC)
        for start in range(0, positions, BP):
            p = start + tl.arange(0, BP)
            in_p = p < positions
            y, x = p // out_w, p % out_w
            row, column = y * stride_h, x * stride_w
            of_a = row.to(tl.int64) * a_row + column.to(tl.int64) * a_column
            of_g = y.to(tl.int64) * g_row + x.to(tl.int64) * g_column
            # Positions on the last axis of both tiles: threads side by side read pixels side by side.
            row, column = down[:, None] + row[None, :], across[:, None] + column[None, :]
            inside = (row >= 0) & (row < H) & (column >= 0) & (column < W) & in_k[:, None] & in_p[None, :]
            a = tl.load(at_a[:, None] + of_a[None, :], mask=inside, other=0.0).to(ACC)
            g = tl.load(at_g[:, None] + of_g[None, :], mask=in_o[:, None] & in_p[None, :], other=0.0).to(ACC)
            slope = tl.dot(g, tl.trans(a), slope, input_precision="ieee")
        if ABSOLUTE:
            total += tl.abs(slope)
        else:
            total += slope * slope
        at_a += a_example
        at_g += g_example
    at_out = out_ptr + part.to(tl.int64) * out_part + o64[:, None] * (C * kernel_area) + k[None, :]
    tl.store(at_out, total, mask=in_o[:, None] & in_k[None, :])


TILES = {
    (16, 16): {"BP": 32, "num_warps": 4},
    (32, 16): {"BP": 32, "num_warps": 4},
    (64, 16): {"BP": 16, "num_warps": 4},
    (16, 64): {"BP": 32, "num_warps": 4},
    (32, 64): {"BP": 16, "num_warps": 4},
    (64, 64): {"BP": 16, "num_warps": 8},
}
"""Positions at a time and warps, by BO and BK. Larger ones spill registers on one GPU or another."""
LAUNCH = {"num_stages": 1, "enable_fp_fusion": True}


def tile(rows: int, columns: int) -> dict[str, int]:
    """BO, BK, BP and warps for weights of ``rows x columns`` a group."""
    bo = 16 if rows <= 16 else 32 if rows <= 32 else 64
    bk = 16 if columns <= 16 else 64
    return {"BO": bo, "BK": bk, **TILES[bo, bk]}


def parts(batch: int, tiles: int) -> int:
    """Into how many parts the batch is cut, so that there is work for a whole GPU where the weights are few."""
    return max(1, min(triton.cdiv(PROGRAMS, max(1, tiles)), batch // LEAST))


def fisher_diagonal(
    inputs: Tensor,
    gradients: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    absolute: bool,
) -> Tensor:
    """``[B, C, H, W]``, ``[B, O, H', W']`` to ``[O, C / groups, *kernel]`` of float32."""
    (batch, channels, height, width), (out_channels, out_height, out_width) = inputs.shape, gradients.shape[1:]
    area = kernel[0] * kernel[1]
    rows, columns = out_channels // groups, channels // groups * area
    blocks = tile(rows, columns)
    tiles_o, tiles_k = triton.cdiv(rows, blocks["BO"]), triton.cdiv(columns, blocks["BK"])
    tiles = groups * tiles_o * tiles_k
    n_parts = parts(batch, tiles)
    out = inputs.new_empty(n_parts, out_channels, channels // groups, *kernel, dtype=torch.float32)
    if out.numel():
        with torch.cuda.device_of(out):
            conv_fisher_kernel[(tiles, n_parts)](
                inputs, gradients, out, batch, channels // groups, rows, height, width,
                out_height * out_width, out_width, area, kernel[1], *stride, *padding, *dilation,
                tiles_o, tiles_k, triton.cdiv(batch, n_parts), out.stride(0), *inputs.stride(), *gradients.stride(),
                ABSOLUTE=absolute, ACC=tl.float32, **blocks, **LAUNCH,
            )  # fmt: skip
    return out.sum(0) if n_parts > 1 else out[0]
