"""BiC: planted bias found again, the loss of stage 1, what is held out, and the lecture's order of methods."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_fixtures import SETTINGS, check_resumed, generator, small_network, small_stream
from torch import Tensor

from utils.continual.bic import BiC, bias_correction, corrected, held_out, retrained
from utils.continual.heads import features
from utils.continual.learn import Batch, Plain, accuracy, learn
from utils.continual.memory import mixed_batch
from utils.data.distortions import shifted_and_mirrored
from utils.data.images import as_float


def planted(alpha: float, beta: float, n: int, n_old: int = 6, n_new: int = 4) -> tuple[Tensor, Tensor]:
    """Logits of which those of the new classes must be taken times alpha plus beta, and labels drawn accordingly."""
    rng = generator(8)
    z = 2 * torch.randn(n, n_old + n_new, generator=rng, dtype=torch.float64)
    labels = torch.multinomial(z.softmax(1), 1, generator=rng)[:, 0]
    z[:, n_old:] = (z[:, n_old:] - beta) / alpha
    return z, labels


def objective(at: Tensor, logits: Tensor, labels: Tensor, n_old: int, penalty: float) -> Tensor:
    q = torch.cat([logits[:, :n_old], at[0] * logits[:, n_old:] + at[1]], dim=1)
    return F.cross_entropy(q, labels) + penalty / 2 * at[1] ** 2


# --------------------------------------------------------------------------------------------------------- stage 2


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, -0.6), (0.8, 1.5), (2.0, -1.0)])
def test_a_planted_bias_is_found_to_one_percent(alpha, beta):
    """Every label as often as it is likely, so that no chance is left."""
    logits, _ = planted(alpha, beta, 200)
    z = torch.cat([logits[:, :6], alpha * logits[:, 6:] + beta], dim=1)
    counts = (1000 * z.softmax(1)).round().long()
    labels = torch.arange(10).repeat(200).repeat_interleave(counts.flatten())
    found = bias_correction(logits.repeat_interleave(counts.sum(1), 0), labels, 6, penalty=0.0)
    assert found[0] == pytest.approx(alpha, rel=0.01) and found[1] == pytest.approx(beta, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 3), st.floats(-3, 3), st.integers(1, 9), st.sampled_from([0.0, 0.1, 2.0]))
def test_it_is_where_the_derivatives_of_the_paper_vanish(alpha, beta, n_old, penalty):
    logits, labels = planted(alpha, beta, 400)
    at = torch.tensor(bias_correction(logits, labels, n_old, penalty), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(objective(at, logits, labels, n_old, penalty), at)
    assert float(slope.abs().max()) < 1e-7


def test_it_is_what_gradient_descent_goes_towards():
    logits, labels = planted(0.6, -0.5, 300)
    at = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([at], lr=0.2)
    for _ in range(1500):
        optimizer.zero_grad()
        objective(at, logits, labels, 6, 0.1).backward()
        optimizer.step()
    assert bias_correction(logits, labels, 6) == pytest.approx(at.tolist(), abs=1e-5)


def test_classes_that_can_be_told_apart_without_error_end_the_search_all_the_same():
    logits = torch.tensor([[5.0, -5, 1], [-5, 5, 1], [0, 0, 9], [1, 0, 8]])
    alpha, beta = bias_correction(logits, torch.tensor([0, 1, 2, 2]), 2)
    at = torch.tensor([alpha, beta], dtype=torch.float64)
    assert bool(at.isfinite().all()) and alpha > 0
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2])
    assert objective(at, logits.double(), labels, 2, 0.1) < objective(start, logits.double(), labels, 2, 0.1)


def test_validation_images_of_one_kind_are_refused():
    logits, labels = planted(1.0, 0.0, 100)
    for some in (labels < 6, labels >= 6):
        with pytest.raises(ValueError, match="of old and of new classes"):
            bias_correction(logits[some], labels[some], 6)
    for n_old in (0, 10):
        with pytest.raises(ValueError, match="some must be old and some new"):
            bias_correction(logits, labels, n_old)


def test_the_order_within_old_and_within_new_classes_stays():
    logits = torch.randn(50, 6, generator=generator())
    memory = {"alpha": torch.tensor([1.0, 1, 1, 1, 0.4, 0.4]), "beta": torch.tensor([0.0, 0, 0, 0, -2, -2])}
    found = corrected(logits, memory)
    assert torch.equal(found[:, :4], logits[:, :4])
    assert torch.equal(found[:, 4:].argmax(1), logits[:, 4:].argmax(1))
    assert not torch.equal(found.argmax(1), logits.argmax(1))


# --------------------------------------------------------------------------------------------------------- stage 1


def middle(method: BiC):
    """Stream, network, memory as when the third task is learned."""
    stream, network = small_stream("class"), small_network()
    two = replace(stream, tasks=stream.tasks[:2])
    with torch.no_grad():
        learned = learn(network, stream, Plain(), seed=0, **(SETTINGS | {"steps": 0}))
    with torch.enable_grad():
        learned = learn(network, two, Units(method.size, method.last_layer, method.distil), seed=0, **SETTINGS)
    memory = method.before_task(network, learned.memory, stream, 2, generator())
    return stream, network, memory


class Units(BiC):
    """With all six units from the beginning, although the stream has four."""

    def start(self, network, stream):
        return super().start(network, small_stream("class"))


def test_stage_one_is_the_paper_with_the_corrected_teacher():
    method = BiC(24)
    stream, network, memory = middle(method)
    assert memory["alpha"][2:4].unique().numel() == 1 and float(memory["alpha"][2]) != 1
    assert bool((memory["alpha"][:2] == 1).all()) and bool((memory["alpha"][4:] == 1).all())
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator(1)))
    x, y = stream.batch(2, 0, 32)
    found = method.loss(network, memory, Batch(stream, 2, x, y), generator(6))
    images = torch.cat([memory["images"], stream.tasks[2].train_x[memory["rows"]]])
    labels = torch.cat([memory["labels"], stream.tasks[2].train_y[memory["rows"]]])
    drawn = torch.randint(len(labels), (32,), generator=generator(6))
    assert 0 < int((labels[drawn] < 4).sum()) < 32
    o, o_hat = network(as_float(images[drawn])), memory["teacher"](as_float(images[drawn]))
    o_hat = torch.cat([o_hat[:, :2], memory["alpha"][2] * o_hat[:, 2:4] + memory["beta"][2]], dim=1)
    pi_hat, pi = (o_hat / 2).softmax(1), (o[:, :4] / 2).log_softmax(1)
    distilling, classifying = -(pi_hat * pi).sum(1).mean(), F.cross_entropy(o, labels[drawn])
    wanted = torch.autograd.grad(4 / 6 * distilling + 2 / 6 * classifying, list(network.parameters()))
    slopes = torch.autograd.grad(found, list(network.parameters()))
    assert max(float(slope.abs().max()) for slope in wanted) > 1e-2
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-4, atol=1e-6)


def test_without_distillation_only_the_labels_count():
    method = BiC(24, "plain", distil=False)
    stream, network, memory = middle(method)
    memory["teacher"] = None
    x, y = stream.batch(2, 0, 8)
    assert float(method.loss(network, memory, Batch(stream, 2, x, y), generator()).detach()) > 0


def test_shifted_images_are_the_same_for_both_networks():
    method = BiC(24, "plain", shift=1)
    stream, network, memory = middle(method)
    shown: list[Tensor] = []

    class Watched(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            shown.append(x)
            return self.network(x)

    memory["teacher"] = Watched(memory["teacher"])
    x, y = stream.batch(2, 0, 8)
    method.loss(Watched(network), memory, Batch(stream, 2, x, y), generator(1))
    rng = generator(1)
    plain, _ = mixed_batch(memory["images"], memory["labels"], stream.tasks[2], memory["rows"], 8, rng)
    assert torch.equal(*shown) and torch.equal(shown[0], shifted_and_mirrored(plain, 1, rng))


# ---------------------------------------------------------------------------------------------------- what is kept


def test_what_is_held_out_is_balanced_and_never_trained_on():
    stream, seen = small_stream("class"), []

    class Watched(BiC):
        def loss(self, network, memory, batch, rng):
            task = batch.task
            held, rows = memory["held_images"], memory["rows"]
            assert len(set(memory["held_labels"].bincount(minlength=(task + 1) * 2).tolist())) == 1
            pool = torch.cat([memory["images"], stream.tasks[task].train_x[rows]])
            assert not (pool[:, None] == held).flatten(2).all(2).any()
            assert len(rows) + int((memory["held_labels"] >= 2 * task).sum()) == len(stream.tasks[task].train_y)
            seen.append(held)
            return super().loss(network, memory, batch, rng)

        def after_task(self, network, memory, stream, task, rng):
            memory = super().after_task(network, memory, stream, task, rng)
            assert len(memory["labels"]) + len(memory["held_labels"]) <= self.size
            assert memory["labels"].unique().numel() == 2 * (task + 1)
            return memory

    learned = learn(small_network(), stream, Watched(24, validation=0.3), seed=0, **SETTINGS)
    assert learned.memory["labels"].bincount().tolist() == [3] * 6
    assert learned.memory["held_labels"].bincount().tolist() == [1] * 6
    per_class = [len(held) // (2 * (task + 1)) for task, held in enumerate(seen[:: SETTINGS["steps"]])]
    assert per_class == [3, 3, 1]  # 30 % of 12 a class; as many for the next task; then of 6


def test_held_out_images_are_drawn_alike():
    labels = torch.arange(40) % 4
    drawn = sum(held_out(3, labels, generator(seed)).long() for seed in range(300))
    assert int(held_out(3, labels, generator(0)).sum()) == 12
    assert int(drawn.min()) > 50 and int(drawn.max()) < 130  # 90 expected, of a deviation of 8
    with pytest.raises(ValueError, match="a class has no more than that"):
        held_out(10, labels, generator())


def test_the_network_is_frozen_and_evaluated_while_the_bias_is_found():
    method = BiC(24)
    stream, network, memory = middle(method)
    network = network.eval()
    before = copy.deepcopy(network.state_dict())
    after = method.after_task(network, memory, stream, 2, generator())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        logits = network(as_float(memory["held_images"]))
    expected = bias_correction(logits, memory["held_labels"], 4)
    assert (float(after["alpha"][5]), float(after["beta"][5])) == pytest.approx(expected, rel=1e-6)
    assert bool((after["alpha"][:4] == 1).all()) and bool((after["beta"][:4] == 0).all())  # only the latest is in force


# -------------------------------------------------------------------------------------------------- the upper bound


def test_the_last_layer_is_fitted_to_all_data():
    stream, network = small_stream("class"), small_network().eval()
    before = copy.deepcopy(network.state_dict())
    head = retrained(network, stream, 2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(head.weight[4:], network.head.weight[4:])
    inputs = torch.cat([features(network, task, task.train_x) for task in stream.tasks[:2]])
    labels = torch.cat([task.train_y for task in stream.tasks[:2]])
    weight, bias = (value[:4].clone().requires_grad_() for value in (head.weight, head.bias))
    loss = F.cross_entropy(F.linear(inputs, weight, bias), labels) + 5e-4 * weight.square().sum()
    assert all(float(slope.abs().max()) < 1e-4 for slope in torch.autograd.grad(loss, [weight, bias]))


def test_what_is_done_to_the_last_layer_helps():
    stream = small_stream("class", per_class=60)
    for method, gain in ((BiC(24, validation=0.3), 0.02), (BiC(24, "retrained"), 0.05)):
        learned = learn(small_network(), stream, method, seed=1, **(SETTINGS | {"steps": 20}))
        with_it = float(learned.accuracies[-1].mean())
        without = sum(accuracy(Plain(), learned.network, {}, stream, task, 3) for task in range(3)) / 3
        assert with_it > without + gain


@pytest.mark.parametrize("last_layer", ["corrected", "retrained"])
def test_a_stream_that_was_killed_goes_on(tmp_path, last_layer):
    check_resumed(tmp_path, lambda: BiC(24, last_layer), "class", normalise=True)


def test_wrong_settings():
    network, stream = small_network(), small_stream("class")
    with pytest.raises(ValueError, match="last_layer must be one of"):
        BiC(10, "biased")
    with pytest.raises(ValueError, match="temperature must be positive"):
        BiC(10, temperature=0.0)
    with pytest.raises(ValueError, match="part of the memory for validation"):
        BiC(10, validation=1.0)
    with pytest.raises(ValueError, match="shifted by 0 pixels or more; got -1"):
        BiC(10, shift=-1)
    with pytest.raises(ValueError, match="a memory of 5 images cannot hold one of each of 6 classes"):
        BiC(5).start(network, stream)
    with pytest.raises(ValueError, match="memory of at least 12 images"):
        BiC(11).start(network, stream)
    BiC(6, "plain").start(network, stream)
    with pytest.raises(ValueError, match='scenario "class"'):
        BiC(24).start(network, small_stream("domain"))
