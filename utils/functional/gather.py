"""Chosen images of a resident set, as the floats that a network reads: what an episode is made of."""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor

from utils import kernels

SCALE = 1 / 255


def unit_range(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 ``pixels / 255``, in [0, 1].

    Multiplied by 1/255 in float32 (float64 for float64), which is a third faster than dividing and differs in the last
    bit at most; 255 gives exactly 1.
    """
    if dtype in (torch.float32, torch.float64):
        return pixels.to(dtype).mul_(SCALE)
    return unit_range(pixels).to(dtype)


def sent(index: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU on ``device``, without waiting for what the device still has to do."""
    # From memory that is not pinned, CUDA may copy only after all that was queued before.
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)


def gather_episode(
    images: Tensor, rows: Tensor, turns: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Images by their numbers, as floats, turned where asked: ``o_i = rot90(images[rows_i], turns_i) / 255``.

    Parameters
    ----------
    images : uint8 ``[N, C, H, W]``, on any device and in any order of memory.
    rows : int64, any shape, on the CPU, in ``0 .. N - 1``.
    turns : int64 on the CPU, a shape that broadcasts to that of ``rows``: quarter turns counter-clockwise, 0 to 3, of
        square images; ``turns[..., None]`` gives all images of a class the same. Default: none.
    dtype : float16, bfloat16, float32 or float64; see :func:`unit_range` for the rounding.

    Returns
    -------
    ``[*rows.shape, C, H, W]`` of ``dtype`` in [0, 1] where the images are, in one piece. No gradient passes through
    it. On CUDA one kernel, one pass over memory and no waiting for the device; the bits are those of the CPU.

    Raises
    ------
    ValueError : shapes that do not fit, images not square to be turned, indices not on the CPU or out of range.
    TypeError : other dtypes. RuntimeError : ``torch.vmap`` over ``turns`` where no kernel runs.
    """
    turns = _checked(images, rows, turns, dtype)
    if kernels.opaque(images):
        return _gather(images, rows, turns, dtype)
    return unit_range(_pixels(images, rows, turns), dtype)


def gather_support_and_query(
    images: Tensor, rows: Tensor, k_shot: int, turns: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """:func:`gather_episode` of the first ``k_shot`` images of every class, and of the others.

    Parameters: ``rows`` int64 ``[B, n_way, k_shot + n_query]``, the others as there. Returns ``[B, n_way * k_shot, C,
    H, W]`` and ``[B, n_way * n_query, C, H, W]``, class by class, each in memory of its own.

    Raises as there, and ``ValueError`` for rows of another number of axes or fewer than ``k_shot`` images a class.
    """
    if rows.ndim != 3 or not 0 <= k_shot <= rows.shape[2]:
        raise ValueError(f"expected rows [B, n_way, at least k_shot={k_shot}]; got {list(rows.shape)}")
    turns = _checked(images, rows, turns, dtype)
    first, others = slice(None, k_shot), slice(k_shot, None)
    if kernels.opaque(images):
        support, query = (
            _gather(images, rows[:, :, some], None if turns is None else turns[:, :, some], dtype)
            for some in (first, others)
        )
    else:  # chosen together: few images take their time for the number of operations, not for the work
        block = _pixels(images, rows, turns)
        support, query = (unit_range(block[:, :, some], dtype) for some in (first, others))
    return support.flatten(1, 2), query.flatten(1, 2)


def _checked(images: Tensor, rows: Tensor, turns: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """``turns`` in the shape of ``rows``. The values of both are checked when the images are chosen."""
    if images.ndim != 4:
        raise ValueError(f"expected images [N, C, H, W]; got {list(images.shape)}")
    if images.dtype != torch.uint8 or dtype not in kernels.DTYPES:
        raise TypeError(f"expected uint8 images and a floating-point dtype of the result; got {images.dtype}, {dtype}")
    _check_index("rows", rows)
    if turns is None:
        return None
    _check_index("turns", turns)
    if images.shape[2] != images.shape[3]:
        raise ValueError(f"only square images can be turned; these are {images.shape[2]} x {images.shape[3]}")
    try:
        return turns.expand(rows.shape)
    except RuntimeError:
        text = f"turns must broadcast to the shape of rows, {list(rows.shape)}; got {list(turns.shape)}"
        raise ValueError(text) from None


def _check_index(name: str, index: Tensor) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"expected int64 {name}; got {index.dtype}")
    if not index.is_cpu:
        raise ValueError(f"{name} must be on the CPU, where they are drawn and checked; got {index.device}")


def _check_range(name: str, index: Tensor, n: int) -> None:
    if index.numel():
        low, high = index.aminmax()
        if int(low) < 0 or int(high) >= n:
            raise ValueError(f"{name} must lie in 0 .. {n - 1}; got {int(low)} .. {int(high)}")


# ----------------------------------------------------------------------------------------------------- without a kernel


def _selected(images: Tensor, rows: Tensor) -> Tensor:
    """``images[rows]``, ``rows`` ``[M]``."""
    if not images.is_cpu:
        _check_range("rows", rows, images.shape[0])
        return images.index_select(0, sent(rows, images.device))
    try:
        return images.index_select(0, rows)
    except (IndexError, RuntimeError):  # it looks at every row anyway
        _check_range("rows", rows, images.shape[0])
        raise


def _pixels(images: Tensor, rows: Tensor, turns: Tensor | None) -> Tensor:
    """uint8 ``[*rows.shape, C, H, W]``.

    Images of the same turns are turned together, and all take their places at the end, as whole images: written to
    their places by a mask or an index, pixels of one byte take several times as long.
    """
    flat = rows.flatten()
    if turns is None:
        block = _selected(images, flat)
    else:
        kinds, order = turns.flatten().sort()
        try:
            kinds = kinds.tolist()
        except RuntimeError as error:  # of a tensor that stands for several
            raise RuntimeError("torch.vmap cannot map over turns; rows and turns may have any axes instead") from error
        if kinds and (kinds[0] < 0 or kinds[-1] > 3):
            _check_range("turns", turns, 4)
        starts = [bisect_left(kinds, turn) for turn in (1, 2, 3)]
        upright, *others = _selected(images, flat.index_select(0, order)).tensor_split(starts)
        turned = [torch.rot90(part, turn, (-2, -1)) for turn, part in enumerate(others, 1)]
        block = torch.cat([upright, *turned]).index_select(0, sent(order.argsort(), images.device))
    return block.view(*rows.shape, *images.shape[1:])


# ---------------------------------------------------------------------------------------------------- opaque to PyTorch


# The types are spelt out because PyTorch 2.4 cannot read annotations that are kept as text.
@torch.library.custom_op(
    "course::gather_episode",
    mutates_args=(),
    schema="(Tensor images, Tensor rows, Tensor? turns, ScalarType dtype) -> Tensor",
)
def _gather(images: Tensor, rows: Tensor, turns: Tensor | None, dtype: torch.dtype) -> Tensor:
    if not kernels.launches(images):
        return unit_range(_pixels(images, rows, turns), dtype)
    from utils.kernels import gather

    _check_range("rows", rows, images.shape[0])
    codes = rows.flatten() * 4
    if turns is not None:
        _check_range("turns", turns, 4)
        codes += turns.flatten()
    return gather.gather(images, sent(codes, images.device), dtype, SCALE).view(*rows.shape, *images.shape[1:])


@_gather.register_fake
def _(images: Tensor, rows: Tensor, turns: Tensor | None, dtype: torch.dtype) -> Tensor:
    return images.new_empty(*rows.shape, *images.shape[1:], dtype=dtype)
