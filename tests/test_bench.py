"""Benchmarks: the clock is a made one, so that what is computed from it can be known."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils import bench
from utils.bench import episodes as episodes_bench
from utils.bench import sampler as sampler_bench
from utils.bench import timing
from utils.bench.memory import peak_bytes
from utils.bench.timing import Timing, paired, summarise
from utils.data import DataError
from utils.data.episodes import EpisodeSampler
from utils.data.images import ImageSet
from utils.functional import pairwise_weighted_l1
from utils.records import read_record

needs_easyfsl = pytest.mark.skipif(
    importlib.util.find_spec("easyfsl") is None, reason="easyfsl is not installed (extra: peers)"
)
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


def made(n_classes: int = 22, n_images: int = 21, side: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n_classes, n_images, 1, side, side), generator=generator).to(torch.uint8)
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
    with pytest.raises(ValueError, match=r"there is no benchmark 'speed'; there are \('sampler', 'episodes'"):
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


# --------------------------------------------------------------------------------------------------------- episodes


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(episodes_bench, "CASES", ((3, 2, 2),))
    monkeypatch.setattr(episodes_bench, "WIDTH", 6)
    return made(6, 5, side=28)


def contests(images: ImageSet, method, n_way: int = 3, k_shot: int = 2):
    torch.manual_seed(0)
    episode = EpisodeSampler(images, n_way, k_shot, 2).sample(0)
    return episode, list(method(images, episode, episodes_bench.PEERS))


@needs_easyfsl
@needs_learn2learn
def test_every_pair_agrees_and_is_timed(small, course_pages, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.data.load", lambda name, split: small)
    monkeypatch.setattr(episodes_bench, "paired", lambda ours, other, repeats: paired(ours, other, 2))
    path, rows = bench.run("episodes", tmp_path)
    ours = [row for row in rows if "difference" in row]
    found = [
        (row["function"].split(":")[0], row["speedup_over"].split(",")[0], row["case"].split(", ")[-1]) for row in ours
    ]
    assert found == [
        ("prototypical", "easyfsl PrototypicalNetworks", "running statistics"),
        ("prototypical", "learn2learn PrototypicalClassifier", "running statistics"),
        ("prototypical", "learn2learn PrototypicalClassifier", "batch statistics"),
        ("matching", "easyfsl MatchingNetworks", "running statistics"),
        ("matching, full context", "easyfsl MatchingNetworks", "running statistics"),
        ("relation", "easyfsl RelationNetworks", "running statistics"),
    ]
    assert all(0 < row["difference"] <= 1e-8 for row in ours)
    assert sum("around our Conv4" in row["variant"] for row in rows) == 3
    memory = [row for row in rows if row["unit"] == "MB"]
    assert [row["baseline"] for row in memory] == [True, False] and memory[0]["median"] > memory[1]["median"] > 0
    table = course_pages.cost_rows(course_pages.read_runs(path.parent, "bench"))
    assert len(table) == len(rows) == 6 * 2 + 3 + 2


@needs_learn2learn
def test_of_one_shot_a_cosine_classifier_is_a_matching_network(small):
    episode, found = contests(small, episodes_bench.matching, k_shot=1)
    assert found[-1].other.name == "learn2learn PrototypicalClassifier, cosines"
    episodes_bench.check(found[-1], episode)


@needs_easyfsl
@pytest.mark.parametrize("method", ["prototypical", "matching", "relation"])
def test_what_does_not_compute_the_same_is_not_timed(small, method, monkeypatch):
    episode, (contest, *_) = contests(small, getattr(episodes_bench, method))
    assert max(episodes_bench.check(contest, episode)) < 1e-2
    weight = contest.other.parameters[1]
    with torch.no_grad():
        weight.view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=r"differ by .* allowed are 1e-05: they do not compute the same"):
        episodes_bench.check(contest, episode)


@needs_easyfsl
def test_a_wrong_gradient_of_a_right_loss_is_seen(small):
    episode, (contest, *_) = contests(small, episodes_bench.prototypical)

    def bent(episode):
        loss = contest.ours.loss(episode)
        return loss + 1e-3 * (loss - loss.detach())

    with pytest.raises(ValueError, match="of the largest gradient"):
        episodes_bench.check(replace(contest, ours=replace(contest.ours, loss=bent)), episode)


@needs_easyfsl
def test_two_zeros_are_no_agreement(small):
    episode, (contest, *_) = contests(small, episodes_bench.prototypical)
    nothing = [replace(s, loss=lambda e, s=s: 0 * s.loss(e)) for s in (contest.ours, contest.other)]
    with pytest.raises(ValueError, match="nothing to compare"):
        episodes_bench.check(replace(contest, ours=nothing[0], other=nothing[1]), episode)


@needs_easyfsl
def test_easyfsl_itself_computes_something_else(small):
    """What is overridden is needed: distances that are not squared, queries that are not normalised."""
    from easyfsl.methods import PrototypicalNetworks

    episode, (contest, *_) = contests(small, episodes_bench.prototypical)
    theirs = episodes_bench._in_turn(PrototypicalNetworks(contest.other.modules[0]), torch.nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="do not compute the same"):
        episodes_bench.check(replace(contest, other=replace(contest.other, loss=theirs)), episode)


@needs_easyfsl
def test_the_networks_are_single_precision_again_after_the_check(small):
    episode, (contest, *_) = contests(small, episodes_bench.relation)
    episodes_bench.check(contest, episode)
    assert {value.dtype for side in (contest.ours, contest.other) for value in side.parameters} == {torch.float32}


@pytest.mark.parametrize("gone", ["easyfsl", "learn2learn"])
def test_a_library_that_is_not_here_is_left_out(small, gone, capsys, monkeypatch):
    if not all(importlib.util.find_spec(name) for name in episodes_bench.PEERS):
        pytest.skip("needs both libraries, to take one away")
    monkeypatch.setattr(episodes_bench, "is_here", lambda name: name != gone)
    monkeypatch.setattr(episodes_bench, "paired", lambda ours, other, repeats: paired(ours, other, 2))
    rows = episodes_bench.measure(small)
    assert rows and not any(gone in row["variant"] for row in rows)
    assert capsys.readouterr().err == f"{gone} is not installed: its rows are left out\n"


def test_without_a_library_there_is_nothing_to_compare(small, monkeypatch):
    monkeypatch.setattr(episodes_bench, "is_here", lambda name: False)
    with pytest.raises(ModuleNotFoundError, match="nothing to compare with") as found:
        episodes_bench.measure(small)
    assert found.value.name == "easyfsl"


@needs_learn2learn
def test_the_plain_network_is_that_of_learn2learn(small):
    network = episodes_bench.Conv4(1, 6, 28).train()
    x = torch.rand(4, 1, 28, 28)
    plain, theirs = episodes_bench.plain(network), episodes_bench._l2l_network(network)
    torch.testing.assert_close(plain(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(network(x), theirs(x), rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- memory

MB = 2**20


def mega(**options) -> torch.Tensor:
    return torch.ones(2**18, **options)


def test_a_result_counts_and_what_was_there_does_not():
    a, b = mega(), mega()
    assert peak_bytes(lambda: a + b) == MB
    assert peak_bytes(lambda: mega()) == MB
    assert peak_bytes(lambda: a) == 0
    assert peak_bytes(lambda: torch.tensor([1.0] * 1000)) == 4000


def test_a_freed_temporary_counts_while_it_lives():
    a = mega()
    assert peak_bytes(lambda: ((a + 1) * 2) - 3) == 2 * MB
    assert peak_bytes(lambda: [(a + i).sum() for i in range(9)]) == MB + 9 * 4

    def kept():
        b = a + 1
        c = b * 2
        del b
        return c + 1

    assert peak_bytes(kept) == 2 * MB


def test_views_and_changes_in_place_do_not_count():
    a = mega()
    assert peak_bytes(lambda: a.view(512, 512).T[3:]) == 0
    assert peak_bytes(lambda: a.add_(1).view(512, 512).mul_(2)) == 0
    assert peak_bytes(lambda: [(b := a + 1), b.view(2, -1), b[5:], b.mul_(2), b.detach()]) == MB


def test_a_view_keeps_its_storage_alive():
    a = mega()

    def views():
        part = (a + 1)[:1]
        return part, a + 2

    assert peak_bytes(views) == 2 * MB


def test_the_backward_pass_counts():
    a = mega(requires_grad=True)
    with torch.no_grad():
        forward = peak_bytes(lambda: a.exp().exp())
    assert forward == 2 * MB

    def both():
        return torch.autograd.grad(a.exp().exp().sum(), a)

    # At the end the first exponential and the gradients by both, and the sum and its gradient.
    assert peak_bytes(both) == peak_bytes(both) == 3 * MB + 4 + 4


def test_nothing_is_counted_after_the_call():
    a = mega()
    kept = []
    first = peak_bytes(lambda: kept.append(a + 1))
    kept.clear()
    assert first == peak_bytes(lambda: kept.append(a + 1)) == MB


def test_pairs_are_never_all_there_at_once():
    """N x M x D differences are 256 MB here."""
    torch.manual_seed(0)
    a, b = (torch.randn(1000, 64, requires_grad=True) for _ in range(2))
    weight = torch.randn(64, requires_grad=True)

    def ours():
        return torch.autograd.grad(pairwise_weighted_l1(a, b, weight).sum(), (a, b, weight))

    def naive():
        return torch.autograd.grad(((a[:, None] - b).abs() @ weight).sum(), (a, b, weight))

    assert peak_bytes(ours) < 40e6
    assert peak_bytes(naive) > 256e6
