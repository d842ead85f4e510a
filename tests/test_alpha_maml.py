"""Alpha MAML: three steps by hand, a rate that follows agreement, and runs that go on to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from comparison_fixtures import noise_episode
from test_inner_loop import N_WAY, built
from torch import Tensor, nn

from utils.meta.alpha_maml import HypergradientDescent
from utils.meta.maml import MAML
from utils.meta.rates import LearnedRates
from utils.training import Checkpoint, fit


def steps(optimizer: HypergradientDescent, params: list[Tensor], gradients: list[list[Tensor]]) -> list[float]:
    """The rates after steps with these gradients."""
    rates = []
    for slopes in gradients:
        for value, slope in zip(params, slopes, strict=True):
            value.grad = slope
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_three_steps_on_a_quadratic_are_those_by_hand():
    """L = (3 a^2 + b^2) / 2 from (1, 2) with the rate 0.1, its own rate 0.01: gradients (3 a, b)."""
    a, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, 2.0))
    optimizer = HypergradientDescent([a, b], 0.1, 0.01)
    seen = []
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)  # what it remembers must not be this tensor
        ((3 * a**2 + b**2) / 2).backward()
        optimizer.step()
        seen.append((float(a.detach()), float(b.detach()), optimizer.param_groups[0]["lr"]))
    assert seen[0] == pytest.approx((1 - 0.1 * 3, 2 - 0.1 * 2, 0.1))  # (0.7, 1.8): nothing to compare with yet
    rate = 0.1 + 0.01 * (3 * 2.1 + 2 * 1.8)  # g_1 = (3, 2), g_2 = (2.1, 1.8)
    assert rate == pytest.approx(0.199) and seen[1] == pytest.approx((0.7 - rate * 2.1, 1.8 - rate * 1.8, rate))
    x, y = seen[1][:2]
    rate += 0.01 * (2.1 * 3 * x + 1.8 * y)
    assert seen[2] == pytest.approx((x - rate * 3 * x, y - rate * y, rate))


def test_the_rate_rises_while_gradients_agree_and_falls_when_they_turn():
    params = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    optimizer = HypergradientDescent(params, 0.5, 0.1)
    agree = [torch.tensor([1.0, 0.0]), torch.tensor([1.0])]
    turned = [torch.tensor([-1.0, 0.0]), torch.tensor([0.0])]
    across = [torch.tensor([0.0, 5.0]), torch.tensor([3.0])]
    rates = steps(optimizer, params, [agree, agree, turned, across])
    assert rates == pytest.approx([0.5, 0.7, 0.6, 0.6])


def test_the_rate_is_the_derivative_of_the_next_loss():
    """d L(theta - beta g) / d beta = - <g', g>, g' being the next gradient."""
    start = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)

    def loss_of(theta: Tensor) -> Tensor:
        return (theta**4).sum() + theta.prod()

    slope = torch.func.grad(loss_of)(start)
    beta = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    (by_beta,) = torch.autograd.grad(loss_of(start - beta * slope), beta)
    theta = start.clone().requires_grad_()
    optimizer = HypergradientDescent([theta], 0.02, 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(theta).backward()
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 - 1e-3 * float(by_beta), rel=1e-12)
    assert abs(float(by_beta)) > 1


def test_the_rate_is_never_negative():
    theta = torch.ones(1, requires_grad=True)
    optimizer = HypergradientDescent([theta], 0.1, 10.0)
    rates = steps(optimizer, [theta], [[torch.tensor([1.0])], [torch.tensor([-1.0])], [torch.tensor([-1.0])]])
    assert rates == [0.1, 0.0, 10.0] and theta.item() == pytest.approx(0.9 + 10)


def test_groups_have_rates_of_their_own():
    first, second = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = HypergradientDescent([{"params": [first]}, {"params": [second], "lr": 0.2}], 0.1, 0.01)
    for slope in (1.0, -1.0):
        first.grad, second.grad = torch.tensor([1.0]), torch.tensor([slope])
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.11, 0.19])


def test_a_parameter_without_a_gradient_stays():
    used, unused = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = HypergradientDescent([used, unused], 0.1, 0.01)
    for _ in range(2):
        used.grad = torch.tensor([1.0])
        optimizer.step()
    assert unused.item() == 1 and used.item() == pytest.approx(1 - 0.1 - 0.11)


def test_a_hyper_rate_of_zero_is_gradient_descent_to_the_bit():
    networks = [built("mlp"), built("mlp")]
    ours = HypergradientDescent(networks[0].parameters(), 0.1, 0.0)
    plain = torch.optim.SGD(networks[1].parameters(), 0.1)
    episode = noise_episode(N_WAY, 2, 2, 1)
    for network, optimizer in zip(networks, (ours, plain), strict=True):
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(episode.support_x[0]), episode.support_y[0]).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(network.parameters() for network in networks), strict=True))


def test_a_closure_gives_the_loss():
    theta = torch.tensor([2.0], requires_grad=True)
    optimizer = HypergradientDescent([theta], 0.1, 0.01)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = theta.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4 and theta.item() == pytest.approx(2 - 0.1 * 4)
    assert optimizer.step() is None


def test_rates_must_not_be_negative():
    for lr, hyper in ((-0.1, 0.1), (0.1, -0.1), (float("nan"), 0.1)):
        with pytest.raises(ValueError, match=f"rates must not be negative; got lr {lr} and hyper_lr {hyper}"):
            HypergradientDescent([torch.ones(1)], lr, hyper)


class Interrupted(Exception):
    pass


def test_an_interruption_leaves_no_trace(tmp_path):
    """Both rates: the inner one a parameter, the outer one the state of the optimiser."""
    whole = noise_episode(N_WAY, 2, 2, 7)

    def run(seed: int, checkpoint: Checkpoint | None = None, stop_at: int | None = None):
        network = built("normalised mlp", seed)
        rates = LearnedRates(dict(network.named_parameters()), 0.1 + seed, "one")
        trained, learner = nn.ModuleList([network, rates]), MAML(network, rates)
        optimizer = HypergradientDescent(trained.parameters(), 0.01 + seed, 1e-4)

        def loss_at(step: int) -> Tensor:
            if step == stop_at:
                raise Interrupted
            return learner.loss(None, whole.task(step))

        losses = fit(trained, loss_at, 7, optimizer, checkpoint=checkpoint)
        return losses, trained.state_dict(), copy.deepcopy(optimizer.state_dict())

    uninterrupted = run(0)
    checkpoint = Checkpoint(tmp_path / "run.pt", {}, every=3)
    with pytest.raises(Interrupted):
        run(0, checkpoint, stop_at=5)
    resumed = run(1, checkpoint)  # nothing but the file is left of the first run
    assert resumed[0] == uninterrupted[0]
    assert all(torch.equal(value, uninterrupted[1][name]) for name, value in resumed[1].items())
    outer = [run[2]["param_groups"][0]["lr"] for run in (resumed, uninterrupted)]
    assert outer[0] == outer[1] != 0.01
    assert float(resumed[1]["1.values.0"]) != 0.1
