"""The inner loop: gradient descent on quadratics by hand, tasks at once and one by one, what is kept and refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode
from torch import Tensor, nn

from utils.backbones import MLP, STATISTICS, Conv4
from utils.data.sinusoids import RegressionEpisode
from utils.fewshot.classifier import ClassifierNetwork
from utils.meta.inner import (
    apply,
    check_finite,
    descend,
    losses_of,
    own_parameters,
    predict,
    split,
    stacked,
    with_gradient,
)

N_WAY = 3
BODIES: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(256, (7, 5)),
    "normalised mlp": lambda: MLP(256, (7, 5), normalise=True),
    "strided": lambda: Conv4(1, 4, 16, "stride"),
    "pooled": lambda: Conv4(1, 4, 16, "pool"),
}

# ------------------------------------------------------------------------------- what the tests of the learners share


def built(body: str, seed: int = 0) -> ClassifierNetwork:
    """A body and a head in float64; running statistics as after some training, layers of the norms of their own."""
    torch.manual_seed(seed)
    network = ClassifierNetwork(BODIES[body](), N_WAY).double()
    with torch.no_grad():
        for _ in range(5):
            network(torch.rand(10, 1, 16, 16, dtype=torch.float64))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-0.5, 0.5)
    return network.eval()


def leaves(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters, to be differentiated by."""
    return {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}


def gradient(loss: Tensor, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(params, torch.autograd.grad(loss, list(params.values()), retain_graph=True), strict=True))


def flat(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])


def assert_close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], rtol: float = 1e-10) -> None:
    """All entries, in units of the largest of all, which is not zero."""
    assert found.keys() == wanted.keys()
    size = float(flat(wanted).abs().max())
    assert size > 1e-4
    for name in wanted:
        torch.testing.assert_close(
            found[name], wanted[name], rtol=0, atol=rtol * size, msg=lambda m, n=name: f"{n} {m}"
        )


class Smooth(nn.Module):
    """A network without corners, for derivatives of derivatives."""

    def __init__(self, seed: int = 0, inputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.two = nn.Linear(inputs, 4).double(), nn.Linear(4, 1).double()

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


def lines(d: int = 3, n_support: int = 9, n_query: int = 6, n_tasks: int = 2, seed: int = 0) -> RegressionEpisode:
    """Linear regression tasks with noise, in float64: ``x`` is ``[B, N, d]``, ``y`` is ``[B, N, 1]``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tasks, n_support + n_query, d, generator=generator, dtype=torch.float64)
    w = torch.randn(n_tasks, d, 1, generator=generator, dtype=torch.float64)
    y = x @ w + 1 + 0.3 * torch.randn(x.shape[:2], generator=generator, dtype=torch.float64)[..., None]
    s = n_support
    return RegressionEpisode(x[:, :s], y[:, :s], x[:, s:], y[:, s:], torch.ones(n_tasks), torch.zeros(n_tasks))


def linear(d: int = 3, seed: int = 0) -> MLP:
    """y = x W + b."""
    torch.manual_seed(seed)
    return MLP(d, (1,), activate_last=False).double()


def quadratic(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """H and c of one task's mean squared error, whose gradient is H w - c for w = (W, b)."""
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    return 2 / len(x) * x.T @ x, 2 / len(x) * x.T @ y[:, 0]


def joined(params: Mapping[str, Tensor]) -> Tensor:
    """The parameters of :func:`linear` as w = (W, b), behind the task axis if there is one."""
    weight, bias = params.values()
    return torch.cat([weight.flatten(-2), bias], dim=-1)


def minimum(h: Tensor, c: Tensor) -> Tensor:
    return torch.linalg.solve(h, c)


def after(h: Tensor, c: Tensor, w: Tensor, rate: float, steps: int) -> Tensor:
    """Where gradient descent is after some steps: w* + (I - a H)^K (w - w*)."""
    shrink = torch.linalg.matrix_power(torch.eye(len(h), dtype=h.dtype) - rate * h, steps)
    return minimum(h, c) + shrink @ (w - minimum(h, c))


def one_by_one(logits: Callable[[RegressionEpisode], Tensor], episode) -> Tensor:
    """Outputs for the queries, each seen without the others."""
    alone = [
        replace(episode, query_x=episode.query_x[:, q : q + 1], query_y=episode.query_y[:, q : q + 1])
        for q in range(episode.query_x.shape[1])
    ]
    return torch.cat([logits(one) for one in alone], dim=1)


# ----------------------------------------------------------------------------------------------------------- descend

HEIGHTS = torch.tensor([[1.0, 3.0], [2.0, 0.5], [0.1, 4.0]], dtype=torch.float64)
LOWEST = torch.tensor([[1.0, -1.0], [0.5, 2.0], [3.0, 0.0]], dtype=torch.float64)


def bowl(params: Mapping[str, Tensor], step: int = 0) -> Tensor:
    """Three tasks, L = sum_i h_i (p_i - t_i)^2 / 2 over the two numbers of ``a`` and ``b``."""
    return (HEIGHTS * (torch.stack([params["a"], params["b"]], 1) - LOWEST).square()).sum(1) / 2


def start() -> dict[str, Tensor]:
    return {name: torch.tensor(0.7, dtype=torch.float64, requires_grad=True) for name in "ab"}


def shrunk(rate: float, steps: int) -> Tensor:
    return LOWEST + (1 - rate * HEIGHTS) ** steps * (0.7 - LOWEST)


@pytest.mark.parametrize("order", [1, 2])
def test_the_path_is_that_of_gradient_descent(order):
    path = descend(bowl, stacked(start(), 3), 0.2, 4, order)
    assert len(path.params) == 5 and path.losses.shape == (4, 3)
    for step, params in enumerate(path.params):
        expected = shrunk(0.2, step)
        torch.testing.assert_close(torch.stack([params["a"], params["b"]], 1), expected)
        if step < 4:
            loss = (HEIGHTS * (expected - LOWEST).square()).sum(1) / 2
            torch.testing.assert_close(path.losses[step], loss)
    assert path.end is path.params[-1] and not path.losses.requires_grad


def test_only_the_second_order_goes_through_the_gradients():
    theta = start()
    ends = {order: descend(bowl, stacked(theta, 3), 0.2, 4, order).end["b"] for order in (1, 2)}
    for task in range(3):
        slopes = {order: gradient(end[task], {"b": theta["b"]})["b"] for order, end in ends.items()}
        assert slopes[1] == 1
        torch.testing.assert_close(slopes[2], (1 - 0.2 * HEIGHTS[task, 1]) ** 4)


def test_every_step_has_its_number():
    seen = []

    def objective(params, step):
        seen.append(step)
        return bowl(params) * (step + 1)

    end = descend(objective, stacked(start(), 3), lambda step: {"a": 0.1 / (step + 1), "b": 0.1 / (step + 1)}, 3).end
    assert seen == [0, 1, 2]
    torch.testing.assert_close(torch.stack([end["a"], end["b"]], 1), shrunk(0.1, 3))


def test_rates_can_be_given_by_name_and_learned():
    theta, rate = start(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    end = descend(bowl, stacked(theta, 3), {"a": rate, "b": 0.0}, 1, order=1).end
    assert torch.equal(end["b"], torch.full((3,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(end["a"], shrunk(0.2, 1)[:, 0])
    slope = gradient(end["a"].sum(), {"rate": rate})["rate"]
    torch.testing.assert_close(slope, -(HEIGHTS * (0.7 - LOWEST))[:, 0].sum())


def test_without_keeping_only_the_end_remains():
    whole = descend(bowl, stacked(start(), 3), 0.2, 4)
    short = descend(bowl, stacked(start(), 3), 0.2, 4, keep=False)
    assert len(short.params) == 1 and torch.equal(short.end["a"], whole.end["a"])
    assert torch.equal(short.losses, whole.losses)


def test_no_step_leaves_the_parameters():
    first = stacked(start(), 3)
    path = descend(bowl, first, 0.2, 0)
    assert path.params == [first] and path.losses.shape == (0, 3) and path.losses.dtype == torch.float64


@pytest.mark.parametrize("order", [1, 2])
def test_under_no_grad_nothing_has_a_graph(order):
    expected = descend(bowl, stacked(start(), 3), 0.2, 4).end
    with torch.no_grad():
        path = descend(bowl, stacked(start(), 3), 0.2, 4, order)
    assert all(torch.equal(path.end[name], expected[name]) for name in "ab")
    assert all(value.grad_fn is None and not value.requires_grad for phi in path.params[1:] for value in phi.values())


def test_the_start_is_left_as_it_is():
    fixed = {name: value.detach() for name, value in stacked(start(), 3).items()}
    end = descend(bowl, fixed, 0.2, 2).end
    assert not any(value.requires_grad for value in fixed.values()) and (fixed["a"] == 0.7).all()
    torch.testing.assert_close(torch.stack([end["a"], end["b"]], 1), shrunk(0.2, 2))


@pytest.mark.parametrize("steps", [-1, 1.0, None])
def test_the_number_of_steps_must_be_whole(steps):
    with pytest.raises(ValueError, match=f"inner steps must be a whole number of at least 0; got {steps}"):
        descend(bowl, stacked(start(), 3), 0.2, steps)


@pytest.mark.parametrize("order", [0, 3, None])
def test_the_order_must_be_1_or_2(order):
    with pytest.raises(ValueError, match=f"order must be 1 or 2; got {order}"):
        descend(bowl, stacked(start(), 3), 0.2, 1, order)


def test_a_parameter_without_a_rate_is_named():
    for rates in ({"a": 0.1}, lambda step: {"a": 0.1}):
        with pytest.raises(ValueError, match=r"no inner rate for b$"):
            descend(bowl, stacked(start(), 3), rates, 1)


def test_the_task_and_the_step_that_diverge_are_named():
    def objective(params, step):  # the losses of task 1 are about 1e60, 1e180, 1e300, ...
        return bowl(params) * torch.tensor([1.0, 1e60, 1.0], dtype=torch.float64)

    with pytest.raises(FloatingPointError, match=r"task 1 of the batch diverges: its loss at step 3 is inf; it was"):
        descend(objective, stacked(start(), 3), 1.0, 5)
    with pytest.raises(FloatingPointError, match=r"Lower the inner rate of 1\.0, or check the input"):
        descend(objective, stacked(start(), 3), 1.0, 5)


def test_losses_that_are_finite_pass():
    losses = torch.zeros(4, 3)
    check_finite(losses)
    losses[2, 1], losses[2, 2], losses[3, 0] = math.nan, math.inf, math.nan
    with pytest.raises(FloatingPointError, match="task 1 of the batch diverges: its loss at step 2 is nan; it was 0 a"):
        check_finite(losses)
    with pytest.raises(FloatingPointError, match=r"its loss at step 7 is nan\. Lower the inner rate, or"):
        check_finite(losses[2:], first=7)


# ------------------------------------------------------------------------------------------ networks of several tasks


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("body", BODIES)
def test_every_task_has_its_own_network(body, statistics):
    """The definition: the network's parameters are replaced, and its module called, task by task."""
    network, episode = built(body), noise_episode(N_WAY, 2, 2, 2)
    generator = torch.Generator().manual_seed(0)
    own = {
        name: value.detach() + 0.1 * torch.randn(2, *value.shape, generator=generator, dtype=torch.float64)
        for name, value in network.named_parameters()
    }
    expected = []
    for task in range(2):
        copy = built(body)
        copy.load_state_dict({**copy.state_dict(), **{name: value[task] for name, value in own.items()}})
        if statistics == "support":
            both = torch.cat([episode.support_x[task], episode.query_x[task]])
            expected.append(copy(both, "support", len(episode.support_x[task]))[len(episode.support_x[task]) :])
        else:
            expected.append(copy(episode.query_x[task], statistics))
    for vectorised in (True, False):
        found = predict(network, own, {}, episode, statistics, vectorised)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("vectorised", [True, False])
def test_what_is_shared_has_no_task_axis(vectorised):
    network, x = built("mlp"), torch.rand(2, 5, 1, 16, 16, dtype=torch.float64)
    head, body = split(own_parameters(network), ["head"])
    doubled = {name: torch.stack([value, 2 * value]) for name, value in head.items()}
    found = apply(network, doubled, body, x, vectorised, statistics="batch")
    torch.testing.assert_close(found, torch.stack([network(x[0]), 2 * network(x[1])]))
    unchanged = apply(network, {}, own_parameters(network), x, vectorised, statistics="batch")
    torch.testing.assert_close(unchanged, torch.stack([network(x[0]), network(x[1])]))
    other = {name: 3 * value for name, value in own_parameters(network).items()}
    assert not torch.allclose(apply(network, {}, other, x, vectorised, statistics="batch"), unchanged)


def test_parameters_are_split_by_the_names_of_modules_and_of_parameters():
    params = own_parameters(built("normalised mlp"))
    assert split(params, None) == (params, {})
    head, body = split(params, ["head"])
    assert list(head) == ["head.weight", "head.bias"] and list(head | body) != list(params)
    assert (head | body).keys() == params.keys() and not head.keys() & body.keys()
    some, _ = split(params, ["head.bias", "embedding.linears.1"])
    assert list(some) == ["embedding.linears.1.weight", "embedding.linears.1.bias", "head.bias"]  # in their old order
    for wrong in ("hea", "linears", "head.", "head.weight.x"):
        with pytest.raises(ValueError, match=f"nothing to adapt is called '{wrong}'; the parameters are embedding"):
            split(params, ["head", wrong])


def test_stacked_parameters_are_views_whose_gradients_add_up():
    theta = start()
    many = stacked(theta, 4)
    assert many["a"].shape == (4,) and many["a"].data_ptr() == theta["a"].data_ptr()
    weights = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    assert gradient((weights * many["a"]).sum(), {"a": theta["a"]})["a"] == 10


def test_losses_are_means_over_the_examples_of_each_task():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (3, 5), generator=generator)
    expected = [F.cross_entropy(outputs[task], labels[task]) for task in range(3)]
    torch.testing.assert_close(losses_of(F.cross_entropy, outputs, labels), torch.stack(expected))
    y = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    expected = [F.mse_loss(outputs[task], y[task]) for task in range(3)]
    torch.testing.assert_close(losses_of(F.mse_loss, outputs, y), torch.stack(expected))


# ------------------------------------------------------------------------------------------------ a gradient as said


def test_a_value_has_the_gradient_that_is_said():
    theta = {"a": torch.ones(2, requires_grad=True), "b": torch.zeros(3, requires_grad=True)}
    said = {"b": torch.tensor([1.0, 2.0, 3.0]), "a": torch.tensor([4.0, 5.0])}
    loss = with_gradient(torch.tensor(7.0), theta, said)
    assert float(loss.detach()) == 7
    slopes = gradient(3 * loss, theta)
    assert slopes["a"].tolist() == [12, 15] and slopes["b"].tolist() == [3, 6, 9]


def test_its_second_derivative_is_refused():
    theta = {"a": torch.ones(2, requires_grad=True)}
    loss = with_gradient(torch.tensor(7.0), theta, {"a": torch.ones(2)})
    (slope,) = torch.autograd.grad(loss.square(), list(theta.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
