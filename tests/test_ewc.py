"""Elastic weight consolidation: closed forms of the Fisher information, parabolas that add up, what is kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from continual_fixtures import (
    assert_forgets_less_than_plain,
    assert_resumes_to_the_bit,
    assert_same,
    learned,
    mean_of_examples,
    small_network,
    small_stream,
)
from torch import Tensor, nn

from utils.backbones import MLP
from utils.continual.ewc import EWC, consolidated, fisher_diagonal
from utils.continual.importance import quadratic_penalty, task_batches, trained
from utils.continual.learn import Batch, Plain

UNITS = slice(1, 4)


def made() -> tuple[nn.Module, Tensor, Tensor]:
    """A network of 5 outputs, of which units 1 to 3 take part, in float64."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double().eval()
    return network, torch.randn(11, 4, dtype=torch.float64), torch.randint(1, 4, (11,))


def part(out: Tensor) -> Tensor:
    return F.log_softmax(out[0, UNITS], 0)


# ---------------------------------------------------------------------------------------------------- closed forms


def test_of_logistic_regression():
    """Of two outputs with the difference w x + b: F_w = mean p (1 - p) x^2 and F_b = mean p (1 - p) for both rows."""
    torch.manual_seed(0)
    network, x = nn.Linear(3, 2).double().eval(), torch.randn(40, 3, dtype=torch.float64)
    p = network(x).softmax(1)[:, :1].detach()
    found = fisher_diagonal(network, [(x[:13],), (x[13:],)], slice(0, 2))
    row = (p * (1 - p) * x.square()).mean(0)
    assert_same(found, {"weight": torch.stack([row, row]), "bias": (p * (1 - p)).mean(0).repeat(2)})


def test_exact_is_the_expectation_over_the_units_that_take_part():
    network, x, _ = made()
    found = fisher_diagonal(network, [(x[:5],), (x[5:],)], UNITS)

    def weighted(out: Tensor, b: int) -> Tensor:
        return part(out).detach().exp().sqrt() * part(out)  # squared: p (d log p)^2

    expected = mean_of_examples(network, x, weighted)
    assert (found["2.weight"][[0, 4]] == 0).all()
    assert_same(found, expected)


def test_exact_is_the_curvature_where_the_network_is_linear():
    """There the Fisher information is the Hessian of the loss, whatever the labels are."""
    torch.manual_seed(0)
    network, x = nn.Linear(3, 4).double().eval(), torch.randn(20, 3, dtype=torch.float64)

    def loss(w: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, w, b), torch.arange(20) % 4)

    hessian = torch.autograd.functional.hessian(loss, (network.weight.detach(), network.bias.detach()))
    expected = {"weight": hessian[0][0].view(12, 12).diag().view(4, 3), "bias": hessian[1][1].diag()}
    assert_same(fisher_diagonal(network, [(x,)], slice(0, 4)), expected)


def test_empirical_takes_the_labels_of_the_data():
    network, x, y = made()
    found = fisher_diagonal(network, [(x[:5], y[:5]), (x[5:], y[5:])], UNITS, "empirical")
    assert_same(found, mean_of_examples(network, x, lambda out, b: part(out)[y[b] - 1]))


def test_sampled_is_exact_on_average_and_follows_the_generator():
    network, x, _ = made()
    exact = fisher_diagonal(network, [(x,)], UNITS)
    many = x.repeat(4000, 1)
    draws = [fisher_diagonal(network, [(many,)], UNITS, "sampled", torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in exact)
    assert not any(torch.equal(draws[0][name][1:], draws[2][name][1:]) for name in ("2.weight", "2.bias"))
    for name, value in exact.items():
        assert ((draws[0][name] - value).norm() / value.norm()) < 0.04
    # a draw of one label an image, known
    found = fisher_diagonal(network, [(x,)], UNITS, "sampled", torch.Generator().manual_seed(5))
    p = network(x)[:, UNITS].softmax(1)
    drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(5))[:, 0]
    assert_same(found, mean_of_examples(network, x, lambda out, b: part(out)[drawn[b]]))


def test_the_gradient_of_a_batch_is_something_else():
    """Where the data is what the model says, the squared mean gradient is about 1 / B of the Fisher information."""
    torch.manual_seed(0)
    network, x = nn.Linear(6, 5).double().eval(), torch.randn(64 * 50, 6, dtype=torch.float64)
    exact = fisher_diagonal(network, [(x,)], slice(0, 5))["weight"].sum()
    y = torch.multinomial(network(x).softmax(1), 1)[:, 0]
    mistaken = torch.zeros(())
    for some, labels in zip(x.split(64), y.split(64), strict=True):
        (slope,) = torch.autograd.grad(F.cross_entropy(network(some), labels), [network.weight])
        mistaken = mistaken + slope.square().sum() / 50
    assert 0.7 / 64 < mistaken / exact < 1.4 / 64


# -------------------------------------------------------------------------------------------------------- parabolas


def solved(tasks: list[tuple[Tensor, Tensor]], online: bool, decay: float = 1.0) -> list[Tensor]:
    """Solutions of the tasks (1/2) sum h_i (theta_i - m_i)^2, each with the penalty of strength 1 of those before.

    Their Fisher information is h.
    """
    theta = torch.zeros_like(tasks[0][0])
    importance, anchor, ends = {"w": torch.zeros_like(theta)}, {"w": theta}, []
    for h, m in tasks:
        theta = (h * m + importance["w"] * anchor["w"]) / (h + importance["w"])
        importance, anchor = consolidated(importance, anchor, {"w": h}, {"w": theta}, online, decay)
        ends.append(theta)
    return ends


def quadratics(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.rand(2, 5, generator=generator, dtype=torch.float64) + 0.1) for _ in range(n)]


def joint(tasks: list[tuple[Tensor, Tensor]]) -> Tensor:
    return sum(h * m for h, m in tasks) / sum(h for h, _ in tasks)


def test_on_parabolas_online_is_joint_training_and_separate_counts_twice():
    tasks = quadratics(4)
    online, separate = solved(tasks, online=True), solved(tasks, online=False)
    for n in range(1, 5):
        torch.testing.assert_close(online[n - 1], joint(tasks[:n]), rtol=1e-14, atol=0)
    for n in (1, 2):  # with two tasks there is nothing to count twice
        torch.testing.assert_close(separate[n - 1], joint(tasks[:n]), rtol=1e-14, atol=0)
    assert (separate[2] - joint(tasks[:3])).abs().max() > 0.02
    assert (separate[3] - joint(tasks)).abs().max() > 0.02


def test_with_decay_earlier_tasks_weigh_less():
    (h1, m1), (h2, m2), (h3, m3) = tasks = quadratics(3)
    weights = [(0.25 * h1, m1), (0.5 * h2, m2), (h3, m3)]
    # the anchor of the third is the solution of the second, which weighed the first by a half
    second = solved(tasks, online=True, decay=0.5)[1]
    prior = 0.5 * h1 + h2
    torch.testing.assert_close(solved(tasks, True, 0.5)[2], (h3 * m3 + prior * second) / (h3 + prior))
    assert not torch.allclose(solved(tasks, True, 0.5)[2], joint(weights))
    summed, _ = consolidated({"w": h1}, {"w": m1}, {"w": h2}, {"w": m2}, online=True, decay=0.5)
    torch.testing.assert_close(summed["w"], 0.5 * h1 + h2)


def test_one_parabola_pulls_like_the_list_of_all():
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(3, 4).double()
    params = trained(network)

    def some() -> dict[str, Tensor]:
        return {name: torch.rand(v.shape, generator=generator, dtype=v.dtype) for name, v in params.items()}

    parts = [(some(), some()) for _ in range(4)]
    parts[0][0]["weight"][0] = parts[1][0]["weight"][0] = 0  # a row that the first two tasks do not use
    importance, anchor = {name: torch.zeros_like(v) for name, v in params.items()}, some()
    for fisher, there in parts:
        importance, anchor = consolidated(importance, anchor, fisher, there, online=False)
    one = quadratic_penalty(params, importance, anchor, 3.0)
    all_ = sum(quadratic_penalty(params, fisher, there, 3.0) for fisher, there in parts)
    slopes, expected = (torch.autograd.grad(loss, list(params.values())) for loss in (one, all_))
    assert_same(dict(zip(params, slopes, strict=True)), dict(zip(params, expected, strict=True)), 1e-12)


@pytest.mark.parametrize("online", [False, True])
def test_what_is_kept_is_its_own(online):
    network = nn.Linear(3, 2)
    ones = {name: torch.ones_like(value) for name, value in network.named_parameters()}
    importance, anchor = consolidated(ones, ones, ones, trained(network), online)
    kept = {name: value.clone() for name, value in anchor.items()}
    with torch.no_grad():
        network.weight.add_(1)
    assert all(torch.equal(anchor[name], kept[name]) and not anchor[name].requires_grad for name in anchor)
    assert not any(value.requires_grad for value in importance.values())


# -------------------------------------------------------------------------------------------------------- a stream


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_after_a_task_the_fisher_information_of_its_units_is_kept(scenario):
    stream = small_stream(scenario)
    out = learned(EWC(5.0, penalty="online"), stream)
    assert out.memory.keys() == {"importance", "anchor"}
    assert_same(out.memory["anchor"], {n: v.detach() for n, v in out.network.named_parameters()}, 0.0)
    before = learned(EWC(5.0, penalty="online"), stream, steps=0)
    network, total = before.network, {name: torch.zeros_like(v) for name, v in trained(before.network).items()}
    for task in range(3):  # without a step the network is the same in all tasks
        found = fisher_diagonal(network, task_batches(stream.tasks[task]), stream.units(task, task + 1))
        total = {name: total[name] + found[name] for name in total}
    assert_same(before.memory["importance"], total, 1e-6)


@pytest.mark.parametrize("strength", [0.0, 50.0])
def test_the_first_task_is_learned_as_without_it(strength):
    stream = small_stream("domain", 1)
    one, other = learned(EWC(strength), stream).network, learned(Plain(), stream).network
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("penalty", ["separate", "online"])
def test_it_forgets_less(penalty):
    assert_forgets_less_than_plain(EWC(5.0, penalty=penalty))


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_some_images_are_enough(fisher):
    stream = small_stream()
    few = [learned(EWC(5.0, fisher, images=4), stream) for _ in range(2)]
    all_ = learned(EWC(5.0, fisher), stream)
    for name, value in few[0].memory["importance"].items():
        assert torch.equal(value, few[1].memory["importance"][name])
        assert not torch.equal(value, all_.memory["importance"][name])


@pytest.mark.parametrize(
    "method",
    [EWC(5.0), EWC(5.0, "sampled", 5, "online", 0.9), EWC(5.0, "empirical", 5)],
    ids=["separate", "online, sampled", "empirical"],
)
def test_killed_between_two_tasks_it_goes_on_to_the_bit(method, tmp_path):
    assert_resumes_to_the_bit(method, tmp_path)


@pytest.mark.parametrize("penalty", ["separate", "online"])
def test_memory_does_not_grow_with_the_tasks(penalty):
    stream = small_stream("domain")
    n = sum(value.numel() for value in small_network(stream).parameters())
    kept = learned(EWC(1.0, penalty=penalty), stream, steps=2).memory
    assert sum(value.numel() for part in kept.values() for value in part.values()) == 2 * n


# -------------------------------------------------------------------------------------------------- what does not fit


def test_importance_from_another_architecture_is_refused():
    stream = small_stream()
    memory = EWC().start(MLP(9, (7, 6)), stream)
    x, y = stream.batch(0, 0, 4)
    with pytest.raises(
        ValueError, match=r"importance is of another architecture: linears.0.weight is \[7, 9\], in the"
    ):
        EWC().loss(small_network(stream), memory, Batch(stream, 0, x, y), torch.Generator())
    fisher = {name: torch.zeros_like(value) for name, value in MLP(9, (7, 6)).named_parameters()}
    here = trained(small_network(stream))
    with pytest.raises(ValueError, match="fisher is of another architecture"):
        consolidated(here, here, fisher, here, online=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": -1.0}, "strength of a penalty .* at least 0; got -1.0"),
        ({"fisher": "true"}, r"fisher must be one of \('exact', 'sampled', 'empirical'\); got 'true'"),
        ({"images": 0}, "at least one image"),
        ({"penalty": "both"}, r"penalty must be one of \('separate', 'online'\); got 'both'"),
        ({"penalty": "online", "decay": 0.0}, "decay must be above 0 and at most 1; got 0.0"),
        ({"penalty": "online", "decay": 1.1}, "decay must be above 0 and at most 1; got 1.1"),
        ({"decay": 0.9}, 'separate penalties do not decay: penalty="online", or decay=1'),
    ],
)
def test_options_that_are_none_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        EWC(**options)


def test_kinds_without_what_they_need_are_refused():
    network, x, _ = made()
    with pytest.raises(ValueError, match=r"one of \('exact', 'sampled', 'empirical'\); got 'hessian'"):
        fisher_diagonal(network, [(x,)], UNITS, "hessian")
    with pytest.raises(ValueError, match='kind="sampled" needs one'):
        fisher_diagonal(network, [(x,)], UNITS, "sampled")
    with pytest.raises(ValueError, match=r'kind="empirical" needs the labels of the data: batches \(x, y\)'):
        fisher_diagonal(network, [(x,)], UNITS, "empirical")
