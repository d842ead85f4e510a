"""Where the kernels are tested: on a GPU if there is one, else in Triton's interpreter on the CPU.

The interpreter is chosen when Triton is imported, so those tests need a process of their own:

    TRITON_INTERPRET=1 pytest tests/kernels        (``make kernel-tests``)

Without the variable the same tests run on the GPU; where there is none they are skipped, and what is left are the
tests that compile every kernel for GPUs that are not here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from utils import kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def device() -> Iterator[torch.device]:
    """Where the kernels run; inside the test every public function uses them, and their memory accesses are watched."""
    if not kernels.AVAILABLE:
        pytest.skip("Triton is not installed")
    if INTERPRETED:
        from bounds import watched

        with kernels.use(True, anywhere=True), watched():
            yield torch.device("cpu")
    elif torch.cuda.is_available():
        with kernels.use(True):
            yield torch.device("cuda")
    else:
        pytest.skip("no GPU here; with TRITON_INTERPRET=1 this test runs on the CPU (make kernel-tests)")


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """A real GPU, for what the interpreter cannot show."""
    if INTERPRETED or not torch.cuda.is_available() or not kernels.AVAILABLE:
        pytest.skip("no GPU here")
    with kernels.use(True):
        yield torch.device("cuda")


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is full of NaN, so that an output which no program writes is seen."""
    plain = torch.Tensor.new_empty

    def poisoned(self, *size, **options):
        made = plain(self, *size, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
