"""Learning a stream: numbers of a matrix by hand, what plain training forgets, and a run that is interrupted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from continual_fixtures import (
    Killed,
    KillingCheckpoint,
    assert_resumes_to_the_bit,
    learned,
    noise_set,
    small_network,
    small_stream,
)
from torch import nn

from utils.backbones import MLP
from utils.continual.intelligence import SynapticIntelligence
from utils.continual.learn import Plain, accuracy, learn, task_loss
from utils.continual.metrics import average_accuracy, backward_transfer, forgetting, forward_transfer
from utils.data.streams import permuted_stream, split_stream
from utils.training import Checkpoint

MATRIX = torch.tensor([[0.9, 0.2, 0.3], [0.5, 0.8, 0.4], [0.6, 0.4, 1.0]])


# --------------------------------------------------------------------------------------------------------- metrics


def test_metrics_by_hand():
    assert average_accuracy(MATRIX) == pytest.approx((0.6 + 0.4 + 1.0) / 3)
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.6 - 0.9) + (0.4 - 0.8)) / 2)
    untrained = torch.tensor([0.1, 0.15, 0.25])
    assert forward_transfer(MATRIX, untrained) == pytest.approx(((0.2 - 0.15) + (0.4 - 0.25)) / 2)


def test_forgetting_is_of_the_best_and_not_of_the_first():
    matrix = torch.tensor([[0.5, 0, 0], [0.9, 0.8, 0], [0.7, 0.8, 0.9]])
    assert forgetting(matrix) == pytest.approx(0.1)
    assert backward_transfer(matrix) == pytest.approx(0.1)
    # what a task gains in the end is no forgetting below zero of its best, but it is one of all before
    assert forgetting(torch.tensor([[0.5, 0], [0.9, 1.0]])) == pytest.approx(-0.4)


def test_of_one_task_there_is_an_average_only():
    one = torch.tensor([[0.7]])
    assert average_accuracy(one) == pytest.approx(0.7)
    for metric in (forgetting, backward_transfer, lambda matrix: forward_transfer(matrix, torch.zeros(1))):
        with pytest.raises(ValueError, match=r"\[T, T\] of T >= 2 tasks; got \[1, 1\]"):
            metric(one)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"\[T, T\] of T >= 1 tasks; got \[2, 3\]"):
        average_accuracy(MATRIX[:2])
    with pytest.raises(ValueError, match=r"3 tasks need as many accuracies before training; got \[2\]"):
        forward_transfer(MATRIX, torch.zeros(2))


# -------------------------------------------------------------------------------------------------------- learning


def test_the_loss_is_over_the_units_that_take_part():
    logits, y = torch.randn(5, 6), torch.tensor([2, 3, 3, 2, 2])
    assert torch.equal(task_loss(logits, y, slice(2, 4)), F.cross_entropy(logits[:, 2:4], y - 2))
    assert torch.equal(task_loss(logits, y, slice(0, 4)), F.cross_entropy(logits[:, :4], y))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_learning_is_steps_of_a_new_optimiser_in_every_task(scenario):
    stream = small_stream(scenario)
    out, network = learned(Plain(), stream), small_network(stream)
    for task in range(3):
        adam = torch.optim.Adam(network.parameters(), 0.03)
        for step in range(12):
            x, y = stream.batch(task, step, 5, 3)
            adam.zero_grad()
            task_loss(network(x), y, stream.units(task, task + 1)).backward()
            adam.step()
        for j in range(3):
            assert out.accuracies[task, j] == accuracy(Plain(), network, {}, stream, j, task + 1)
    assert all(torch.equal(a, b) for a, b in zip(out.network.parameters(), network.parameters(), strict=True))
    for j in range(3):
        assert out.untrained[j] == accuracy(Plain(), small_network(stream), {}, stream, j, 0)
    assert not out.network.training and out.memory == {}


def test_accuracy_counts_among_the_units_that_take_part():
    class Knows(nn.Module):
        """Says 5 loudest, and of the others the label."""

        def forward(self, x):
            logits = torch.zeros(len(x), 6)
            logits[:, 5], logits[:, 2] = 2.0, 1.0
            return logits

    task, class_ = small_stream("task"), small_stream("class")
    part = float((task.tasks[1].test_y == 2).double().mean())
    assert accuracy(Plain(), Knows(), {}, task, 1, 3) == pytest.approx(part)
    assert accuracy(Plain(), Knows(), {}, class_, 1, 2) == pytest.approx(part)
    assert accuracy(Plain(), Knows(), {}, class_, 1, 3) == 0
    assert accuracy(Plain(), Knows(), {}, task, 1, 3, chunk=3) == pytest.approx(part)


def test_plain_training_forgets():
    out = learned(Plain(), small_stream("class"), steps=60)
    assert (out.accuracies.diagonal() > 0.9).all()
    assert forgetting(out.accuracies) > 0.8
    assert average_accuracy(out.accuracies) < 0.5


def test_the_same_seed_gives_the_same_and_another_one_another():
    stream = small_stream("domain")
    one, same = (learned(Plain(), stream) for _ in range(2))
    assert torch.equal(one.accuracies, same.accuracies)
    other = learn(small_network(stream), stream, Plain(), 12, 5, lambda p: torch.optim.Adam(p, 0.03), seed=4)
    weights = [next(out.network.parameters()) for out in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@dataclass(frozen=True)
class Noting(Plain):
    """Writes down what it is called with, and keeps tensors, numbers, lists and a module."""

    def start(self, network, stream):
        torch.manual_seed(9)
        return {"notes": [], "count": 0, "old": nn.Linear(2, 2), "drawn": {"last": torch.zeros(3)}}

    def before_task(self, network, memory, stream, task, generator):
        return {**memory, "notes": [*memory["notes"], ["before", task, network.training]]}

    def loss(self, network, memory, batch, generator):
        noise = 0.1 * torch.randn(batch.x.shape, generator=generator)
        return task_loss(network(batch.x + noise), batch.y, batch.units) + 0 * memory["old"].weight.sum()

    def after_step(self, network, memory):
        assert network.training and all(value.grad is not None for value in network.parameters())
        return {**memory, "count": memory["count"] + 1}

    def after_task(self, network, memory, stream, task, generator):
        with torch.no_grad():
            memory["old"].weight += torch.rand(2, 2, generator=generator)
        drawn = {"last": torch.rand(3, generator=generator)}
        return {**memory, "notes": [*memory["notes"], ["after", task, network.training]], "drawn": drawn}


def test_a_method_is_called_in_turn():
    memory = learned(Noting(), small_stream()).memory
    assert [note[:2] for note in memory["notes"]] == [[when, task] for task in range(3) for when in ("before", "after")]
    assert not any(note[2] for note in memory["notes"])
    assert memory["count"] == 36 and memory["drawn"]["last"].min() > 0


def test_randomness_is_another_in_every_task_and_follows_the_seed():
    class Drawing(Plain):
        def after_task(self, network, memory, stream, task, generator):
            return {"drawn": [*memory.get("drawn", []), float(torch.rand(1, generator=generator))]}

    stream, drawn = small_stream(), []
    for seed in (0, 0, 1):
        out = learn(small_network(stream), stream, Drawing(), 1, 5, lambda p: torch.optim.SGD(p, 0.1), seed)
        drawn.append(out.memory["drawn"])
    assert drawn[0] == drawn[1] and len({*drawn[0], *drawn[2]}) == 6


@pytest.mark.parametrize("method", [Plain(), Noting()], ids=["plain", "noting"])
def test_killed_between_two_tasks_it_goes_on_to_the_bit(method, tmp_path):
    assert_resumes_to_the_bit(method, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_what_is_kept_goes_back_to_the_gpu(tmp_path):
    sets = (noise_set(split).to("cuda") for split in ("train", "test"))
    assert_resumes_to_the_bit(SynapticIntelligence(1.0), tmp_path, split_stream(*sets, 3, "class"))


def test_a_run_that_is_done_has_nothing_left_to_learn(tmp_path):
    class Done(Plain):
        def loss(self, *_):
            raise AssertionError("nothing is left to learn")

    stream, checkpoint = small_stream(), Checkpoint(tmp_path / "run.pt", {})
    one, other = learned(Plain(), stream, checkpoint), learned(Done(), stream, checkpoint)
    assert torch.equal(one.accuracies, other.accuracies)


def test_batch_norm_statistics_go_on_too(tmp_path):
    stream = permuted_stream(noise_set("train"), noise_set("test"), 2)

    def run(checkpoint=None):
        torch.manual_seed(0)
        network = MLP(9, (8, 6), normalise=True, activate_last=False)
        return learn(network, stream, Plain(), 6, 5, lambda p: torch.optim.SGD(p, 0.1), checkpoint=checkpoint)

    checkpoint = Checkpoint(tmp_path / "run.pt", {})
    one, other = run(checkpoint), run(checkpoint)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    stream = small_stream()
    learned(Plain(), stream, Checkpoint(tmp_path / "run.pt", {"seed": 1}))
    with pytest.raises(ValueError, match="another seed"):
        learned(Plain(), stream, Checkpoint(tmp_path / "run.pt", {"seed": 2}))


def test_a_loss_that_is_not_finite_stops_the_run_and_nothing_is_saved(tmp_path):
    class Diverging(Plain):
        def loss(self, network, memory, batch, generator):
            own = super().loss(network, memory, batch, generator)
            return own / 0 if batch.task == 1 else own

    checkpoint = Checkpoint(tmp_path / "run.pt", {})
    with pytest.raises(FloatingPointError, match="loss of task 1 is not finite: lower the learning rate or the streng"):
        learned(Diverging(), small_stream(), checkpoint)
    assert checkpoint.load()["tasks"] == 1


def test_frozen_parameters_stay():
    stream = small_stream("domain")
    network = small_network(stream)
    network.linears[0].requires_grad_(False)
    before = network.linears[0].weight.clone()
    learn(network, stream, Plain(), 5, 5, lambda p: torch.optim.Adam(p, 0.03))
    assert torch.equal(network.linears[0].weight, before)


def test_an_optimiser_can_go_on_where_the_last_task_left_it(tmp_path):
    """As if all tasks were one run of Adam; and a run that is resumed knows what it remembered."""
    stream = small_stream()

    def run(checkpoint: Checkpoint | None = None, **options: object) -> nn.Module:
        make = lambda p: torch.optim.Adam(p, 0.03)  # noqa: E731
        return learn(small_network(stream), stream, Plain(), 6, 5, make, 3, checkpoint, **options).network

    one = small_network(stream)
    optimizer = torch.optim.Adam(one.parameters(), 0.03)
    for task in range(3):
        for step in range(6):
            x, y = stream.batch(task, step, 5, 3)
            optimizer.zero_grad()
            task_loss(one(x), y, stream.units(task, task + 1)).backward()
            optimizer.step()
    kept, new = run(keep_optimizer=True), run()
    with pytest.raises(Killed):
        run(KillingCheckpoint(tmp_path / "run.pt", {}, tasks=2), keep_optimizer=True)
    again = run(Checkpoint(tmp_path / "run.pt", {}), keep_optimizer=True)
    for value, same, resumed, other in zip(*(n.parameters() for n in (one, kept, again, new)), strict=True):
        assert torch.equal(value, same) and torch.equal(value, resumed) and not torch.equal(value, other)


def test_a_schedule_begins_anew_with_every_task():
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    stream = small_stream()
    schedule = lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], 0.1)  # noqa: E731
    learn(small_network(stream), stream, Plain(), 4, 5, lambda p: Watched(p, 0.5), schedule=schedule)
    assert rates == pytest.approx(3 * [0.5, 0.5, 0.05, 0.05])
