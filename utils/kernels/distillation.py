"""Both terms of a distilling loss and their derivative: two kernels that hold whole rows of logits in registers.

For every row, ``p`` and ``q`` being the softmax of the teacher's and of the student's first K logits over T:

    entropy      log sum_c exp(s_c) - s_y
    divergence   T^2 sum_k (p_k log(p_k / q_k) - p_k + q_k)
    slope        g (softmax(s) - onehot(y)) + h T (q - p)      with g and h the derivatives by the two terms

``q - p`` adds up to nothing. Term by term it takes along the rounding of both normalisers, which T^2 would enlarge.

Floor: forward reads both sets of logits, backward reads them again and writes the slope; that is 20 bytes an element
in float32. Maxima and sums of exponentials are computed anew for the slope: reading them would save no pass, and
``exp(s - logsumexp)`` is less exact.
"""

# No postponed annotations: Triton 3.0's interpreter would not know its constants by them.
import ctypes
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"enable_fp_fusion": True}
ELEMENTS = {tl.float32: 8, tl.float64: 4}
"""Of a tile that a thread holds, by the dtype of the sums. With more, fewer threads find room on a multiprocessor."""
WARPS = {tl.float32: 32, tl.float64: 16}
"""At most: more threads than that would have too few registers each."""


@triton.jit
def rows(ptr, row, column, row_units, column_stride, n_columns, UNIT: tl.constexpr, ACC: tl.constexpr):
    """Rows of logits, and ``-inf`` behind the last column: there is no such class."""
    at = ptr + row[:, None] * row_units * UNIT + column[None, :].to(tl.int64) * column_stride
    return tl.load(at, mask=column[None, :] < n_columns, other=float("-inf")).to(ACC)


@triton.jit
def below_the_largest(x):
    """``x - max x``: no exponential of it overflows, and one is 1. A row of nothing but ``-inf`` becomes NaN."""
    return x - tl.max(x, axis=1)[:, None]


@triton.jit
def log1p(x):
    """``log(1 + x)``, of which ``1 + x`` alone would lose the last digits of a small ``x``."""
    y = 1.0 + x
    return tl.where(y == 1.0, x, tl.log(y) * (x / tl.where(y == 1.0, 1.0, y - 1.0)))


@triton.jit
def terms_kernel(
    s_ptr, t_ptr, y_ptr, entropy_ptr, divergence_ptr, B, C_units, K_units, ignore_index, T_high, T_low,
    s_row_units, s_column, t_row_units, t_column, y_row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``entropy`` and ``divergence``.

    Grid: one program a tile of ROWS whole rows, whose terms it alone writes. In the last tile, rows that are not
    there are the last one again, and what they give is not written.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    at = tl.minimum(row, B - 1).to(tl.int64)
    C, K = C_units * UNIT, K_units * UNIT
    T = tl.full((ROWS,), T_high, ACC) + tl.full((ROWS,), T_low, ACC)
    per_T = (1.0 / T)[:, None]
    s = rows(s_ptr, at, column, s_row_units, s_column, C, UNIT, ACC)
    t = rows(t_ptr, at, column, t_row_units, t_column, K, UNIT, ACC)
    y = tl.load(y_ptr + at * y_row)
    is_class = (y >= 0) & (y < C)
    of_class = tl.load(s_ptr + at * s_row_units * UNIT + y * s_column, mask=is_class, other=float("nan")).to(ACC)

    largest = tl.max(s, axis=1)
    entropy = tl.log(tl.sum(tl.exp(s - largest[:, None]), axis=1)) - (of_class - largest)
    tl.store(entropy_ptr + row, tl.where(y == ignore_index, 0.0, entropy), mask=row < B)

    s = below_the_largest(tl.where(column[None, :] < K, s, float("-inf")))
    t = below_the_largest(t)
    q, p = tl.exp(s * per_T), tl.exp(t * per_T)
    per_q, per_p = 1.0 / tl.sum(q, axis=1), 1.0 / tl.sum(p, axis=1)
    # Written so that q = p gives 0 exactly, whichever products the compiler fuses with a sum.
    difference = (q - p) * per_q[:, None] + p * (per_q - per_p)[:, None]
    log_ratio = (t - s) * per_T + log1p((per_p - per_q) / per_q)[:, None]
    p = p * per_p[:, None]
    each = tl.where(p > 0, p * log_ratio, 0.0) + difference  # 0 log(0 / q) = 0, where q is 0 too
    divergence = tl.sum(each, axis=1) * T * T
    tl.store(divergence_ptr + row, tl.where(divergence < 0, 0.0, divergence), mask=row < B)


@triton.jit
def slope_kernel(
    g_ptr, h_ptr, s_ptr, t_ptr, y_ptr, out_ptr, B, C_units, K_units, ignore_index, T_high, T_low,
    g_row, h_row, s_row_units, s_column, t_row_units, t_column, y_row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``slope``, for all C columns. The grid is that of ``terms_kernel``."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    at = tl.minimum(row, B - 1).to(tl.int64)
    C, K = C_units * UNIT, K_units * UNIT
    T = tl.full((ROWS,), T_high, ACC) + tl.full((ROWS,), T_low, ACC)
    per_T = (1.0 / T)[:, None]
    s = rows(s_ptr, at, column, s_row_units, s_column, C, UNIT, ACC)
    t = rows(t_ptr, at, column, t_row_units, t_column, K, UNIT, ACC)
    y = tl.load(y_ptr + at * y_row)
    g = tl.load(g_ptr + at * g_row).to(ACC)
    h = tl.load(h_ptr + at * h_row).to(ACC)
    g = tl.where((y >= 0) & (y < C), g, float("nan"))
    g = tl.where(y == ignore_index, 0.0, g)

    e = tl.exp(below_the_largest(s))
    slope = e * (g / tl.sum(e, axis=1))[:, None] - tl.where(column[None, :] == y[:, None], g[:, None], 0.0)

    s = below_the_largest(tl.where(column[None, :] < K, s, float("-inf")))
    t = below_the_largest(t)
    q, p = tl.exp(s * per_T), tl.exp(t * per_T)
    per_q, per_p = 1.0 / tl.sum(q, axis=1), 1.0 / tl.sum(p, axis=1)
    slope += (h * T)[:, None] * ((q - p) * per_q[:, None] + p * (per_q - per_p)[:, None])
    at_out = out_ptr + at[:, None] * C_units * UNIT + column[None, :]
    tl.store(at_out, slope.to(out_ptr.dtype.element_ty), mask=(row < B)[:, None] & (column[None, :] < C))


def accumulator(*tensors: Tensor) -> tl.dtype:
    """Everything is computed in float32, with a float64 among the logits in float64."""
    return tl.float64 if torch.float64 in {x.dtype for x in tensors} else tl.float32


def tile(n_columns: int, acc: tl.dtype) -> dict[str, int]:
    """One warp, with as many rows as it has room for; several for a longer row."""
    columns, room = max(16, triton.next_power_of_2(n_columns)), 32 * ELEMENTS[acc]
    warps = min(WARPS[acc], max(1, columns // room))
    return {"ROWS": max(1, room // columns), "COLUMNS": columns, "num_warps": warps}


def _arguments(student: Tensor, teacher: Tensor, temperature: float, n_old: int, ignore_index: int) -> tuple:
    """Sizes in units: of how many elements every row's length and beginning is a multiple, 16 at most.

    With a unit of 4 a thread reads four elements at once; with 100 columns the compiler would not know that it may.
    The temperature in two float32, all that a kernel can be given: their sum has 48 bits.
    """
    (b, c), s_row, t_row = student.shape, student.stride(0), teacher.stride(0)
    unit = math.gcd(16, c, n_old, s_row, t_row)
    high = ctypes.c_float(temperature).value
    sizes = (b, c // unit, n_old // unit, ignore_index, high, temperature - high)
    strides = (s_row // unit, student.stride(1), t_row // unit, teacher.stride(1))
    return unit, sizes, strides


def terms(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, n_old: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """``[B, C]``, ``[B, K]`` or more columns, ``[B]`` to two times ``[B]``, float32 at least."""
    unit, sizes, strides = _arguments(student, teacher, temperature, n_old, ignore_index)
    wide = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    acc = accumulator(student, teacher)
    shape = tile(student.shape[1], acc)
    entropy, divergence = (student.new_empty(len(student), dtype=wide) for _ in range(2))
    if len(student):
        with torch.cuda.device_of(student):
            terms_kernel[(triton.cdiv(len(student), shape["ROWS"]),)](
                student, teacher, labels, entropy, divergence, *sizes, *strides, labels.stride(0),
                UNIT=unit, ACC=acc, **shape, **LAUNCH,
            )  # fmt: skip
    return entropy, divergence


def slope(
    by_entropy: Tensor, by_divergence: Tensor, student: Tensor, teacher: Tensor, labels: Tensor,
    temperature: float, n_old: int, ignore_index: int,
) -> Tensor:  # fmt: skip
    """``[B]``, ``[B]`` and the arguments of ``terms`` to ``[B, C]`` of the student's dtype."""
    unit, sizes, strides = _arguments(student, teacher, temperature, n_old, ignore_index)
    acc = accumulator(student, teacher)
    shape = tile(student.shape[1], acc)
    out = student.new_empty(student.shape)
    if len(student):
        with torch.cuda.device_of(student):
            slope_kernel[(triton.cdiv(len(student), shape["ROWS"]),)](
                by_entropy, by_divergence, student, teacher, labels, out, *sizes,
                by_entropy.stride(0), by_divergence.stride(0), *strides, labels.stride(0),
                UNIT=unit, ACC=acc, **shape, **LAUNCH,
            )  # fmt: skip
    return out
