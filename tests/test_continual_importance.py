"""Importance of all parameters: one backward pass an example, layers that are not seen, memory; and the pull."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from continual_fixtures import assert_same, mean_of_examples, small_stream
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from utils.backbones import MLP, Conv4, EpisodeNorm2d
from utils.bench.memory import peak_bytes
from utils.continual.importance import (
    check_images,
    check_strength,
    copied,
    parameter_importance,
    quadratic_penalty,
    task_batches,
    trained,
    zeros,
)


class Block(nn.Module):
    """A residual block that writes over what its layers return."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.short, self.relu = nn.Conv2d(3, 4, 1, 2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y += self.short(x)
        return self.relu(y)


class Rows(nn.Module):
    """Maps ``[B, C, H, W]`` as positions ``[B, H W, C]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "mlp": lambda: (nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 4)), (5,)),
    "no bias": lambda: (nn.Sequential(nn.Linear(5, 7, bias=False), nn.Tanh(), nn.Linear(7, 4, bias=False)), (5,)),
    "normalised mlp": lambda: (MLP(12, (6, 4), normalise=True, activate_last=False), (3, 2, 2)),
    "residual": lambda: (nn.Sequential(Block(), nn.Flatten(), nn.Linear(36, 4)), (3, 5, 6)),
    "convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=3),
            nn.GroupNorm(2, 6),
            nn.ReLU(inplace=True),
            EpisodeNorm2d(6),
            nn.Conv2d(6, 4, 2, padding="valid"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(4),
        ),
        (3, 6, 7),
    ),
    "positions": lambda: (
        nn.Sequential(
            Rows(), nn.Linear(3, 5), nn.LayerNorm(5), nn.ReLU(), nn.Flatten(), nn.LayerNorm(30), nn.Linear(30, 4)
        ),
        (3, 2, 3),
    ),
    "normalised over two axes": lambda: (
        nn.Sequential(nn.LayerNorm((2, 3)), nn.Flatten(), nn.Linear(18, 4)),
        (3, 2, 3),
    ),
}


def made(name: str, n: int = 9) -> tuple[nn.Module, Tensor]:
    """In float64, with running statistics and scales that are those of nothing in particular."""
    torch.manual_seed(1)
    network, shape = NETWORKS[name]()
    network = network.double()
    x = torch.randn(n, *shape, dtype=torch.float64)
    for value in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
        nn.init.uniform_(value.data, 0.3, 1.2) if value.ndim == 1 else nn.init.normal_(value.data)
    return network.eval(), x


# ------------------------------------------------------------------------------------------- one example at a time


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_mean_over_single_examples(name, absolute):
    network, x = made(name)
    weights = torch.randn(9, 4, dtype=torch.float64)

    def losses(outputs: Tensor, w: Tensor):
        yield (outputs.square() * w).sum()

    expected = mean_of_examples(network, x, lambda out, b: (out.square() * weights[b]).sum(), absolute)
    batches = [(x[:4], weights[:4]), (x[4:], weights[4:])]
    assert_same(parameter_importance(network, batches, losses, absolute), expected)


def test_of_several_losses_the_squares_add_up():
    network, x = made("residual")
    found = parameter_importance(network, [(x,)], lambda outputs: (outputs[:, k].sin().sum() for k in range(3)))
    assert_same(found, mean_of_examples(network, x, lambda out, b: out[0, :3].sin()))


def test_a_part_that_the_loss_does_not_see_did_not_matter():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x), self.two(x)

    found = parameter_importance(Heads().eval(), [(torch.randn(4, 3),)], lambda both: [both[0].square().sum()])
    assert (found["one.weight"] > 0).all() and (found["two.weight"] == 0).all() and (found["two.bias"] == 0).all()


def test_frozen_parameters_have_none_and_others_the_same():
    network, x = made("residual")
    whole = parameter_importance(network, [(x,)], lambda out: [out.square().sum()])
    network[0].conv.requires_grad_(False)
    network[0].norm.weight.requires_grad_(False)
    found = parameter_importance(network, [(x,)], lambda out: [out.square().sum()])
    assert found.keys() == whole.keys() - {"0.conv.weight", "0.norm.weight"} == trained(network).keys()
    assert_same(found, {name: whole[name] for name in found})


def test_results_are_constants_and_the_network_is_as_it_was():
    network, x = made("residual")
    network[2].weight.grad = before = torch.ones_like(network[2].weight)
    states = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():  # importance is measured all the same
        found = parameter_importance(network, [(x,)], lambda out: [out.square().sum()])
    assert not any(value.requires_grad for value in found.values())
    assert network[2].weight.grad is before and network[0].conv.weight.grad is None
    assert all(torch.equal(value, states[name]) for name, value in network.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    network, x = nn.Linear(4, 3).bfloat16().eval(), torch.randn(20, 4).bfloat16()
    found = parameter_importance(network, [(x,)], lambda out: [out.float().square().sum()])
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_memory_is_a_few_times_the_parameters():
    """Of a scaled-down network; one by one, the gradients of 16 examples would be 16 times the parameters."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 4, 1), nn.ReLU()]
    for i, o in ((32, 64), (64, 128)):
        layers += [nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 300), nn.ReLU(), nn.Linear(300, 300)).eval()
    size = sum(4 * value.numel() for value in network.parameters())
    assert size > 8e5
    x = torch.randn(32, 3, 16, 16)

    def peak(batches: list[tuple[Tensor]]) -> float:
        sums = lambda out: (out[:, k].square().sum() for k in range(2))  # noqa: E731
        return peak_bytes(lambda: parameter_importance(network, batches, sums)) / size

    few, many = peak([(x[:16],)]), peak([(x[:16],), (x[16:],)])
    assert few < 3 and many < 1.05 * few


# ------------------------------------------------------------------------------------------- what would be wrong


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(3, 3), nn.Linear(3, 3)
        self.back.weight = self.there.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.there(x))


class Bypassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.layer = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(nn.functional.linear(x, self.layer.weight))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 1)).view(len(x), -1)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Twice(), "layer is used twice: its gradients add up before they are squared"),
        (Tied(), "there.weight and back.weight are one parameter"),
        (Bypassed(), r"layer is never called.*requires_grad_\(False\) leaves it out"),
        (Scaled(), "importance of scale is not known.*this is a Scaled"),
        (Mixed(), "layer was given 12 rows of 4 examples"),
        (nn.LSTM(3, 2), "importance of weight_ih_l0, .* is not known: .*Linear, Conv2d.*this is a LSTM"),
        (weight_norm(nn.Linear(3, 2)), "not known.*this is a ParametrizationList|this is a ParametrizedLinear"),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)), "1 has no running statistics"),
        (nn.Conv2d(3, 2, 3, padding="same"), "pads by 'same' with zeros; expected zeros, and numbers"),
        (nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"), "with reflect"),
        (nn.ReLU(), "no parameters that are trained"),
        (nn.Linear(3, 2).requires_grad_(False), "no parameters that are trained"),
    ],
)
def test_networks_of_which_it_would_be_wrong_are_refused(network, said):
    with pytest.raises(ValueError, match=said):
        parameter_importance(network.eval(), [(torch.randn(4, 3),)], lambda out: [out.square().sum()])
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_network_that_goes_past_its_layers_is_refused():
    """Conv4 in evaluation mode folds the normalisation into the convolution."""
    with pytest.raises(ValueError, match=r"convs\.0.*is never called"):
        parameter_importance(Conv4(1, 4, 16).eval(), [(torch.rand(2, 1, 16, 16),)], lambda out: [out.sum()])


@pytest.mark.parametrize("place", ["whole", "part"])
def test_training_mode_is_refused(place):
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2)).eval()
    (network if place == "whole" else network[1]).train()
    with pytest.raises(ValueError, match=r"(the network|1) is in training mode.*network\.eval\(\) first"):
        parameter_importance(network, [(torch.randn(4, 3),)], lambda out: [out.sum()])


def test_losses_of_every_example_and_no_examples_are_refused():
    network, x = made("mlp")
    with pytest.raises(ValueError, match=r"a loss must be a scalar, the sum over the examples; got shape \[9, 4\]"):
        parameter_importance(network, [(x,)], lambda out: [out])
    with pytest.raises(ValueError, match="a mean over images; got none"):
        parameter_importance(network, [], lambda out: [out.sum()])


# ------------------------------------------------------------------------------------------------------- the pull


def test_the_penalty_and_its_gradient():
    network, _ = made("residual")
    params, anchor = trained(network), copied(network)
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.rand(v.shape, generator=generator, dtype=v.dtype) for n, v in params.items()}
    assert quadratic_penalty(params, weights, anchor, 3.0) == 0
    moved = {n: torch.rand(v.shape, generator=generator, dtype=v.dtype) for n, v in params.items()}
    with torch.no_grad():
        for name, value in params.items():
            value += moved[name]
    penalty = quadratic_penalty(params, weights, anchor, 3.0)
    assert penalty.item() == pytest.approx(sum((1.5 * weights[n] * moved[n] ** 2).sum().item() for n in params))
    slopes = dict(zip(params, torch.autograd.grad(penalty, list(params.values())), strict=True))
    assert_same(slopes, {n: 3 * weights[n] * moved[n] for n in params})


def test_of_another_architecture():
    here, other = (trained(MLP(4, (widths, 2))) for widths in (3, 5))
    less = {name: value for name, value in here.items() if "1" not in name}
    with pytest.raises(
        ValueError, match=r"importance is of another architecture: linears.0.weight is \[5, 4\], in the"
    ):
        quadratic_penalty(here, other, here, 1.0)
    with pytest.raises(
        ValueError, match=r"anchor is of another architecture: without \['linears.1.bias', 'linears.1.w"
    ):
        quadratic_penalty(here, here, less, 1.0)
    with pytest.raises(
        ValueError, match=r"and with \['linears.1.bias', 'linears.1.weight'\], which the network does no"
    ):
        quadratic_penalty(less, here, less, 1.0)


@pytest.mark.parametrize("strength", [-1.0, float("inf"), float("nan")])
def test_strengths_that_are_none(strength):
    with pytest.raises(ValueError, match="strength of a penalty is a finite number of at least 0; got"):
        check_strength(strength)


def test_numbers_of_images_that_are_none():
    with pytest.raises(ValueError, match=r"at least one image, or on all \(None\); got 0"):
        check_images(0)


def test_copies_and_zeros_are_their_own():
    network, _ = made("mlp")
    there, none = copied(network), zeros(network)
    with torch.no_grad():
        network[0].weight.fill_(7)
    assert (there["0.weight"] != 7).all() and not there["0.weight"].requires_grad
    assert none.keys() == there.keys() and all((value == 0).all() for value in none.values())
    assert not any(value.requires_grad for value in none.values())


def test_batches_of_a_task_hold_every_image_once_or_so_many_drawn():
    task = small_stream("class").tasks[1]
    batches = list(task_batches(task, chunk=4))
    assert [len(x) for x, _ in batches][:-1] == [4] * (len(batches) - 1)
    assert torch.equal(torch.cat([x for x, _ in batches]), task.seen(task.train_x))
    assert torch.equal(torch.cat([y for _, y in batches]), task.train_y)
    drawn = [list(task_batches(task, 6, torch.Generator().manual_seed(seed), chunk=4)) for seed in (0, 0, 1)]
    images = [torch.cat([x for x, _ in batches]) for batches in drawn]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert len(images[0]) == 6 == len({image.numpy().tobytes() for image in images[0]})
