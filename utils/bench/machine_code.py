"""Compiles a kernel for a GPU that is not here, and reads what the machine code needs.

Triton brings NVIDIA's assembler and disassembler with it. What they say about registers, spills and the width of
loads is the only sign of a kernel's speed that there is without the GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPABILITIES = {75: "T4", 80: "A100", 89: "L4, RTX 4090", 90: "H100, H200"}


ACCUMULATORS = {"fp32": "float32", "fp16": "float32", "bf16": "float32", "fp64": "float64"}


@dataclass(frozen=True)
class MachineCode:
    """``registers`` a thread, ``stack`` bytes a thread (spilled registers), ``shared`` bytes a program, ``text``."""

    registers: int
    stack: int
    shared: int
    text: str

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"\b{re.escape(instruction)}", self.text))

    def loop(self) -> int:
        """Instructions of the longest stretch that a branch jumps back over: the loop that does the work."""
        labels, longest, n = {}, 0, 0
        for line in self.text.splitlines():
            if label := re.match(r"(\.L_\w+):", line):
                labels[label[1]] = n
            elif re.search(r"/\*[0-9a-f]{4,}\*/\s+\S", line):
                n += 1
                back = re.search(r"BRA.*`\((\.L_\w+)\)", line)
                if back and back[1] in labels:
                    longest = max(longest, n - labels[back[1]])
        return longest


def compiled(
    kernel: Any,
    dtype: str,
    capability: int,
    constants: dict[str, Any],
    options: dict[str, Any],
    floats: tuple[str, ...] = (),
    **kinds: str,
) -> MachineCode:
    """Machine code of ``kernel`` (decorated by ``triton.jit``) for ``capability``.

    ``dtype``: element type of all pointers ("fp32", "bf16", ...) but those named in ``kinds`` (``y_ptr="i64"``);
    ``floats``: scalar arguments that are float32, all others are int32; ``constants``: values of the ``constexpr``
    arguments; ``options``: those of the launch. Pointers are taken as divisible by 16 bytes, as PyTorch's are.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = f"*{kinds.get(name, dtype)}"
            attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name in floats else "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return read(done.asm["cubin"], done.metadata.shared)


def accumulator(dtype: str):
    """The dtype of the sums, as the kernels' ``ACC``."""
    import triton.language as tl

    return getattr(tl, ACCUMULATORS[dtype])


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def read(cubin: bytes, shared: int) -> MachineCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([_tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True).stdout
        text = subprocess.run([_tool("nvdisasm"), "-c", file.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    return MachineCode(int(found[1]), int(found[2]), shared, text)


def measure() -> list[dict]:
    """Instructions a triple of the two layouts of the page "From formula to kernel", for each GPU."""
    from utils.bench import layouts

    rows = []
    for name, kernel in (("last axis", layouts.last_axis), ("first axis", layouts.first_axis)):
        triples = layouts.TILE["BN"] * layouts.TILE["BM"] * layouts.TILE["BD"] / (32 * layouts.LAUNCH["num_warps"])
        for capability, gpu in CAPABILITIES.items():
            code = compiled(kernel, "fp32", capability, layouts.TILE, layouts.LAUNCH)
            inner = code.loop()
            rows.append(
                {
                    "function": "pairwise_weighted_l1", "case": f"sum over the {name}", "variant": gpu,
                    "capability": capability, "unit": "instructions a triple",
                    "median": inner / triples, "shuffles": code.count("SHFL"), "registers": code.registers,
                    "arithmetic": (code.count("FADD") + code.count("FFMA") + code.count("FMUL")) / triples,
                }
            )  # fmt: skip
    return rows
