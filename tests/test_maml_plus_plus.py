"""MAML++: the authors' weights of the steps, norms of every step by hand, and statistics that no query influences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode
from test_inner_loop import N_WAY, assert_close, built, flat, gradient, leaves, one_by_one
from torch import Tensor, nn
from torch.func import functional_call

from utils.backbones import EpisodeNorm2d
from utils.data.episodes import Episode
from utils.meta.maml import MAML
from utils.meta.maml_plus_plus import StepNorms, average_statistics, step_loss_weights

STEPS = 2


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode(N_WAY, 2, 2, 3)


def with_norms(body: str, norms: StepNorms | None = None, **options) -> tuple[MAML, StepNorms]:
    """A learner whose norms have rows of their own, which all begin as the network's, or are those given."""
    network = built(body)
    norms = StepNorms(network, STEPS) if norms is None else norms
    adapted = norms.adapted(dict(network.named_parameters()))
    return MAML(network, 0.1, STEPS, adapted=adapted, at_step=norms, **options), norms


def shaken(norms: StepNorms) -> StepNorms:
    """Rows that differ from each other."""
    torch.manual_seed(5)
    with torch.no_grad():
        for value in norms.parameters():
            value.add_(0.3 * torch.randn(value.shape))
        for name, value in norms.named_buffers():
            value.mul_(1 + 0.3 * torch.rand(value.shape)).add_(0.1 if name.startswith("mean") else 0)
    return norms


# ------------------------------------------------------------------------------------------------- weights of the steps


def by_the_authors(steps: int, epoch: int, epochs: int) -> list[float]:
    """``get_per_step_loss_importance_vector`` of HowToTrainYourMAML, line by line."""
    weights = [1.0 / steps] * steps
    decay, least = 1.0 / steps / epochs, 0.03 / steps
    for i in range(steps - 1):
        weights[i] = max(weights[i] - epoch * decay, least)
    weights[-1] = min(weights[-1] + epoch * (steps - 1) * decay, 1.0 - (steps - 1) * least)
    return weights


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_weights_are_those_of_the_authors_and_sum_to_1(steps):
    for epoch in range(101):
        weights = step_loss_weights(steps, epoch / 100)
        assert weights == pytest.approx(by_the_authors(steps, epoch, 100))
        assert sum(weights) == pytest.approx(1, abs=1e-15) and min(weights) > 0


def test_they_begin_equal_and_end_at_the_last_step():
    assert step_loss_weights(5, 0) == pytest.approx([0.2] * 5)
    assert step_loss_weights(5, 1) == pytest.approx([0.006] * 4 + [0.976])
    assert step_loss_weights(1, 0.3) == [1]


def test_progress_and_steps_must_make_sense():
    for progress in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"progress must be between 0 and 1; got {progress}"):
            step_loss_weights(5, progress)
    with pytest.raises(ValueError, match="there must be at least 1 inner step; got 0"):
        step_loss_weights(0, 0.5)


@pytest.mark.parametrize("order", [1, 2])
def test_the_multi_step_loss_is_the_weighted_sum_of_the_losses_after_each_step(order, episode):
    network, params, weights = built("strided"), leaves(built("strided")), [0.2, 0.0, 0.8]
    loss = MAML(network, 0.1, 3, order).loss(params, episode, weights=weights)
    each = [MAML(network, 0.1, steps, order).loss(params, episode) for steps in (1, 2, 3)]
    expected = 0.2 * each[0] + 0.8 * each[2]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_close(gradient(loss, params), gradient(expected, params))


@pytest.mark.parametrize("vectorised", [True, False])
def test_with_all_the_weight_on_the_last_step_it_is_maml_to_the_bit(vectorised, episode):
    learner, params = MAML(built("pooled"), 0.1, 3, vectorised=vectorised), leaves(built("pooled"))
    plain, weighted = learner.loss(params, episode), learner.loss(params, episode, weights=[0, 0, 1])
    assert torch.equal(plain, weighted)
    slopes = gradient(plain, params), gradient(weighted, params)
    assert all(torch.equal(slopes[0][name], slopes[1][name]) for name in params)


# ------------------------------------------------------------------------------------------------- norms of every step


@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("body", ["normalised mlp", "strided", "pooled"])
def test_with_equal_rows_it_is_maml_that_does_not_adapt_its_norms(body, vectorised, statistics, episode):
    options = {"statistics": statistics, "vectorised": vectorised}
    learner, norms = with_norms(body, **options)
    plain, params = MAML(learner.network, 0.1, STEPS, adapted=learner.adapted, **options), leaves(learner.network)
    loss, expected = learner.loss(params, episode), plain.loss(params, episode)
    assert torch.equal(loss, expected)
    adapted = {name: params[name] for name in learner.adapted}
    slopes, wanted = gradient(loss, adapted), gradient(expected, adapted)
    assert all(torch.equal(slopes[name], wanted[name]) for name in adapted)
    # A norm that all steps share gets the sum of what the rows get.
    shared = {name: value for name, value in params.items() if name not in adapted}
    rows = gradient(loss, dict(norms.named_parameters()))
    summed = {f"{layer}.weight": rows[f"weights.{i}"].sum(0) for i, layer in enumerate(norms.layers)}
    summed |= {f"{layer}.bias": rows[f"biases.{i}"].sum(0) for i, layer in enumerate(norms.layers)}
    assert_close({name: summed[name] for name in shared}, gradient(expected, shared))


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("vectorised", [True, False])
def test_row_k_is_the_network_after_k_steps(vectorised, statistics, episode):
    learner, norms = with_norms("normalised mlp", statistics=statistics, vectorised=vectorised)
    shaken(norms)
    one, theta = episode.task(1), leaves(learner.network)
    phi = {name: theta[name] for name in learner.adapted}

    def outputs(step: int, x: Tensor) -> Tensor:
        row = {}
        for i, layer in enumerate(norms.layers):
            row |= {f"{layer}.weight": norms.weights[i][step], f"{layer}.bias": norms.biases[i][step]}
            row[f"{layer}.running_mean"] = getattr(norms, f"mean{i}")[step].clone()
            row[f"{layer}.running_var"] = getattr(norms, f"var{i}")[step].clone()
        return functional_call(learner.network, {**phi, **row}, (x, statistics))

    for step in range(STEPS):
        slopes = torch.autograd.grad(
            F.cross_entropy(outputs(step, one.support_x[0]), one.support_y[0]), list(phi.values()), create_graph=True
        )
        phi = {name: value - 0.1 * slope for (name, value), slope in zip(phi.items(), slopes, strict=True)}
    expected = F.cross_entropy(outputs(STEPS, one.query_x[0]), one.query_y[0])
    loss, values = learner.loss(theta, one), dict(norms.named_parameters())
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    assert_close(gradient(loss, values), gradient(expected, values))


def test_only_the_rows_of_steps_that_were_taken_get_a_gradient(episode):
    network = built("strided")
    norms = StepNorms(network, 4)
    learner = MAML(network, 0.1, 2, adapted=norms.adapted(leaves(network)), at_step=norms)
    for slope in gradient(learner.loss(None, episode), dict(norms.named_parameters())).values():
        assert [bool(row.any()) for row in slope] == [True, True, True, False, False]


def test_more_steps_go_on_with_the_last_row(episode):
    learner, norms = with_norms("normalised mlp")
    shaken(norms)
    assert all(torch.equal(value, norms(STEPS)[name]) for name, value in norms(STEPS + 5).items())
    assert not torch.equal(norms(STEPS)["embedding.norms.0.weight"], norms(STEPS - 1)["embedding.norms.0.weight"])
    assert learner.logits(None, episode, steps=STEPS + 3).isfinite().all()


def test_rows_begin_as_the_network_and_do_not_belong_to_it():
    network = built("pooled")
    norms = StepNorms(network, STEPS)
    names = set(network.state_dict()) - {name for name, _ in network.named_parameters()}
    for step in range(STEPS + 1):
        row = norms(step)
        assert len(row) == 16 and names - set(row) == {name for name in names if name.endswith("tracked")}
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in row.items())
    shaken(norms)
    assert all(torch.equal(value, built("pooled").state_dict()[name]) for name, value in network.state_dict().items())
    assert set(norms.adapted(leaves(network))) == {name for name in leaves(network) if ".norms." not in name}


def test_norms_cannot_be_adapted_as_well(episode):
    learner, _ = with_norms("normalised mlp")
    with pytest.raises(ValueError, match=r"as well as given for every step: embedding\.norms\.0\.bias, "):
        replace(learner, adapted=None).loss(None, episode)


def test_a_network_without_norms_is_refused():
    with pytest.raises(ValueError, match="this network has no batch normalisation: nothing to keep for each step"):
        StepNorms(built("mlp"), STEPS)


# --------------------------------------------------------------------------------------------------- their statistics


def activations(learner: MAML, episode: Episode, step: int) -> list[Tensor]:
    """What reaches the first norm after ``step`` steps, of every task: its support, or its queries at the end."""
    path = replace(learner, statistics="batch").adapt(None, episode.support_x, episode.support_y)
    x = episode.support_x if step < STEPS else episode.query_x
    layer = "embedding.linears.0"
    return [
        x[task].flatten(1) @ path.params[step][f"{layer}.weight"][task].T + path.params[step][f"{layer}.bias"][task]
        for task in range(episode.n_tasks)
    ]


@pytest.mark.parametrize(("statistics", "trained"), [("batch", True), ("support", False), ("running", False)])
def test_the_averages_are_the_means_over_all_tasks_of_what_each_step_sees(statistics, trained):
    episodes = [noise_episode(N_WAY, 2, 2, 2), noise_episode(N_WAY, 2, 2, 3)]
    learner, norms = with_norms("normalised mlp", statistics=statistics)
    shaken(norms)
    learner.network.train(trained)
    kept = [value.clone() for value in norms.parameters()]
    network = {name: value.clone() for name, value in learner.network.state_dict().items()}
    average_statistics(learner, norms, iter(episodes))
    for step in range(STEPS + 1):
        seen = [x for one in episodes for x in activations(learner, one, step)]
        assert len(seen) == 5
        mean, var = (torch.stack(values).mean(0) for values in ([x.mean(0) for x in seen], [x.var(0) for x in seen]))
        torch.testing.assert_close(norms.mean0[step], mean)
        torch.testing.assert_close(norms.var0[step], var)
    assert not torch.allclose(norms.mean0[0], norms.mean0[1])
    assert all(torch.equal(value, old) for value, old in zip(norms.parameters(), kept, strict=True))
    assert all(torch.equal(value, network[name]) for name, value in learner.network.state_dict().items())
    assert all(module.training == trained for module in learner.network.modules())


@pytest.mark.parametrize("body", ["normalised mlp", "strided"])
def test_with_averages_no_query_influences_another(body, episode):
    learner, norms = with_norms(body)
    average_statistics(learner, norms, [noise_episode(N_WAY, 2, 2, 4)])
    transductive = learner.logits(None, episode)
    learner = replace(learner, statistics="running")
    logits = learner.logits(None, episode)
    torch.testing.assert_close(one_by_one(lambda e: learner.logits(None, e), episode), logits)
    assert not torch.allclose(logits, transductive)
    other, _ = with_norms(body, statistics="running")  # the averages of the network, which are of random images
    assert not torch.allclose(other.logits(None, episode), logits)


@pytest.mark.parametrize("how", ["episodes", "loss"])
def test_an_error_leaves_the_network_as_it_was(how, episode):
    learner, norms = with_norms("normalised mlp")
    modules = [module for module in learner.network.modules() if isinstance(module, EpisodeNorm2d)]
    modules[0].momentum, modules[1].momentum = 0.25, None
    modules[1].train()
    network = {name: value.clone() for name, value in learner.network.state_dict().items()}

    def episodes():
        yield episode
        if how == "episodes":
            raise OSError("the disk is gone")
        yield replace(episode, query_x=episode.query_x * float("nan"))

    with pytest.raises(OSError if how == "episodes" else FloatingPointError):
        average_statistics(learner, norms, episodes())
    assert [(module.momentum, module.training) for module in modules] == [(0.25, False), (None, True)]
    assert all(torch.equal(value, network[name]) for name, value in learner.network.state_dict().items())


def test_norms_for_another_number_of_steps_are_refused(episode):
    learner, norms = with_norms("normalised mlp")
    with pytest.raises(ValueError, match="these norms are for 2 inner steps; the learner takes 3"):
        average_statistics(replace(learner, inner_steps=3), norms, [episode])


def test_rows_are_trained_with_the_network(episode):
    learner, norms = with_norms("strided")
    both = nn.ModuleList([learner.network, norms])
    before = flat(dict(norms.named_parameters())).detach().clone()
    optimizer, losses = torch.optim.Adam(both.parameters(), 0.01), []
    for step in range(6):
        optimizer.zero_grad()
        losses.append(learner.loss(None, episode, weights=step_loss_weights(STEPS, step / 6)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(flat(dict(norms.named_parameters())), before)
