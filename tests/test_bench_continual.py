"""What learning without forgetting costs: that the two sides compute the same, and what the rows say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils import bench
from utils.bench import continual
from utils.records import read_record


@pytest.fixture
def small(monkeypatch):
    """A tiny network, few images, small memories."""
    for name, value in (
        ("PIXELS", 12), ("WIDTH", 7), ("CLASSES", 4), ("IMAGES", 5), ("TASKS", 3), ("LOGITS", ((6, 5),)),
        ("SEEN", 90), ("PLACES", 20), ("CANDIDATES", 30), ("FEATURES", 6), ("CHOSEN", 9),
    ):  # fmt: skip
        monkeypatch.setattr(continual, name, value)


def test_every_comparison_is_of_two_that_agree(small):
    rows = continual.measure(repeats=2)
    assert [row["function"] for row in rows if row["unit"] == "ms" and row["baseline"]] == [
        "Fisher diagonal of a linear layer",
        "Fisher diagonal of a linear layer",
        "EWC: importance, empirical Fisher information",
        "EWC: importance, exact Fisher information",
        "EWC: penalty and gradient",
        "distillation loss and gradient",
        "reservoir",
        "herding",
        "herding",
    ]
    for other, ours in zip(*([row for row in rows if row["unit"] == "ms"][i::2] for i in (0, 1)), strict=True):
        assert other["baseline"] and not ours["baseline"] and ours["case"] == other["case"]
        assert ours["speedup_over"] == other["variant"] and "speedup" not in other
        assert ours["difference"] < continual.TOLERANCE
        assert all(row["low"] <= row["median"] <= row["high"] for row in (other, ours))
    memory = [row for row in rows if row["unit"] == "MB"]
    assert len(memory) == 2 * 4 and all(row["function"].endswith(": memory") and row["median"] > 0 for row in memory)


def test_the_record_is_one_of_the_book_s(small, tmp_path, monkeypatch):
    real = continual.measure
    monkeypatch.setattr(continual, "measure", lambda: real(2))
    path, rows = bench.run("continual", tmp_path)
    record = read_record("bench/continual", tmp_path)
    assert path == tmp_path / "bench" / "continual.json" and len(record["rows"]) == len(rows) > 20
    assert record["command"] == "course bench continual" and record["provenance"]["threads"] == 1


def test_memory_does_not_grow_with_the_tasks_where_they_are_one_parabola(small, monkeypatch):
    sizes = {}
    for tasks in (2, 20):
        monkeypatch.setattr(continual, "TASKS", tasks)
        for row in continual.penalties(2):
            if row["unit"] == "MB":
                sizes.setdefault(row["variant"], []).append(row["median"])
    one, many = sizes["quadratic_penalty of one parabola"], sizes["a term a task and parameter"]
    assert one[0] == one[1] and many[1] > 3 * many[0]


WRONG = [
    ("linear_fisher_diagonal", lambda a, g: (g.T @ a).square(), "linear_layer", "Fisher diagonal of a layer"),
    ("fisher_loop", lambda model, x, y=None: of_the_mean(model, x), "importances", "empirical Fisher information"),
    ("penalty_loop", lambda model, f, a, s: true_penalty(model, f[1:], a[1:], s), "penalties", "EWC's penalty"),
    ("usual_distillation", lambda s, t, y: true_distillation(s, t, y) * 1.001, "distillation", "distillation loss"),
    ("reservoir_at_once", lambda images, size, rng: images[:size], "reservoirs", "reservoir"),
    ("herding", lambda vectors, m: torch.arange(m), "herdings", "herding"),
]
true_penalty, true_distillation = continual.penalty_loop, continual.usual_distillation


def of_the_mean(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The widespread mistake: the square of a batch's gradient."""
    logs = torch.log_softmax(model(x), 1)
    names, values = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, (g.square() for g in torch.autograd.grad(logs[:, 0].mean(), values)), strict=True))


@pytest.mark.parametrize(("name", "wrong", "benchmark", "said"), WRONG, ids=[name for name, *_ in WRONG])
def test_what_does_not_compute_the_same_is_not_timed(small, monkeypatch, name, wrong, benchmark, said):
    monkeypatch.setattr(continual, name, wrong)
    with pytest.raises(ValueError, match=f"{said}: the two sides differ by .* and are not timed"):
        list(getattr(continual, benchmark)(2))


def test_both_ways_of_herding_word_by_word_agree(small):
    vectors = torch.randn(20, 5, generator=continual.generator(1), dtype=torch.float64)
    assert torch.equal(continual.herding_by_candidates(vectors, 20), continual.herding_by_sums(vectors, 20))
