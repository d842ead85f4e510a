"""Reproduction runs, made tiny: a protocol of seconds on made images, through the same code as the real ones."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from utils.backbones import Conv4
from utils.data.episodes import EpisodeSampler
from utils.data.images import ImageSet
from utils.fewshot.prototypical import Prototypical
from utils.records import read_record, results_dir, write_record
from utils.reproduce import METHODS, pixels, prototypical, runs
from utils.reproduce.prototypical import Protocol, assemble, run, run_one
from utils.training import episode_accuracies

SEEDS = [3, 0, 5]


@dataclass(frozen=True)
class Tiny(Protocol):
    width: int = 4
    train_way: int = 8
    train_query: int = 2
    train_steps: tuple[int, int] = (9, 6)
    halvings: int = 2
    test_query: int = 2
    test_episodes: int = 20
    transductive_episodes: int = 10


def made(split: str, n_classes: int = 6, n_images: int = 7, size: int = 16) -> ImageSet:
    """Blots of a class at a place of its own, under noise; other classes in every split."""
    generator = torch.Generator().manual_seed(sum(map(ord, split)))
    images = torch.randint(0, 120, (n_classes, n_images, 1, size, size), generator=generator)
    for c in range(n_classes):
        row, column = torch.randint(0, size - 4, (2,), generator=generator).tolist()
        images[c, :, :, row : row + 4, column : column + 3] += 120
    names = tuple(f"{split}{c}" for c in range(n_classes))
    return ImageSet(images.to(torch.uint8), names, names, "omniglot", split)


@pytest.fixture(scope="module")
def lab():
    """The module with made data and the tiny protocol; counts what is loaded and trained."""
    counts: Counter = Counter()
    patch = pytest.MonkeyPatch()

    def load(name: str, split: str) -> ImageSet:
        counts[f"load {name}/{split}"] += 1
        return made(split)

    real = prototypical.fit

    def fit(*arguments, **options):
        counts["fit"] += 1
        return real(*arguments, **options)

    patch.setattr(prototypical, "load", load)
    patch.setattr(prototypical, "fit", fit)
    patch.setattr(prototypical, "Protocol", Tiny)
    patch.setenv("COURSE_DEVICE", "cpu")
    yield counts
    patch.undo()


@pytest.fixture(scope="module")
def finished(lab, tmp_path_factory):
    """A whole run: its record, its folder, and what it did."""
    folder = tmp_path_factory.mktemp("work") / "new"
    lab.clear()
    record = run("omniglot", SEEDS, folder)
    return record, folder, Counter(lab)


def parts(folder) -> dict[tuple[int, int], dict]:
    return {
        (k_shot, seed): json.loads((folder / f"result_{k_shot}shot_seed{seed}.json").read_text())
        for k_shot in (1, 5)
        for seed in SEEDS
    }


def test_every_seed_and_shot_is_trained_once_on_training_classes_and_tested_on_test_classes(finished):
    _, folder, counts = finished
    assert counts == {"fit": 6, "load omniglot/trainval": 6, "load omniglot/test": 6}
    names = [f"{kind}_{k}shot_seed{s}.{end}" for k in (1, 5) for s in SEEDS
             for kind, end in (("network", "pt"), ("result", "json"))]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_means_and_intervals_are_those_over_seeds(finished):
    record, folder, _ = finished
    stored = parts(folder)
    wanted = {}
    for n_way in (5, 20):
        for k_shot in (1, 5):
            for statistics in ("running", "batch"):
                values = np.array(
                    [
                        row["mean"]
                        for seed in SEEDS
                        for row in stored[k_shot, seed]["rows"]
                        if row["n_way"] == n_way and row["statistics"] == statistics
                    ]
                )
                sd = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
                half = stats.t.ppf(0.975, 2) * sd / np.sqrt(3)
                end = "" if statistics == "running" else "-batch"
                wanted[f"omniglot-prototypical-{n_way}w{k_shot}s{end}"] = (values.mean(), half, sd, values.tolist())
    assert [row["id"] for row in record["rows"]] == list(wanted)
    for row in record["rows"]:
        mean, half, sd, values = wanted[row["id"]]
        assert (row["mean"], row["ci95"], row["sd"]) == pytest.approx((mean, half, sd))
        assert [one["mean"] for one in row["per_seed"]] == values
        assert row["n"] == 3 and row["over"] == "seeds" and row["seeds"] == SEEDS
        assert row["chance"] == 100 / row["n_way"] and 0 < row["mean"] < 100
    assert any(row["sd"] > 0 for row in record["rows"])


def test_stored_numbers_are_those_of_the_stored_network(finished):
    """Tested again without the bank of embeddings, from the checkpoint alone."""
    _, folder, _ = finished
    images = made("test")
    for (k_shot, seed), result in parts(folder).items():
        network = Conv4(1, 4, 16).eval()
        network.load_state_dict(torch.load(folder / f"network_{k_shot}shot_seed{seed}.pt")["network"])
        for row in result["rows"]:
            sampler = EpisodeSampler(images, row["n_way"], k_shot, 2, 10, rotations=True, seed=Tiny.test_seed)
            learner = Prototypical(network, row["statistics"])
            n = {"running": 20, "batch": 10}[row["statistics"]]
            samples = 100 * episode_accuracies(lambda e, learner=learner: learner.logits(None, e), sampler, n).numpy()
            half = stats.t.ppf(0.975, n - 1) * samples.std(ddof=1) / np.sqrt(n)
            assert (row["k_shot"], row["seed"], row["episodes"]) == (k_shot, seed, n)
            assert (row["mean"], row["ci95"]) == pytest.approx((samples.mean(), half), abs=0.6)  # bank: other rounding


def test_networks_were_trained(finished):
    _, folder, _ = finished
    for k_shot, steps in ((1, 9), (5, 6)):
        state = torch.load(folder / f"network_{k_shot}shot_seed0.pt")
        assert state["step"] == steps and len(state["losses"]) == steps and len(set(state["losses"].tolist())) == steps
        assert state["fingerprint"] == {**asdict(Tiny()), "k_shot": k_shot, "seed": 0}
        halved = steps // (steps // 2)
        assert state["scheduler"]["_last_lr"] == [1e-3 / 2**halved]


def test_finished_parts_are_read_and_not_repeated(finished, lab):
    record, folder, _ = finished
    lab.clear()
    assert run("omniglot", SEEDS, folder) == record
    assert not lab


def test_what_is_missing_is_made_again_with_the_same_result(finished, lab, tmp_path):
    record, folder, _ = finished
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "result_5shot_seed0.json").unlink()
    (tmp_path / "copy" / "network_5shot_seed0.pt").unlink()
    (tmp_path / "copy" / "result_1shot_seed5.json").unlink()  # its network is still there
    lab.clear()
    assert run("omniglot", SEEDS, tmp_path / "copy")["rows"] == record["rows"]
    assert lab["fit"] == 2
    assert (tmp_path / "copy" / "result_5shot_seed0.json").is_file()


def test_results_of_another_protocol_are_not_used(finished, lab, tmp_path):
    _, folder, _ = finished
    shutil.copytree(folder, tmp_path / "copy")
    lab.clear()
    with pytest.raises(ValueError, match="written by a run with another test_query: delete it"):
        run_one(Tiny(test_query=1), 1, 0, tmp_path / "copy")
    assert lab["fit"] == 1


def test_processes_give_the_same_record(finished, lab, tmp_path, monkeypatch):
    record, _, _ = finished
    used = []

    class InTurn:
        def __init__(self, jobs, mp_context):
            used.append((jobs, mp_context.get_start_method()))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        map = staticmethod(map)

    monkeypatch.setattr(runs, "ProcessPoolExecutor", InTurn)
    assert run("omniglot", SEEDS, tmp_path, jobs=2)["rows"] == record["rows"]
    assert used == [(2, "spawn")]


def test_a_record_says_how_to_repeat_it(finished):
    record, folder, _ = finished
    assert record["command"] == "course reproduce prototypical --dataset omniglot --seeds 3 0 5"
    assert record["config"] == asdict(Tiny())
    assert record["provenance"]["seconds"] == sum(result["seconds"] for result in parts(folder).values()) > 0
    assert record["provenance"].keys() >= {"commit", "date", "torch", "device", "seconds"}
    short = assemble(Protocol(train_steps=(7, 7)), list(parts(folder).values()), SEEDS)
    assert short["command"].endswith("--seeds 3 0 5 --steps 7")


def test_few_steps_are_enough(lab, tmp_path):
    record = run("omniglot", [0, 1], tmp_path, train_steps=1)
    assert record["config"]["train_steps"] == (1, 1) and len(record["rows"]) == 8


def test_one_seed_carries_the_interval_over_its_episodes(lab, tmp_path):
    record = run("omniglot", [0], tmp_path, train_steps=1)
    for row in record["rows"]:
        (only,) = row["per_seed"]
        assert (row["over"], row["n"], row["seeds"]) == ("episodes", only["episodes"], [0])
        assert (row["mean"], row["ci95"], row["sd"]) == (only["mean"], only["ci95"], only["sd"])


@pytest.mark.parametrize("seeds", [[], [0, 1, 0]])
def test_missing_or_repeated_seeds_are_refused_before_training(lab, tmp_path, seeds):
    lab.clear()
    with pytest.raises(ValueError, match="at least one seed is needed, and all different; got"):
        run("omniglot", seeds, tmp_path)
    assert not lab


def test_what_else_is_refused(lab, tmp_path):
    with pytest.raises(ValueError, match="are recorded on omniglot; got 'mnist'"):
        run("mnist", [0, 1], tmp_path)
    with pytest.raises(ValueError, match="at least 1 step; got 0"):
        run("omniglot", [0, 1], tmp_path, train_steps=0)
    with pytest.raises(ValueError, match="pixels are recorded on omniglot; got 'mnist'"):
        pixels.run("mnist", [0], tmp_path)


# ------------------------------------------------------------------------------------------------------ the real one


def test_the_protocol_is_that_of_the_paper():
    """Snell et al. (2017), section 3.1, but for the fixed number of episodes."""
    protocol = Protocol()
    assert (protocol.train_way, protocol.train_query, protocol.width) == (60, 5, 64)
    assert (protocol.learning_rate, protocol.test_episodes, protocol.test_query) == (1e-3, 1000, 15)
    assert (protocol.train_split, protocol.test_split) == ("trainval", "test")
    assert (prototypical.TEST_WAYS, prototypical.SHOTS) == ((5, 20), (1, 5))
    assert METHODS["prototypical"] is prototypical.run and METHODS["pixels"] is pixels.run


@pytest.fixture(scope="module")
def pixel_record(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "EPISODES", 20)
        patch.setattr(pixels, "load", lambda name, split: made(split, n_classes=21, n_images=20))
        patch.setenv("COURSE_DEVICE", "cpu")
        return pixels.run("omniglot", [7, 8], tmp_path_factory.mktemp("pixels"))


def test_pixels_by_hand(pixel_record):
    images = made("evaluation", 21, 20).images.double().flatten(2).numpy()
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    source = made("evaluation", 21, 20)
    assert [(row["n_way"], row["k_shot"]) for row in pixel_record["rows"]] == [(5, 1), (5, 5), (20, 1), (20, 5)]
    for row in pixel_record["rows"]:
        sampler = EpisodeSampler(source, row["n_way"], row["k_shot"], 15, batch_size=10, seed=7)
        samples = []
        for batch in range(2):
            for classes, instances in zip(*(part.numpy() for part in sampler.indices(batch)), strict=True):
                support = [images[c, i[: row["k_shot"]]] for c, i in zip(classes, instances, strict=True)]
                right = []
                for label, (c, i) in enumerate(zip(classes, instances, strict=True)):
                    for query in images[c, i[row["k_shot"] :]]:
                        right.append(np.argmax([(rows @ query).max() for rows in support]) == label)
                samples.append(100 * np.mean(right))
        half = stats.t.ppf(0.975, 19) * np.std(samples, ddof=1) / np.sqrt(20)
        assert (row["mean"], row["ci95"]) == pytest.approx((np.mean(samples), half), abs=0.05)
        assert (row["n"], row["over"], row["seeds"], row["statistics"]) == (20, "episodes", [7], None)
        assert row["chance"] == 100 / row["n_way"]
    assert pixel_record["command"] == "course reproduce pixels --dataset omniglot --seeds 7"


def test_recorded_numbers_stand_beside_the_published_ones(finished, pixel_record):
    published = {row["id"]: row for row in json.loads((results_dir() / "published.json").read_text())}
    rows = pixel_record["rows"] + finished[0]["rows"]
    assert len({row["id"] for row in rows}) == len(rows) == 12
    for row in rows:
        printed = published[row["id"].removesuffix("-batch")]
        assert (printed["method"], printed["n_way"], printed["k_shot"]) == (row["method"], row["n_way"], row["k_shot"])
        assert printed["dataset"] == "omniglot"


def test_the_book_shows_what_is_recorded(finished, pixel_record, course_pages, tmp_path):
    for record in (finished[0], pixel_record):
        path = write_record(f"{record['name']}_omniglot", record, tmp_path)
        assert read_record(path.stem, tmp_path)["rows"] == json.loads(json.dumps(record["rows"]))
    runs = course_pages.read_runs(tmp_path, "reproduction")
    published = course_pages.read_published(results_dir() / "published.json")
    names = {"pixels", "prototypical"}
    tables = course_pages.result_tables([row for row in published if row["method"] in names], runs)
    (table,) = [rows for name, _, rows in tables if name == "Omniglot"]
    shown = {cell for line in table for cell in line}
    for run_ in runs:
        for row in run_["rows"]:
            assert course_pages.with_interval(row["mean"], row["ci95"]) in shown
        assert run_["command"] in course_pages.run_note(run_)
