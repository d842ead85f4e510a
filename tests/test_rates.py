"""Learned inner rates: with equal constants they are MAML, and their gradient is minus <g_s, g_q>."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode
from test_inner_loop import N_WAY, assert_close, built, gradient, leaves, linear, lines
from torch import Tensor

from utils.data.episodes import Episode
from utils.meta.maml import MAML
from utils.meta.rates import GRAINS, LearnedRates

RATE = 0.3


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode(N_WAY, 2, 2, 2)


def rates_for(network, grain: str, steps: int | None = None) -> LearnedRates:
    return LearnedRates(dict(network.named_parameters()), RATE, grain, steps)


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize("grain", GRAINS)
def test_equal_constants_are_maml(grain, rows, vectorised, episode):
    network, params = built("normalised mlp"), leaves(built("normalised mlp"))
    plain = MAML(network, RATE, 3, vectorised=vectorised).loss(params, episode)
    learned = MAML(network, rates_for(network, grain, rows), 3, vectorised=vectorised).loss(params, episode)
    torch.testing.assert_close(learned, plain, rtol=1e-12, atol=0)
    assert_close(gradient(learned, params), gradient(plain, params))


def slopes_of(network, episode) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """For one task: g_s, the gradient on the support set, and g_q, that on the queries one step later."""
    theta = leaves(network)
    on = {}
    for name in ("support", "query"):
        outputs = torch.func.functional_call(network, theta, (getattr(episode, f"{name}_x")[0], "batch"))
        on[name] = gradient(F.cross_entropy(outputs, getattr(episode, f"{name}_y")[0]), theta)
        theta = {key: (value - RATE * on[name][key]).detach().requires_grad_() for key, value in theta.items()}
    return on["support"], on["query"]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("grain", GRAINS)
def test_after_one_step_the_gradient_of_the_rate_is_minus_the_agreement(grain, order, episode):
    """- g_s g_q for each number alone, or summed over all that share a rate; the order makes no difference to it."""
    network, one = built("strided"), episode.task(1)
    rates = rates_for(network, grain)
    slopes = gradient(MAML(network, rates, 1, order).loss(None, one), dict(rates.values.named_parameters()))
    support, query = slopes_of(network, one)
    each = {name: -support[name] * query[name] for name in support}
    if grain == "tensor":
        each = {name: value.sum() for name, value in each.items()}
    if grain == "one":
        each = {"0": sum(value.sum() for value in each.values())}
    assert_close(slopes, dict(zip(slopes, each.values(), strict=True)))


def test_the_rate_of_several_tasks_takes_the_mean_of_their_agreements(episode):
    network = built("strided")
    rates = rates_for(network, "tensor")
    learner, values = MAML(network, rates, 2), dict(rates.values.named_parameters())
    both = gradient(learner.loss(None, episode), values)
    alone = [gradient(learner.loss(None, episode.task(task)), values) for task in range(2)]
    assert_close(both, {name: (alone[0][name] + alone[1][name]) / 2 for name in both})


def test_on_linear_regression_every_step_uses_its_own_row():
    """Steps of different rates: the order of the rows matters where some numbers have other rates than others."""
    episode, network = lines(n_tasks=1), linear()
    rates = rates_for(network, "tensor", 2)
    with torch.no_grad():
        rates.values[0].copy_(torch.tensor([0.1, 0.02]))
        rates.values[1].copy_(torch.tensor([0.03, 0.2]))
    path = MAML(network, rates, 4, criterion=F.mse_loss).adapt(None, episode.support_x, episode.support_y)
    w, b = network.linears[0].weight.detach().T, network.linears[0].bias.detach()
    for step, (of_w, of_b) in enumerate([(0.1, 0.03), (0.02, 0.2), (0.02, 0.2), (0.02, 0.2)], start=1):
        error = episode.support_x[0] @ w + b - episode.support_y[0]
        w = w - of_w * 2 / len(error) * episode.support_x[0].T @ error
        b = b - of_b * 2 / len(error) * error.sum(0)
        torch.testing.assert_close(path.params[step]["linears.0.weight"][0], w.T)
        torch.testing.assert_close(path.params[step]["linears.0.bias"][0], b)


def test_only_the_rows_of_steps_that_were_taken_get_a_gradient(episode):
    network = built("mlp")
    rates = rates_for(network, "tensor", 4)
    slopes = gradient(MAML(network, rates, 2).loss(None, episode), dict(rates.values.named_parameters()))
    for slope in slopes.values():
        assert slope.shape == (4,) and (slope[:2] != 0).all() and (slope[2:] == 0).all()


def test_every_grain_has_its_shapes():
    network = built("mlp")
    shapes = [value.shape for value in network.parameters()]
    for steps, lead in ((None, ()), (5, (5,))):
        found = {grain: [value.shape for value in rates_for(network, grain, steps).values] for grain in GRAINS}
        assert found["parameter"] == [(*lead, *shape) for shape in shapes]
        assert found["tensor"] == [lead] * len(shapes) and found["one"] == [lead]
    assert all(value.dtype == torch.float64 and value.requires_grad for value in rates_for(network, "one").values)


def test_rates_of_adapted_parameters_alone_serve(episode):
    network = built("mlp")
    head = {name: value for name, value in network.named_parameters() if name.startswith("head.")}
    rates = LearnedRates(head, RATE)
    loss = MAML(network, rates, 2, adapted=("head",)).loss(None, episode)
    assert torch.equal(loss, MAML(network, RATE, 2, adapted=("head",)).loss(None, episode))
    with pytest.raises(ValueError, match=r"no inner rate for embedding\.linears\.0\.weight, embedding\.linears\.0\.b"):
        MAML(network, rates, 2).loss(None, episode)


def test_a_learned_rate_lowers_the_loss(episode):
    network = built("normalised mlp")
    rates = LearnedRates(dict(network.named_parameters()), 1e-3, "one")
    learner, optimizer = MAML(network, rates, 1), torch.optim.SGD(rates.parameters(), 0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(learner.loss(None, episode))
        losses[-1].backward()
        optimizer.step()
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert rates.means()["head.bias"] > 2e-3


def test_means_are_reported_by_name():
    network = linear()
    rates = rates_for(network, "parameter", 2)
    with torch.no_grad():
        rates.values[0][1] = torch.tensor([[1.0, 2.0, 6.0]])
    assert rates.means() == {name: pytest.approx(RATE) for name in ("linears.0.weight", "linears.0.bias")}
    assert rates.means(1) == {"linears.0.weight": 3, "linears.0.bias": pytest.approx(RATE)}
    assert rates.means(7) == rates.means(1)


def test_what_does_not_make_sense_is_refused():
    params = dict(linear().named_parameters())
    with pytest.raises(ValueError, match=r"grain must be one of \('parameter', 'tensor', 'one'\); got 'layer'"):
        LearnedRates(params, RATE, "layer")
    for steps in (0, -2):
        with pytest.raises(ValueError, match=f"rates are for at least 1 step; got {steps}"):
            LearnedRates(params, RATE, steps=steps)
