"""Navigation: derivatives of the expected return in closed form, the walk's rules, and one inner step by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_inner_loop import assert_close, gradient, leaves
from torch import Tensor
from torch.func import functional_call

from utils.meta.inner import own_parameters, stacked
from utils.meta.navigation import REACH, GaussianPolicy, Navigation, gaussian_log_probability, policy_loss


@pytest.fixture
def policy() -> GaussianPolicy:
    torch.manual_seed(0)
    return GaussianPolicy((8,)).double()


def learner(policy: GaussianPolicy, **options) -> Navigation:
    return Navigation(policy, **{"n_walks": 6, "horizon": 5, **options})


def goals_of(navigation: Navigation, n_tasks: int = 3, seed: int = 0) -> Tensor:
    return navigation.goals(n_tasks, seed).double()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------------------------------- the policy loss


@pytest.mark.parametrize("n_walks", [1, 2, 5])
def test_its_first_derivative_is_reinforce_with_the_mean_of_the_other_walks_as_baseline(n_walks):
    """- sum_t grad log pi_t (R_t - b_t), R_t being the rewards from t on: with respect to each log pi_t."""
    generator = seeded()
    log_probabilities = torch.randn(2, n_walks, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    rewards = torch.randn(2, n_walks, 4, generator=generator, dtype=torch.float64)
    loss = policy_loss(log_probabilities, rewards)
    torch.testing.assert_close(loss, -rewards.sum(2).mean(1))  # minus the mean return
    (slope,) = torch.autograd.grad(loss.sum(), log_probabilities)
    for task in range(2):
        for walk in range(n_walks):
            for t in range(4):
                others = [float(rewards[task, other, t:].sum()) for other in range(n_walks) if other != walk]
                baseline = sum(others) / len(others) if others else 0.0
                expected = -(float(rewards[task, walk, t:].sum()) - baseline) / n_walks
                assert float(slope[task, walk, t]) == pytest.approx(expected, abs=1e-12)


MU, SIGMA, GOAL = 0.3, 0.8, 1.5


def surrogate(log_probabilities: Tensor, rewards: Tensor) -> Tensor:
    """The familiar - sum_t log pi_t (R_t - b_t)."""
    to_go = rewards.flip(-1).cumsum(-1).flip(-1)
    baseline = (to_go.sum(1, keepdim=True) - to_go) / (rewards.shape[1] - 1)
    return -(log_probabilities * (to_go - baseline)).sum(2).mean(1)


def derivatives(loss_of, horizon: int, n: int = 100_000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and standard error of gradient ``[2]`` and Hessian ``[2, 2]`` in (mu, sigma), of ``n`` tasks of 4 walks.

    a_t ~ N(mu, sigma^2), and r_t = - (a_1 + ... + a_t - g)^2: an action counts for all rewards that follow.
    """
    generator = seeded(1)
    values = torch.tensor([MU, SIGMA], dtype=torch.float64).expand(n, 2).clone().requires_grad_()
    actions = MU + SIGMA * torch.randn(n, 4, horizon, generator=generator, dtype=torch.float64)
    rewards = -(actions.cumsum(2) - GOAL).square()
    mean, sigma = values[:, None, None, :1], values[:, None, None, 1:]
    loss = loss_of(gaussian_log_probability(actions[..., None], mean, sigma.log()), rewards)
    (slope,) = torch.autograd.grad(loss.sum(), values, create_graph=True)
    rows = [torch.autograd.grad(slope[:, i].sum(), values, retain_graph=True)[0] for i in range(2)]
    hessian, slope = torch.stack(rows, 1), slope.detach()
    return slope.mean(0), slope.std(0) / math.sqrt(n), hessian.mean(0), hessian.std(0) / math.sqrt(n)


def expected(horizon: int) -> tuple[Tensor, Tensor]:
    """Of - E[sum_t r_t] = sum_t (t mu - g)^2 + t sigma^2: gradient, and Hessian with sum_t 2 t^2 and sum_t 2 t."""
    ts = range(1, horizon + 1)
    slope = [sum(2 * t * (t * MU - GOAL) for t in ts), sum(2 * t * SIGMA for t in ts)]
    curvature = [sum(2 * t**2 for t in ts), sum(2 * t for t in ts)]
    return torch.tensor(slope, dtype=torch.float64), torch.tensor(curvature, dtype=torch.float64).diag()


@pytest.mark.parametrize("horizon", [1, 2])
def test_its_derivatives_are_right_on_average_the_second_too(horizon):
    slope, slope_error, hessian, hessian_error = derivatives(policy_loss, horizon)
    true_slope, true_hessian = expected(horizon)
    assert ((slope - true_slope).abs() < 4 * slope_error).all() and (slope_error < 0.1).all()
    assert ((hessian - true_hessian).abs() < 4 * hessian_error).all() and (hessian_error < 0.35).all()


def test_the_familiar_surrogate_has_a_wrong_second_derivative():
    """With one action the loss has the Hessian diag(2, 2); the surrogate's is diag(0, -6), of the wrong sign.

    d^2 log pi / d mu^2 = -1 / sigma^2 is a constant, which advantages with a mean of zero cancel. And
    d^2 log pi / d sigma^2 = (1 - 3 e^2) / sigma^2 with e = (a - mu) / sigma; cov(e^2, R) = -2 sigma^2.
    """
    slope, slope_error, hessian, hessian_error = derivatives(surrogate, 1)
    true_slope, true_hessian = expected(1)
    assert ((slope - true_slope).abs() < 4 * slope_error).all()  # the first is right
    wrong = torch.tensor([0.0, -6.0], dtype=torch.float64)
    assert ((hessian.diag() - wrong).abs() < 4 * hessian_error.diag() + 1e-9).all()
    assert ((hessian - true_hessian).diag().abs() > 20 * hessian_error.diag()).all()


def test_the_baseline_takes_from_the_variance():
    def without(log_probabilities: Tensor, rewards: Tensor) -> Tensor:
        alone = (part.flatten(0, 1)[:, None] for part in (log_probabilities, rewards))  # a walk without others
        return policy_loss(*alone).unflatten(0, rewards.shape[:2]).mean(1)

    slopes, errors = zip(*(derivatives(way, 2, 4000)[:2] for way in (policy_loss, without)), strict=True)
    assert ((slopes[0] - slopes[1]).abs() < 4 * (errors[0] + errors[1])).all()
    assert (errors[0] < 0.9 * errors[1]).all()


def test_log_probabilities_are_those_of_torch():
    x, mean, log_sigma = torch.randn(3, 4, 5, 2, generator=seeded(), dtype=torch.float64)
    theirs = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(gaussian_log_probability(x, mean, log_sigma), theirs)


# ----------------------------------------------------------------------------------------------------------- walking


def test_a_walk_keeps_the_rules(policy):
    navigation = learner(policy, n_walks=7, horizon=9)
    policy.log_sigma.data.fill_(math.log(0.2))  # actions beyond reach as well
    goals = goals_of(navigation)
    walks = navigation.walk(stacked(own_parameters(policy), 3), goals, seeded())
    assert walks.states.shape == walks.actions.shape == (3, 7, 9, 2) and walks.rewards.shape == (3, 7, 9)
    assert (walks.states[:, :, 0] == 0).all() and not walks.actions.requires_grad
    assert (walks.actions.abs() > REACH).any() and (walks.actions.abs() < REACH).any()
    moved = walks.states[:, :, 1:] - walks.states[:, :, :-1]
    torch.testing.assert_close(moved, walks.actions[:, :, :-1].clamp(-0.1, 0.1))
    for task in range(3):
        ends = torch.cat([walks.states[task, :, 1:], (walks.states + walks.actions.clamp(-0.1, 0.1))[task, :, -1:]], 1)
        torch.testing.assert_close(walks.rewards[task], -((ends - goals[task]) ** 2).sum(-1))
    torch.testing.assert_close(walks.returns[1], walks.rewards[1].sum() / 7)


def test_actions_are_drawn_from_the_policy_of_the_task(policy):
    """Noise of mean 0 and of the task's sigma around what the task's network says."""
    navigation = learner(policy, n_walks=3000, horizon=3)
    params = {name: value.detach().clone() for name, value in stacked(own_parameters(policy), 2).items()}
    params["log_sigma"][1] = torch.tensor([-1.0, -2.0])
    params["mean.linears.1.bias"][1] += 0.5
    walks = navigation.walk(params, goals_of(navigation, 2), seeded())
    for task in range(2):
        own = {name: value[task] for name, value in params.items()}
        outputs = functional_call(policy, own, (walks.states[task].flatten(0, 1),))
        noise = (walks.actions[task].flatten(0, 1) - outputs[:, :2]) / own["log_sigma"].exp()
        assert (noise.mean(0).abs() < 4 / math.sqrt(9000)).all()
        assert ((noise.std(0) - 1).abs() < 4 / math.sqrt(2 * 9000)).all()
    assert not torch.allclose(walks.actions[0].mean((0, 1)), walks.actions[1].mean((0, 1)), atol=0.02)


def test_a_policy_says_mean_and_log_sigma():
    torch.manual_seed(0)
    policy = GaussianPolicy((8,), sigma=0.05)
    outputs = policy(1e3 * torch.randn(20, 2))
    assert outputs.shape == (20, 4) and (outputs[:, :2].abs() <= REACH).all() and (outputs[:, :2].abs() > 0.09).any()
    torch.testing.assert_close(outputs[:, 2:].exp(), torch.full((20, 2), 0.05))


def test_the_same_seed_gives_the_same_walks_and_goals(policy):
    navigation = learner(policy)
    params = stacked(own_parameters(policy), 3)
    first, again, other = (navigation.walk(params, goals_of(navigation), seeded(seed)) for seed in (4, 4, 5))
    assert torch.equal(first.actions, again.actions) and torch.equal(first.rewards, again.rewards)
    assert not torch.equal(first.actions, other.actions)
    goals = navigation.goals(500, 3, 7)
    assert torch.equal(goals, navigation.goals(500, 3, 7)) and goals.shape == (500, 2)
    assert not any(torch.equal(goals, navigation.goals(500, *which)) for which in ((3, 8), (4, 7), (7, 3)))
    assert goals.min() >= -0.5 and goals.max() <= 0.5 and goals.max() - goals.min() > 0.97
    assert torch.equal(navigation.loss(None, goals_of(navigation), 9), navigation.loss(None, goals_of(navigation), 9))


# ---------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2])
def test_loss_and_gradient_are_those_of_walking_and_stepping_by_hand(policy, steps, order):
    navigation = learner(policy, inner_lr=0.02, inner_steps=steps, order=order)
    goals, theta = goals_of(navigation), leaves(policy)
    loss = navigation.loss(theta, goals, seed=5)

    generator, phis = seeded(5), [dict(theta) for _ in range(3)]

    def losses() -> list[Tensor]:
        together = {name: torch.stack([phi[name] for phi in phis]) for name in theta}
        walks = navigation.walk(together, goals, generator)
        found = []
        for task, phi in enumerate(phis):
            outputs = functional_call(policy, phi, (walks.states[task].flatten(0, 1),)).unflatten(0, (6, 5))
            log_probability = gaussian_log_probability(walks.actions[task], outputs[..., :2], outputs[..., 2:])
            found.append(policy_loss(log_probability[None], walks.rewards[task][None])[0])
        return found

    for _ in range(steps):
        for task, one in enumerate(losses()):
            slopes = torch.autograd.grad(one, list(phis[task].values()), create_graph=order == 2, retain_graph=True)
            named = zip(phis[task].items(), slopes, strict=True)
            phis[task] = {name: value - 0.02 * slope for (name, value), slope in named}
    by_hand = torch.stack(losses()).mean()
    torch.testing.assert_close(loss, by_hand)
    assert_close(gradient(loss, theta), gradient(by_hand, theta))


def test_the_second_order_matters(policy):
    goals, theta = goals_of(learner(policy)), leaves(policy)
    slopes = [
        gradient(learner(policy, inner_lr=0.02, order=order).loss(theta, goals, 5), theta)["log_sigma"]
        for order in (1, 2)
    ]
    assert not torch.allclose(*slopes, rtol=0.1)


def test_adapting_brings_the_point_closer_to_its_goal():
    torch.manual_seed(0)
    policy = GaussianPolicy((16,))
    navigation = Navigation(policy, inner_lr=0.02, n_walks=40, horizon=10)
    goals = navigation.goals(30, 0)
    with torch.no_grad():
        path = navigation.adapt(None, goals, seeded(), steps=5)
        returns = [navigation.walk(params, goals, seeded(1)).returns for params in (path.params[0], path.end)]
    assert returns[1].mean() > 0.5 * returns[0].mean()  # returns are negative
    assert not any(value.requires_grad for value in path.end.values())


def test_a_task_that_diverges_is_named(policy):
    navigation = learner(policy)
    goals = goals_of(navigation)
    goals[2, 0] = math.nan
    with pytest.raises(FloatingPointError, match="task 2 of the batch diverges: its loss at step 0 is nan"):
        navigation.loss(None, goals, 0)
    with pytest.raises(FloatingPointError, match=r"its loss at step 1 is (inf|nan); .* inner rate of 1e\+300"):
        replace(navigation, inner_lr=1e300).loss(None, goals_of(navigation), 0)


def test_what_does_not_make_sense_is_refused(policy):
    navigation = learner(policy)
    with pytest.raises(ValueError, match="order must be 1 or 2; got 0"):
        replace(navigation, order=0).loss(None, goals_of(navigation), 0)
    with pytest.raises(ValueError, match="inner steps must be a whole number of at least 0; got -1"):
        replace(navigation, inner_steps=-1).loss(None, goals_of(navigation), 0)
    with pytest.raises(ValueError, match=r"no inner rate for mean\.linears\.0\.weight, "):
        replace(navigation, inner_lr={"log_sigma": 0.1}).loss(None, goals_of(navigation), 0)
