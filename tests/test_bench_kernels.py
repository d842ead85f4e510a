"""The benchmark of the kernels: what it compares is the same, what it writes fits its schema, and errors are seen."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from utils.bench import kernels, machine_code
from utils.bench.kernels import SCHEMA, Work, measure
from utils.bench.timing import threads
from utils.records import results_dir

jsonschema = pytest.importorskip("jsonschema", reason="comes with the book's packages")
CPU = torch.device("cpu")
SMALL = (
    lambda: kernels.distances(CPU, 3, 2, 5),
    lambda: kernels.weighted_l1(CPU, 6, 5, 4),
    lambda: kernels.distillation(CPU, 5, 4),
    lambda: kernels.episode(CPU, 3, 4, 1, 5, 6),
    lambda: kernels.conv_fisher(CPU, 3, 2, 5),
    lambda: kernels.linear_fisher(CPU, 3, 4, 5),
    lambda: kernels.pair_convolution(CPU, 2, 3, 2, 4),
    lambda: kernels.ridge(CPU, 4, 9, 2),
    lambda: kernels.network_fisher(CPU, 3, 4, 2),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Ceilings of a made machine, calls that are timed once, and a compiler that only calls the function."""
    monkeypatch.setattr(kernels, "ceilings", lambda device: {"copy_bytes_per_s": 1e9, "fma_per_s": 1e9})
    monkeypatch.setattr(kernels, "AT_LEAST", 0.0)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    with threads(1):  # as the command does
        yield


def one(variants: dict, tolerance: float = 1e-6, compiled: str | None = None) -> Work:
    x = torch.arange(6.0)
    return Work("f", {"n": 6}, (x,), variants, (4000, 12000), (0, 0), (0,), compiled, tolerance)


@pytest.mark.parametrize("make", SMALL)
def test_all_variants_compute_the_formula_and_all_rows_fit_the_schema(make):
    found = measure(CPU, rounds=2, chosen=[make])
    work = make()
    names = {*work.variants} | ({"compiled"} if work.compiled else set())
    assert {row["variant"] for row in found["rows"]} == names
    assert {row["mode"] for row in found["rows"]} == ({"forward", "backward", "both"} if work.by else {"forward"})
    for row in found["rows"]:
        jsonschema.validate(row, SCHEMA)
        assert row["status"] == "ok" and row["error"] <= work.tolerance
        assert ("speedup" in row) == (row["variant"] != "naive")
    json.dumps(found, allow_nan=False)


def test_a_variant_that_computes_something_else_is_not_timed():
    wrong = one({"naive": lambda x: x.square(), "ours": lambda x: 1.001 * x.square()}, tolerance=1e-4)
    with pytest.raises(ValueError, match=r"f, n = 6: ours is off by 1\.0e-03 forward; allowed 1e-04"):
        measure(CPU, rounds=2, chosen=[lambda: wrong])


def test_of_what_is_too_large_a_corner_is_compared(monkeypatch):
    monkeypatch.setattr(kernels, "LARGEST", 0)
    monkeypatch.setattr(kernels, "CORNER", 3)
    rows = measure(CPU, rounds=2, chosen=[lambda: kernels.weighted_l1(CPU, 6, 5, 4)])["rows"]
    assert all((row["error"] is None) == (row["mode"] != "forward") for row in rows)
    work = kernels.weighted_l1(CPU, 6, 5, 4)
    wrong = replace(work, variants={**work.variants, "ours": lambda a, b, w: 1.01 * work.variants["naive"](a, b, w)})
    with pytest.raises(ValueError, match=r"ours is off by 1\.0e-02 forward"):
        measure(CPU, rounds=2, chosen=[lambda: wrong])


def test_a_wrong_gradient_is_seen_too():
    wrong = one({"naive": lambda x: x.square(), "ours": lambda x: x * x.detach()})
    with pytest.raises(ValueError, match=r"ours is off by 5\.0e-01 backward"):
        measure(CPU, rounds=2, chosen=[lambda: wrong])


def test_what_fails_has_a_row_that_says_so():
    def greedy(x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    def unbuilt(x):
        raise RuntimeError("no compiler\nand a long story")

    work = one({"naive": lambda x: x.square(), "eager": greedy, "ours": unbuilt})
    rows = {(r["variant"], r["mode"]): r for r in measure(CPU, rounds=2, chosen=[lambda: work])["rows"]}
    assert rows["eager", "both"]["status"] == "out of memory" and rows["ours", "forward"]["status"] == "no compiler"
    assert rows["eager", "both"]["median"] is None and len(rows) == 9
    for row in rows.values():
        jsonschema.validate(row, SCHEMA)


def test_the_roofline_is_the_larger_of_the_two_floors(monkeypatch):
    monkeypatch.setattr(kernels, "_clock", lambda call, device: lambda: 2e-5)
    work = one({"naive": lambda x: x.square()})
    rows = {r["mode"]: r for r in measure(CPU, rounds=2, chosen=[lambda: work])["rows"]}
    assert rows["forward"]["floor_ms"] == pytest.approx(4e-3) and rows["both"]["floor_ms"] == pytest.approx(12e-3)
    assert rows["backward"]["floor_ms"] == pytest.approx(8e-3)
    assert rows["forward"]["roofline_percent"] == pytest.approx(20.0)


def test_the_ratio_is_formed_in_each_round(monkeypatch):
    clocks = iter([iter([1.0, 10.0, 4.0]), iter([0.5, 1.0, 1.0])])
    variants = {"naive": lambda x: x + 0, "ours": lambda x: x * 1}
    monkeypatch.setattr(kernels, "_clock", lambda call, device: partial(next, next(clocks)))
    work = Work("f", {"n": 6}, (torch.arange(6.0),), variants, (1, 1), compiled=None)
    ours = measure(CPU, rounds=3, chosen=[lambda: work])["rows"][1]
    assert ours["speedup"] == 4.0 and ours["median"] == 1000.0  # 2, 10 and 4 times


def test_what_takes_seconds_is_timed_once_a_round_and_in_fewer_rounds(monkeypatch):
    monkeypatch.setattr(kernels, "_clock", None)
    called = []
    variants = {"naive": lambda x: x + 0, "ours": lambda x: (called.append(1), x * 1)[1]}
    work = Work("f", {"n": 6}, (torch.arange(6.0),), variants, (1, 1), compiled=None, rounds=3)
    rows = measure(CPU, rounds=21, chosen=[lambda: work])["rows"]
    assert [row["repeats"] for row in rows] == [3, 3]
    assert len(called) == 5  # compared, timed, watched for its memory


def test_convolutions_compute_in_float32_proper_meanwhile():
    seen = []
    work = one({"naive": lambda x: (seen.append(torch.backends.cudnn.allow_tf32), x.square())[1]})
    measure(CPU, rounds=2, chosen=[lambda: work])
    assert seen and not any(seen) and torch.backends.cudnn.allow_tf32


def test_of_a_network_each_convolution_counts_three_products():
    network = kernels.network_fisher(CPU, 2, 8)
    stem, stages = 27 * 64 * 64, [(64, 64, 64), (64, 128, 16), (128, 256, 4), (256, 512, 1)]
    expected = 2 * stem  # no gradient of the images
    for before, after, positions in stages:
        shortcut = before * after * positions * (before != after)
        expected += 3 * (9 * after * positions * (before + 3 * after) + shortcut)
    assert network.instructions == (2 * expected, 2 * expected)
    assert network.variants["ours"](*network.inputs).numel() == 11_159_232


def test_a_broken_row_is_refused_by_the_schema():
    row = measure(CPU, rounds=2, chosen=[SMALL[7]])["rows"][0]
    for change in ({"median": None}, {"median": -1.0}, {"variant": "best"}, {"note": "typed by hand"}, {"status": ""}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**row, **change}, SCHEMA)


def records():
    return sorted((results_dir() / "bench").glob("kernels_*.json"))


def test_the_recorded_rows_fit_the_schema_and_cover_every_function():
    assert [path.stem for path in records()].count("kernels_cpu") == 1
    wanted = {work().function for work in kernels.works(CPU)}
    for path in records():
        record = json.loads(path.read_text(encoding="utf-8"))
        for row in record["rows"]:
            jsonschema.validate(row, SCHEMA)
        assert {row["function"] for row in record["rows"]} == wanted
        assert min(record["ceilings"].values()) > 0


def test_machine_code_of_both_layouts():
    pytest.importorskip("triton", reason="Triton is not installed")
    from utils.bench import layouts

    for kernel, exchanges in ((layouts.first_axis, False), (layouts.last_axis, True)):
        code = machine_code.compiled(kernel, "fp32", 80, layouts.TILE, layouts.LAUNCH)
        assert bool(code.count("SHFL")) == exchanges and code.stack == 0
        assert 100 < code.loop() < 2000
