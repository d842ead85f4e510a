"""Learning without forgetting at benchmark scale, made tiny: made images, through the same code as the real runs."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from continual_fixtures import Killed, KillingCheckpoint, noise_set

from utils.continual.bic import BiC
from utils.continual.generative import VAE, GenerativeReplay
from utils.continual.replay import ExperienceReplay
from utils.data.images import ImageSet
from utils.reproduce import DATASETS, METHODS, continual
from utils.reproduce.continual import CIFAR, NETWORKS, PERMUTED, SPLIT, TITLES, Training, run_one, validate
from utils.reproduce.runs import as_stored, held_out

MNIST = [f"{stream}-{scenario}" for stream in (SPLIT, PERMUTED) for scenario in ("task", "domain", "class")]


def tiny(training: Training) -> Training:
    learner = training.learner
    if isinstance(learner, GenerativeReplay):
        learner = replace(learner, gan=VAE(2, 5, 4, 6))
    if isinstance(learner, ExperienceReplay):
        learner = ExperienceReplay(7)
    if isinstance(learner, BiC):
        learner = replace(learner, size=12, shift=1)
    return replace(
        training, learner=learner, n_tasks=3, steps=5, batch_size=4, width=4, blocks=min(1, training.blocks),
        padding=min(1, training.padding),
    )  # fmt: skip


def made(name: str, split: str) -> ImageSet:
    """Six classes; those of "cifar100" large enough to be halved twice."""
    return noise_set(split, side=4 if name == "cifar100" else 3)


@pytest.fixture(scope="module")
def lab():
    """The module with made data and tiny settings."""
    patch = pytest.MonkeyPatch()
    patch.setattr(continual, "load", made)
    networks = {name: tuple(map(tiny, networks)) for name, networks in NETWORKS.items()}
    patch.setattr(continual, "NETWORKS", networks)
    patch.setenv("COURSE_DEVICE", "cpu")
    yield networks
    patch.undo()


@pytest.mark.parametrize("name", MNIST)
def test_a_record_has_a_row_for_every_method(lab, name, tmp_path):
    record = METHODS[name]("mnist", [0], tmp_path)
    assert [row["id"] for row in record["rows"]] == [
        f"{name}-{method}"
        for method in (
            *("none", "ewc", "online-ewc", "si", "mas", "lwf"),
            *("generative-replay", "experience-replay", "joint"),
        )
    ]
    stream, scenario = name.rsplit("-", 1)
    sizes = (4 + torch.arange(6) % 5).tolist()  # test images of a class
    chance = {(SPLIT, "class"): 6, (PERMUTED, "class"): 18, (PERMUTED, "task"): 6, (PERMUTED, "domain"): 6}
    for row in record["rows"]:
        assert row["title"] == f"{TITLES[row['method']]}, {scenario}-incremental"
        assert row["chance"] == pytest.approx(100 / chance.get((stream, scenario), 2))
        assert row["n"] == sum(sizes) * (3 if stream == PERMUTED else 1) and row["over"] == "images"
        (only,) = row["per_seed"]
        matrix = torch.tensor(only["accuracies"])
        assert matrix.shape == (3, 3) and len(only["untrained"]) == 3
        assert row["mean"] == pytest.approx(100 * float(matrix[-1].mean()))
    assert record["command"] == f"course reproduce {name} --dataset mnist --seeds 0"
    assert len(record["parts"]) == 9 and record["provenance"]["seconds"] > 0
    assert METHODS[name]("mnist", [0], tmp_path) == record, "finished parts are read, not made again"
    assert not list(tmp_path.glob("network_*")), "what a finished part no longer needs is gone"


def test_where_classes_are_added_there_is_a_row_after_each_step(lab, tmp_path):
    record = METHODS[CIFAR]("cifar100", [0], tmp_path)
    methods = ("classification-loss", "distilling-loss", "bic", "upper-bound")
    ids = [f"{CIFAR}-{method}-{n}" for method in methods for n in (2, 4, 6)]
    assert [row["id"] for row in record["rows"]] == ids
    for method in methods:
        rows = [row for row in record["rows"] if row["method"] == method]
        matrix = torch.tensor(rows[-1]["per_seed"][0]["accuracies"])
        for seen, row in enumerate(rows, 1):
            assert row["mean"] == pytest.approx(100 * float(matrix[seen - 1, :seen].mean()))
            assert row["setting"] == f"after {2 * seen} classes" and row["chance"] == pytest.approx(50 / seen)


def test_over_seeds_there_is_an_interval_of_the_seeds(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(continual, "NETWORKS", {"split-mnist-domain": lab["split-mnist-domain"][:1]})
    (row,) = METHODS["split-mnist-domain"]("mnist", [2, 0, 1], tmp_path)["rows"]
    values = torch.tensor([one["mean"] for one in row["per_seed"]], dtype=torch.float64)
    assert row["seeds"] == [2, 0, 1] and (row["n"], row["over"]) == (3, "seeds")
    assert row["mean"] == pytest.approx(float(values.mean()))
    assert row["ci95"] == pytest.approx(4.302653 * float(values.std()) / 3**0.5)  # t of 2 degrees of freedom


def test_the_interval_of_one_seed_is_that_over_the_test_images(lab, tmp_path):
    (row,) = run_one(lab["split-mnist-task"][0], 0, tmp_path)["rows"]
    last = row["accuracies"][-1]
    n = [4 + 5, 6 + 7, 8 + 4]
    variance = sum(p * (1 - p) / n for p, n in zip(last, n, strict=True)) / 9
    assert row["ci95"] == pytest.approx(196 * variance**0.5) and row["images"] == sum(n)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("split-mnist-class", training.method) for training in NETWORKS["split-mnist-class"]),
        *((CIFAR, training.method) for training in NETWORKS[CIFAR]),
    ],
)
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_run_that_was_killed_ends_like_one_that_was_not(lab, name, method, tasks, tmp_path, monkeypatch):
    (training,) = (training for training in lab[name] if training.method == method)
    whole = run_one(training, 0, tmp_path / "whole")
    real = continual.Checkpoint
    monkeypatch.setattr(continual, "Checkpoint", lambda path, run: KillingCheckpoint(path, run, tasks=tasks))
    with pytest.raises(Killed):
        run_one(training, 0, tmp_path / "killed")
    monkeypatch.setattr(continual, "Checkpoint", real)
    assert run_one(training, 0, tmp_path / "killed")["rows"] == whole["rows"]


def test_another_setting_is_trained_anew(lab, tmp_path):
    training = lab["split-mnist-class"][1]
    first = run_one(training, 0, tmp_path)
    again = run_one(replace(training, learner=replace(training.learner, strength=0.0)), 0, tmp_path)
    assert again["settings"]["learner"]["strength"] == 0 and first["settings"]["learner"]["strength"] > 0
    assert run_one(replace(training, learning_rate=0.5), 0, tmp_path)["rows"] != first["rows"]
    longer = METHODS["split-mnist-class"]("mnist", [0], tmp_path, steps=2)
    assert {network["steps"] for network in longer["config"]["networks"]} == {2}
    (replayed,) = (n for n in longer["config"]["networks"] if n["method"] == "generative-replay")
    assert replayed["learner"]["gan"]["steps"] == 2
    assert longer["command"].endswith("--seeds 0 --steps 2")


def test_what_is_finished_can_be_recorded_alone(lab, tmp_path):
    name = "split-mnist-task"
    with pytest.raises(ValueError, match="no network of split-mnist-task is finished"):
        METHODS[name]("mnist", [0], tmp_path, finished=True)
    whole = METHODS[name]("mnist", [0], tmp_path)
    (tmp_path / "result_split-mnist_task_lwf_seed0.json").unlink()
    part = METHODS[name]("mnist", [0], tmp_path, finished=True)
    assert part["rows"] == [row for row in whole["rows"] if row["method"] != "lwf"]
    assert len(part["config"]["networks"]) == 8


@pytest.mark.parametrize(("name", "dataset"), [("split-mnist-task", "omniglot"), (CIFAR, "mnist")])
def test_other_data_is_refused(name, dataset, tmp_path):
    with pytest.raises(ValueError, match=f"{name} is recorded on {DATASETS[name]}; got '{dataset}'"):
        METHODS[name](dataset, [0], tmp_path)


def test_no_seeds_and_no_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one seed"):
        METHODS["split-mnist-task"]("mnist", [], tmp_path)
    with pytest.raises(ValueError, match="at least 1 step"):
        METHODS["split-mnist-task"]("mnist", [0], tmp_path, steps=0)


def test_strengths_are_chosen_without_test_images(lab, monkeypatch):
    asked = []
    monkeypatch.setattr(continual, "load", lambda name, split: asked.append((name, split)) or made(name, split))
    assert 0 <= validate(lab["split-mnist-class"][1]) <= 100
    assert asked == [("mnist", "train")]


def test_what_is_held_out_is_the_rest():
    images = noise_set("train", most=12)
    kept, rest = held_out(images, 1 / 3)
    assert (kept.counts + rest.counts).equal(images.counts) and kept.counts.equal((images.counts * 2 / 3).long())
    both = [torch.cat([kept.images[c, :k], rest.images[c, :r]]) for c, (k, r) in
            enumerate(zip(kept.counts.tolist(), rest.counts.tolist(), strict=True))]  # fmt: skip
    for c, n in enumerate(images.counts.tolist()):
        assert both[c].equal(images.images[c, :n])


def test_the_protocol_is_that_of_the_paper():
    for name, networks in NETWORKS.items():
        for training in networks:
            stored = as_stored(asdict(training))
            if name.startswith(SPLIT):
                assert [stored[key] for key in ("n_tasks", "width", "steps", "batch_size")] == [5, 400, 2000, 128]
            elif name.startswith(PERMUTED):
                assert [stored[key] for key in ("n_tasks", "width", "steps", "batch_size")] == [10, 1000, 5000, 256]
            else:
                assert stored["learner"]["size"] == 2000 and stored["blocks"] == 5 and stored["width"] == 16


def test_the_optimiser_goes_on_where_the_paper_s_does(lab, monkeypatch):
    """One Adam for all tasks; a new SGD for each, with a falling rate."""
    asked = {}
    monkeypatch.setattr(
        continual, "learn", lambda *arguments, keep_optimizer: asked.update(keep=keep_optimizer, schedule=arguments[-1])
    )
    training = lab["split-mnist-class"][0]
    stream = continual.make_stream(training, made("mnist", "train"), made("mnist", "test"))
    continual.train(training, stream, 0)
    assert asked == {"keep": True, "schedule": None}
    continual.train(replace(lab[CIFAR][0], steps=250), stream, 0)
    assert asked["keep"] is False
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    schedule, rates = asked["schedule"](optimizer), []
    for _ in range(250):
        rates.append(round(optimizer.param_groups[0]["lr"], 6))
        optimizer.step()
        schedule.step()
    assert [rates[i] for i in (0, 99, 100, 149, 150, 199, 200, 249)] == [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4]
