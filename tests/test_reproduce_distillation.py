"""Distillation on MNIST and the lecture's temperatures, made tiny: made images, through the code of the real runs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from continual_fixtures import noise_set
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from utils.claims.recorded import table_bundle
from utils.data.images import ImageSet, as_float
from utils.records import write_record
from utils.reproduce import DATASETS, IN_PARTS, METHODS, distillation
from utils.reproduce.distillation import NETWORKS, TITLES, Training, new_network, raise_for, run_one, shorten, train
from utils.reproduce.runs import stored_part
from utils.training import Checkpoint

RUN = METHODS["mnist-distillation"]
TEACHER, ALONE, TAUGHT, UNSEEN = range(4)


def made(name: str, split: str) -> ImageSet:
    return noise_set(split, side=4)


def tiny(training: Training) -> Training:
    teacher = None if training.teacher is None else tiny(training.teacher)
    return replace(training, width=16, steps=40, batch_size=8, teacher=teacher, learning_rate=0.01)


@pytest.fixture
def networks(monkeypatch):
    """The module with made data and tiny settings."""
    networks = tuple(map(tiny, NETWORKS))
    monkeypatch.setattr(distillation, "load", made)
    monkeypatch.setattr(distillation, "NETWORKS", networks)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    return networks


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------------- raising an output


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 10**6), st.data())
def test_raised_so_far_as_many_images_are_answered_so_as_asked(n_images, n_classes, seed, data):
    logits = 3 * torch.randn(n_images, n_classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    missing, n = data.draw(st.integers(0, n_classes - 1)), data.draw(st.integers(0, n_images))
    before = logits.clone()
    raised = raise_for(logits, missing, n)
    assert torch.equal(logits, before)
    logits[:, missing] += raised
    assert int((logits.argmax(1) == missing).sum()) == n


def test_the_raise_is_in_the_middle_of_two_gaps():
    logits = torch.tensor([[0.0, 1.0, 5.0], [0.0, 4.0, 2.0], [6.0, 3.0, 0.0], [0.0, 0.0, 9.0]])
    assert raise_for(logits, 0, 1) == pytest.approx((-3 + 4) / 2)
    assert raise_for(logits, 0, 2) == pytest.approx((4 + 5) / 2)


@pytest.mark.parametrize("n", [-1, 5])
def test_no_more_images_than_there_are(n):
    with pytest.raises(ValueError, match=f"0 to 4 of 4 images can be answered so; got n={n}"):
        raise_for(torch.zeros(4, 3), 1, n)


# ------------------------------------------------------------------------------------------------------------- networks


def test_the_networks_are_those_of_the_paper():
    teacher, alone, taught, unseen = NETWORKS
    assert (teacher.width, teacher.jitter) == (1200, 2)
    assert teacher.drop_input and teacher.drop_hidden and teacher.longest
    for student in (alone, taught, unseen):
        assert (student.width, student.drop_input, student.drop_hidden) == (800, 0.0, 0.0)
        assert student.jitter == 0 and student.longest is None
    assert alone.teacher is None and taught.teacher is unseen.teacher is teacher
    assert taught.temperature == unseen.temperature == 20 and taught == replace(unseen, variant="taught", missing=None)
    assert alone == replace(taught, variant="alone", teacher=None)
    images = ImageSet(torch.zeros(10, 1, 1, 28, 28, dtype=torch.uint8), tuple("0123456789"), ("digit",) * 10, "m", "t")
    for training, width in ((teacher, 1200), (alone, 800)):
        sizes = [tuple(p.shape) for p in new_network(training, images, 0).parameters()]
        assert sizes == [(width, 784), (width,), (width, width), (width,), (10, width), (10,)]


def test_a_network_without_dropout_is_its_formula():
    images = made("mnist", "train")
    network = new_network(tiny(NETWORKS[ALONE]), images, 3)
    x = as_float(images.flat()[0])
    a, b, c, d, e, f = network.parameters()
    wanted = ((x.flatten(1) @ a.T + b).relu() @ c.T + d).relu() @ e.T + f
    assert network.training
    torch.testing.assert_close(network(x), wanted)
    assert not same(network, new_network(tiny(NETWORKS[ALONE]), images, 4))


def test_weights_of_hidden_units_are_shortened_and_no_others():
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for layer in network[::2]:
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    before = [layer.weight.detach().clone() for layer in network[::2]]
    shorten(network, None)
    assert all(torch.equal(layer.weight, old) for layer, old in zip(network[::2], before, strict=True))
    bound = float(before[0].norm(dim=1).median())
    shorten(network, bound)
    for layer, old in zip(network[:4:2], before[:2], strict=True):
        length = old.norm(dim=1)
        assert bool((length > bound).any())
        torch.testing.assert_close(layer.weight.norm(dim=1), length.clamp(max=bound))
        torch.testing.assert_close(layer.weight / layer.weight.norm(dim=1, keepdim=True), old / length[:, None])
    assert torch.equal(network[4].weight, before[2])


def test_a_trained_teacher_is_within_its_bound(networks):
    images = made("mnist", "train")
    bound = 0.5
    teacher = train(replace(networks[TEACHER], longest=bound), images, 0)
    lengths = torch.cat([layer.weight.norm(dim=1) for layer in (teacher[2], teacher[5])])
    assert lengths.amax().item() <= bound * (1 + 1e-6)
    free = train(replace(networks[TEACHER], longest=None), images, 0)
    assert torch.cat([layer.weight.norm(dim=1) for layer in (free[2], free[5])]).amax().item() > 1.2 * bound


@pytest.mark.parametrize("change", [{"jitter": 0}, {"drop_input": 0.0}, {"drop_hidden": 0.1}])
def test_a_teacher_is_regularised_in_each_way(networks, change):
    images = made("mnist", "train")
    assert same(train(networks[TEACHER], images, 0), train(networks[TEACHER], images, 0))
    assert not same(train(replace(networks[TEACHER], **change), images, 0), train(networks[TEACHER], images, 0))


def test_the_random_numbers_of_others_are_left_alone(networks):
    images = made("mnist", "train")
    batches = distillation.ImageBatches(images, 4)
    loss_at = distillation._teaching(networks[TEACHER], new_network(networks[TEACHER], images, 0), batches, 0)
    torch.manual_seed(8)
    first = loss_at(3).item()
    torch.manual_seed(9)
    assert loss_at(3).item() == first, "what is dropped depends on the step alone"
    state = torch.get_rng_state()
    assert loss_at(3).item() == loss_at(3).item() != loss_at(4).item()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_rate_of_a_student_falls(networks, monkeypatch):
    images, training = made("mnist", "train"), networks[ALONE]
    one, five = (new_network(training, images, 0) for _ in range(2))
    for network, steps in ((one, 1), (five, 5)):
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)  # to nothing after the first step
        batches = distillation.ImageBatches(images, 4)
        distillation.distillation.train(network, batches, steps, optimizer, scheduler=schedule)
    assert same(one, five) and not same(one, new_network(training, images, 0))
    rates = []
    monkeypatch.setattr(
        distillation.distillation, "train", lambda *arguments: rates.append(arguments[-1].get_last_lr()[0])
    )
    train(training, images, 0)
    assert rates == [training.learning_rate]


def test_only_the_taught_ask_the_teacher_and_none_sees_what_is_missing(networks, monkeypatch):
    """With no weight on the labels a student is what its teacher and its images make of it."""
    images = made("mnist", "train")
    teacher, other = (train(networks[TEACHER], images, seed) for seed in (0, 1))
    taught = replace(networks[TAUGHT], weight=1.0)
    assert not same(train(taught, images, 0, teacher=teacher), train(taught, images, 0, teacher=other))
    asked = []
    monkeypatch.setattr(
        distillation.distillation, "train", lambda network, batches, *arguments: asked.append((batches, arguments))
    )
    for training in networks[ALONE:]:
        train(training, images, 0, teacher=teacher if training.teacher else None)
    alone, taught, unseen = asked
    assert alone[1][2] is None and taught[1][2] == distillation.Distillation(teacher, 20.0, NETWORKS[TAUGHT].weight)
    assert taught[1][3] == [0, 1, 2, 3, 4, 5] and unseen[1][3] == [0, 1, 2, 4, 5]
    assert unseen[0].images.counts.equal(images.counts[[0, 1, 2, 4, 5]])
    assert unseen[0].images.images[3].equal(images.images[4])


# -------------------------------------------------------------------------------------------------------------- records


def test_a_record_has_the_rows_that_the_book_asks_for(networks, tmp_path):
    record = RUN("mnist", [0], tmp_path)
    variants = ["teacher", "alone", "taught", "unseen", "unseen-raised"]
    assert [row["id"] for row in record["rows"]] == [f"mnist-distillation-{variant}" for variant in variants]
    n = int(made("mnist", "test").counts.sum())
    for row in record["rows"]:
        (only,) = row["per_seed"]
        right = 1 - only["errors"] / n
        assert (row["n"], row["over"], row["seeds"]) == (n, "images", [0])
        assert row["mean"] == pytest.approx(100 * right)
        assert row["ci95"] == pytest.approx(196 * math.sqrt(right * (1 - right) / n))
        assert row["title"] == TITLES[row["method"]]
    assert record["command"] == "course reproduce mnist-distillation --dataset mnist --seeds 0"
    assert len(record["parts"]) == 4 and record["provenance"]["seconds"] > 0
    assert RUN("mnist", [0], tmp_path) == record, "finished parts are read, not made again"
    write_record("mnist_distillation_mnist", record, tmp_path / "out")
    (tmp_path / "out" / "published.json").write_text("[]")
    table = table_bundle([("t", "mnist-distillation-taught")], {"": "MNIST"}, folder=tmp_path / "out")["text/plain"]
    assert f"ours, recorded ({n} images)" in table


def test_the_raise_makes_a_student_find_as_many_as_its_teacher(networks, tmp_path):
    """By a count alone: the labels of the training images do not matter."""
    images = made("mnist", "train")
    without, raised = run_one(networks[UNSEEN], 0, tmp_path)["rows"]
    teacher = train(networks[TEACHER], images, 0, tmp_path)
    student = train(networks[UNSEEN], images, 0, tmp_path, teacher)
    x, _ = images.flat()
    n = int((teacher(as_float(x)).argmax(1) == 3).sum())
    logits = student(as_float(x))
    logits[:, 3] += raised["raised"]
    assert int((logits.argmax(1) == 3).sum()) == n
    test_x, test_y = made("mnist", "test").flat()
    logits = student(as_float(test_x))
    for row, by in ((without, 0.0), (raised, raised["raised"])):
        wrong = (logits + by * torch.eye(6)[3]).argmax(1) != test_y
        assert row["errors"] == int(wrong.sum())
        assert (row["errors_on_missing"], row["missing_images"]) == (int(wrong[test_y == 3].sum()), (test_y == 3).sum())


def test_over_seeds_there_is_an_interval_of_the_seeds(networks, tmp_path):
    row = RUN("mnist", [1, 0, 2], tmp_path)["rows"][1]
    values = torch.tensor([one["mean"] for one in row["per_seed"]], dtype=torch.float64)
    assert (row["seeds"], row["n"], row["over"]) == ([1, 0, 2], 3, "seeds")
    assert row["mean"] == pytest.approx(float(values.mean()))
    assert row["ci95"] == pytest.approx(4.302653 * float(values.std()) / 3**0.5)  # t of 2 degrees of freedom


class Killed(Exception):
    """In the place of a machine that is switched off."""


@dataclass(frozen=True)
class KillingCheckpoint(Checkpoint):
    def save(self, state):
        super().save(state)
        if state["step"] == 18:
            raise Killed


@pytest.mark.parametrize("which", [TEACHER, ALONE, TAUGHT, UNSEEN])
def test_a_run_that_was_killed_ends_like_one_that_was_not(networks, which, tmp_path, monkeypatch):
    images, training = made("mnist", "train"), networks[which]
    teacher = train(networks[TEACHER], images, 0) if training.teacher else None
    whole = train(training, images, 0, tmp_path / "whole", teacher)
    monkeypatch.setattr(distillation, "Checkpoint", lambda path, run, every: KillingCheckpoint(path, run, every=9))
    with pytest.raises(Killed):
        train(training, images, 0, tmp_path / "killed", teacher)
    monkeypatch.setattr(distillation, "Checkpoint", Checkpoint)
    torch.manual_seed(99)  # what came before the second start does not matter
    again = train(training, images, 0, tmp_path / "killed", teacher)
    assert same(again, whole)


def test_students_of_another_teacher_are_trained_anew(networks, tmp_path):
    first = run_one(networks[TAUGHT], 0, tmp_path)
    teacher = replace(networks[TEACHER], steps=6)
    (path,) = tmp_path.glob("result_*taught_seed0.json")
    assert stored_part(path, asdict(networks[TAUGHT])) == {"schema": 1, **first}
    assert stored_part(path, asdict(replace(networks[TAUGHT], teacher=teacher))) is None
    longer = RUN("mnist", [0], tmp_path / "other", steps=30)
    assert {network["steps"] for network in longer["config"]["networks"]} == {30}
    assert {network["teacher"]["steps"] for network in longer["config"]["networks"][2:]} == {30}
    assert longer["command"].endswith("--seeds 0 --steps 30")


def test_what_is_finished_can_be_recorded_alone(networks, tmp_path):
    with pytest.raises(ValueError, match="no network of mnist-distillation is finished"):
        RUN("mnist", [0], tmp_path, finished=True)
    whole = RUN("mnist", [0], tmp_path)
    (tmp_path / "result_unseen_seed0.json").unlink()
    part = RUN("mnist", [0], tmp_path, finished=True)
    assert part["rows"] == whole["rows"][:3] and len(part["config"]["networks"]) == 3
    assert "mnist-distillation" in IN_PARTS


def test_settings_are_chosen_without_test_images(networks, monkeypatch):
    asked = []
    monkeypatch.setattr(distillation, "load", lambda name, split: asked.append((name, split)) or made(name, split))
    assert 0 <= distillation.validate(networks[TEACHER]) <= 100
    assert asked == [("mnist", "train")]


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="recorded on mnist; got 'omniglot'"):
        RUN("omniglot", [0], tmp_path)
    with pytest.raises(ValueError, match="at least one seed"):
        RUN("mnist", [], tmp_path)
    with pytest.raises(ValueError, match="at least 1 step"):
        RUN("mnist", [0], tmp_path, steps=0)
    with pytest.raises(ValueError, match="recorded of two logits; got 'mnist'"):
        METHODS["temperature"]("mnist", [0], tmp_path)
    assert DATASETS["mnist-distillation"] == "mnist" and DATASETS["temperature"] == "logits"


# ---------------------------------------------------------------------------------------------------------- temperature


def test_the_temperatures_are_those_that_the_lecture_prints(tmp_path):
    from utils.claims.recorded import printed_numbers

    record = METHODS["temperature"]("logits", [0], tmp_path)
    printed = {id: row for id, row in printed_numbers().items() if id.startswith("temperature-")}
    assert {row["id"] for row in record["rows"]} == set(printed)
    for row in record["rows"]:
        text = printed[row["id"]]["printed"]
        assert f"{row['mean']:.{len(text.partition('.')[2])}f}" == text
    assert [row["mean"] for row in record["rows"][:2]] == pytest.approx(
        [100 / (1 + math.exp(7)), 100 / (1 + math.exp(-7))], rel=1e-14
    )
    json.dumps(record, allow_nan=False)


def test_what_follows_from_a_formula_has_no_interval(tmp_path):
    write_record("temperature_logits", METHODS["temperature"]("logits", [0], tmp_path), tmp_path)
    (tmp_path / "published.json").write_text("[]")
    table = table_bundle([("z", "temperature-logits")], {"t1c1": "a", "t1c2": "b"}, folder=tmp_path)["text/plain"]
    assert "0.09111" in table and "99.91" in table and "±" not in table and "from the formula" in table
