"""Without Triton, or switched off, every function computes by its plain formula; and which tensors kernels get."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from book_fixtures import ROOT

from utils import kernels

WITHOUT = """
import sys
sys.modules["triton"] = None  # what find_spec and import take for "not installed"
import torch
import utils.bench.kernels, utils.cli, utils.data, utils.exercises, utils.fewshot.siamese
from utils import kernels
from utils.functional import conv_fisher_diagonal, distillation_loss, gather_episode, pairwise_weighted_l1

assert not kernels.AVAILABLE
a, w = torch.randn(40, 90, requires_grad=True), torch.randn(90)
pairwise_weighted_l1(a, torch.randn(50, 90), w).sum().backward()
distillation_loss(a, torch.randn(40, 90), torch.arange(40)).backward()
conv_fisher_diagonal(torch.randn(2, 3, 5, 5), torch.randn(2, 4, 3, 3), 3)
gather_episode(torch.zeros(4, 1, 5, 5, dtype=torch.uint8), torch.tensor([0, 3]))
try:
    with kernels.use(True):
        pass
except ModuleNotFoundError as error:
    print(error.name)
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=variables)


def test_without_triton_everything_imports_and_works():
    done = python(WITHOUT)
    assert done.stdout == "triton\n", done.stderr


@pytest.mark.skipif(not kernels.AVAILABLE, reason="Triton is not installed")
@pytest.mark.parametrize(("value", "expected"), [("0", "False"), ("1", "True")])
def test_the_environment_switches_kernels_off(value, expected):
    code = (
        "from unittest.mock import Mock; import torch; from utils import kernels;"
        "print(kernels.launches(Mock(is_cuda=True, dtype=torch.float32)))"
    )
    assert python(code, COURSE_KERNELS=value).stdout == f"{expected}\n"


@pytest.mark.skipif(not kernels.AVAILABLE, reason="Triton is not installed")
def test_kernels_get_what_they_can_compute_with():
    x = torch.zeros(2)
    assert not kernels.launches(x)
    with kernels.use(True, anywhere=True):
        assert kernels.launches(x) and kernels.launches(x, x.double(), x.long(), x.bfloat16())
        assert not kernels.launches(x, x.to(torch.complex64).real.to(torch.float8_e5m2))
        with kernels.use(False):
            assert not kernels.launches(x)
        assert kernels.launches(x)
    assert not kernels.launches(x)
