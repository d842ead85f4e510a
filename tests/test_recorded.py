"""The table of recorded and printed numbers that chapters show."""

from __future__ import annotations

import json

import pytest

from utils.claims.recorded import COLUMNS, costs_bundle, machine_code_bundle, printed_numbers, table_bundle
from utils.records import results_dir


@pytest.fixture
def folder(tmp_path):
    printed = [
        {"id": "set-a-5w1s", "printed": "41.7", "source": "lecture"},
        {"id": "set-a-20w1s", "printed": "26.7", "source": "lecture"},
        {"id": "set-a-5w5s", "printed": "63.2 ± 1.0", "source": "paper"},
        {"id": "runs-people", "printed": "4.5", "source": "paper"},
        {"id": "runs-b-small", "printed": "30.1", "source": "paper"},
    ]
    (tmp_path / "published.json").write_text(json.dumps(printed))
    made = {"date": "2026-11-21T10:00:00Z", "device": "CPU <one>", "torch": "2.15.0+cu132"}
    rows = [
        {"id": "set-a-5w1s", "mean": 47.84, "ci95": 0.56, "n": 1000, "over": "episodes"},
        {"id": "runs-b-small", "mean": 15.5, "ci95": 3.21, "n": 20, "over": "runs"},
    ]
    record = {"kind": "reproduction", "command": "course reproduce a", "rows": rows, "provenance": made}
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "other.json").write_text(json.dumps({"kind": "bench", "rows": [{"id": "set-a-5w1s"}]}))
    return tmp_path


def cells(bundle) -> list[list[str]]:
    """The cells of each line; columns are apart by two spaces or more."""
    lines = bundle["text/plain"].splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines if line]


def test_printed_and_recorded_numbers_stand_in_their_columns(folder):
    head, *rows = cells(table_bundle([("A", "set-a")], folder=folder))
    assert head == ["accuracy (%)", *COLUMNS.values()]
    assert rows[0] == ["A", "printed in the lecture", "41.7", "–", "26.7", "–"]
    assert rows[1] == ["A", "printed in the paper", "–", "63.2 ± 1.0", "–", "–"]
    assert rows[2] == ["A", "ours, recorded (1000 episodes)", "47.8 ± 0.6", "–", "–", "–"]


def test_it_says_where_the_recorded_numbers_come_from(folder):
    bundle = table_bundle([("A", "set-a"), ("B", "runs-b")], folder=folder)
    assert bundle["text/plain"].count("Recorded with: course reproduce a (2026-11-21, CPU <one>, torch 2.15.0).") == 1
    assert "CPU &lt;one&gt;" in bundle["text/html"] and "<one>" not in bundle["text/html"]
    assert "Recorded" not in table_bundle([("C", "set-c")], folder=folder)["text/plain"]


def test_columns_can_be_any_endings_of_ids(folder):
    bundle = table_bundle(
        [("people", "runs-people"), ("B", "runs-b")], {"": "nothing", "small": "few"}, "error (%)", folder
    )
    head, *rows = cells(bundle)
    assert head == ["error (%)", "nothing", "few"]
    assert rows[0] == ["people", "printed in the paper", "4.5", "–"]
    assert rows[1] == ["B", "printed in the paper", "–", "30.1"]
    assert rows[2] == ["B", "ours, recorded (20 runs)", "–", "15.5 ± 3.2"]


def test_the_books_own_table_can_be_made():
    printed = printed_numbers(results_dir())
    assert {f"omniglot-matching-{rest}" for rest in COLUMNS} <= set(printed)
    assert "98.1" in table_bundle([("matching", "omniglot-matching")])["text/plain"]


# Recorded costs


def cost(variant: str, mode: str, median: float | None, n: int = 10, **fields) -> dict:
    shape = {"N": n, "D": 4}
    row = {"function": "f", "variant": variant, "mode": mode, "shape": shape, "case": f"N = {n}, D = 4, {mode}"}
    return {**row, "median": median, "peak_bytes": 2_000_000, "roofline_percent": 12.3, "status": "ok", **fields}


@pytest.fixture
def costs(tmp_path):
    rows = [
        cost("naive", "forward", 8.0), cost("naive", "both", 30.0),
        cost("ours", "forward", 2.0, speedup=4.0), cost("ours", "both", 3.0, speedup=10.0),
        cost("compiled", "forward", None, status="no compiler"), cost("compiled", "both", None, status="no compiler"),
        cost("naive", "forward", 1.0, n=20), {**cost("naive", "forward", 1.0), "function": "g"},
    ]  # fmt: skip
    made = {"date": "2026-11-21T10:00:00Z", "device": "CPU (x86_64)", "torch": "2.15.0+cu132", "threads": 1}
    record = {
        "kind": "bench",
        "name": "kernels_cpu",
        "command": "course bench kernels",
        "rows": rows,
        "provenance": made,
    }
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "kernels_cpu.json").write_text(json.dumps(record))
    return tmp_path


def test_costs_stand_by_case_and_variant(costs):
    head, *rows = cells(costs_bundle("f", folder=costs))
    assert head[:4] == ["f", "forward (ms)", "with gradient (ms)", "times as fast"]
    assert rows[:4] == [
        ["N = 10, D = 4"],
        ["as the formula", "8.00", "30.0", "–", "2.00", "12"],
        ["ours", "2.00", "3.00", "10", "2.00", "12"],
        ["torch.compile", "no compiler", "–", "–", "–", "–"],
    ]
    assert rows[4:6] == [["N = 20, D = 4"], ["as the formula", "1.00", "–", "–", "2.00", "12"]]


def test_one_size_can_be_chosen(costs):
    _, *rows = cells(costs_bundle("f", {"N": 20, "D": 4}, costs))
    assert rows[0] == ["N = 20, D = 4"] and ["N = 10, D = 4"] not in rows


def test_a_gpu_that_was_not_there_is_named(costs):
    text = costs_bundle("f", folder=costs)["text/plain"]
    assert "Recorded with: course bench kernels (2026-11-21, CPU (x86_64), 1 thread, torch 2.15.0)." in text
    assert "On a GPU: not measured yet." in text
    record = json.loads((costs / "bench" / "kernels_cpu.json").read_text())
    record |= {"name": "kernels_tesla_t4", "provenance": {**record["provenance"], "device": "Tesla T4"}}
    (costs / "bench" / "kernels_tesla_t4.json").write_text(json.dumps(record))
    text = costs_bundle("f", folder=costs)["text/plain"]
    assert "not measured yet" not in text and text.index("CPU (x86_64)") < text.index("Tesla T4")


def test_the_books_own_machine_code_can_be_shown():
    head, *rows = cells(machine_code_bundle())
    assert head[1::2] == ["sum over the last axis: instructions", "sum over the first axis: instructions"]
    for row in rows[:4]:
        assert float(row[1]) > float(row[3]) and int(row[2]) > int(row[4]) == 0
