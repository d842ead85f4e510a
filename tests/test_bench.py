"""Benchmarks: the clock is a made one, so that what is computed from it can be known."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from utils import bench
from utils.bench import sampler as sampler_bench
from utils.bench import timing
from utils.bench.timing import Timing, paired, summarise
from utils.data import DataError
from utils.data.images import ImageSet
from utils.records import read_record

needs_learn2learn = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None, reason="learn2learn is not installed (extra: peers)"
)


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.calls: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def takes(self, name: str, seconds):
        def call() -> None:
            self.now += seconds(len(self.calls)) if callable(seconds) else seconds
            self.calls.append(name)

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def made(n_classes: int = 22, n_images: int = 21) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n_classes, n_images, 1, 6, 6), generator=generator).to(torch.uint8)
    names = tuple(str(c) for c in range(n_classes))
    return ImageSet(images, names, names, "made", "all")


# ----------------------------------------------------------------------------------------------------------- timing


def test_the_ratio_says_how_many_times_longer_the_other_takes(clock):
    ours, other, ratio = paired(clock.takes("ours", 0.5), clock.takes("other", 2.0), repeats=5)
    assert ours == Timing(0.5, 0.5, 0.5, 5) and other == Timing(2.0, 2.0, 2.0, 5) and ratio == Timing(4.0, 4.0, 4.0, 5)


def test_each_is_called_once_unmeasured_and_who_begins_alternates(clock):
    first = iter([1000.0] + [1.0] * 9)
    ours, _, _ = paired(clock.takes("a", lambda n: next(first)), clock.takes("b", 1.0), repeats=4)
    assert "".join(clock.calls) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert ours.high == 1.0


def test_ours_may_be_called_several_times_in_a_row(clock):
    ours, other, ratio = paired(clock.takes("ours", 0.5), clock.takes("other", 2.0), repeats=3, inner=4)
    assert (ours.median, other.median, ratio.median) == pytest.approx((0.5, 2.0, 4.0))
    assert clock.calls.count("ours") == 4 * 4 and clock.calls.count("other") == 4


def test_a_machine_that_slows_down_does_not_change_the_ratio(clock):
    pairs = lambda seconds: lambda n: seconds * 2 ** (n // 2)  # noqa: E731 (half as fast from pair to pair)
    ours, _, ratio = paired(clock.takes("ours", pairs(1.0)), clock.takes("other", pairs(3.0)), repeats=6)
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 3.0, 3.0) and ours.high > 10 * ours.low


def test_summaries_are_median_and_deciles():
    seconds = np.random.default_rng(0).exponential(size=21).tolist()
    found = summarise(seconds)
    expected = np.quantile(seconds, [0.5, 0.1, 0.9])
    assert (found.median, found.low, found.high) == pytest.approx(tuple(expected)) and found.repeats == 21


@pytest.mark.parametrize("seconds", [[], [1.0]])
def test_one_repeat_is_no_measurement(seconds):
    with pytest.raises(ValueError, match=f"at least two repeats; got {len(seconds)}"):
        summarise(seconds)


# ---------------------------------------------------------------------------------------------------------- sampler


class Tasks:
    def __init__(self) -> None:
        self.drawn = 0

    def sample(self) -> None:
        self.drawn += 1


@pytest.fixture
def measured(monkeypatch):
    """Rows as they come of 2 s for our batch and 10 s for the other's, without a clock; and what was called."""
    called = []

    def pair(ours, other, repeats, device, inner):
        ours(), other(), other()
        called.append((repeats, torch.device(device).type, tasks[-1].drawn))
        return Timing(2.0, 1.0, 3.0, repeats), Timing(10.0, 9.0, 11.0, repeats), Timing(5.0, 4.0, 6.0, repeats)

    tasks = []
    monkeypatch.setattr(sampler_bench, "paired", pair)
    monkeypatch.setattr(sampler_bench, "task_dataset", lambda *arguments: tasks.append(Tasks()) or tasks[-1])
    return sampler_bench.measure(made(), repeats=3), called


def test_rows_are_microseconds_an_episode(measured):
    rows, called = measured
    assert len(rows) == 2 * len(sampler_bench.CASES) + 1
    for i, (n_way, k_shot, n_query, batch) in enumerate(sampler_bench.CASES):
        other, ours = rows[2 * i : 2 * i + 2]
        for row in (other, ours):
            assert row["case"] == f"{n_way}-way {k_shot}-shot, {n_query} queries a class, {batch} tasks"
            assert row["unit"] == "us/episode" and row["repeats"] == 3
        assert other["baseline"] and not ours["baseline"] and ours["speedup_over"] == other["variant"]
        scaled = [[1e6 / batch * seconds for seconds in row] for row in ((10, 9, 11), (2, 1, 3))]
        assert [[row[key] for key in ("median", "low", "high")] for row in (other, ours)] == scaled
        assert [ours[key] for key in ("speedup", "speedup_low", "speedup_high")] == [5.0, 4.0, 6.0]
        assert called[i] == (3, "cpu", 2 * batch)  # a call of the other draws as many tasks as one of ours


def test_the_resident_size_is_that_of_the_tensor(measured):
    size = measured[0][-1]
    assert (size["function"], size["unit"], size["median"]) == ("resident images", "MB", 22 * 21 * 36 / 1e6)
    assert size["case"] == "made/all: 462 images"


def test_the_book_can_read_what_is_recorded(measured, course_pages, monkeypatch, tmp_path):
    pages = course_pages
    monkeypatch.setattr("utils.data.load", lambda name, split: made())
    monkeypatch.setattr(sampler_bench, "measure", lambda images: measured[0])
    path, rows = bench.run("sampler", tmp_path)
    assert path == tmp_path / "bench" / "sampler.json" and rows == measured[0]
    runs = pages.read_runs(tmp_path / "bench", "bench")
    assert runs == [read_record("bench/sampler", tmp_path)]
    table = pages.cost_rows(runs)
    assert len(table) == len(rows) and all(len(line) == len(pages.COST_HEADER) for line in table)
    assert table[0][1] == "learn2learn TaskDataset (baseline)" and table[0][3].endswith("µs/episode")
    assert table[1][5] == "5.00 times learn2learn TaskDataset (4.00 to 6.00)"
    assert "course bench sampler" in pages.run_note(runs[0])


def test_without_omniglot_the_glyphs_are_measured(monkeypatch, tmp_path):
    loaded = []

    def load(name: str, split: str) -> ImageSet:
        loaded.append((name, split))
        if name == "omniglot":
            raise DataError("not fetched yet")
        return made()

    monkeypatch.setattr("utils.data.load", load)
    monkeypatch.setattr(sampler_bench, "measure", lambda images: [])
    bench.run("sampler", tmp_path)
    assert loaded == [("omniglot", "all"), ("glyphs", "all")]


def test_other_benchmarks_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match="there is no benchmark 'speed'; there is \"sampler\""):
        bench.run("speed", tmp_path)


@needs_learn2learn
@pytest.mark.filterwarnings("ignore:TaskDataset is deprecated")
def test_learn2learn_draws_tasks_of_the_same_images(capfd):
    images = made(8, 7)
    tasks = sampler_bench.task_dataset(images, n_way=3, per_class=4)
    known = {image.numpy().tobytes(): c for c, row in enumerate(images.images) for image in row}
    for _ in range(5):
        x, y = tasks.sample()
        assert x.shape == (12, 1, 6, 6) and x.dtype == torch.float32 and torch.bincount(y).tolist() == [4, 4, 4]
        classes = [known[image.numpy().tobytes()] for image in (x * 255).round().to(torch.uint8)]
        assert len({(int(label), c) for label, c in zip(y, classes, strict=True)}) == len(set(classes)) == 3
    assert "gym" not in capfd.readouterr().err.lower()


@needs_learn2learn
@pytest.mark.filterwarnings("ignore:TaskDataset is deprecated")
def test_the_real_measurement_runs(monkeypatch):
    monkeypatch.setattr(sampler_bench, "CASES", ((5, 1, 1, 2),))
    rows = sampler_bench.measure(made(), repeats=2)
    assert [row["variant"] for row in rows] == ["learn2learn TaskDataset", "EpisodeSampler", "ImageSet"]
    assert all(row["low"] <= row["median"] <= row["high"] and row["median"] > 0 for row in rows)
