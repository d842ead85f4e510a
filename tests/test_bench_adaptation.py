"""What meta-steps and inner learners cost: that the two sides compute the same, and what the rows say."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from test_bench import made

from utils.bench import adaptation
from utils.data.episodes import EpisodeSampler

needs_learn2learn = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None, reason="learn2learn is not installed (extra: peers)"
)


@pytest.fixture
def small(monkeypatch):
    """A tiny network, few tasks, few steps; and the images."""
    monkeypatch.setattr(adaptation, "WIDTH", 4)
    monkeypatch.setattr(adaptation, "N_TASKS", 2)
    monkeypatch.setattr(adaptation, "STEPS", (1, 8))
    return made(side=16)


@needs_learn2learn
def test_meta_steps_compute_the_same_in_every_case(small):
    rows = list(adaptation.meta_steps(small, repeats=2))
    cases = {(row["function"], row["case"]) for row in rows}
    assert len(cases) == 2 * 2 * 2 and len(rows) == 3 * len(cases)
    for row in rows:
        assert row["low"] <= row["median"] <= row["high"] and row["unit"] == "ms"
        if row["baseline"]:
            assert row["variant"] == "learn2learn MAML" and "speedup" not in row
        else:
            assert row["speedup_over"] == "learn2learn MAML" and row["difference"] < 1e-10


@needs_learn2learn
def test_another_order_is_refused(small):
    network = adaptation.networks(small)["strided Conv4"]
    other = adaptation.of_learn2learn(network, first_order=True, steps=1)
    ours = adaptation.of_ours(network, first_order=False, steps=1)
    episode = EpisodeSampler(small, 5, 1, 1, 2).sample(0)
    with pytest.raises(ValueError, match="do not compute the same"):
        adaptation.check(ours, other, (network, other.module), episode)
    assert next(network.parameters()).dtype == torch.float32, "left as it was"


def test_both_ways_of_ridge_regression_agree(small, monkeypatch):
    monkeypatch.setattr(adaptation, "FEATURES", 400)
    rows = list(adaptation.woodbury(repeats=2))
    assert [row["baseline"] for row in rows] == [True, False]
    assert rows[1]["difference"] < 1e-3


def test_memory_grows_with_the_steps_where_the_path_is_kept_and_nowhere_else(small):
    rows = [row for row in adaptation.inner_steps(small, repeats=2) if row["unit"] == "MB"]
    size = {(row["variant"], row["steps"]): row["median"] for row in rows}
    grows = {name: size[name, 8] / size[name, 1] for name in {row["variant"] for row in rows}}
    assert grows["MAML"] > 2.5
    assert grows["truncated after 4"] < 0.8 * grows["MAML"]
    assert grows["implicit MAML, 5 CG steps"] <= 1.2 and grows["first-order MAML"] < 2


def test_peers_are_needed(small, monkeypatch):
    def missing():
        raise ModuleNotFoundError("no learn2learn", name="learn2learn")

    monkeypatch.setattr(adaptation, "learn2learn", missing)
    with pytest.raises(ModuleNotFoundError):
        adaptation.measure(small, repeats=2)
