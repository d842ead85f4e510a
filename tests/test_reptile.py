"""Reptile: the closed form on linear regression, torch's Adam, and the two terms that it shares with MAML."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode
from test_inner_loop import (
    N_WAY,
    Smooth,
    after,
    assert_close,
    built,
    flat,
    gradient,
    joined,
    leaves,
    linear,
    lines,
    one_by_one,
    quadratic,
)
from torch import Tensor
from torch.func import functional_call

from utils.data.episodes import Episode
from utils.meta.maml import MAML
from utils.meta.reptile import Reptile, mini_batches


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode(N_WAY, 2, 2, 3)


# --------------------------------------------------------------------------------------------------- the closed form


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
def test_on_linear_regression_the_step_is_the_closed_form(steps, vectorised):
    """w_0 - w_K = (I - (I - a H)^K) (w_0 - w*), mean over the tasks."""
    episode = lines()
    options = {"optimiser": "sgd", "criterion": F.mse_loss, "vectorised": vectorised}
    learner = Reptile(linear(), 0.15, steps, **options)
    params = leaves(learner.network)
    loss = learner.loss(params, episode)
    slope, w = joined(gradient(loss, params)), joined(params).detach()
    ways = []
    for task in range(episode.n_tasks):
        h, c = quadratic(episode.support_x[task], episode.support_y[task])
        one = torch.eye(len(h), dtype=h.dtype)
        ways.append((one - torch.linalg.matrix_power(one - 0.15 * h, steps)) @ (w - torch.linalg.solve(h, c)))
        torch.testing.assert_close(ways[-1], w - after(h, c, w, 0.15, steps))
    expected = torch.stack(ways).mean(0)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(loss.detach(), expected.norm())


def test_one_step_is_gradient_descent_on_the_joint_loss(episode):
    network, params = built("strided"), leaves(built("strided"))
    found = gradient(Reptile(network, 0.3, 1, optimiser="sgd").loss(params, episode), params)
    joint = [
        F.cross_entropy(functional_call(network, params, (x, "batch")), y)
        for x, y in zip(episode.support_x, episode.support_y, strict=True)
    ]
    expected = gradient(0.3 * torch.stack(joint).mean(), params)
    assert_close(found, expected)


def test_a_step_of_gradient_descent_on_the_loss_is_reptiles(episode):
    """theta <- theta + epsilon (mean phi - theta)."""
    network, params = built("normalised mlp"), leaves(built("normalised mlp"))
    learner = Reptile(network, 0.01, 4, inner_batch=2)
    phi = learner.adapt(params, episode.support_x, episode.support_y, 4, 2, seed=7)
    assert not any(value.requires_grad for value in phi.values())
    loss = learner.loss(params, episode, seed=7)
    before = {name: value.detach().clone() for name, value in params.items()}
    loss.backward()
    torch.optim.SGD(params.values(), 0.25).step()
    moved = {name: params[name].detach() - before[name] for name in params}
    assert_close(moved, {name: 0.25 * (phi[name].mean(0) - before[name]) for name in params})


# -------------------------------------------------------------------------------------------------- two steps of three


def taylor(rate: float, seed: int) -> dict[str, Tensor]:
    """The three directions on the two halves of one task, mean over both orders, and the terms that they are made of.

    With A and B the halves, g and H their gradients and Hessians at theta: AvgGrad = (g_A + g_B) / 2 and
    AvgGradInner = (H_B g_A + H_A g_B) / 2 = grad <g_A, g_B> / 2 (Nichol et al. 2018, section 5.1).
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(2, 1, size, generator=generator, dtype=torch.float64) for size in (2, 1))
    network = Smooth(seed)
    params = leaves(network)
    both = lines(2, 1, 1, 2)  # for its type; task 0 learns from A and is tested with B, task 1 the other way round
    both = replace(both, support_x=x, support_y=y, query_x=x.flip(0), query_y=y.flip(0))
    found = {
        name: flat(gradient(MAML(network, rate, 1, order, criterion=F.mse_loss).loss(params, both), params))
        for name, order in (("MAML", 2), ("FOMAML", 1))
    }
    # Reptile shuffles: of two tasks with the images A, B, a seed for which they come as A, B and as B, A.
    turn = next(s for s in range(99) if mini_batches(2, 1, 2, 2, s)[0][:, 0].tolist() == [0, 1])
    mixed = replace(both, support_x=x.movedim(1, 0).expand(2, 2, 2), support_y=y.movedim(1, 0).expand(2, 2, 1))
    learner = Reptile(network, rate, 2, 1, "sgd", criterion=F.mse_loss)
    found["Reptile"] = flat(gradient(learner.loss(params, mixed, turn), params)) / rate

    values = list(params.values())
    slopes = [
        torch.autograd.grad(F.mse_loss(functional_call(network, params, (x[i],)), y[i]), values, create_graph=True)
        for i in range(2)
    ]
    agreement = sum((a * b).sum() for a, b in zip(*slopes, strict=True))
    found["AvgGrad"] = sum(torch.cat([value.flatten() for value in slope]) for slope in slopes).detach() / 2
    found["AvgGradInner"] = torch.cat([value.flatten() for value in torch.autograd.grad(agreement, values)]) / 2
    return found


@pytest.mark.parametrize(("method", "one", "two"), [("MAML", 1, -2), ("FOMAML", 1, -1), ("Reptile", 2, -1)])
def test_the_directions_are_sums_of_the_same_two_terms(method, one, two):
    """MAML = AvgGrad - 2 a AvgGradInner, FOMAML = AvgGrad - a AvgGradInner, Reptile = 2 AvgGrad - a AvgGradInner."""
    rests = []
    for rate in (2e-3, 1e-3):
        found = taylor(rate, 3)
        rests.append(found[method] - one * found["AvgGrad"] - two * rate * found["AvgGradInner"])
        assert rests[-1].norm() < 0.05 * rate * found["AvgGradInner"].norm()
    assert float(rests[0].norm() / rests[1].norm()) == pytest.approx(4, rel=0.03)  # of second order in the rate


# --------------------------------------------------------------------------------------------------------- the steps


@pytest.mark.parametrize("vectorised", [True, False])
def test_adam_is_that_of_torch_without_momentum(vectorised, episode):
    network = built("mlp")
    learner = Reptile(network, 0.01, vectorised=vectorised)
    for steps in range(1, 6):
        phi = learner.adapt(None, episode.support_x, episode.support_y, steps, 2, seed=3)
        for task in range(3):
            theirs = leaves(network)
            optimiser = torch.optim.Adam(theirs.values(), 0.01, betas=(0.0, 0.999))
            for some in mini_batches(6, 2, steps, 3, 3):
                optimiser.zero_grad()
                x, y = episode.support_x[task, some[task]], episode.support_y[task, some[task]]
                F.cross_entropy(functional_call(network, theirs, (x, "batch")), y).backward()
                optimiser.step()
            away = {name: theirs[name].detach() - value.detach() for name, value in network.named_parameters()}
            found = {name: phi[name][task] - value.detach() for name, value in network.named_parameters()}
            assert_close(found, away, rtol=1e-7)


def test_mini_batches_visit_every_image_equally_often():
    for n, batch, steps in ((6, 2, 9), (6, 4, 9), (5, 3, 10), (7, 1, 14)):
        drawn = mini_batches(n, batch, steps, 4, seed=2)
        assert len(drawn) == steps and all(some.shape == (4, batch) for some in drawn)
        for task in range(4):
            visits = torch.bincount(torch.cat([some[task] for some in drawn]), minlength=n)
            assert visits.tolist() == [steps * batch // n] * n
            assert all(len(set(some[task].tolist())) == batch for some in drawn)


def test_mini_batches_depend_on_the_seed_and_differ_between_tasks():
    first, again, other = (torch.cat(mini_batches(9, 3, 3, 4, seed), 1) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) == 4


def test_without_a_size_a_batch_is_the_whole_support_in_order():
    for batch in (None, 6, 8):
        drawn = mini_batches(6, batch, 3, 2, 0)
        assert [some.tolist() for some in drawn] == [[list(range(6))] * 2] * 3


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_all_tasks_at_once_are_the_loop_over_tasks(optimiser, episode):
    network, slopes = built("pooled"), []
    for vectorised in (True, False):
        params = leaves(network)
        learner = Reptile(network, 0.01, 3, 4, optimiser, vectorised=vectorised)
        slopes.append(gradient(learner.loss(params, episode), params))
    assert_close(*slopes, rtol=1e-7)


def test_training_does_not_see_the_queries_and_testing_does_not_see_their_labels(episode):
    learner = Reptile(built("strided"), 0.01, 3, test_steps=4)
    other = replace(episode, query_x=1 - episode.query_x, query_y=(episode.query_y + 1) % N_WAY)
    assert torch.equal(learner.loss(None, other), learner.loss(None, episode))
    lied = replace(episode, query_y=other.query_y)
    assert torch.equal(learner.logits(None, lied), learner.logits(None, episode))
    lied = replace(episode, support_y=(episode.support_y + 1) % N_WAY)
    assert not torch.allclose(learner.loss(None, lied), learner.loss(None, episode))


def test_testing_has_a_number_of_steps_of_its_own(episode):
    network = built("strided")
    learner = Reptile(network, 0.01, 3, test_steps=5, test_batch=3)
    phi = learner.adapt(None, episode.support_x, episode.support_y, 5, 3, seed=0)
    each = [{name: value[task] for name, value in phi.items()} for task in range(3)]
    expected = [functional_call(network, own, (x, "batch")) for own, x in zip(each, episode.query_x, strict=True)]
    found = learner.logits(None, episode)
    torch.testing.assert_close(found, torch.stack(expected))
    assert not found.requires_grad and not torch.allclose(learner.logits(None, episode, 4), found)
    plain = torch.stack([network(x, "batch") for x in episode.query_x])
    torch.testing.assert_close(learner.logits(None, episode, 0), plain)


def test_given_parameters_are_used_instead_of_the_networks_own(episode):
    learner = Reptile(built("strided"), 0.01, 3)
    params = leaves(learner.network)
    assert torch.equal(learner.loss(params, episode), learner.loss(None, episode))
    other = {name: 1.3 * value.detach() for name, value in params.items()}
    assert not torch.allclose(learner.loss(other, episode), learner.loss(None, episode))
    assert not torch.allclose(learner.logits(other, episode), learner.logits(None, episode))
    assert all(torch.equal(value, params[name]) for name, value in learner.network.named_parameters())


# -------------------------------------------------------------------------------------------- batch-norm statistics


@pytest.mark.parametrize("statistics", ["support", "running", "batch"])
@pytest.mark.parametrize("body", ["normalised mlp", "pooled"])
def test_only_with_statistics_of_the_batch_queries_influence_each_other(body, statistics, episode):
    learner = Reptile(built(body), 0.01, test_steps=3, statistics=statistics)
    alone, together = one_by_one(lambda e: learner.logits(None, e), episode), learner.logits(None, episode)
    if statistics == "batch":
        assert ((alone - together).abs().amax(dim=(1, 2)) > 1e-3).all()
    else:
        torch.testing.assert_close(alone, together)


# -------------------------------------------------------------------------------------------------- what is refused


def test_a_task_that_diverges_is_named(episode):
    some = lines(n_tasks=3)
    some.support_x[1] *= 1e3
    with pytest.raises(FloatingPointError, match=r"task 1 of .* at step \d+ is (inf|nan); .* the inner rate of 0\.1,"):
        Reptile(linear(), 0.1, 60, optimiser="sgd", criterion=F.mse_loss).loss(None, some)
    spoiled = episode.support_x.clone()
    spoiled[2, 0, 0, 3, 3] = math.nan
    spoiled = replace(episode, support_x=spoiled)
    for call in (Reptile(built("strided")).loss, Reptile(built("strided"), test_steps=3).logits):
        with pytest.raises(FloatingPointError, match="task 2 of the batch diverges: its loss at step 0 is nan"):
            call(None, spoiled)


def test_what_does_not_make_sense_is_refused(episode):
    network = built("mlp")
    with pytest.raises(ValueError, match=r"optimiser must be one of \('sgd', 'adam'\); got 'rmsprop'"):
        Reptile(network, optimiser="rmsprop")
    with pytest.raises(ValueError, match=r"statistics must be one of \('batch', 'support', 'running'\); got 'query'"):
        Reptile(network, statistics="query")
    for rate in (0, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"the inner rate must be positive; got {rate}"):
            Reptile(network, rate)
    with pytest.raises(ValueError, match="inner steps must be a whole number of at least 0; got -1"):
        Reptile(network, inner_steps=-1).loss(None, episode)
    with pytest.raises(ValueError, match="a mini-batch has at least 1 image; got 0"):
        Reptile(network, inner_batch=0).loss(None, episode)
