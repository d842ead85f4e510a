"""Implicit MAML: the closed form on ridge problems, a dense Hessian, finite differences, and memory without growth."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode
from test_inner_loop import (
    N_WAY,
    Smooth,
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

from utils.backbones import MLP, STATISTICS
from utils.bench.memory import peak_bytes
from utils.data.episodes import Episode
from utils.fewshot.classifier import ClassifierNetwork
from utils.meta.imaml import IMAML
from utils.meta.maml import MAML


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode(N_WAY, 2, 2, 3)


def line_learner(strength: float = 0.7, **options) -> IMAML:
    """Whose inner loop goes on until it has converged."""
    return IMAML(linear(), 0.1, 250, strength, cg_steps=4, criterion=F.mse_loss, **options)


def ridge_loss(episode, w: Tensor, strength: float) -> Tensor:
    """Mean over the tasks of L_q(w*), w* = (H + lambda I)^-1 (c + lambda w), as a function of w."""
    losses = []
    for task in range(episode.n_tasks):
        h, c = quadratic(episode.support_x[task], episode.support_y[task])
        best = torch.linalg.solve(h + strength * torch.eye(len(h), dtype=h.dtype), c + strength * w)
        x, y = episode.query_x[task], episode.query_y[task][:, 0]
        losses.append((x @ best[:-1] + best[-1] - y).square().mean())
    return torch.stack(losses).mean()


# --------------------------------------------------------------------------------------------------- the closed form


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("strength", [0.7, 5.0])
def test_on_ridge_problems_the_gradient_is_that_through_the_solution(strength, vectorised):
    episode, params = lines(), leaves(linear())
    loss = line_learner(strength, vectorised=vectorised).loss(params, episode)
    w = joined(params).detach().requires_grad_()
    expected = ridge_loss(episode, w, strength)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    (wanted,) = torch.autograd.grad(expected, w)
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(joined(gradient(loss, params)), wanted, rtol=1e-6, atol=1e-9)


def test_it_is_the_query_gradient_times_the_inverse():
    """(I + H / lambda)^-1 grad L(phi*, Q) of every task."""
    episode, learner = lines(), line_learner()
    phi = learner.adapt(None, episode.support_x, episode.support_y)
    losses, slopes = learner.implicit_gradient(phi, episode)
    assert losses.shape == (2,) and not losses.requires_grad
    for task in range(2):
        h, c = quadratic(episode.support_x[task], episode.support_y[task])
        query_h, query_c = quadratic(episode.query_x[task], episode.query_y[task])
        w, one = joined(phi)[task], torch.eye(len(h), dtype=h.dtype)
        start = joined(dict(learner.network.named_parameters())).detach()
        torch.testing.assert_close(w, torch.linalg.solve(h + 0.7 * one, c + 0.7 * start))
        expected = torch.linalg.solve(one + h / 0.7, query_h @ w - query_c)
        torch.testing.assert_close(joined(slopes)[task], expected, rtol=1e-9, atol=1e-12)


def test_the_error_falls_with_the_steps_of_conjugate_gradient_and_ends_with_the_dimension():
    episode, errors = lines(d=7, n_support=30), []
    learner = IMAML(linear(7), 0.2, 250, 0.1, criterion=F.mse_loss)
    phi = learner.adapt(None, episode.support_x, episode.support_y)
    w = joined(leaves(learner.network)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(ridge_loss(episode, w, 0.1), w)
    for cg_steps in (1, 2, 4, 6, 8):
        _, slopes = replace(learner, cg_steps=cg_steps).implicit_gradient(phi, episode)
        errors.append(float((joined(slopes).mean(0) - expected).norm() / expected.norm()))
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[0] > 0.05 and errors[-2] > 1e-6 and errors[-1] < 1e-9


def test_of_a_strong_pull_only_the_plain_query_gradient_remains():
    episode, params = lines(), leaves(linear())
    learner = IMAML(linear(), 1e-10, 3, 1e9, criterion=F.mse_loss)
    found = gradient(learner.loss(params, episode), params)
    outputs = functional_call(learner.network, params, (episode.query_x.flatten(0, 1),))
    assert_close(found, gradient(F.mse_loss(outputs, episode.query_y.flatten(0, 1)), params), rtol=1e-7)


# ------------------------------------------------------------------------------------------------- other networks


def small_network() -> ClassifierNetwork:
    torch.manual_seed(2)
    network = ClassifierNetwork(MLP(3, (4,), normalise=True), 1).double()
    network(torch.randn(50, 3).double())
    return network.eval()


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_system_is_that_of_the_dense_hessian(statistics, vectorised, damping):
    episode, network = lines(), small_network()
    params = leaves(network)
    sizes = [value.numel() for value in params.values()]
    learner = IMAML(network, 0.1, 5, 20.0, sum(sizes), damping, statistics, F.mse_loss, vectorised)
    phi = learner.adapt(params, episode.support_x, episode.support_y)
    _, found = learner.implicit_gradient(phi, episode)
    for task in range(2):

        def outputs(w: Tensor, x: Tensor, kind: str, n_support: int | None = None) -> Tensor:
            parts = zip(params, w.split(sizes), strict=True)
            own = {name: part.view_as(params[name]) for name, part in parts}
            return functional_call(network, own, (x, kind, n_support))

        support_x, support_y = episode.support_x[task], episode.support_y[task]
        query_x, query_y = episode.query_x[task], episode.query_y[task]

        def on_support(w: Tensor) -> Tensor:
            kind = "running" if statistics == "running" else "batch"
            return F.mse_loss(outputs(w, support_x, kind), support_y)  # noqa: B023

        def on_queries(w: Tensor) -> Tensor:
            both, s = torch.cat([support_x, query_x]), len(support_x)  # noqa: B023
            if statistics == "support":
                return F.mse_loss(outputs(w, both, "support", s)[s:], query_y)  # noqa: B023
            return F.mse_loss(outputs(w, query_x, statistics), query_y)  # noqa: B023

        w = flat({name: value[task] for name, value in phi.items()}).detach().requires_grad_()
        hessian = torch.autograd.functional.hessian(on_support, w)
        (slope,) = torch.autograd.grad(on_queries(w), w)
        expected = torch.linalg.solve((1 + damping) * torch.eye(len(w)).double() + hessian / 20, slope)
        assert (expected / (1 + damping) - slope).norm() > 0.01 * slope.norm()  # the Hessian matters
        assert_close({"": flat({name: value[task] for name, value in found.items()})}, {"": expected}, rtol=1e-8)


def test_on_a_curved_problem_the_gradient_is_that_of_finite_differences():
    """Solved to the end for parameters on both sides."""
    episode, network = lines(d=2), Smooth()
    learner = IMAML(network, 0.2, 300, 1.0, 17, criterion=F.mse_loss)
    params = leaves(network)
    slopes = gradient(learner.loss(params, episode), params)
    direction = {name: value / flat(slopes).norm() for name, value in slopes.items()}
    with torch.no_grad():
        there, back = (
            learner.loss({name: value + size * direction[name] for name, value in params.items()}, episode)
            for size in (1e-5, -1e-5)
        )
    assert float(flat(slopes) @ flat(direction)) == pytest.approx(float(there - back) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("body", ["normalised mlp", "strided"])
def test_all_tasks_at_once_are_the_loop_over_tasks_and_each_by_itself(body, episode):
    network, losses, slopes = built(body), [], []
    for vectorised in (True, False):
        learner, params = IMAML(network, 0.1, 4, vectorised=vectorised), leaves(network)
        losses.append(learner.loss(params, episode))
        slopes.append(gradient(losses[-1], params))
    torch.testing.assert_close(*losses)
    assert_close(*slopes)
    alone = [gradient(learner.loss(params, episode.task(task)), params) for task in range(3)]
    assert_close({name: sum(one[name] for one in alone) / 3 for name in params}, slopes[1])


def test_the_inner_loop_is_pulled_back_to_where_it_began():
    """One step of L + lambda / 2 |phi - theta|^2 is one of L; from the second on, the pull is felt."""
    episode, network = lines(), linear()
    learner = IMAML(network, 0.1, regularisation=0.7, criterion=F.mse_loss)
    w = joined(dict(network.named_parameters())).detach()
    for steps in (1, 2, 3):
        phi = learner.adapt(None, episode.support_x, episode.support_y, steps)
        for task in range(2):
            h, c = quadratic(episode.support_x[task], episode.support_y[task])
            here = w
            for _ in range(steps):
                here = here - 0.1 * (h @ here - c + 0.7 * (here - w))
            torch.testing.assert_close(joined(phi)[task], here)


# -------------------------------------------------------------------------------------------------------------- memory


def test_memory_does_not_grow_with_the_number_of_inner_steps(episode):
    network = built("mlp")
    params = leaves(network)

    def peak(learner) -> int:
        return peak_bytes(lambda: gradient(learner.loss(params, episode), params))

    few, many = (peak(IMAML(network, 0.1, steps, cg_steps=2)) for steps in (1, 64))
    assert many < 1.02 * few
    unrolled = [peak(MAML(network, 0.1, steps)) for steps in (1, 64)]
    assert unrolled[1] > 3 * unrolled[0]
    assert peak(MAML(network, 0.1, 64, order=1)) < 1.1 * peak(MAML(network, 0.1, 4, order=1))


@pytest.mark.parametrize("graph", [True, False])
def test_nothing_of_the_inner_loop_is_kept(graph, episode):
    network = built("strided")
    learner = IMAML(network, 0.1, 6)
    with torch.set_grad_enabled(graph):
        phi = learner.adapt(leaves(network), episode.support_x, episode.support_y)
    assert not any(value.requires_grad or value.grad_fn for value in phi.values())


def test_the_loss_alone_needs_no_graph(episode):
    learner = IMAML(built("strided"), 0.1, 3)
    with torch.no_grad():
        loss, logits = learner.loss(None, episode), learner.logits(None, episode)
    assert torch.equal(loss, learner.loss(None, episode).detach()) and not loss.requires_grad
    torch.testing.assert_close(F.cross_entropy(logits.flatten(0, 1), episode.query_y.flatten()), loss)
    assert not torch.allclose(learner.logits(None, episode, 1), logits)


# -------------------------------------------------------------------------------------------- batch-norm statistics


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("body", ["normalised mlp", "pooled"])
def test_only_with_statistics_of_the_batch_queries_influence_each_other(body, statistics, episode):
    learner = IMAML(built(body), 0.1, 3, statistics=statistics)
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
        IMAML(linear(), 0.1, 60, criterion=F.mse_loss).loss(None, some)
    for part, step in (("support_x", 0), ("query_x", 4)):
        spoiled = getattr(episode, part).clone()
        spoiled[2, 0, 0, 3, 3] = math.nan
        with pytest.raises(FloatingPointError, match=f"task 2 of the batch diverges: its loss at step {step} is nan"):
            IMAML(built("strided"), 0.1, 4).loss(None, replace(episode, **{part: spoiled}))


def test_what_does_not_make_sense_is_refused(episode):
    network = built("mlp")
    for strength in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"regularisation must be positive; got {strength}"):
            IMAML(network, regularisation=strength)
    for steps in (0, -1):
        with pytest.raises(ValueError, match=f"conjugate-gradient steps must be at least 1; got {steps}"):
            IMAML(network, cg_steps=steps)
    with pytest.raises(ValueError, match=r"statistics must be one of \('batch', 'support', 'running'\); got 'query'"):
        IMAML(network, statistics="query")
    with pytest.raises(ValueError, match="inner steps must be a whole number of at least 0; got -1"):
        IMAML(network, inner_steps=-1).loss(None, episode)
