"""Convolutions of many tasks at once, every task with weights of its own, as matrix products.

A convolution is the product of the patches of its input with the weights, y = P(x) w', where P copies: dw = dy' P(x)
and dx = P'(dy w). Over tasks these are batched products, which run near the peak of a processor. What ``torch.vmap``
makes of :func:`torch.nn.functional.conv2d` is a convolution in groups, slow on CPUs, and its second derivative goes
through the groups one by one.

All derivatives come from T(x, w, g) = <g, conv(x, w)>, linear in each of the three: conv itself is dT/dg, its gradients
are dT/dx and dT/dw, and theirs are again two of these, of other arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**19
"""Numbers in the patches that are made at a time on a CPU, so that they stay in its cache: 2 MB in float32."""


def together(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor | None:
    """What ``torch.vmap`` is to make of a function: ``function`` itself, of ``tensors`` with the tasks in front.

    ``None`` where ``torch.vmap`` maps over none of ``tensors``. Derivatives may be taken outside of ``torch.vmap`` (as
    of ``function``, without a detour) or inside, by ``torch.func``, in any order.
    """
    return _Together.apply(function, *tensors) if torch._C._are_functorch_transforms_active() else None


def conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Of every task ``F.conv2d(x, weight, None, stride, padding)``, with the channels last.

    ``x`` is ``[B, N, H, W, C]``, ``weight`` is ``[B, O, C, K, K]``, without a copy where every task's memory layout
    is ``torch.channels_last``. The result is ``[B, N, H', W', O]``. Derivatives of any order.
    """
    window = _Window(weight.shape[-1], stride, padding, *x.shape[2:4])
    return _Form.apply(x, weight.movedim(2, -1).flatten(2), None, window)


def patches(x: Tensor, kernel: int, stride: int = 1, padding: int = 0) -> Tensor:
    """P: ``[..., H, W, C]`` to ``[..., H', W', K K C]``."""
    x = F.pad(x, (0, 0, *[padding] * 4))
    return x.unfold(-3, kernel, stride).unfold(-3, kernel, stride).movedim(-3, -1).flatten(-3)


class _Window(NamedTuple):
    """What a convolution looks through, and the size of what it looks at."""

    kernel: int
    stride: int
    padding: int
    height: int
    width: int

    @property
    def positions(self) -> tuple[int, int]:
        reach = 2 * self.padding - self.kernel
        return (self.height + reach) // self.stride + 1, (self.width + reach) // self.stride + 1


class _Form(torch.autograd.Function):
    """Of T(x, w, g) = <g, conv(x, w)> the derivative for the one that is None.

    ``x`` is ``[B, N, H, W, C]``, ``w`` is ``[B, O, K K C]``, ``g`` is ``[B, N, H', W', O]``.
    """

    @staticmethod
    def forward(x: Tensor | None, w: Tensor | None, g: Tensor | None, window: _Window) -> Tensor:
        return (_convolved if g is None else _spread if x is None else _correlated)(x, w, g, window)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *inputs, ctx.window = inputs
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, direction: Tensor):
        inputs = [direction if t is None else t for t in ctx.saved_tensors]
        return *(
            _Form.apply(*(None if i == k else t for i, t in enumerate(inputs)), ctx.window) if wanted else None
            for k, wanted in enumerate(ctx.needs_input_grad[:3])
        ), None


def _chunks(like: Tensor, positions: int, numbers: int) -> list[slice]:
    """So many tasks at a time that their patches fit."""
    total = len(like)
    some = max(1, CHUNK // max(1, positions * numbers)) if like.device.type == "cpu" else max(1, total)
    return [slice(i, i + some) for i in range(0, total, some)]


def _convolved(x: Tensor, w: Tensor, _, window: _Window) -> Tensor:
    y = x.new_empty(*x.shape[:2], *window.positions, w.shape[1])
    rows = y.flatten(1, 3)
    for some in _chunks(x, rows.shape[1], w.shape[2]):
        torch.bmm(patches(x[some], *window[:3]).flatten(1, 3), w[some].mT, out=rows[some])
    return y


def _correlated(x: Tensor, _, g: Tensor, window: _Window) -> Tensor:
    g = g.flatten(1, 3)
    w = x.new_empty(len(x), g.shape[2], window.kernel**2 * x.shape[4])
    for some in _chunks(x, g.shape[1], w.shape[2]):
        torch.bmm(g[some].mT, patches(x[some], *window[:3]).flatten(1, 3), out=w[some])
    return w


def _spread(_, w: Tensor, g: Tensor, window: _Window) -> Tensor:
    kernel, stride, padding, height, width = window
    high, wide = window.positions
    # In cells of stride x stride pixels, of which a patch covers as many whole ones as it can in one addition.
    more = [-(-(size + 2 * padding) // stride) for size in (height, width)]
    x = g.new_zeros(*g.shape[:2], more[0], stride, more[1], stride, w.shape[2] // kernel**2)
    for some in _chunks(g, len(g[0].flatten(0, 2)) if len(g) else 1, w.shape[2]):
        parts = g[some].flatten(1, 3) @ w[some]
        parts = parts.reshape(-1, g.shape[1], high, wide, kernel, kernel, x.shape[-1]).transpose(3, 4)
        for i in range(0, kernel, stride):
            for j in range(0, kernel, stride):
                part = parts[:, :, :, i : i + stride, :, j : j + stride]
                down, right = i // stride, j // stride
                x[some, :, down : down + high, : part.shape[3], right : right + wide, : part.shape[5]] += part
    whole = x.reshape(*g.shape[:2], more[0] * stride, more[1] * stride, x.shape[-1])
    return whole[:, :, padding : padding + height, padding : padding + width]


class _Together(torch.autograd.Function):
    @staticmethod
    def forward(function, *tensors) -> None:
        return None

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.function, *tensors = inputs
        ctx.outputs, ctx.mapped = len(output) if isinstance(output, tuple) else 0, output is not None
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *gradients):
        return None, *_Together.apply(partial(_pulled, ctx.function, ctx.outputs), *gradients, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx, *tangents) -> None:
        if ctx.mapped:
            raise NotImplementedError("no forward-mode derivative under torch.vmap")

    @staticmethod
    def vmap(info, in_dims, function, *tensors):
        tensors = [
            tensor.expand(info.batch_size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
            for tensor, axis in zip(tensors, in_dims[1:], strict=True)
        ]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*tensors), 0


def _pulled(function: Callable, outputs: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The gradients of ``function``, those of its outputs being the first of ``tensors``; 0 outputs are one, bare."""
    number = max(1, outputs)
    _, pull = torch.func.vjp(function, *tensors[number:])
    return pull(tensors[:number] if outputs else tensors[0])
