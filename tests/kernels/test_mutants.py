"""Errors planted in the kernels: each has to be seen by the tests of that kernel.

A mutant is the kernel's source with one text replaced. The tests named with it are called as they are; one of them has
to fail. Unspoiled, all of them pass.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import test_conv_fisher
import test_distillation
import test_gather_episode
import test_weighted_l1
import torch
from checks import INTERPRETED

from utils import kernels

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="planted errors may write anywhere: in the interpreter alone")

FOLDER = Path(kernels.__file__).parent


def weighted_l1(device: torch.device) -> None:
    test_weighted_l1.test_scores_and_gradients_of_odd_shapes(device, None, 33, 65, 7)
    test_weighted_l1.test_not_a_number_and_infinity_stay_in_their_row(device)


def conv_fisher(device: torch.device) -> None:
    for convolution in test_conv_fisher.CONVOLUTIONS[9:]:
        test_conv_fisher.test_it_is_the_sum_over_single_examples(device, None, convolution)


def gather(device: torch.device) -> None:
    for shape in ((1, 5, 5), (1, 28, 28), (3, 7, 7)):
        test_gather_episode.test_every_turn_of_odd_shapes(device, None, shape)
    test_gather_episode.test_without_turns_images_need_not_be_square(device, None, (2, 4, 6))


def distillation(device: torch.device) -> None:
    test_distillation.test_terms_and_slopes_of_odd_shapes(device, None, 7, 17)
    test_distillation.test_old_classes_are_the_first(device, None, 48, 10)
    test_distillation.test_every_unit_of_length(device, None, 8)
    test_distillation.test_a_label_out_of_range_spoils_its_row_and_no_other(device, 5)


TESTS = {
    "weighted_l1": weighted_l1, "conv_fisher": conv_fisher, "gather": gather, "distillation": distillation,
}  # fmt: skip

MUTANTS = [
    ("weighted_l1", "in_n, in_m = i < N, j < M", "in_n, in_m = i <= N, j < M"),
    ("weighted_l1", "in_n, in_m = i < N, j < M", "in_n, in_m = i < N - 1, j < M"),
    ("weighted_l1", "in_d, d64 = d < D,", "in_d, d64 = d <= D,"),
    ("weighted_l1", "range(0, D, BD)", "range(0, D - BD, BD)"),
    ("weighted_l1", "range(0, M, BM)", "range(BM, M, BM)"),
    ("weighted_l1", "tl.abs(difference)", "difference"),
    ("weighted_l1", "a[:, :, None] - b[:, None, :]", "a[:, :, None] + b[:, None, :]"),
    ("weighted_l1", "tl.where(difference < 0, -g, g * difference)", "tl.where(difference < 0, g, g * difference)"),
    ("weighted_l1", "tl.where(difference < 0, -g, g * difference)", "tl.where(difference < 0, -g, g)"),
    ("weighted_l1", "j64[:, None] * g_column + i64[None, :] * g_row", "j64[:, None] * g_row + i64[None, :] * g_column"),
    ("weighted_l1", "total += tl.sum(signed, axis=0)\n    at_out = out_ptr + (task * N", "total = tl.sum(signed, axis=0)\n    at_out = out_ptr + (task * N"),  # noqa: E501
    ("weighted_l1", "(task * N + i64[:, None]) * M + j64", "(task * N + i64[:, None]) * D + j64"),
    ("weighted_l1", "w_ptr + task * w_task + d64 * w_column", "w_ptr + task * w_task + d64 * w_column + 1"),
    ("conv_fisher", "total += slope * slope", "total = slope * slope"),
    ("conv_fisher", "total += slope * slope", "total += slope"),
    ("conv_fisher", "total += slope * slope", "total -= slope * slope"),
    ("conv_fisher", "slope = tl.dot(g, tl.trans(a), slope,", "slope += tl.dot(g * g, tl.trans(a * a), slope,"),
    ("conv_fisher", "(row < H)", "(row <= H)"),
    ("conv_fisher", "(column >= 0) & ", ""),
    ("conv_fisher", "* dilation_h - padding_h", "- padding_h"),
    ("conv_fisher", "* dilation_w - padding_w", "* dilation_w"),
    ("conv_fisher", "y * stride_h, x * stride_w", "y * stride_w, x * stride_h"),
    ("conv_fisher", "at_g += g_example", "at_g += 0"),
    ("conv_fisher", "in_p = p < positions", "in_p = p < positions - 1"),
    ("gather", "turns % 2 == 1, (turns == 1) | (turns == 2)", "turns % 2 == 1, (turns == 3) | (turns == 2)"),
    ("gather", "* (W - 1)", "* W"),
    ("gather", "pixel % PLANE // W, pixel % W", "pixel % W, pixel % PLANE // W"),
    ("gather", "code // 4 * row_stride", "(code // 4 + 1) * row_stride"),
    ("gather", "tl.full((BLOCK // 4, 4), SCALE, ACC)", "1.0"),
    ("gather", "reverse = turns == 2", "reverse = turns == 0"),
    ("gather", "24 - byte * 8, byte * 8", "byte * 8, byte * 8"),
    ("gather", "mask=pixel < C * PLANE)", "mask=pixel < C * PLANE - 1)"),
    ("distillation", "per_T = (1.0 / T)[:, None]", "per_T = T[:, None]"),
    ("distillation", "divergence = tl.sum(each, axis=1) * T * T", "divergence = tl.sum(each, axis=1) * T"),
    ("distillation", "divergence = tl.sum(each, axis=1) * T * T", "divergence = tl.sum(each, axis=1)"),
    ("distillation", "slope += (h * T)[:, None]", "slope += (h * T * T)[:, None]"),
    ("distillation", "slope += (h * T)[:, None]", "slope -= (h * T)[:, None]"),
    ("distillation", "slope += (h * T)[:, None]", "slope += h[:, None]"),
    ("distillation", "tl.where(column[None, :] < K, s, float", "tl.where(column[None, :] <= K, s, float"),
    ("distillation", "- tl.where(column[None, :] == y[:, None], g[:, None], 0.0)", ""),
    ("distillation", "is_class = (y >= 0) & (y < C)", "is_class = (y >= 0) & (y <= C)"),
    ("distillation", "mask=column[None, :] < n_columns", "mask=column[None, :] <= n_columns"),
    ("distillation", "row_units * UNIT + column", "row_units + column"),
]  # fmt: skip


def spoiled(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str, old: str = "", new: str = "") -> None:
    """Put the changed module in the place of ``utils.kernels.<module>``."""
    text = (FOLDER / f"{module}.py").read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {module}.py any more: plant the error elsewhere"
    path = folder / f"{module}_spoiled.py"
    path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    name = f"utils.kernels.{module}"
    spec = importlib.util.spec_from_file_location(name, path)
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    monkeypatch.setitem(sys.modules, name, changed)
    monkeypatch.setattr(kernels, module, changed, raising=False)


@pytest.mark.parametrize("module", TESTS)
def test_the_unspoiled_kernel_passes(device, monkeypatch, tmp_path, module):
    spoiled(monkeypatch, tmp_path, module)
    TESTS[module](device)


@pytest.mark.parametrize(("module", "old", "new"), MUTANTS, ids=[f"{m[0]}: {m[2]}"[:60] for m in MUTANTS])
def test_a_planted_error_is_seen(device, monkeypatch, tmp_path, module, old, new):
    spoiled(monkeypatch, tmp_path, module, old, new)
    from triton.runtime.errors import InterpreterError

    with pytest.raises((AssertionError, InterpreterError)) as seen:
        TESTS[module](device)
    # Wrong numbers, or a lane out of bounds; a mutant that cannot run at all would show nothing.
    assert seen.errisinstance(AssertionError) or "OutOfBoundsError" in str(seen.value)
