"""Learning to adapt at benchmark scale, made tiny: seconds on made images, through the same code as the real runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_reproduce import made

from utils.data.episodes import EpisodeSampler
from utils.reproduce import METHODS, adaptation
from utils.reproduce.adaptation import ADAPTING, CLOSED_FORM, NETWORKS, TITLES, Evaluation, Training, run_one
from utils.training import fit

TINY = Evaluation(n_query=2, episodes=10, statistics_tasks=2)


def tiny(training: Training) -> Training:
    return replace(
        training,
        width=4,
        n_way=min(training.n_way, 6),
        n_query=2,
        tasks=min(2, training.tasks),
        steps=3,
        inner_steps=min(2, training.inner_steps),
        test_steps=min(2, training.test_steps),
    )


@pytest.fixture(scope="module")
def lab():
    """The module with made data and tiny settings."""
    patch = pytest.MonkeyPatch()
    patch.setattr(adaptation, "load", lambda name, split: made(split, n_images=8))
    patch.setattr(adaptation, "Evaluation", lambda: TINY)
    patch.setattr(adaptation, "TEST_WAYS", (5, 6))
    networks = {name: tuple(map(tiny, networks)) for name, networks in NETWORKS.items()}
    patch.setattr(adaptation, "NETWORKS", networks)
    patch.setenv("COURSE_DEVICE", "cpu")
    yield networks
    patch.undo()


@pytest.mark.parametrize("method", [*ADAPTING, *CLOSED_FORM])
def test_a_record_has_both_kinds_of_statistics(lab, method, tmp_path):
    record = METHODS[method]("omniglot", [0], tmp_path)
    found = {(row["n_way"], row["k_shot"], row["statistics"]) for row in record["rows"]}
    kinds = {"running", "batch"} if method in CLOSED_FORM else {"support", "batch"}
    if method == "maml-plus-plus":
        kinds |= {"running"}
    ways = {5, 6}
    assert found == {(n, k, s) for n in ways for k in (1, 5) for s in kinds}
    assert record["command"] == f"course reproduce {method} --dataset omniglot --seeds 0"
    assert all(row["title"].startswith(TITLES[method]) and 0 <= row["mean"] <= 100 for row in record["rows"])
    assert METHODS[method]("omniglot", [0], tmp_path) == record, "finished parts are read, not made again"


@pytest.mark.parametrize("method", [*ADAPTING, *CLOSED_FORM])
def test_training_never_sees_test_classes(lab, method, tmp_path, monkeypatch):
    """What is sampled from while training, and what while testing, are the splits that the settings name."""
    seen = []

    def sampler(images, *arguments, **options):
        seen.append(images.split)
        return EpisodeSampler(images, *arguments, **options)

    monkeypatch.setattr(adaptation, "EpisodeSampler", sampler)
    adaptation.train(lab[method][0], made("trainval", n_images=8), 0, tmp_path)
    assert seen == ["trainval"]
    run_one(lab[method][0], TINY, 0, tmp_path)
    assert set(seen[2:]) == {"test"}


@pytest.mark.parametrize("method", ["maml", "reptile", "maml-plus-plus", "imaml", "r2d2"])
def test_a_run_that_was_killed_ends_like_one_that_was_not(lab, method, tmp_path, monkeypatch):
    training = replace(lab[method][0], steps=4)
    whole = run_one(training, TINY, 0, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def killed(network, loss_at, steps, optimizer, scheduler, checkpoint, label):
        def until(step):
            if step == 2:
                raise Killed
            return loss_at(step)

        return fit(network, until, steps, optimizer, scheduler, replace(checkpoint, every=1), label)

    monkeypatch.setattr(adaptation, "fit", killed)
    with pytest.raises(Killed):
        run_one(training, TINY, 0, tmp_path / "killed")
    monkeypatch.setattr(adaptation, "fit", fit)
    assert run_one(training, TINY, 0, tmp_path / "killed")["rows"] == whole["rows"]


def test_maml_plus_plus_begins_with_first_order_and_all_losses(lab, monkeypatch):
    training = replace(lab["maml-plus-plus"][0], steps=100)
    run = adaptation.untrained(training, made("trainval", n_images=8), 0)
    seen = []
    monkeypatch.setattr(
        type(run.learner), "loss", lambda self, params, episode, order, weights: seen.append((order, weights))
    )
    for step in (0, 10, 29, 30, 99):
        run.loss_at(step)
    assert [order for order, _ in seen] == [1, 1, 1, 2, 2]
    assert seen[0][1] == [0.5, 0.5] and seen[-1][1] == pytest.approx([0.015, 0.985])


def test_what_is_finished_can_be_recorded_alone(lab, tmp_path):
    with pytest.raises(ValueError, match="no network of maml is finished"):
        METHODS["maml"]("omniglot", [0], tmp_path, finished=True)
    whole = METHODS["maml"]("omniglot", [0], tmp_path)
    next(tmp_path.glob("result_*_6way5shot_*.json")).unlink()
    part = METHODS["maml"]("omniglot", [0], tmp_path, finished=True)
    assert part["rows"] == [row for row in whole["rows"] if (row["n_way"], row["k_shot"]) != (6, 5)]
    assert len(part["config"]["networks"]) == len(whole["config"]["networks"]) - 1


def test_only_omniglot_is_recorded(tmp_path):
    with pytest.raises(ValueError, match="omniglot"):
        METHODS["maml"]("mnist", [0], tmp_path)
