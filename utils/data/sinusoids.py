"""Regression tasks: sine waves of different amplitude and phase (Finn et al. 2017, section 5.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.data.episodes import mix_seed

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, math.pi)
INPUTS = (-5.0, 5.0)


@dataclass(frozen=True)
class RegressionEpisode:
    """A batch of regression tasks: ``support_x`` and ``support_y`` ``[B, k_shot, 1]``, ``query_x`` and ``query_y``
    ``[B, n_query, 1]``; ``amplitude`` and ``phase`` ``[B]`` say which wave each task is.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    amplitude: Tensor
    phase: Tensor

    @property
    def n_tasks(self) -> int:
        return len(self.support_x)

    def wave(self, x: Tensor) -> Tensor:
        """The true curves at ``x [B, N, 1]``: a sin(x - phase)."""
        return self.amplitude[:, None, None] * torch.sin(x - self.phase[:, None, None])


@dataclass(frozen=True)
class SinusoidSampler:
    """Draws batches of waves y = a sin(x - b): a uniform in [0.1, 5], b in [0, pi], x in [-5, 5].

    Episode ``sample(i)`` depends on ``seed`` and ``i`` alone. The queries are drawn like the support points, or lie
    evenly where ``even_queries`` is set (for pictures, and for errors that depend less on chance).
    """

    k_shot: int
    n_query: int
    batch_size: int = 1
    seed: int = 0
    even_queries: bool = False

    def __post_init__(self) -> None:
        for name in ("k_shot", "n_query", "batch_size"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of at least 1; got {getattr(self, name)!r}")

    def sample(self, index: int) -> RegressionEpisode:
        """Batch number ``index``."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, index))
        b, k, q = self.batch_size, self.k_shot, self.n_query
        amplitude, phase = _uniform(AMPLITUDES, (b,), generator), _uniform(PHASES, (b,), generator)
        x = _uniform(INPUTS, (b, k + q, 1), generator)
        if self.even_queries:
            x[:, k:] = torch.linspace(*INPUTS, q)[:, None]
        y = amplitude[:, None, None] * torch.sin(x - phase[:, None, None])
        return RegressionEpisode(x[:, :k], y[:, :k], x[:, k:], y[:, k:], amplitude, phase)


def _uniform(bounds: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)
