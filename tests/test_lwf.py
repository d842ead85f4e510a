"""Learning without forgetting: the loss of the algorithm box, heads, what is frozen, and the warm-up."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from replay_fixtures import SETTINGS, check_resumed, generator, small_network, small_stream
from torch import Tensor

from utils.continual.heads import features, head_logits, old_units
from utils.continual.learn import Batch, Plain, learn
from utils.continual.lwf import FineTuning, LwF, warm_up


def flat_gradient(loss: Tensor, network: torch.nn.Module) -> Tensor:
    slopes = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    return torch.cat([slope.flatten() for slope in slopes])


def after_one_task(scenario: str, method: LwF, normalise: bool = False, task: int = 2):
    """A network moved away from its teacher, in the middle of ``task``."""
    stream, network = small_stream(scenario), None
    network = small_network(stream.n_units, normalise).double()
    for _ in range(3):
        network(torch.rand(30, 1, 4, 4, dtype=torch.float64))
    network.eval()
    memory = method.before_task(network, method.start(network, stream), stream, task, generator())
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator(2), dtype=torch.float64))
    x, y = stream.batch(task, 0, 16)
    return stream, network, memory, x.double(), y


# -------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_it_is_the_algorithm_with_the_answers_recorded_before(scenario):
    """lambda_o L_old(Y_o, ^Y_o) + L_new(Y_n, ^Y_n), eq. 2 to 4: the probabilities to the power 1/T."""
    method = LwF(weight=0.7, temperature=3.0, squared=False)
    stream, network, memory, x, y = after_one_task(scenario, method)
    recorded, now = memory["teacher"](x), network(x)
    groups = {"task": [slice(0, 2), slice(2, 4)], "domain": [slice(0, 2)], "class": [slice(0, 4)]}[scenario]
    new = {"task": slice(4, 6), "domain": slice(0, 2), "class": slice(0, 6)}[scenario]
    expected = F.nll_loss(now[:, new].log_softmax(1), y - new.start)
    for group in groups:
        y_o, y_hat = (outputs[:, group].softmax(1) ** (1 / 3) for outputs in (recorded, now))
        y_o, y_hat = (powers / powers.sum(1, keepdim=True) for powers in (y_o, y_hat))
        expected = expected - 0.7 * (y_o.detach() * y_hat.log()).sum(1).mean()
    found = method.loss(network, memory, Batch(stream, 2, x, y), generator())
    wanted = flat_gradient(expected, network)
    assert float(wanted.abs().max()) > 1e-2
    torch.testing.assert_close(flat_gradient(found, network), wanted, rtol=1e-9, atol=1e-12)


def test_t_squared_is_declared():
    method = LwF(temperature=3.0)
    stream, network, memory, x, y = after_one_task("class", method)
    plain = Plain().loss(network, memory, Batch(stream, 2, x, y), generator())
    old = [
        LwF(temperature=3.0, squared=squared).loss(network, memory, Batch(stream, 2, x, y), generator()) - plain
        for squared in (True, False)
    ]
    assert old[1].item() > 1e-4
    torch.testing.assert_close(old[0], 9 * old[1])


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_a_network_that_has_not_changed_feels_nothing(scenario):
    stream, method = small_stream(scenario), LwF(weight=5.0)
    network = small_network(stream.n_units).double()
    memory = method.before_task(network, method.start(network, stream), stream, 1, generator())
    x, y = (part.double() if part.is_floating_point() else part for part in stream.batch(1, 0, 16))
    loss, plain = (one.loss(network, memory, Batch(stream, 1, x, y), generator()) for one in (method, Plain()))
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(flat_gradient(loss, network), flat_gradient(plain, network), rtol=1e-9, atol=1e-13)


def test_the_teacher_is_in_evaluation_mode_and_learns_nothing():
    method = LwF()
    stream, network, memory, x, y = after_one_task("class", method, normalise=True)
    before = copy.deepcopy(memory["teacher"].state_dict())
    network.train()
    method.loss(network, memory, Batch(stream, 2, x, y), generator()).backward()
    assert not memory["teacher"].training
    assert all(torch.equal(value, before[name]) for name, value in memory["teacher"].state_dict().items())
    assert all(value.grad is None for value in memory["teacher"].parameters())
    alone = torch.cat([memory["teacher"](one[None]) for one in x])
    torch.testing.assert_close(memory["teacher"](x), alone)


def test_the_first_task_is_plain_training():
    stream = small_stream("class")
    plain, lwf = (learn(small_network(), stream, method, seed=1, **SETTINGS) for method in (Plain(), LwF()))
    assert torch.equal(plain.accuracies[0], lwf.accuracies[0])
    assert not torch.equal(plain.network.head.weight, lwf.network.head.weight)


# ----------------------------------------------------------------------------------------------------------- heads


def test_heads_are_slices_and_only_trained_ones_answer():
    stream = small_stream("task")
    logits = torch.randn(5, 6, generator=generator())
    torch.testing.assert_close(head_logits(logits, stream, 1, 2), logits[:, 2:4])
    with pytest.raises(ValueError, match="task 2 has no trained head: 2 of 3 tasks were learned"):
        head_logits(logits, stream, 2, 2)
    with pytest.raises(ValueError, match="task -1 has no trained head"):
        head_logits(logits, stream, -1, 2)
    with pytest.raises(ValueError, match="head of its own"):
        head_logits(logits, small_stream("class"), 0, 2)


def test_old_units():
    assert [old_units(small_stream(scenario), 0) for scenario in ("task", "domain", "class")] == [[], [], []]
    assert old_units(small_stream("task"), 2) == [slice(0, 2), slice(2, 4)]
    assert old_units(small_stream("class"), 2) == [slice(0, 4)]
    assert old_units(small_stream("domain"), 2) == [slice(0, 2)]


def trained(method: Plain, normalise: bool = True):
    """State before the second task, after it, and the network."""
    stream, states = small_stream("task", 2), []

    class Seen(type(method)):
        def before_task(self, network, memory, stream, task, rng):
            states.append(copy.deepcopy(network.state_dict()))
            return super().before_task(network, memory, stream, task, rng)

    seen = object.__new__(Seen)
    seen.__dict__.update(vars(method))
    network = small_network(6, normalise)
    learn(network, stream, seen, seed=0, **SETTINGS)
    return states[1], network.state_dict(), network


def test_feature_extraction_trains_the_new_head_alone():
    before, after, network = trained(FineTuning(frozen=("embedding",)))
    for name, value in before.items():
        if name.startswith("embedding"):  # running statistics included
            assert torch.equal(value, after[name]), name
    assert torch.equal(before["head.weight"][:3], after["head.weight"][:3])
    assert not torch.equal(before["head.weight"][3:], after["head.weight"][3:])
    assert all(value.requires_grad for value in network.parameters())


def test_fine_tuning_of_the_last_layers():
    before, after, _ = trained(FineTuning(frozen=("embedding.linears.0", "embedding.norms.0")))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not any(name.startswith(("embedding.linears.0", "embedding.norms.0")) for name in moved)
    assert {"embedding.linears.1.weight", "embedding.norms.1.running_mean", "head.weight"} <= moved


def test_fine_tuning_is_plain_training_and_leaves_old_heads():
    _, after, _ = trained(FineTuning())
    before, plain, _ = trained(Plain())
    assert all(torch.equal(value, plain[name]) for name, value in after.items())
    assert torch.equal(before["head.weight"][:3], after["head.weight"][:3])
    assert not torch.equal(before["embedding.linears.0.weight"], after["embedding.linears.0.weight"])


def test_unknown_parts():
    with pytest.raises(ValueError, match=r"no parts \['trunk'\]; it has embedding"):
        FineTuning(frozen=("trunk",)).start(small_network(), small_stream("task"))


# --------------------------------------------------------------------------------------------------------- warm-up


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_the_warm_up_trains_the_new_head_and_nothing_else(scenario):
    stream, network = small_stream(scenario), small_network(6, normalise=True)
    network(torch.rand(30, 1, 4, 4))
    before = copy.deepcopy(network.state_dict())
    data = stream.tasks[1]
    units = stream.units(1, 2)
    inputs = features(network.eval(), data, data.train_x)

    def loss() -> Tensor:
        return F.cross_entropy(network.head(inputs)[:, units], data.train_y - units.start)

    first = loss().item()
    warm_up(network, stream, 1, 60, 0.05)
    after = network.state_dict()
    assert loss().item() < 0.6 * first
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"head.weight", "head.bias"}
    for name in changed:
        assert torch.equal(before[name][:2], after[name][:2]) and torch.equal(before[name][4:], after[name][4:])
        assert not torch.equal(before[name][2:4], after[name][2:4])


def test_the_teacher_is_from_before_the_warm_up():
    stream, network, method = small_stream("class"), small_network(), LwF(warmup_steps=5)
    before = network.head.weight.detach().clone()
    memory = method.before_task(network, method.start(network, stream), stream, 1, generator())
    assert torch.equal(memory["teacher"].head.weight, before) and not torch.equal(network.head.weight, before)


# ------------------------------------------------------------------------------------------------------ what it does


def test_the_old_head_goes_on_answering_as_it_did():
    stream, moved = small_stream("task", 2), []
    x = stream.tasks[1].seen(stream.tasks[1].test_x)
    for method in (Plain(), LwF(), LwF(weight=10.0)):
        learned = learn(small_network(), stream, method, seed=0, **SETTINGS)
        before = learn(small_network(), replace(stream, tasks=stream.tasks[:1]), method, seed=0, **SETTINGS)
        old, now = (head_logits(net(x), stream, 0, 2).softmax(1) for net in (before.network, learned.network))
        moved.append((old - now).abs().mean().item())
        assert float(learned.accuracies[1, 1]) > 0.5  # of three classes
    assert moved[0] > 2 * moved[1] and moved[1] > 1.5 * moved[2]


@pytest.mark.parametrize(
    "method", [LwF(), LwF(warmup_steps=4), FineTuning(frozen=("embedding",))], ids=["lwf", "warm", "frozen"]
)
def test_a_stream_that_was_killed_goes_on(tmp_path, method):
    check_resumed(tmp_path, lambda: method, "task", normalise=True)


def test_wrong_settings():
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive"):
            LwF(temperature=temperature)
    with pytest.raises(ValueError, match="must not be negative"):
        LwF(weight=-1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        LwF(warmup_steps=-1)
