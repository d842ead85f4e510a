"""Machine code of the distilling loss: no spilled registers, wide loads where rows allow them, no detour of a sum."""

from __future__ import annotations

import pytest
import torch
from checks import INTERPRETED

from utils.bench.machine_code import CAPABILITIES, MachineCode, accumulator, compiled
from utils.functional.distillation import WIDEST

pytestmark = pytest.mark.skipif(INTERPRETED, reason="compiled in a process without TRITON_INTERPRET")
pytest.importorskip("triton", reason="Triton is not installed")

KERNELS = ("terms_kernel", "slope_kernel")
CONTIGUOUS = ("s_column", "t_column", "y_row", "g_row", "h_row")
"""Strides that are 1. Triton compiles for an argument of 1 as for a constant."""


def built(kernel: str, dtype: str, capability: int, c: int, unit: int, ones: tuple[str, ...] = ()) -> MachineCode:
    """For ``c`` columns, of whose number, and of the rows' strides, ``unit`` is the unit."""
    from utils.kernels import distillation

    function, acc = getattr(distillation, kernel), accumulator(dtype)
    tile = distillation.tile(c, acc)
    options = {**distillation.LAUNCH, "num_warps": tile.pop("num_warps")}
    constants = {**dict.fromkeys(ones or CONTIGUOUS, 1), **tile, "UNIT": unit, "ACC": acc}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    wide = "fp64" if dtype == "fp64" else "fp32"
    kinds = dict.fromkeys(("g_ptr", "h_ptr", "entropy_ptr", "divergence_ptr"), wide) | {"y_ptr": "i64"}
    kinds = {name: kind for name, kind in kinds.items() if name in function.arg_names}
    return compiled(function, dtype, capability, constants, options, floats=("T_high", "T_low"), **kinds)


def fits(code: MachineCode) -> bool:
    return code.stack == 0 and code.registers <= 255 and code.shared <= 48 * 1024


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_compiles_without_spilling(kernel, dtype, capability):
    widest = WIDEST[torch.float64 if dtype == "fp64" else torch.float32]
    for c, unit in ((5, 1), (10, 2), (100, 4), (101, 1), (1000, 8), (widest - 1, 1), (widest, 16)):
        assert fits(built(kernel, dtype, capability, c, unit)), f"{c} columns in units of {unit}"


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_compiles_for_the_oldest_and_the_newest(kernel, dtype):
    for capability in (min(CAPABILITIES), max(CAPABILITIES)):
        assert fits(built(kernel, dtype, capability, 100, 4))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "ones",
    [("y_row",), ("s_row_units", "t_column"), (*CONTIGUOUS, "B"), (*CONTIGUOUS, "C_units", "K_units")],
    ids=["columns apart", "a transposed student", "one row", "one unit of columns"],
)
def test_other_layouts_compile(kernel, ones):
    assert fits(built(kernel, "fp32", 90, 16, 16, ones))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_thread_reads_and_writes_four_elements_at_once(kernel, capability):
    """Also of 100 columns, of which the compiler alone knows no divisor."""
    for c, unit in ((100, 4), (1000, 8), (1024, 16)):
        code = built(kernel, "fp32", capability, c, unit)
        assert code.count("LDG.E.128") >= 4
        assert kernel == "terms_kernel" or code.count("STG.E.128") == code.count("STG") > 0
    assert built(kernel, "fp32", capability, 101, 1).count("LDG.E.128") == 0


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_hundred_columns_stay_within_a_warp(kernel, capability):
    """No barrier and no shared memory: the sums of a row are shuffles. And room for many warps at once."""
    code = built(kernel, "fp32", capability, 100, 4)
    assert code.count("BAR") == 0 and code.shared == 0
    assert code.registers <= 80
