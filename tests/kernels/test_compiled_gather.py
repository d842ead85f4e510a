"""Machine code of the gather: nothing spilled, words read and the widest stores written, no division."""

from __future__ import annotations

import pytest
from checks import INTERPRETED

from utils.bench.machine_code import CAPABILITIES, accumulator, compiled
from utils.functional.gather import SCALE

pytestmark = pytest.mark.skipif(INTERPRETED, reason="compiled in a process without TRITON_INTERPRET")
pytest.importorskip("triton", reason="Triton is not installed")

DTYPES = ("fp32", "bf16", "fp16", "fp64")
IN_WORDS = ((1, 28, 28), (1, 8, 8), (3, 32, 32), (3, 84, 84))
"""Omniglot, digits, CIFAR, miniImageNet: what the course has, all with planes of a multiple of four pixels."""


def built(shape: tuple[int, int, int], dtype: str = "fp32", capability: int = 90, words: bool = True):
    """Machine code, and how many times four pixels a thread has."""
    from utils.kernels import gather

    c, h, w = shape
    options = gather.launch_options(c * h * w)
    block = options.pop("BLOCK")
    constants = {"C": c, "H": h, "W": w, "SCALE": SCALE, "WORDS": words, "BLOCK": block, "ACC": accumulator(dtype)}
    constants["across_stride"] = 1  # Triton makes a constant of an argument that is 1
    code = compiled(gather.gather_kernel, dtype, capability, constants, options, images_ptr="u8", codes_ptr="i64")
    return code, block // 4 // (32 * options["num_warps"])


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "words"), [((1, 28, 28), True), ((1, 105, 105), False)])
def test_it_compiles_without_spilling(shape, words, dtype, capability):
    code, _ = built(shape, dtype, capability, words)
    assert code.stack == 0 and code.registers <= 64 and code.shared <= 1024
    assert code.count("SHFL") == 0
    # A division by a number that is not known when compiling takes a reciprocal.
    assert code.count("MUFU") == 0 and code.count("CALL") == 0


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("shape", IN_WORDS)
def test_words_are_read_and_sixteen_bytes_written(shape, capability):
    code, quads = built(shape, capability=capability)
    byte, code_of_image = code.count("LDG.E.U8"), code.count("LDG.E.64")
    assert code.count("STG.E.128") == code.count("STG") == quads
    assert code.count("LDG") - byte - code_of_image == quads  # a word for each store; and, on the side, bytes
    assert code_of_image == 1 and byte == 4 * quads
    assert code.shared == 0


def test_what_is_not_in_whole_words_is_read_byte_by_byte():
    code, quads = built((1, 105, 105), words=False)
    assert code.count("LDG.E.U8") == code.count("LDG") - 1 == 4 * quads


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_the_size_is_written_at_half_the_width(dtype):
    code, quads = built((1, 28, 28), dtype)
    assert code.count("STG.E.64") == code.count("STG") == quads


def test_the_scale_is_multiplied_by_once_a_pixel():
    code, quads = built((1, 28, 28))
    assert code.count("FMUL") + code.count("FFMA") == 4 * quads
    assert code.count("0.0039215688") == 4 * quads
