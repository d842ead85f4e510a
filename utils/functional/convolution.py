"""Convolutions of many tasks at once, every task with weights of its own, and what else ``torch.vmap`` is slow at.

The channels of all tasks stand side by side, and a convolution in groups keeps them apart. ``torch.vmap`` does the same
to :func:`torch.nn.functional.conv2d`; but PyTorch's second derivative of a convolution in groups goes through the
groups one by one. Here all derivatives come from T(x, w, g) = <g, conv(x, w)>, which is linear in each of the three:
conv is dT/dg, its gradients are dT/dx and dT/dw, and theirs are again two of these, of other arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def together(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor | None:
    """What ``torch.vmap`` is to make of a function: ``function`` itself, of ``tensors`` with the tasks in front.

    ``None`` where ``torch.vmap`` maps over none of ``tensors``. Derivatives may be taken outside of ``torch.vmap`` (as
    of ``function``, without a detour) or inside, by ``torch.func``, in any order; not in forward mode.
    """
    return _Together.apply(function, *tensors) if torch._C._are_functorch_transforms_active() else None


def conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """``F.conv2d(x, weight, None, stride, padding, 1, groups)`` with a second derivative that keeps groups together."""
    return _Form.apply(x, weight, None, (*x.shape[-2:], weight.shape[-1], stride, padding, groups))


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, m: int, eps: float, rectified: bool = False) -> Tensor:
    """Batch normalisation of ``x`` ``[..., M, C]`` by the statistics of the first ``m`` of its M rows.

    z = gamma x^ + beta with x^ = r (x - mean) and r = 1 / sqrt(var + eps), gamma and beta being ``weight`` and
    ``bias``, ``[..., C]``; with ``rectified``, ReLU of this. Derivatives of any order.
    """
    return _Norm.apply(x, weight, bias, m, eps, rectified)[0]


def relu(x: Tensor) -> Tensor:
    """``F.relu(x)``, with a second derivative that does not add up maps of zeros."""
    return _Relu.apply(x, None)


def patches(x: Tensor, kernel: int, stride: int = 1, padding: int = 0) -> Tensor:
    """What a convolution sees: ``[..., C, H, W]`` to ``[..., H', W', C K K]``."""
    x = F.pad(x, [padding] * 4)
    return x.unfold(-2, kernel, stride).unfold(-2, kernel, stride).movedim(-5, -3).flatten(-3)


class _Form(torch.autograd.Function):
    """Of T(x, w, g) = <g, conv(x, w)> the derivative for the one that is None."""

    @staticmethod
    def forward(x: Tensor | None, w: Tensor | None, g: Tensor | None, window: tuple[int, ...]) -> Tensor:
        height, width, kernel, stride, padding, groups = window
        if g is None:
            return F.conv2d(x, w, None, stride, padding, 1, groups)
        # Of the one that is sought, the operation reads no more than shape and layout.
        options = {"dtype": g.dtype, "device": g.device, "memory_format": torch.channels_last}
        if x is None:
            x, wanted = torch.empty(len(g), groups * w.shape[1], height, width, **options), 0
        else:
            w, wanted = torch.empty(g.shape[1], x.shape[1] // groups, kernel, kernel, **options), 1
        mask = [wanted == 0, wanted == 1, False]
        twice = [stride] * 2, [padding] * 2, [1] * 2
        return torch.ops.aten.convolution_backward(g, x, w, None, *twice, False, [0, 0], groups, mask)[wanted]

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


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, bias, m, eps, relu):
        mean, r = _statistics(x, m, eps)
        z = torch.addcmul(bias.unsqueeze(-2), x - mean, weight.unsqueeze(-2) * r)
        return (z.relu_() if relu else z), mean, r

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, _, ctx.m, ctx.eps, ctx.relu = inputs
        z, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, weight, z if ctx.relu else None, mean, r)

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        return *_NormSlope.apply(gradient, *ctx.saved_tensors, ctx.m, ctx.eps), None, None, None


class _NormSlope(torch.autograd.Function):
    """The gradients of :func:`batch_norm` for ``gradient`` G, 1_m being one for the first m rows, else zero:

    dbeta = <g, 1>, dgamma = <g, x^>, dx = s g - 1_m s / m (dbeta + x^ dgamma), with s = gamma r, and g = G where z > 0.

    Of phi = <u, dx> + <v, dgamma> + <w, dbeta>, with the means a of u and b of u x^ over the first m rows, and
    q = <u, g> - a dbeta - b dgamma, it is

    dphi / dg = s u + (w - s a) + delta x^, where delta = v - s b,
    dphi / dgamma = r q,
    dphi / dx = r delta g - 1_m r (e + f x^ + h u), where h = s dgamma / m, e = delta dbeta / m - h a and
    f = (s q + delta dgamma) / m - h b.
    """

    @staticmethod
    def forward(gradient, x, weight, z, mean, r, m, eps):
        g = gradient if z is None else torch.ops.aten.threshold_backward(gradient, z, 0)
        s = weight.unsqueeze(-2) * r
        by_bias = g.sum(-2, keepdim=True)
        by_weight = (x - mean).mul_(g).sum(-2, keepdim=True).mul_(r)
        slope = (s * r).mul_(by_weight).div_(-m)
        constant = torch.addcmul(s * by_bias / -m, slope, mean, value=-1)
        by_x = g * s
        _first(by_x, m).addcmul_(_first(x, m), slope).add_(constant)
        return by_x, by_weight.squeeze(-2), by_bias.squeeze(-2)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *inputs, ctx.m, ctx.eps = inputs
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx, u, v, w):
        gradient, x, weight, z, mean, r, by_weight, by_bias = ctx.saved_tensors
        m = ctx.m
        if torch.is_grad_enabled():  # for a third derivative
            mean, r = _statistics(x, m, ctx.eps)
        v, w, by_weight, by_bias, weight = (t.unsqueeze(-2) for t in (v, w, by_weight, by_bias, weight))
        s = weight * r
        g = gradient if z is None else torch.ops.aten.threshold_backward(gradient, z, 0)
        normal, first = (x - mean) * r, _first(u, m)
        seen = _first(normal, m)
        a, b = first.mean(-2, keepdim=True), (first * seen).mean(-2, keepdim=True)
        q = _less((u * g).sum(-2, keepdim=True), (a, by_bias), (b, by_weight))
        delta = _less(v, (s, b))
        by_g = torch.addcmul(torch.addcmul(_less(w, (s, a)), normal, delta), u, s)
        if z is not None:
            by_g = torch.ops.aten.threshold_backward(by_g, z, 0)
        h = s * by_weight / m
        e = _less(delta * by_bias / m, (h, a))
        f = _less(torch.addcmul(s * q, delta, by_weight) / m, (h, b))
        through = torch.addcmul(torch.addcmul(e, seen, f), first, h)
        through = F.pad(through, (0, 0, 0, x.shape[-2] - m)) if m < x.shape[-2] else through
        by_x = (delta * g - through) * r
        return by_g, by_x, (r * q).squeeze(-2), None, None, None, None, None


def _statistics(x: Tensor, m: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean of the first ``m`` rows, and one by their standard deviation."""
    seen = _first(x, m)
    mean = seen.mean(-2, keepdim=True)
    return mean, torch.rsqrt((seen - mean).square().mean(-2, keepdim=True) + eps)


def _first(x: Tensor, m: int) -> Tensor:
    """The first ``m`` rows: ``x`` itself where it has no more, because a view takes as long as a small sum."""
    return x if m == x.shape[-2] else x[..., :m, :]


def _less(value: Tensor, *products: tuple[Tensor, Tensor]) -> Tensor:
    """``value`` less these products."""
    for one, other in products:
        value = torch.addcmul(value, one, other, value=-1)
    return value


class _Relu(torch.autograd.Function):
    """ReLU of ``x``, or ``x`` where ``z`` is positive."""

    @staticmethod
    def forward(x: Tensor, z: Tensor | None) -> Tensor:
        return F.relu(x) if z is None else torch.ops.aten.threshold_backward(x, z, 0)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(output if inputs[1] is None else inputs[1])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _Relu.apply(gradient, *ctx.saved_tensors), None


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
        tensors = [_in_front(tensor, axis, info.batch_size) for tensor, axis in zip(tensors, in_dims[1:], strict=True)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*tensors), 0


def _in_front(tensor: Tensor, axis: int | None, tasks: int) -> Tensor:
    if axis is None:
        return tensor.expand(tasks, *tensor.shape)
    return tensor.movedim(axis, 0) if axis else tensor


def _pulled(function: Callable, outputs: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The gradients of ``function``, those of its outputs being the first of ``tensors``; 0 outputs are one, bare."""
    number = max(1, outputs)
    _, pull = torch.func.vjp(function, *tensors[number:])
    return pull(tensors[:number] if outputs else tensors[0])
