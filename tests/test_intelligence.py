"""Synaptic intelligence: the way on a parabola, the task's loss and not the penalty's, what is kept."""

from __future__ import annotations

import pytest
import torch
from continual_fixtures import (
    assert_forgets_less_than_plain,
    assert_resumes_to_the_bit,
    learned,
    small_network,
    small_stream,
)
from torch import Tensor, nn

from utils.continual.importance import quadratic_penalty, trained
from utils.continual.intelligence import SynapticIntelligence
from utils.continual.learn import Batch, Memory, Plain


class Point(nn.Module):
    """Nothing but parameters."""

    def __init__(self, n: int = 6) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.linspace(-2, 3, n, dtype=torch.float64))


H = torch.tensor([1.0, 1.5, 2.0, 2.5, 2.8, 3.0], dtype=torch.float64)
STREAM, GENERATOR = small_stream(), torch.Generator()  # of which only the task's number is used


def way(
    method: SynapticIntelligence, network: Point, memory: Memory, centre: float, task: int, lr: float, steps: int
) -> tuple[Memory, Memory, float]:
    """Gradient descent on (1/2) sum h (theta - centre)^2 and the penalty, as ``learn`` goes about it.

    Returns the memory before and after the task's end, and by how much the task's loss fell.
    """

    def task_loss() -> Tensor:
        return (H * (network.theta - centre).square()).sum() / 2

    memory = method.before_task(network, memory, STREAM, task, GENERATOR)
    optimizer = torch.optim.SGD(network.parameters(), lr)
    before = task_loss().item()
    for _ in range(steps):
        optimizer.zero_grad()
        pull = quadratic_penalty(trained(network), memory["importance"], memory["anchor"], 2 * method.strength)
        (task_loss() + pull).backward()
        optimizer.step()
        memory = method.after_step(network, memory)
    walked = {key: {name: v.clone() for name, v in part.items()} for key, part in memory.items()}
    return walked, method.after_task(network, memory, STREAM, task, GENERATOR), before - task_loss().item()


def test_on_a_parabola_small_steps_find_half_the_curvature():
    """omega / Delta^2 -> h / 2, so that a strength of 1 gives the true loss; the omegas add up to its decrease."""
    method, network = SynapticIntelligence(1.0, damping=1e-12), Point()
    walked, memory, fell = way(method, network, method.start(network, STREAM), 0.3, 0, 4e-3, 2000)
    torch.testing.assert_close(memory["importance"]["theta"], H / 2, rtol=1e-2, atol=0)
    # with steps of a size lr: a geometric series
    torch.testing.assert_close(memory["importance"]["theta"], H / 2 / (1 - 4e-3 * H / 2), rtol=2e-3, atol=0)
    assert walked["path"]["theta"].sum().item() == pytest.approx(fell, rel=1e-2)
    away = torch.randn(6, dtype=torch.float64)
    penalty = quadratic_penalty({"theta": network.theta + away}, memory["importance"], memory["anchor"], 2.0)
    assert penalty.item() == pytest.approx((H * away.square()).sum().item() / 2, rel=1e-2)


def test_steps_of_any_size_are_known_in_closed_form():
    """theta_k = (1 - lr h)^k theta_0: -g dtheta = lr g^2."""
    method, network = SynapticIntelligence(1.0, damping=0.3), Point()
    start = network.theta.detach().clone()
    walked, memory, _ = way(method, network, method.start(network, STREAM), 0.0, 0, 0.2, 5)
    rate = 1 - 0.2 * H
    path = 0.2 * sum((H * rate**k * start).square() for k in range(5))
    torch.testing.assert_close(walked["path"]["theta"], path, rtol=1e-12, atol=1e-14)
    moved = (rate**5 * start - start).square()
    torch.testing.assert_close(memory["importance"]["theta"], path / (moved + 0.3), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(memory["anchor"]["theta"], network.theta.detach(), rtol=0, atol=0)
    assert memory.keys() == {"importance", "anchor"}


def test_the_gradient_is_that_of_the_task_without_the_penalty():
    """In the second task the penalty pulls; still, the omegas add up to what the task's own loss fell by."""
    method, network = SynapticIntelligence(1.0, damping=1e-3), Point()
    _, memory, _ = way(method, network, method.start(network, STREAM), 1.0, 0, 4e-3, 700)
    walked, after, fell = way(method, network, memory, -1.0, 1, 1e-3, 700)
    assert fell > 1
    assert walked["path"]["theta"].sum().item() == pytest.approx(fell, rel=5e-3)
    gained = after["importance"]["theta"] - memory["importance"]["theta"]
    moved = (after["anchor"]["theta"] - memory["anchor"]["theta"]).square()
    torch.testing.assert_close(gained, walked["path"]["theta"] / (moved + 1e-3), rtol=1e-9, atol=1e-12)


def test_negative_sums_are_clipped():
    method, network = SynapticIntelligence(1.0, damping=0.5), Point(2)
    memory = method.before_task(network, method.start(network, STREAM), STREAM, 0, GENERATOR)
    memory["importance"]["theta"] = torch.tensor([1.0, 1.0], dtype=torch.float64)
    network.theta.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        network.theta += torch.tensor([0.25, 1.0], dtype=torch.float64)  # uphill
    memory = method.after_task(network, method.after_step(network, memory), STREAM, 0, GENERATOR)
    assert memory["importance"]["theta"].tolist() == pytest.approx([1 - 0.25 / 0.5625, 1 - 1 / 1.5])
    memory = method.before_task(network, memory, STREAM, 1, GENERATOR)
    with torch.no_grad():
        network.theta += 1.0
    memory = method.after_task(network, method.after_step(network, memory), STREAM, 1, GENERATOR)
    assert memory["importance"]["theta"].tolist() == [0.0, 0.0]


def test_a_parameter_without_a_gradient_did_not_matter():
    method, network = SynapticIntelligence(), Point()
    memory = method.before_task(network, method.start(network, STREAM), STREAM, 0, GENERATOR)
    memory = method.after_task(network, method.after_step(network, memory), STREAM, 0, GENERATOR)
    assert (memory["importance"]["theta"] == 0).all()


def test_with_adam_the_path_is_that_of_the_gradients_and_the_steps():
    """All along a stream: ``learn``'s own hook, against the sum by hand."""
    seen: list[Tensor] = []

    class Watching(SynapticIntelligence):
        def after_task(self, network, memory, stream, task, generator):
            seen.append(memory["path"]["linears.0.weight"].clone())
            return super().after_task(network, memory, stream, task, generator)

    stream = small_stream("domain", 1)
    learned(Watching(0.5), stream)
    network = small_network(stream)
    adam, weight, path = torch.optim.Adam(network.parameters(), 0.03), network.linears[0].weight, 0
    for step in range(12):
        x, y = stream.batch(0, step, 5, 3)
        adam.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        old = weight.detach().clone()
        adam.step()
        path = path - weight.grad * (weight.detach() - old)
    torch.testing.assert_close(seen[0], path)


def test_the_penalty_has_no_half_and_its_gradient_is_the_one_taken_off():
    stream = small_stream("domain", 2)
    network, method = small_network(stream), SynapticIntelligence(3.0)
    memory = method.before_task(network, method.start(network, stream), stream, 1, GENERATOR)
    memory["importance"] = {name: torch.ones_like(value) for name, value in memory["importance"].items()}
    memory["anchor"] = {name: value - 0.1 for name, value in memory["anchor"].items()}
    x, y = stream.batch(0, 0, 4)
    plain, whole = (m.loss(network, memory, Batch(stream, 0, x, y), GENERATOR) for m in (Plain(), method))
    n = sum(value.numel() for value in network.parameters())
    assert (whole - plain).item() == pytest.approx(3.0 * n * 0.01, rel=1e-4)
    (whole - plain).backward()  # as if the task's own gradient were zero
    with torch.no_grad():
        for value in network.parameters():
            value += 1.0
    path = method.after_step(network, memory)["path"]
    assert all(value.abs().max() < 1e-5 for value in path.values())


def test_the_first_task_is_learned_as_without_it():
    stream = small_stream("domain", 1)
    one, other = learned(SynapticIntelligence(10.0), stream).network, learned(Plain(), stream).network
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_forgets_less():
    assert_forgets_less_than_plain(SynapticIntelligence(1.0))


def test_killed_between_two_tasks_it_goes_on_to_the_bit(tmp_path):
    assert_resumes_to_the_bit(SynapticIntelligence(1.0), tmp_path)


def test_options_that_are_none_are_refused():
    with pytest.raises(ValueError, match="damping must be positive; got 0"):
        SynapticIntelligence(damping=0)
    with pytest.raises(ValueError, match="strength of a penalty"):
        SynapticIntelligence(-0.1)
