"""Machine code of the pairwise kernels: no spilled registers, and as few instructions a triple as the page says."""

from __future__ import annotations

import pytest
from checks import INTERPRETED

from utils.bench.machine_code import CAPABILITIES, accumulator, compiled

pytestmark = pytest.mark.skipif(INTERPRETED, reason="compiled in a process without TRITON_INTERPRET")
pytest.importorskip("triton", reason="Triton is not installed")

DTYPES = ("fp32", "bf16", "fp16", "fp64")


def built(kernel: str, dtype: str, capability: int, **constants):
    from utils.kernels import weighted_l1

    acc = accumulator(dtype)
    tile = (weighted_l1.SUM_TILES if kernel == "sign_sum_kernel" else weighted_l1.SCORE_TILES)[acc]
    code = compiled(
        getattr(weighted_l1, kernel), dtype, capability, {"ACC": acc, **constants, **tile}, weighted_l1.LAUNCH
    )
    return code, tile["BN"] * tile["BM"] * tile["BD"] // (32 * weighted_l1.LAUNCH["num_warps"])


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kernel", "constants"),
    [("score_kernel", {"SIGN": False}), ("score_kernel", {"SIGN": True}), ("sign_sum_kernel", {})],
)
def test_it_compiles_without_spilling(kernel, constants, dtype, capability):
    code, _ = built(kernel, dtype, capability, **constants)
    assert code.stack == 0 and code.registers <= 255 and code.shared <= 48 * 1024
    assert code.count("SHFL") == 0  # no sum travels between threads


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_triple_costs_two_instructions_forward_and_four_backward(capability):
    code, triples = built("score_kernel", "fp32", capability, SIGN=False)
    assert (code.count("FADD") + code.count("FFMA")) / triples <= 2.1
    code, triples = built("sign_sum_kernel", "fp32", capability)
    arithmetic = sum(code.count(name) for name in ("FADD", "FSETP", "FSEL", "FFMA"))
    assert arithmetic / triples <= 6
