"""Chosen images as floats, turned on the way: every byte is read once and every float written once.

For the i-th chosen image, ``row_i`` its place among the images and ``turns_i`` its quarter turns:

    o_icyx = rot90(image_row_i,c, turns_i)_yx / 255

A turn only changes the way through an image: what stands at (y, x) after it is read at ``first + y down + x across``,
with three numbers that depend on the turns. So one program serves all turns and all orders of memory.

Floor: (1 + size of a float) bytes a pixel; the arithmetic takes less time than that. An image in one piece is read in
words of four pixels, upright as upside down, because whoever reads four bytes writes 16 of float32, the widest store
there is. On its side it is read byte by byte, down its columns, and the cache keeps the rest of what comes along.
"""

# Without ``annotations`` from ``__future__``: Triton 3.0's interpreter does not know a constexpr that is kept as text.
import torch
import triton
import triton.language as tl
from torch import Tensor

from utils.kernels.weighted_l1 import accumulator

BLOCK = 1024
"""Pixels a program; fewer where an image has fewer."""


@triton.jit
def gather_kernel(
    images_ptr, codes_ptr, out_ptr, row_stride, channel_stride, down_stride, across_stride,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, SCALE: tl.constexpr, WORDS: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Images as floats; a code is four times the row plus the turns, which are 0 unless images are square.

    Grid: one program a tile of BLOCK pixels of one chosen image, next to each other in the output; it alone writes
    them. Passes: one. Sizes are constants, because every pixel divides by them. With ``WORDS``, images lie in one
    piece, begin at a multiple of four bytes and have channels of a multiple of four pixels.
    """
    PLANE: tl.constexpr = H * W
    TILES: tl.constexpr = (C * PLANE + BLOCK - 1) // BLOCK
    tile = tl.program_id(0)
    chosen = (tile // TILES).to(tl.int64)
    code = tl.load(codes_ptr + chosen)
    turns = (code % 4).to(tl.int32)
    image = images_ptr + code // 4 * row_stride
    word = tile % TILES * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    byte = tl.arange(0, 4)
    pixel = word[:, None] * 4 + byte[None, :]
    if WORDS:
        if turns % 2 == 0:
            values = _by_words(image, word, byte, turns, C, PLANE).to(ACC)
        else:
            values = _by_bytes(image, pixel, turns, channel_stride, down_stride, across_stride, C, PLANE, W).to(ACC)
    else:
        values = _by_bytes(image, pixel, turns, channel_stride, down_stride, across_stride, C, PLANE, W).to(ACC)
    # Of this dtype from the start: a number of Python's would be doubled in the interpreter and rounded on a GPU.
    values *= tl.full((BLOCK // 4, 4), SCALE, ACC)
    at_out = out_ptr + chosen * (C * PLANE) + pixel
    tl.store(at_out, values.to(out_ptr.dtype.element_ty), mask=pixel < C * PLANE)


@triton.jit
def _by_words(image, word, byte, turns, C: tl.constexpr, PLANE: tl.constexpr):
    """Pixels of an image that is upright, or upside down: then words and the bytes in them come in reverse."""
    reverse = turns == 2
    source = tl.where(reverse, word + (PLANE // 4 - 1) - word % (PLANE // 4) * 2, word)
    words = tl.load(image.to(tl.pointer_type(tl.int32)) + source, mask=word < C * PLANE // 4, other=0)
    shift = tl.where(reverse, 24 - byte * 8, byte * 8)
    return (words[:, None] >> shift[None, :]) & 255


@triton.jit
def _by_bytes(
    image, pixel, turns, channel_stride, down_stride, across_stride,
    C: tl.constexpr, PLANE: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Pixels of an image, whatever its turns and strides."""
    sideways, upwards, backwards = turns % 2 == 1, (turns == 1) | (turns == 2), turns >= 2
    down = tl.where(sideways, across_stride, down_stride).to(tl.int64)
    across = tl.where(sideways, down_stride, across_stride).to(tl.int64)
    first = (tl.where(upwards, down, 0) + tl.where(backwards, across, 0)) * (W - 1)
    down, across = tl.where(upwards, -down, down), tl.where(backwards, -across, across)
    channel, y, x = (pixel // PLANE).to(tl.int64), pixel % PLANE // W, pixel % W
    at = image + first + channel * channel_stride + y * down + x * across
    return tl.load(at, mask=pixel < C * PLANE, other=0)


def launch_options(pixels: int) -> dict:
    """For images of so many pixels: eight pixels a thread."""
    block = min(BLOCK, max(128, triton.next_power_of_2(pixels)))
    return {"BLOCK": block, "num_warps": max(1, block // 256), "enable_fp_fusion": True}


def reads_words(images: Tensor) -> bool:
    """Whether images ``[N, C, H, W]`` can be read four pixels at a time."""
    whole = images.shape[2] * images.shape[3] % 4 == 0
    return whole and images[:1].is_contiguous() and images.stride(0) % 4 == 0 and images.data_ptr() % 4 == 0


def gather(images: Tensor, codes: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """uint8 ``[N, C, H, W]`` and int64 codes ``[M]`` on the same device to ``[M, C, H, W]`` of ``dtype``."""
    c, h, w = images.shape[1:]
    out = images.new_empty(codes.numel(), c, h, w, dtype=dtype)
    options = launch_options(c * h * w)
    tiles = triton.cdiv(c * h * w, options["BLOCK"])
    if out.numel():
        with torch.cuda.device_of(out):
            gather_kernel[(codes.numel() * tiles,)](
                images, codes, out, *images.stride(),
                C=c, H=h, W=w, SCALE=scale, WORDS=reads_words(images), ACC=accumulator(dtype), **options,
            )  # fmt: skip
    return out
