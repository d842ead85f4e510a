"""The small networks of few-shot learning, with batch-norm statistics as a declared choice."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STATISTICS = ("batch", "support", "running")


class EpisodeNorm2d(nn.BatchNorm2d):
    """Batch normalisation that is told whose mean and variance to use (Ioffe and Szegedy 2015).

    y = (x - mean) / sqrt(var + eps) * weight + bias, per channel, for ``x`` of shape ``[N, C, H, W]``, with

    - ``"batch"``: mean and (biased) variance of all of ``x``: transductive when ``x`` holds query images, because
      each prediction then depends on the other queries. In training mode the running averages follow;
    - ``"support"``: of the first ``n_support`` images alone;
    - ``"running"``: the averages kept while training.

    Without a choice it does what ``nn.BatchNorm2d`` does: ``"batch"`` in training mode, else ``"running"``.

    Under ``torch.vmap`` PyTorch's second derivative of ``"batch"`` is wrong, silently (functorch issue 534): loop over
    the tasks there. ``"support"`` with all images as support is right everywhere, and slower.
    """

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        if statistics is None:
            return super().forward(x)
        if statistics == "running":
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if statistics == "batch":
            if self.training:
                return super().forward(x)
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if statistics == "support":
            if n_support is None or not 0 < n_support <= len(x):
                raise ValueError(
                    f'statistics="support" needs n_support between 1 and {len(x)}, the images of the batch; '
                    f"got {n_support}"
                )
            # By hand, because F.batch_norm passes no gradient to statistics that it is given.
            var, mean = torch.var_mean(x[:n_support], dim=(0, 2, 3), correction=0, keepdim=True)
            weight, bias = self.weight[:, None, None], self.bias[:, None, None]
            return (x - mean) * torch.rsqrt(var + self.eps) * weight + bias
        raise ValueError(f"statistics must be one of {STATISTICS}; got {statistics!r}")


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
        x = x.contiguous(memory_format=torch.channels_last)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x), statistics, n_support)
            if self.downsample == "pool" and not (self.maps and i >= 2):
                # ReLU and maximum commute: taking the maximum first leaves a quarter of the work to the ReLU.
                x = F.max_pool2d(x, 2)
            x = F.relu(x)
        if self.maps:
            return x
        return x.flatten(1) if self.downsample == "pool" else x.mean(dim=(2, 3))


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
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if self.norms is not None:
                x = self.norms[i](x[:, :, None, None], statistics, n_support)[:, :, 0, 0]
            if self.activate_last or i + 1 < len(self.linears):
                x = F.relu(x)
        return x


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
