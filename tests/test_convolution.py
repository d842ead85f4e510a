"""Layers of many tasks at once: what they compute, and their derivatives of first, second and third order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from utils.functional.convolution import batch_norm, conv2d, patches, relu, together


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


# ------------------------------------------------------------------------------------------------------ convolution


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "height", "width"),
    [(3, 1, 1, 4, 3), (3, 2, 1, 5, 4), (3, 2, 1, 4, 7), (3, 2, 0, 6, 5), (1, 1, 0, 3, 3), (2, 3, 1, 5, 4)],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_convolution_is_that_of_pytorch(kernel, stride, padding, height, width, groups, layout):
    x = numbers(2, 2 * groups, height, width).detach().contiguous(memory_format=layout).requires_grad_()
    w = numbers(2 * groups, 2, kernel, kernel, seed=1).detach().contiguous(memory_format=layout).requires_grad_()

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return conv2d(x, w, stride, padding, groups)

    torch.testing.assert_close(ours(x, w), F.conv2d(x, w, None, stride, padding, 1, groups))
    assert gradcheck(ours, (x, w))
    assert gradgradcheck(ours, (x, w))


def test_one_derivative_alone():
    x, w = numbers(2, 2, 5, 5), numbers(3, 2, 3, 3, seed=1)
    assert gradgradcheck(lambda x: conv2d(x, w.detach(), 2, 1), (x,))
    assert gradgradcheck(lambda w: conv2d(x.detach(), w, 2, 1), (w,))


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
def test_patches_are_what_a_convolution_sees(stride, padding):
    x, w = numbers(2, 3, 6, 7), numbers(4, 3, 3, 3, seed=1)
    expected = F.conv2d(x, w, None, stride, padding)
    torch.testing.assert_close((patches(x, 3, stride, padding) @ w.flatten(1).T).movedim(-1, 1), expected)


# ------------------------------------------------------------------------------------------------------------- norm


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("m", [6, 4, 1])
@pytest.mark.parametrize("rectified", [True, False])
def test_the_norm_and_its_derivatives(rectified, m, lead):
    """Of third order too."""
    x, weight, bias = numbers(*lead, 6, 3), numbers(*lead, 3, seed=1), numbers(*lead, 3, seed=2)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(x, weight, bias, m, 1e-2, rectified)

    var, mean = torch.var_mean(x[..., :m, :], -2, correction=0, keepdim=True)
    expected = (x - mean) / (var + 1e-2).sqrt() * weight[..., None, :] + bias[..., None, :]
    torch.testing.assert_close(ours(x, weight, bias), expected.relu() if rectified else expected)
    assert gradcheck(ours, (x, weight, bias))
    assert gradgradcheck(ours, (x, weight, bias))

    def slopes(*inputs: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(ours(*inputs).pow(3).sum(), inputs, create_graph=True)

    assert gradgradcheck(slopes, (x, weight, bias))


def test_relu():
    x = numbers(4, 5)
    assert torch.equal(relu(x), F.relu(x))
    assert gradcheck(lambda x: relu(x) ** 3, (x,)) and gradgradcheck(lambda x: relu(x) ** 3, (x,))


# --------------------------------------------------------------------------------------------------- torch.vmap


def product(x: Tensor, w: Tensor) -> Tensor:
    """Of ``[B, N, I]`` and ``[B, O, I]``; it notices when it is not called with all tasks in front."""
    assert x.ndim == w.ndim == 3
    return (x @ w.mT).sin()


def layer(x: Tensor, w: Tensor) -> Tensor:
    found = together(product, x, w)
    return (x @ w.mT).sin() if found is None else found


def test_together_only_under_vmap():
    x, w = numbers(4, 2), numbers(3, 2, seed=1)
    assert together(product, x, w) is None
    seen = []

    def loss(w: Tensor) -> Tensor:
        seen.append(together(product, x, w))
        return w.square().sum()

    grad(loss)(w)
    jvp(loss, (w,), (w,))
    vmap(lambda other: other + loss(w))(x)
    assert seen == [None, None, None]


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 2)])
def test_together_is_the_function_of_all_tasks(in_dims):
    x = numbers(*{0: (5, 4, 2), None: (4, 2), 1: (4, 5, 2)}[in_dims[0]])
    w = numbers(*{0: (5, 3, 2), None: (3, 2), 2: (3, 2, 5)}[in_dims[1]], seed=1)
    assert together(product, x, w) is None

    def tasks(x: Tensor, w: Tensor) -> Tensor:
        return vmap(layer, in_dims)(x, w)

    torch.testing.assert_close(tasks(x, w), vmap(lambda x, w: (x @ w.mT).sin(), in_dims)(x, w))
    assert gradcheck(tasks, (x, w)) and gradgradcheck(tasks, (x, w))


def test_derivatives_inside_of_vmap():
    """Up to the third order."""
    x, w = numbers(5, 4, 2).detach(), numbers(5, 3, 2, seed=1).detach()

    def nested(layer):
        first = grad(lambda w, x: layer(x, w).square().sum())
        second = grad(lambda w, x: first(w, x).square().sum())
        return [vmap(first), vmap(second), vmap(grad(lambda w, x: second(w, x).square().sum()))]

    for found, expected in zip(nested(layer), nested(lambda x, w: (x @ w.mT).sin()), strict=True):
        torch.testing.assert_close(found(w, x), expected(w, x))


def test_no_forward_mode_under_vmap():
    x, w = numbers(5, 4, 2).detach(), numbers(5, 3, 2, seed=1).detach()
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivative under torch\.vmap"):
        vmap(lambda x, w: jvp(lambda w: layer(x, w), (w,), (w,)))(x, w)
