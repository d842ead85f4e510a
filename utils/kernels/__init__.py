"""GPU versions of what ``utils.functional`` computes, in Triton; nobody else imports them.

Every function of ``functional`` that has a kernel asks :func:`launches` whether to use it. On the CPU, on Apple's
GPUs and where Triton is missing the answer is no, and the plain formula runs. ``COURSE_KERNELS=0`` in the environment
switches all kernels off.

The modules in this folder import Triton when they are imported, so ``functional`` imports them inside the operation
that launches them. Rules that they all keep, because one source has to run on Triton 3.0 and today's, on a GPU and in
the interpreter on the CPU: plain pointers and masks; every load is followed by ``.to(ACC)`` (the interpreter takes
bfloat16's bits for an integer); no atomics, so that the same input gives the same bits; offsets in 64 bits; no
autotuning, no libdevice, no float64 ``tl.dot``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

AVAILABLE = importlib.util.find_spec("triton") is not None
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_enabled = AVAILABLE and os.environ.get("COURSE_KERNELS", "1") != "0"
_anywhere = False


def launches(*tensors: Tensor) -> bool:
    """Whether kernels compute with these tensors: all on one CUDA device and of a dtype that kernels know."""
    if not _enabled:
        return False
    # A list and not a generator: PyTorch 2.4's compiler cannot look into one.
    return all([(x.is_cuda or _anywhere) and (x.dtype in DTYPES or not x.is_floating_point()) for x in tensors])


def opaque(*tensors: Tensor) -> bool:
    """Whether to go through the registered operation: where kernels compute, and while PyTorch compiles.

    Elsewhere the plain formula is called as it is; the detour costs more than a small episode's scores.
    """
    return torch.compiler.is_compiling() or launches(*tensors)


@contextmanager
def use(enabled: bool, anywhere: bool = False) -> Iterator[None]:
    """Switch kernels off or on meanwhile, for measuring one against the other.

    With ``anywhere`` they also get tensors of the CPU, which only Triton's interpreter can compute with
    (``TRITON_INTERPRET=1`` before Triton is imported): this is how they are tested without a GPU. Raises
    ``ModuleNotFoundError`` where they should run and Triton is missing.
    """
    global _enabled, _anywhere
    if enabled and not AVAILABLE:
        raise ModuleNotFoundError("the kernels need Triton, which PyTorch brings on Linux with CUDA", name="triton")
    before = _enabled, _anywhere
    _enabled, _anywhere = enabled, anywhere
    try:
        yield
    finally:
        _enabled, _anywhere = before
