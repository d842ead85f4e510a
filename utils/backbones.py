"""The small networks of few-shot learning, with batch-norm statistics as a declared choice."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.functional.convolution import batch_norm, conv2d, patches, relu, together

STATISTICS = ("batch", "support", "running")
CHUNK = 2**22
"""Numbers in the largest map that :class:`Conv4` makes at a time where images do not influence each other, on a CPU:
16 MB in float32. Much larger blocks of memory are taken fresh from the system every time, which costs a tenth."""
EXACT_FROM = 2**16
"""Numbers in a map from which on its statistics are added up by parts; of fewer, PyTorch's are exact enough."""


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation ``[N, C, H, W]`` with mean and variance added up by parts.

    ``F.batch_norm`` in this layout loses three to four of the seven digits of the statistics, more the larger the
    batch, and the gradient, in which large parts cancel, can be off by a tenth of its largest entry (Omniglot, four
    layers). Its backward pass is exact for statistics that are.
    """

    @staticmethod
    def forward(x, weight, bias, running_mean, running_var, momentum, eps):
        var, mean = _var_mean(x)
        _follow(running_mean, running_var, mean, var, momentum, x)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, torch.rsqrt(var + eps)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, *_, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        x, weight, mean, scale = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        # An operation of PyTorch's own, so that second derivatives are known.
        slopes = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, ctx.eps, wanted
        )
        return *slopes, None, None, None, None


class _PooledBatchNorm(torch.autograd.Function):
    """``max_pool2d(batch_norm(x), 2)`` for weights of one ``sign``, ``weight`` being their size: pooled first.

    Then only a quarter is normalised, and of the gradient only what comes through the statistics is dense:
    dL/dx = s (scatter(g) - mean(g) - x^ mean(g x^)) with s = weight / sqrt(var + eps), the means being over all of x.
    ``x`` is what ``sign`` has been multiplied into already; of it, the running mean has to be freed again.
    """

    @staticmethod
    def forward(x, weight, bias, sign, running_mean, running_var, momentum, eps):
        var, mean = _var_mean(x)
        _follow(running_mean, running_var, mean * sign, var, momentum, x)
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        y = F.batch_norm(pooled, mean, var, weight, bias, False, 0.0, eps)
        return y, mean, torch.rsqrt(var + eps), pooled, places

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, *_, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        x, weight, mean, inverse, pooled, places = ctx.saved_tensors
        window = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        scatter = torch.ops.aten.max_pool2d_with_indices_backward
        if torch.is_grad_enabled():  # by operations of PyTorch's own, so that second derivatives are known
            slopes = torch.ops.aten.native_batch_norm_backward(
                scatter(gradient, x, *window, places), x, weight, None, None, mean, inverse, True, ctx.eps, [True] * 3
            )
            return *slopes, *[None] * 5
        by_bias = gradient.sum((0, 2, 3))
        by_weight = ((pooled - mean[:, None, None]) * gradient).sum((0, 2, 3)) * inverse
        scale = weight * inverse
        by_x = scatter(gradient * scale[:, None, None], x, *window, places)
        n = x.numel() // x.shape[1]
        slope = -scale * inverse * by_weight / n
        constant = -scale * by_bias / n - slope * mean
        some = max(1, CHUNK // 4 // x[0].numel())
        for part, of_x in zip(by_x.split(some), x.split(some), strict=True):
            part.addcmul_(of_x, slope[:, None, None]).add_(constant[:, None, None])
        return by_x, by_weight, by_bias, *[None] * 5


def _follow(running_mean, running_var, mean: Tensor, var: Tensor, momentum: float, x: Tensor) -> None:
    """The running averages, where there are any, go on to these statistics of ``x``."""
    if running_mean is not None:
        n = x.numel() // x.shape[1]
        running_mean.data.lerp_(mean, momentum)
        running_var.data.lerp_(var * (n / (n - 1)), momentum)


def _var_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of every channel, in one pass through parts that fit into the cache."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])  # no copy in channels_last
    parts = rows.split(max(1, 2**18 // x.shape[1]))
    shift = parts[0].mean(0)  # close to the mean, so that little cancels below
    sums, squares = [], []
    for part in parts:
        part = part - shift
        sums.append(part.sum(0))
        squares.append(part.square().sum(0))
    offset = torch.stack(sums).sum(0) / len(rows)
    return (torch.stack(squares).sum(0) / len(rows) - offset.square()).clamp_min(0), shift + offset


def _norm_of_tasks(n: int, eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Of ``[B, N, C, H, W]``, with the statistics of the first ``n`` images of every task."""
    rows = x.movedim(2, -1)
    size, rows = rows.shape, rows.flatten(1, -2)
    y = batch_norm(rows, weight, bias, n * rows.shape[1] // size[1], eps)
    return y.reshape(size).movedim(-1, 2)


def _normalised(n: int, eps: float, rectified: bool, rows: Tensor, weight, bias, mean, var) -> Tensor:
    """Of ``[..., M, C]``, with the statistics of the first ``n`` rows, or with ``mean`` and ``var`` ``[..., C]``."""
    if n:
        return batch_norm(rows, weight, bias, n, eps, rectified)
    scale = weight * torch.rsqrt(var + eps)
    y = torch.addcmul((bias - mean * scale).unsqueeze(-2), rows, scale.unsqueeze(-2))
    return relu(y) if rectified else y


def _folded_first(n: int, eps: float, conv: nn.Conv2d, x: Tensor, w: Tensor, weight, bias, mean, var) -> Tensor:
    """Weight ``[B, O, C + 1, K, K]`` with which convolution does what ``w`` and normalisation do in turn.

    The last channel is for the shift and is to see ones. For statistics of the first ``n`` images of ``x``
    ``[B, N, C, H, W]`` no convolution is needed: of y = w p over its patches p, the mean is w mean(p) and the variance
    w cov(p) w', cheap where the channels are few.
    """
    if n:
        p = patches(x[:, :n], conv.kernel_size[0], conv.stride[0], conv.padding[0]).flatten(1, 3)
        centre, by = p.mean(1, keepdim=True), w.flatten(2)
        p = p - centre
        mean = (by * centre).sum(-1)
        var = (by @ (p.mT @ p / p.shape[1]) * by).sum(-1).clamp_min(0)
    scale = weight * torch.rsqrt(var + eps)
    shift = F.pad((bias - mean * scale)[..., None, None, None], [conv.padding[0]] * 4)  # at the centre
    return torch.cat([w * scale[..., None, None, None], shift], 2)


def _side_by_side(weight: Tensor) -> Tensor:
    """``[B, O, C, K, K]`` to ``[B O, C, K, K]`` with the channels last in memory."""
    return weight.movedim(2, -1).flatten(0, 1).movedim(-1, 1)


class EpisodeNorm2d(nn.BatchNorm2d):
    """Batch normalisation that is told whose mean and variance to use (Ioffe and Szegedy 2015).

    y = (x - mean) / sqrt(var + eps) * weight + bias, per channel, for ``x`` of shape ``[N, C, H, W]``, with

    - ``"batch"``: mean and (biased) variance of all of ``x``: transductive when ``x`` holds query images, because
      each prediction then depends on the other queries. In training mode the running averages follow;
    - ``"support"``: of the first ``n_support`` images alone;
    - ``"running"``: the averages kept while training.

    Without a choice it does what ``nn.BatchNorm2d`` does: ``"batch"`` in training mode, else ``"running"``.

    Under ``torch.vmap`` every task has statistics of its own, and the running averages do not follow. The derivatives
    are right in any order there too, while the second of ``F.batch_norm`` is wrong, silently (functorch issue 534).
    """

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        n = self.images(len(x), statistics, n_support)
        if not n:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        y = together(partial(_norm_of_tasks, n, self.eps), x, self.weight, self.bias)
        if y is not None:
            return y
        if statistics != "support":
            if x.ndim == 4 and x.stride(1) == 1 and not x.is_contiguous() and self._by_parts(x.numel(), x):
                return _BatchNorm.apply(x, self.weight, self.bias, *self._running_averages())[0]
            if self.training:
                return super().forward(x)
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        # By hand, because F.batch_norm passes no gradient to statistics that it is given.
        var, mean = torch.var_mean(x[:n], dim=(0, 2, 3), correction=0, keepdim=True)
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        return (x - mean) * torch.rsqrt(var + self.eps) * weight + bias

    def images(self, n: int, statistics: str | None = None, n_support: int | None = None) -> int:
        """How many of ``n`` images, the first, these ``statistics`` are of; 0 for those kept while training."""
        if statistics is None:
            statistics = "batch" if self.training else "running"
        if statistics not in STATISTICS:
            raise ValueError(f"statistics must be one of {STATISTICS}; got {statistics!r}")
        if statistics == "support" and (n_support is None or not 0 < n_support <= n):
            raise ValueError(
                f'statistics="support" needs n_support between 1 and {n}, the images of the batch; got {n_support}'
            )
        return {"batch": n, "support": n_support, "running": 0}[statistics]

    @property
    def numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What takes part in the computation."""
        return self.weight, self.bias, self.running_mean, self.running_var

    def _by_parts(self, numbers: int, x: Tensor) -> bool:
        """Whether a map of so many ``numbers`` is a case for :class:`_BatchNorm`, ``x`` being it or its origin."""
        same = x.dtype == self.weight.dtype and not torch.is_autocast_enabled(x.device.type)
        return same and x.device.type == "cpu" and numbers >= EXACT_FROM

    def _running_averages(self) -> tuple[Tensor | None, Tensor | None, float, float]:
        """What the statistics of a batch go into, how fast, and ``eps``."""
        if not self.training:
            return None, None, 0.0, self.eps
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return self.running_mean, self.running_var, momentum, self.eps

    def pooled_batch(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """``max_pool2d(norm(conv(x)), 2)`` with the statistics of the ``"batch"``; ``conv`` keeps the size, no bias."""
        if not self._by_parts(len(x) * x.shape[2] * x.shape[3] * self.num_features, x):
            return F.max_pool2d(self(conv(x), "batch"), 2)
        sign = torch.where(self.weight.detach() < 0, -1.0, 1.0).to(self.weight.dtype)
        x = F.conv2d(x, conv.weight * sign[:, None, None, None], None, conv.stride, conv.padding)
        return _PooledBatchNorm.apply(x, self.weight * sign, self.bias, sign, *self._running_averages())[0]

    def folded(self, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that does what ``conv`` (without bias) and ``"running"`` do in turn.

        w' = s w and b' = bias - s mean with s = weight / sqrt(var + eps), per channel.
        """
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return conv.weight * scale[:, None, None, None], self.bias - self.running_mean * scale


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU, halving: the standard few-shot network.

    ``downsample="pool"`` halves by 2x2 max-pooling and returns the flattened map (Vinyals et al. 2016, Snell et al.
    2017): 28x28 becomes ``width`` numbers, 84x84 becomes ``25 * width``. ``downsample="stride"`` halves by stride 2
    and returns the spatial mean, ``width`` numbers (Finn et al. 2017, Omniglot): 3.7 times fewer multiplications.

    With ``maps``, only the first two blocks halve and the output is the maps themselves, ``[N, width, size // 4,
    size // 4]``: what a relation network compares (Sung et al. 2018).

    Input float ``[N, in_channels, size, size]``, output ``[N, out_features]``. The convolutions have no bias: the
    normalisation after each would subtract it again.
    """

    def __init__(
        self, in_channels: int = 1, width: int = 64, size: int = 28, downsample: str = "pool", maps: bool = False
    ) -> None:
        super().__init__()
        if downsample not in ("pool", "stride"):
            raise ValueError(f'downsample must be "pool" or "stride"; got {downsample!r}')
        if maps and downsample == "stride":
            raise ValueError('maps are made by max-pooling: downsample must be "pool"')
        if size < 16:
            raise ValueError(f"four halvings need images of at least 16 x 16; got {size} x {size}")
        self.downsample, self.maps = downsample, maps
        stride = 2 if downsample == "stride" else 1
        channels = [in_channels] + [width] * 4
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False) for i, o in pairwise(channels)
        )
        self.norms = nn.ModuleList(EpisodeNorm2d(width) for _ in range(4))
        side = size // 4 if maps else size // 16
        self.out_features = width if downsample == "stride" else width * side**2
        self.to(memory_format=torch.channels_last)  # a third faster than the default layout on CPU

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        if statistics is None and not self.training:
            statistics = "running"
        counts = [norm.images(len(x), statistics, n_support) for norm in self.norms]
        pairs = zip(self.convs, self.norms, strict=True)
        tensors = [tensor for conv, norm in pairs for tensor in (conv.weight, *norm.numbers)]
        y = together(partial(self._of_tasks, counts), x, *tensors)
        if y is not None:
            return y
        if statistics == "running":
            return self._running(x)
        x = x.contiguous(memory_format=torch.channels_last)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if statistics in ("batch", None) and self._pools(i):
                x = F.relu(norm.pooled_batch(conv, x))
            else:
                x = self._halve(norm(conv(x), statistics, n_support), i)
        return self._output(x)

    def _of_tasks(self, counts: list[int], x: Tensor, *tensors: Tensor) -> Tensor:
        """Of ``[B, N, C, H, W]``, every task by its own ``tensors`` and the statistics of its first images.

        The channels of all tasks stand side by side: ``[N, B C, H, W]``.
        """
        tasks, size = x.shape[:2]
        some = self._at_a_time(x)
        if some < tasks:
            parts = zip(*(tensor.split(some) for tensor in (x, *tensors)), strict=True)
            return torch.cat([self._of_tasks(counts, *part) for part in parts])
        for i, (n, conv, norm) in enumerate(zip(counts, self.convs, self.norms, strict=True)):
            weight, *numbers = tensors[5 * i : 5 * i + 5]
            pools, window = self._pools(i), (conv.stride[0], conv.padding[0], tasks)
            if i == 0:
                weight = _folded_first(n, norm.eps, conv, x, weight, *numbers)
                x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1, 2)
                x = conv2d(x.contiguous(memory_format=torch.channels_last), _side_by_side(weight), *window)
            else:
                x = conv2d(x, _side_by_side(weight), *window)
                rows = x.movedim(1, -1)
                n *= rows.shape[1] * rows.shape[2]
                numbers = [number.flatten() for number in numbers]
                rows = _normalised(n, norm.eps, not pools, rows.flatten(0, 2), *numbers).reshape(rows.shape)
                x = rows.movedim(-1, 1)
            if pools:
                x = F.max_pool2d(x, 2)
            if pools or i == 0:
                x = relu(x)
        if self.maps:
            return x.unflatten(1, (tasks, -1)).transpose(0, 1)
        return self._output(x).reshape(size, tasks, -1).transpose(0, 1)

    def _running(self, x: Tensor) -> Tensor:
        """With running statistics: normalisation is part of the convolution, and no image influences another."""
        blocks = [norm.folded(conv) for conv, norm in zip(self.convs, self.norms, strict=True)]
        stride = self.convs[0].stride
        parts = []
        for part in x.split(self._at_a_time(x)):
            part = part.contiguous(memory_format=torch.channels_last)
            for i, (weight, bias) in enumerate(blocks):
                part = self._halve(F.conv2d(part, weight, bias, stride, padding=1), i)
            parts.append(self._output(part))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _at_a_time(self, x: Tensor) -> int:
        """How many of ``x``, images or tasks, so that no map has more than ``CHUNK`` numbers."""
        if x.device.type != "cpu":
            return max(1, len(x))
        largest = self.convs[0].out_channels * math.prod(x.shape[1:]) // (x.shape[-3] * self.convs[0].stride[0] ** 2)
        return max(1, CHUNK // largest)

    def _pools(self, block: int) -> bool:
        return self.downsample == "pool" and not (self.maps and block >= 2)

    def _halve(self, x: Tensor, block: int) -> Tensor:
        if self._pools(block):
            # ReLU and maximum commute: taking the maximum first leaves a quarter of the work to the ReLU.
            x = F.max_pool2d(x, 2)
        return F.relu(x)

    def _output(self, x: Tensor) -> Tensor:
        if self.maps:
            return x
        return x.flatten(1) if self.downsample == "pool" else x.mean(dim=(2, 3))


class ResNet(nn.Module):
    """Residual network for small images (He et al. 2016, section 4.2): 6 ``blocks`` + 2 layers, 32 by default.

    A convolution, then three stages of as many blocks, with ``width``, 2 ``width`` and 4 ``width`` channels, of which
    the second and the third begin by halving; the output is the mean over the last map. A block is

        relu(x + norm(conv(relu(norm(conv(x))))))

    and where it halves, x is taken at every second pixel and zeros stand for the channels that it lacks (option A): no
    parameters. Input float ``[N, in_channels, H, W]``, output ``[N, out_features]``.
    """

    def __init__(self, in_channels: int = 3, blocks: int = 5, width: int = 16) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"a stage needs at least one block; got {blocks}")
        widths = [in_channels, width]
        for stage in range(3):
            widths += [width * 2**stage] * 2 * blocks
        strides = [1] * (len(widths) - 1)
        strides[1 + 2 * blocks] = strides[1 + 4 * blocks] = 2
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride, padding=1, bias=False)
            for (i, o), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.norms = nn.ModuleList(EpisodeNorm2d(o) for o in widths[1:])
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.out_features = widths[-1]
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        def layer(i: int, x: Tensor) -> Tensor:
            return self.norms[i](self.convs[i](x), statistics, n_support)

        x = F.relu(layer(0, x.contiguous(memory_format=torch.channels_last)))
        for i in range(1, len(self.convs), 2):
            y = layer(i + 1, F.relu(layer(i, x)))
            if self.convs[i].stride[0] > 1:
                x = x[:, :, ::2, ::2]
            x = F.relu(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])))
        return x.mean(dim=(2, 3))


class MLP(nn.Module):
    """Fully connected network with ReLU: the flattened image to ``widths[-1]`` numbers.

    The default is MAML's network without convolutions (256, 128, 64, 64), each layer followed by normalisation when
    ``normalise`` is set. The last layer is linear when ``activate_last`` is off.
    """

    def __init__(
        self,
        in_features: int,
        widths: tuple[int, ...] = (256, 128, 64, 64),
        normalise: bool = False,
        activate_last: bool = True,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("an MLP needs at least one layer width")
        sizes = [in_features, *widths]
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(EpisodeNorm2d(o) for o in widths) if normalise else None
        self.activate_last = activate_last
        self.out_features = widths[-1]

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        x = x.flatten(1)
        if self.norms is not None:
            counts = [norm.images(len(x), statistics, n_support) for norm in self.norms]
            pairs = zip(self.linears, self.norms, strict=True)
            tensors = [tensor for linear, norm in pairs for tensor in (linear.weight, linear.bias, *norm.numbers)]
            y = together(partial(self._of_tasks, counts), x, *tensors)
            if y is not None:
                return y
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if self.norms is not None:
                x = self.norms[i](x[:, :, None, None], statistics, n_support)[:, :, 0, 0]
            if self._activates(i):
                x = F.relu(x)
        return x

    def _of_tasks(self, counts: list[int], x: Tensor, *tensors: Tensor) -> Tensor:
        """Of ``[B, N, in_features]``, every task by its own ``tensors`` and the statistics of its first images."""
        for i, (n, norm) in enumerate(zip(counts, self.norms, strict=True)):
            weight, bias, *numbers = tensors[6 * i : 6 * i + 6]
            x = torch.baddbmm(bias[:, :, None], weight, x.mT).mT  # so that gradients have the layout of weights
            x = _normalised(n, norm.eps, self._activates(i), x, *numbers)
        return x

    def _activates(self, layer: int) -> bool:
        return self.activate_last or layer + 1 < len(self.linears)


class MixedPrecision(nn.Module):
    """``body`` with its convolutions in ``dtype`` while training, in its own precision otherwise; float32 comes out.

    Distances and losses of its output are thus never taken in 16 bits. Twice as fast in bfloat16 on current CPUs.
    """

    def __init__(self, body: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.body, self.dtype = body, dtype
        self.out_features = body.out_features

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        with torch.autocast(x.device.type, self.dtype, enabled=self.training):
            return self.body(x, statistics, n_support).float()
