"""MAML: the closed form on linear regression, finite differences, learn2learn, and what must not depend on what."""

from __future__ import annotations

import copy
import importlib.util
import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode
from test_inner_loop import (
    BODIES,
    N_WAY,
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
from torch import Tensor, nn
from torch.func import functional_call

from utils.backbones import STATISTICS
from utils.bench.peers import learn2learn
from utils.data.episodes import Episode
from utils.meta.maml import MAML
from utils.meta.rates import LearnedRates
from utils.training import Checkpoint, fit

needs_learn2learn = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None, reason="learn2learn is not installed (extra: peers)"
)


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode(N_WAY, 2, 2, 3)


def line_learner(rate: float, steps: int, **options) -> MAML:
    return MAML(linear(), rate, steps, criterion=F.mse_loss, **options)


# --------------------------------------------------------------------------------------------------- the closed form


def closed_form(episode, w: Tensor, rate: float, steps: int, order: int) -> Tensor:
    """(I - a H)^K grad L_q(w_K), mean over the tasks; of first order, grad L_q(w_K) alone."""
    slopes = []
    for task in range(episode.n_tasks):
        h, c = quadratic(episode.support_x[task], episode.support_y[task])
        query_h, query_c = quadratic(episode.query_x[task], episode.query_y[task])
        slope = query_h @ after(h, c, w, rate, steps) - query_c
        if order == 2:
            slope = torch.linalg.matrix_power(torch.eye(len(h), dtype=h.dtype) - rate * h, steps) @ slope
        slopes.append(slope)
    return torch.stack(slopes).mean(0)


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_on_linear_regression_the_meta_gradient_is_the_closed_form(steps, order, vectorised):
    episode, learner = lines(), line_learner(0.15, steps, order=order, vectorised=vectorised)
    params = leaves(learner.network)
    slope = joined(gradient(learner.loss(params, episode), params))
    expected = closed_form(episode, joined(params).detach(), 0.15, steps, order)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_and_second_order_come_together_as_the_rate_goes_to_zero(steps):
    episode, differences = lines(), []
    for rate in (1e-4, 5e-5):
        learner = line_learner(rate, steps)
        params = leaves(learner.network)
        slopes = [joined(gradient(learner.loss(params, episode, order), params)) for order in (1, 2)]
        differences.append(float((slopes[0] - slopes[1]).norm()))
    assert 1e-5 < differences[0] < 1e-2
    assert differences[0] / differences[1] == pytest.approx(2, rel=0.01)  # in proportion to the rate


def test_the_inner_loop_ends_where_gradient_descent_does():
    episode, learner = lines(), line_learner(0.15, 3)
    path = learner.adapt(None, episode.support_x, episode.support_y)
    longer = learner.adapt(None, episode.support_x, episode.support_y, steps=5)
    w = joined({name: value.detach() for name, value in learner.network.named_parameters()})
    for task in range(episode.n_tasks):
        h, c = quadratic(episode.support_x[task], episode.support_y[task])
        torch.testing.assert_close(joined(path.end)[task], after(h, c, w, 0.15, 3))
        torch.testing.assert_close(joined(longer.end)[task], after(h, c, w, 0.15, 5))


def test_adapting_helps_with_the_task():
    episode, learner = lines(n_support=30, n_query=30), line_learner(0.1, 30)
    with torch.no_grad():
        before, later = (learner.logits(None, episode, steps) for steps in (0, 30))
    errors = [F.mse_loss(outputs, episode.query_y) for outputs in (before, later)]
    assert errors[1] < 0.1 * errors[0]


# ------------------------------------------------------------------------------------------------ finite differences


def along(loss, params: dict[str, Tensor], direction: dict[str, Tensor], size: float = 1e-7) -> float:
    """The derivative of ``loss(params)`` along ``direction`` by central differences.

    They are small, because at a corner of a ReLU the inner gradient, and with it the loss after adapting, has a step.
    """
    with torch.no_grad():
        there, back = (
            loss({name: value + sign * direction[name] for name, value in params.items()}) for sign in (size, -size)
        )
    return float(there - back) / (2 * size)


def random_direction(params: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    drawn = {name: torch.randn(value.shape, generator=generator).double() for name, value in params.items()}
    return {name: value / flat(drawn).norm() for name, value in drawn.items()}


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("statistics", ["batch", "support"])
@pytest.mark.parametrize("body", BODIES)
def test_the_gradient_is_that_of_finite_differences(body, statistics, vectorised, episode):
    learner = MAML(built(body), 0.1, 2, statistics=statistics, vectorised=vectorised)
    params = leaves(learner.network)
    slopes = {order: gradient(learner.loss(params, episode, order), params) for order in (1, 2)}
    # Along the gradient itself a wrong one shows best; along another direction, a missing part of it does.
    steepest = {name: value / flat(slopes[2]).norm() for name, value in slopes[2].items()}
    for direction in (steepest, random_direction(params)):
        expected = along(lambda some: learner.loss(some, episode), params, direction)
        assert float(flat(slopes[2]) @ flat(direction)) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    by_first = float(flat(slopes[1]) @ flat(steepest))
    assert abs(by_first - float(flat(slopes[2]).norm())) > 1e-3  # the second order matters here


def test_gradients_inside_vmap_are_wrong_with_the_batch_norm_of_pytorch(episode):
    """Why ours are outside (functorch issue 534). Skips where PyTorch has become right."""
    torch.manual_seed(0)
    theta = {"first": torch.randn(256, 5) / 16, "gamma": 0.5 + torch.rand(5), "second": torch.randn(5, N_WAY)}
    theta = {name: value.double().requires_grad_() for name, value in theta.items()}

    def loss_of(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        x = F.batch_norm(x.flatten(1) @ params["first"], None, None, params["gamma"], training=True)
        return F.cross_entropy(torch.tanh(x) @ params["second"], y)

    def task_loss(params, support_x, support_y, query_x, query_y):
        slopes = torch.func.grad(loss_of)(params, support_x, support_y)
        return loss_of({name: value - 0.5 * slopes[name] for name, value in params.items()}, query_x, query_y)

    data = (episode.support_x, episode.support_y, episode.query_x, episode.query_y)

    def by_loop(params):
        return torch.stack([task_loss(params, *one) for one in zip(*data, strict=True)]).mean()

    def by_vmap(params):
        return torch.vmap(task_loss, in_dims=(None, 0, 0, 0, 0))(params, *data).mean()

    direction = random_direction(theta)
    expected = along(by_loop, theta, direction)
    found = {way: float(flat(gradient(way(theta), theta)) @ flat(direction)) for way in (by_loop, by_vmap)}
    torch.testing.assert_close(by_vmap(theta), by_loop(theta))
    assert found[by_loop] == pytest.approx(expected, rel=1e-6)
    if found[by_vmap] == pytest.approx(expected, rel=1e-6):
        pytest.skip(f"PyTorch {torch.__version__} differentiates batch_norm twice inside vmap as it should")
    assert abs(found[by_vmap] / expected - 1) > 1e-3


# ------------------------------------------------------------------------------------- all at once, and one by one


@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("body", BODIES)
def test_all_tasks_at_once_are_the_loop_over_tasks(body, order, n_tasks):
    episode, network = noise_episode(N_WAY, 2, 2, n_tasks), built(body)
    slopes, losses = [], []
    for vectorised in (True, False):
        learner, params = MAML(network, 0.3, 2, order, vectorised=vectorised), leaves(network)
        losses.append(learner.task_losses(params, episode))
        slopes.append(gradient(losses[-1].mean(), params))
    assert losses[0].shape == (n_tasks,)
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    assert_close(*slopes, rtol=1e-11)


@pytest.mark.parametrize("vectorised", [True, False])
def test_the_loss_of_a_task_depends_on_its_own_data_alone(episode, vectorised):
    learner = MAML(built("pooled"), 0.3, 2, vectorised=vectorised)
    x = {name: getattr(episode, name).clone().requires_grad_() for name in ("support_x", "query_x")}
    losses = learner.task_losses(None, replace(episode, **x))
    torch.testing.assert_close(learner.loss(None, episode), losses.mean())
    for task in range(3):
        torch.testing.assert_close(learner.loss(None, episode.task(task)), losses[task], rtol=1e-12, atol=0)
        for slope in gradient(losses[task], x).values():
            assert [bool((slope[other] != 0).any()) for other in range(3)] == [other == task for other in range(3)]


def test_the_order_of_the_tasks_does_not_matter(episode):
    learner, order = MAML(built("strided"), 0.3, 2), torch.tensor([2, 0, 1])
    names = ("support_x", "support_y", "query_x", "query_y")
    shuffled = replace(episode, **{name: getattr(episode, name)[order] for name in names})
    torch.testing.assert_close(learner.task_losses(None, shuffled), learner.task_losses(None, episode)[order])


def test_given_parameters_are_used_instead_of_the_networks_own(episode):
    learner = MAML(built("strided"), 0.3, 2)
    own, params = learner.loss(None, episode), leaves(learner.network)
    assert torch.equal(learner.loss(params, episode), own)
    other = {name: 1.3 * value.detach() for name, value in params.items()}
    assert not torch.allclose(learner.loss(other, episode), own)
    assert all(torch.equal(value, params[name]) for name, value in learner.network.named_parameters())


def test_query_labels_reach_the_loss_and_not_the_predictions(episode):
    learner = MAML(built("mlp"), 0.3, 2)
    lied = replace(episode, query_y=(episode.query_y + 1) % N_WAY)
    assert torch.equal(learner.logits(None, lied), learner.logits(None, episode))
    assert not torch.allclose(learner.loss(None, lied), learner.loss(None, episode))
    lied = replace(episode, support_y=(episode.support_y + 1) % N_WAY)
    assert not torch.allclose(learner.logits(None, lied), learner.logits(None, episode))


def test_predictions_need_no_graph_and_are_the_same_without(episode):
    learner = MAML(built("strided"), 0.3, 2)
    with torch.no_grad():
        logits = learner.logits(None, episode)
    assert not logits.requires_grad and logits.shape == (3, N_WAY * 2, N_WAY)
    assert torch.equal(logits, learner.logits(None, episode))


# ------------------------------------------------------------------------------------------------------ learn2learn


def theirs(wrapped: nn.Module, episode: Episode, steps: int) -> Tensor:
    """The meta-loss as in learn2learn's examples; in training mode, norms use each pass's own statistics."""
    losses = []
    for task in range(episode.n_tasks):
        learner = wrapped.clone()
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(episode.support_x[task]), episode.support_y[task]))
        losses.append(F.cross_entropy(learner(episode.query_x[task]), episode.query_y[task]))
    return torch.stack(losses).mean()


@needs_learn2learn
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("body", ["mlp", "strided"])
def test_the_meta_gradient_is_that_of_learn2learn(body, order, steps, episode):
    network = built(body)
    other = learn2learn().algorithms.MAML(copy.deepcopy(network).train(), 0.3, first_order=order == 1)
    expected = theirs(other, episode, steps)
    params = leaves(network)
    loss = MAML(network, 0.3, steps, order).loss(params, episode)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_close(gradient(loss, params), gradient(expected, dict(other.module.named_parameters())))


@needs_learn2learn
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("body", ["mlp", "strided"])
def test_anil_is_that_of_learn2learn(body, steps, episode):
    """MAML around the head alone. (Their example embeds support and queries in one pass, which shares statistics.)"""
    network, params = built(body), leaves(built(body))
    whole = copy.deepcopy(network).train()
    head, losses = learn2learn().algorithms.MAML(whole.head, 0.5), []
    for task in range(episode.n_tasks):
        learner, features = head.clone(), whole.embedding(episode.support_x[task])
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(features), episode.support_y[task]))
        losses.append(F.cross_entropy(learner(whole.embedding(episode.query_x[task])), episode.query_y[task]))
    expected = torch.stack(losses).mean()
    loss = MAML(network, 0.5, steps, adapted=("head",)).loss(params, episode)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_close(gradient(loss, params), gradient(expected, dict(whole.named_parameters())))


@needs_learn2learn
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("body", ["mlp", "strided"])
def test_meta_sgd_and_its_rates_are_those_of_learn2learn(body, order, steps, episode):
    network = built(body)
    rates = LearnedRates(dict(network.named_parameters()), 0.3)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for value in rates.values:
            value.copy_(0.3 + 0.1 * torch.randn(value.shape, generator=generator))
    lrs = nn.ParameterList(value.detach().clone() for value in rates.values)
    other = learn2learn().algorithms.MetaSGD(copy.deepcopy(network).train(), first_order=order == 1, lrs=lrs)
    expected = theirs(other, episode, steps)
    params = leaves(network)
    loss = MAML(network, rates, steps, order).loss(params, episode)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_close(gradient(loss, params), gradient(expected, dict(other.module.named_parameters())))
    by_rates = gradient(loss, dict(rates.values.named_parameters()))
    assert_close(by_rates, gradient(expected, dict(lrs.named_parameters())))


# ------------------------------------------------------------------------------------------------------------- ANIL


def test_anil_is_maml_whose_body_has_a_rate_of_zero(episode):
    network = built("strided")
    params = leaves(network)
    rates = {name: 0.5 if name.startswith("head.") else 0.0 for name in params}
    loss, other = (MAML(network, 0.5, 2, adapted=("head",)), MAML(network, rates, 2))
    loss, other = loss.loss(params, episode), other.loss(params, episode)
    torch.testing.assert_close(loss, other, rtol=1e-12, atol=0)
    assert_close(gradient(loss, params), gradient(other, params))


def test_only_what_is_adapted_gets_a_task_axis(episode):
    path = MAML(built("mlp"), 0.5, 2, adapted=("head",)).adapt(None, episode.support_x, episode.support_y)
    assert list(path.end) == ["head.weight", "head.bias"] and path.end["head.bias"].shape == (3, N_WAY)


# -------------------------------------------------------------------------------------------- batch-norm statistics


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_loss_and_gradient_are_those_of_the_definition(statistics, vectorised, episode):
    """Support and queries by themselves, the queries by the support, or everything by the averages."""
    network, params = built("normalised mlp"), leaves(built("normalised mlp"))
    losses = []
    for task in range(3):
        x, y, query = episode.support_x[task], episode.support_y[task], episode.query_x[task]
        kind = "running" if statistics == "running" else "batch"
        slopes = gradient_of(F.cross_entropy(functional_call(network, params, (x, kind)), y), params)
        phi = {name: value - 0.1 * slopes[name] for name, value in params.items()}
        if statistics == "support":
            outputs = functional_call(network, phi, (torch.cat([x, query]), "support", len(x)))[len(x) :]
        else:
            outputs = functional_call(network, phi, (query, statistics))
        losses.append(F.cross_entropy(outputs, episode.query_y[task]))
    expected = torch.stack(losses).mean()
    loss = MAML(network, 0.1, 1, statistics=statistics, vectorised=vectorised).loss(params, episode)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_close(gradient(loss, params), gradient(expected, params))


def gradient_of(loss: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which can be differentiated again."""
    return dict(zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=True), strict=True))


@pytest.mark.parametrize("statistics", ["support", "running"])
@pytest.mark.parametrize("body", ["normalised mlp", "pooled"])
def test_without_transduction_queries_can_come_one_by_one(body, statistics, episode):
    learner = MAML(built(body), 0.3, 2, statistics=statistics)
    with torch.no_grad():
        torch.testing.assert_close(
            one_by_one(lambda e: learner.logits(None, e), episode), learner.logits(None, episode)
        )


@pytest.mark.parametrize("body", ["normalised mlp", "pooled"])
def test_with_statistics_of_the_batch_they_cannot(body, episode):
    learner = MAML(built(body), 0.3, 2)
    with torch.no_grad():
        difference = one_by_one(lambda e: learner.logits(None, e), episode) - learner.logits(None, episode)
    assert (difference.abs().amax(dim=(1, 2)) > 1e-3).all()


def test_three_kinds_of_statistics_are_three_predictions(episode):
    network = built("pooled")
    scores = [MAML(network, 0.3, 2, statistics=kind).logits(None, episode) for kind in STATISTICS]
    assert all(not torch.allclose(scores[i], scores[j]) for i in range(3) for j in range(i))


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("vectorised", [True, False])
def test_too_large_a_rate_is_an_error_that_names_the_task(vectorised):
    episode = lines(n_tasks=3)
    episode.support_x[1] *= 1e3
    learner = line_learner(0.1, 60, vectorised=vectorised)
    with pytest.raises(FloatingPointError, match=r"task 1 of .* at step \d+ is (inf|nan); .* the inner rate of 0\.1,"):
        learner.loss(None, episode)


@pytest.mark.parametrize(("part", "step"), [("support_x", 0), ("query_x", 2)])
@pytest.mark.parametrize("weights", [None, [0.5, 0.5], [0, 1]], ids=str)
def test_an_input_that_is_no_number_is_an_error_that_names_the_task(part, step, weights, episode):
    spoiled = {part: getattr(episode, part).clone()}
    spoiled[part][2, 0, 0, 3, 3] = math.nan
    step = 1 if weights == [0.5, 0.5] and step else step  # the first loss that the queries have
    with pytest.raises(FloatingPointError, match=rf"task 2 of the batch diverges: its loss at step {step} is nan"):
        MAML(built("strided"), 0.3, 2).loss(None, replace(episode, **spoiled), weights=weights)


def test_the_last_step_is_looked_at_in_testing_too(episode):
    learner = MAML(built("mlp"), math.inf, 1)  # the loss before the step is finite
    with pytest.raises(FloatingPointError, match=r"task 0 of the batch diverges: its loss at step 1 is nan"):
        learner.logits(None, episode)


def test_what_does_not_make_sense_is_refused(episode):
    network = built("mlp")
    with pytest.raises(ValueError, match="order must be 1 or 2; got 3"):
        MAML(network, order=3).loss(None, episode)
    with pytest.raises(ValueError, match="inner steps must be a whole number of at least 0; got -1"):
        MAML(network, inner_steps=-1).adapt(None, episode.support_x, episode.support_y)
    with pytest.raises(ValueError, match=r"statistics must be one of \('batch', 'support', 'running'\); got 'query'"):
        MAML(network, statistics="query")
    with pytest.raises(ValueError, match="nothing to adapt is called 'tail'; the parameters are embedding"):
        MAML(network, adapted=("head", "tail")).loss(None, episode)
    with pytest.raises(ValueError, match=r"no inner rate for head\.bias$"):
        MAML(network, {name: 0.1 for name in leaves(network) if name != "head.bias"}).loss(None, episode)
    for rate in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"the inner rate must not be negative; got {rate}"):
            MAML(network, rate)
    with pytest.raises(ValueError, match="2 inner steps need as many weights; got 3"):
        MAML(network, inner_steps=2).loss(None, episode, weights=[0.2, 0.3, 0.5])


def test_a_learner_is_frozen():
    with pytest.raises(FrozenInstanceError):
        MAML(built("mlp")).inner_steps = 2


# ------------------------------------------------------------------------------------------- interrupted and resumed


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("grain", [None, "parameter", "one"])
def test_an_interruption_leaves_no_trace(tmp_path, grain):
    def run(seed: int, checkpoint: Checkpoint | None = None, stop_at: int | None = None) -> dict[str, Tensor]:
        network = built("strided", seed)
        rates = LearnedRates(dict(network.named_parameters()), 0.3 + seed, grain, steps=2) if grain else None
        learner = MAML(network, rates or 0.3, 2)
        trained = nn.ModuleList([network, rates]) if grain else network

        def loss_at(step: int) -> Tensor:
            if step == stop_at:
                raise Interrupted
            return learner.loss(None, episodes[step])

        fit(trained, loss_at, len(episodes), torch.optim.Adam(trained.parameters(), 0.01), checkpoint=checkpoint)
        return trained.state_dict()

    whole = noise_episode(N_WAY, 2, 2, 8)
    episodes = [whole.task(number) for number in range(7)]
    uninterrupted = run(0)
    checkpoint = Checkpoint(tmp_path / "run.pt", {"grain": grain}, every=3)
    with pytest.raises(Interrupted):
        run(0, checkpoint, stop_at=5)
    resumed = run(1, checkpoint)  # nothing but the file is left of the first run
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(value, uninterrupted[name]) for name, value in resumed.items())
    head = resumed["0.head.weight" if grain else "head.weight"]
    assert not torch.allclose(head, built("strided").head.weight)
    if grain:
        assert not any((value == 0.3).all() for name, value in resumed.items() if name.startswith("1.values"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_computes_the_same(episode):
    params = leaves(built("pooled"))
    here = gradient(MAML(built("pooled"), 0.3, 2).loss(params, episode), params)
    names = ("support_x", "support_y", "query_x", "query_y")
    there = replace(episode, **{name: getattr(episode, name).cuda() for name in names})
    params = leaves(built("pooled").cuda())
    slopes = gradient(MAML(built("pooled").cuda(), 0.3, 2).loss(params, there), params)
    assert_close({name: value.cpu() for name, value in slopes.items()}, here, rtol=1e-8)
