"""The lecture's example of a temperature: what the softmax makes of two logits."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from utils.records import provenance
from utils.transfer.distillation import soft_targets

LOGITS = (3.0, 10.0)
TEMPERATURES = (1, 5, 10)


def run(dataset: str, seeds: list[int], folder: Path, steps: int | None = None, jobs: int = 1) -> dict:
    """Two probabilities at three temperatures, in per cent: they follow from a formula, without data or chance.

    ``seeds``, ``folder``, ``steps`` and ``jobs`` are not needed.
    """
    if dataset != "logits":
        raise ValueError(f"the temperature is recorded of two logits; got {dataset!r}: use 'logits', or leave it out")
    start = time.perf_counter()
    logits, rows = torch.tensor(LOGITS, dtype=torch.float64), []
    for temperature in TEMPERATURES:
        for number, share in enumerate(soft_targets(logits, temperature).tolist(), 1):
            rows.append(
                {"id": f"temperature-logits-t{temperature}c{number}", "method": "temperature",
                 "title": "Softmax of the logits (3, 10)", "setting": f"T = {temperature}, class {number}",
                 "mean": 100 * share, "ci95": 0.0, "sd": 0.0, "n": 1, "over": "formula", "seeds": [],
                 "statistics": None, "chance": None}
            )  # fmt: skip
    return {
        "kind": "reproduction",
        "name": "temperature",
        "dataset": dataset,
        "title": "The softmax of two logits at three temperatures",
        "command": "course reproduce temperature",
        "rows": rows,
        "config": {"logits": LOGITS, "temperatures": TEMPERATURES},
        "provenance": {**provenance(), "seconds": time.perf_counter() - start},
    }
