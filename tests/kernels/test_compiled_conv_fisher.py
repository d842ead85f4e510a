"""Machine code of the convolutional Fisher kernel: no spilled registers, and mostly multiply-adds where it loops."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from checks import INTERPRETED

from utils.bench.machine_code import CAPABILITIES, accumulator, compiled

pytestmark = pytest.mark.skipif(INTERPRETED, reason="compiled in a process without TRITON_INTERPRET")
pytest.importorskip("triton", reason="Triton is not installed")

SUPPORTED = [capability for capability in CAPABILITIES if capability >= 80]
"""On older GPUs the plain formula runs: see test_importance.py."""
COMMON = dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w", "a_column", "g_column"), 1)
"""Triton makes constants of arguments that are 1: this is what most layers run."""
SIZES = [(rows, columns) for rows in (16, 32, 64) for columns in (16, 64)]


def built(rows: int, columns: int, dtype: str, capability: int, absolute: bool = False, **constants):
    """Machine code for weights of so many rows and columns, and the tile that it is for."""
    from utils.kernels import conv_fisher

    tile = conv_fisher.tile(rows, columns)
    options = {**conv_fisher.LAUNCH, "num_warps": tile["num_warps"]}
    blocks = {name: tile[name] for name in ("BO", "BK", "BP")}
    constants = {"ABSOLUTE": absolute, "ACC": accumulator(dtype), **blocks, **constants}
    code = compiled(conv_fisher.conv_fisher_kernel, dtype, capability, constants, options, out_ptr="fp32")
    return code, tile


def inner_loop(text: str) -> Counter[str]:
    """How often each instruction stands in the smallest loop with a multiply-add."""
    labels, instructions, loops = {}, [], []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)(.*)", line):
            instructions.append(found[1])
            target = re.search(r"`\((\.L_\w+)\)", found[2])
            if found[1] == "BRA" and target and target[1] in labels:
                loops.append(Counter(instructions[labels[target[1]] :]))
    return min((loop for loop in loops if loop["FFMA"]), key=Counter.total)


def test_every_tile_is_reached():
    from utils.kernels import conv_fisher

    assert {(tile["BO"], tile["BK"]) for tile in (conv_fisher.tile(*size) for size in SIZES)} == set(conv_fisher.TILES)
    for rows, columns in ((1, 1), (17, 17), (33, 65), (1000, 5000)):
        tile = conv_fisher.tile(rows, columns)
        # No more than what there is, rounded up to what a tile can be.
        assert tile["BO"] in (16, 32, 64) and tile["BO"] < max(17, 2 * rows) and tile["BO"] >= min(64, rows)
        assert tile["BK"] == (16 if columns <= 16 else 64)


def fits_twice(code, tile: dict[str, int]) -> bool:
    """Whether two programs share a multiprocessor: one computes while the other waits for memory."""
    return code.stack == 0 and 2 * 32 * tile["num_warps"] * code.registers <= 65536 and code.shared <= 48 * 1024


@pytest.mark.parametrize("capability", SUPPORTED)
@pytest.mark.parametrize(
    ("size", "dtype", "absolute"),
    [*((size, "fp32", False) for size in SIZES), *(((64, 64), dtype, True) for dtype in ("fp32", "bf16", "fp16"))],
)
def test_it_compiles_without_spilling(size, dtype, absolute, capability):
    code, tile = built(*size, dtype, capability, absolute)
    assert fits_twice(code, tile)
    assert code.count("HMMA") == 0  # products in full float32
    assert code.count("SHFL") == code.count("ATOM") == code.count("RED.") == 0  # no sum travels, none meets another


@pytest.mark.parametrize("capability", SUPPORTED)
@pytest.mark.parametrize("constants", [{}, COMMON], ids=["in general", "stride 1 in images in one piece"])
def test_most_of_what_the_large_tile_does_is_multiplying(constants, capability):
    code, tile = built(64, 64, "fp32", capability, **constants)
    loop = inner_loop(code.text)
    assert fits_twice(code, tile)
    assert loop["FFMA"] == tile["BO"] * tile["BK"] * tile["BP"] // (32 * tile["num_warps"])
    assert loop["FFMA"] / loop.total() >= 0.6


def test_it_compiles_where_everything_is_one():
    # Constants can do less than numbers in a kernel: they have no dtype.
    from utils.kernels import conv_fisher

    names = [name for name in conv_fisher.conv_fisher_kernel.arg_names if name[0] not in "BA" and name[-4:] != "_ptr"]
    code, _ = built(1, 1, "fp32", SUPPORTED[-1], **dict.fromkeys([*names, "B"], 1))
    assert code.stack == 0
