"""Memory aware synapses: one example at a time, no labels, the scale of the output; and Hebb's rule, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from continual_fixtures import (
    assert_forgets_less_than_plain,
    assert_resumes_to_the_bit,
    assert_same,
    learned,
    mean_of_examples,
    small_stream,
)
from torch import Tensor, nn

from utils.backbones import MLP
from utils.bench.memory import peak_bytes
from utils.continual.hebbian import hebbian_weights
from utils.continual.importance import task_batches, trained
from utils.continual.learn import Batch, Plain
from utils.continual.mas import MAS, local_importance, output_importance
from utils.data.streams import Stream


def made(*widths: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return MLP(4, widths, activate_last=False).double().eval(), torch.randn(11, 4, dtype=torch.float64)


# --------------------------------------------------------------------------------------------------------- global


@pytest.mark.parametrize("units", [slice(None), slice(1, 3)])
def test_it_is_the_mean_of_absolute_values_over_single_examples(units):
    network, x = made(6, 5)
    found = output_importance(network, [(x[:4], None), (x[4:], None)], units)
    expected = mean_of_examples(network, x, lambda out, b: out[0, units].square().sum(), absolute=True)
    assert_same(found, expected)


def test_of_a_whole_batch_opposites_would_cancel():
    network, x = nn.Linear(1, 1).eval(), torch.tensor([[1.0], [-1.0]])
    nn.init.ones_(network.weight), nn.init.zeros_(network.bias)
    assert output_importance(network, [(x,)])["bias"].item() == 2  # d (w x + b)^2 / db = 2 (w x + b) = 2 and -2


def test_an_output_of_c_times_the_size_has_c_squared_times_the_importance():
    network, x = made(6, 5)
    one = output_importance(network, [(x,)])
    with torch.no_grad():
        for value in network.linears[-1].parameters():
            value *= 3
    other = output_importance(network, [(x,)])
    assert_same({n: other[n] for n in one if "0" in n}, {n: 9 * one[n] for n in one if "0" in n})
    # of the scaled weights themselves the function is 3 f(w), and they are 3 times as large
    assert_same({n: other[n] for n in one if "1" in n}, {n: 3 * one[n] for n in one if "1" in n})


# ---------------------------------------------------------------------------------------------------------- local


def test_of_one_layer_with_relu_global_and_local_are_hebbian():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU()).double().eval()
    x = torch.rand(30, 4, dtype=torch.float64)  # activities: not negative
    y = network(x).detach()
    hebb = {"0.weight": 2 * hebbian_weights(x, y), "0.bias": 2 * y.mean(0)}
    assert_same(output_importance(network, [(x,)]), hebb, 1e-14)
    assert_same(local_importance(network, [(x,)]), hebb, 1e-14)


def test_layer_by_layer_it_is_hebbian_and_not_what_it_is_globally():
    network, _ = made(7, 6, 5)
    before = x = torch.rand(30, 4, dtype=torch.float64)
    hebb = {}
    for l, layer in enumerate(network.linears):
        y = layer(before).detach()
        y = y.relu() if l < 2 else y.abs()  # the last one has no ReLU: the size of its activity
        hebb[f"linears.{l}.weight"], hebb[f"linears.{l}.bias"] = 2 * hebbian_weights(before, y), 2 * y.mean(0)
        before = y
    found = local_importance(network, [(x[:13],), (x[13:],)])
    assert_same(found, hebb)
    globally = output_importance(network, [(x,)])
    assert_same({n: found[n] for n in found if "2" in n}, {n: globally[n] for n in found if "2" in n})
    assert not torch.allclose(found["linears.0.weight"], globally["linears.0.weight"], rtol=0.1)


def test_local_units_are_those_of_the_last_layer():
    network, x = made(6, 5)
    whole, part = local_importance(network, [(x,)]), local_importance(network, [(x,)], slice(1, 3))
    rest = [0, 3, 4]
    assert torch.equal(part["linears.1.weight"][1:3], whole["linears.1.weight"][1:3])
    assert (part["linears.1.weight"][rest] == 0).all() and (whole["linears.1.weight"][rest] != 0).any()
    assert torch.equal(part["linears.0.weight"], whole["linears.0.weight"])


def test_local_convolutions_with_what_comes_after_them():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    network = nn.Sequential(body, nn.Flatten(), nn.Linear(12, 4)).double().eval()
    x = torch.randn(7, 2, 4, 4, dtype=torch.float64)
    expected = mean_of_examples(body, x, lambda out, b: out.square().sum(), absolute=True)
    found = local_importance(network, [(x,)])
    assert_same({name: found[f"0.{name}"] for name in expected}, expected)


def test_memory_does_not_grow_with_the_batches():
    network, x = made(300, 5)
    one, four = (peak_bytes(lambda n=n: local_importance(network, [(x.repeat(50, 1),)] * n)) for n in (1, 4))
    assert four < 1.05 * one


def test_the_network_is_left_as_it_was():
    network, x = made(6, 5)
    local_importance(network, [(x,)])
    with pytest.raises(ValueError, match="training mode"):
        local_importance(network.train(), [(x,)])
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in network.modules())
    network(x).sum().backward()
    assert network.linears[0].weight.grad is not None


# -------------------------------------------------------------------------------------------------------- a stream


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("outputs", ["units", "all"])
def test_importance_is_the_sum_over_the_tasks(outputs, local):
    stream = small_stream("task")
    out = learned(MAS(outputs=outputs, local=local), stream, steps=0)  # the network is the same in all tasks
    total = {name: torch.zeros_like(value) for name, value in trained(out.network).items()}
    for task in range(3):
        units = stream.units(task, task + 1) if outputs == "units" else slice(None)
        found = (local_importance if local else output_importance)(out.network, task_batches(stream.tasks[task]), units)
        total = {name: total[name] + found[name] for name in total}
    assert_same(out.memory["importance"], total, 1e-6)
    assert_same(out.memory["anchor"], {n: v.detach() for n, v in out.network.named_parameters()}, 0.0)


def test_no_label_is_looked_at():
    stream = small_stream("domain", 2)
    network, method, generator = MLP(9, (8, 3)).eval(), MAS(), torch.Generator()
    memory = method.start(network, stream)
    mixed = tuple(replace(task, train_y=task.train_y.flip(0)) for task in stream.tasks)
    one = method.after_task(network, memory, stream, 0, generator)
    other = method.after_task(network, memory, Stream(mixed, "domain", "mixed"), 0, generator)
    assert all(torch.equal(value, other["importance"][name]) for name, value in one["importance"].items())


def test_the_penalty_has_no_half():
    stream = small_stream("domain", 2)
    network, method = MLP(9, (8, 3)), MAS(3.0)
    memory = method.start(network, stream)
    memory["importance"] = {name: torch.ones_like(value) for name, value in memory["importance"].items()}
    memory["anchor"] = {name: value - 0.1 for name, value in memory["anchor"].items()}
    x, y = stream.batch(0, 0, 4)
    own, whole = (m.loss(network, memory, Batch(stream, 0, x, y), torch.Generator()).item() for m in (Plain(), method))
    n = sum(value.numel() for value in network.parameters())
    assert whole - own == pytest.approx(3.0 * n * 0.01, rel=1e-4)


@pytest.mark.parametrize("local", [False, True])
def test_it_forgets_less(local):
    assert_forgets_less_than_plain(MAS(0.1, local=local))


@pytest.mark.parametrize("method", [MAS(0.1), MAS(0.1, 5, "all", True)], ids=["global", "local"])
def test_killed_between_two_tasks_it_goes_on_to_the_bit(method, tmp_path):
    assert_resumes_to_the_bit(method, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": float("nan")}, "strength of a penalty"),
        ({"images": -3}, "at least one image, or on all"),
        ({"outputs": "labels"}, r"outputs must be one of \('units', 'all'\); got 'labels'"),
    ],
)
def test_options_that_are_none_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        MAS(**options)
