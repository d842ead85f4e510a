"""Reptile (Nichol, Achiam and Schulman 2018): go towards where training on a task leads, without a query set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, check_statistics
from utils.meta.inner import (
    Stacked,
    apply,
    check_finite,
    losses_of,
    own_parameters,
    predict,
    stacked,
    with_gradient,
)

OPTIMISERS = ("sgd", "adam")


@dataclass(frozen=True)
class Reptile:
    """theta <- theta + epsilon * (mean of phi_K over the tasks - theta), phi_K after ``inner_steps`` on a task.

    Every inner step takes ``inner_batch`` images of the task's support set; the images are shuffled, and gone through
    again and again. ``optimiser``: ``"sgd"``, or ``"adam"`` without momentum (beta_1 = 0) as in the paper's
    experiments, where it starts afresh in every task.

    When testing, ``test_steps`` steps with ``test_batch`` images. ``statistics`` of the queries as for
    :class:`utils.meta.maml.MAML`.

    ``loss`` has theta - phi_K as its gradient; so a step of gradient descent with rate epsilon on it is Reptile's.
    """

    network: nn.Module
    inner_lr: float = 1e-3
    inner_steps: int = 5
    inner_batch: int | None = None
    optimiser: str = "adam"
    test_steps: int = 50
    test_batch: int | None = None
    statistics: str = "batch"
    criterion: Callable[..., Tensor] = F.cross_entropy
    vectorised: bool = True

    def __post_init__(self) -> None:
        check_statistics(self.statistics)
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser must be one of {OPTIMISERS}; got {self.optimiser!r}")
        if not self.inner_lr > 0:
            raise ValueError(f"the inner rate must be positive; got {self.inner_lr}")

    def adapt(self, params: Params, x: Tensor, y: Tensor, steps: int, batch: int | None, seed: int) -> Stacked:
        """Parameters of every task after ``steps`` steps on mini-batches of ``x [B, S, ...]``, ``y [B, S, ...]``.

        Raises ``FloatingPointError`` where a task diverges, ``ValueError`` as :func:`mini_batches`.
        """
        theta = own_parameters(self.network) if params is None else params
        phi = {name: value.detach() for name, value in stacked(theta, len(x)).items()}
        squares = {name: torch.zeros_like(value) for name, value in phi.items()}
        statistics = "running" if self.statistics == "running" else "batch"
        losses = []
        for step, some in enumerate(mini_batches(x.shape[1], batch, steps, len(x), seed)):
            some = some.to(x.device)
            tasks = torch.arange(len(x), device=x.device)[:, None]
            with torch.enable_grad():
                phi = {name: value.requires_grad_() for name, value in phi.items()}
                outputs = apply(self.network, phi, {}, x[tasks, some], self.vectorised, statistics=statistics)
                loss = losses_of(self.criterion, outputs, y[tasks, some])
                slopes = torch.autograd.grad(loss.sum(), list(phi.values()))
            losses.append(loss.detach())
            with torch.no_grad():
                phi = {
                    name: value - self.inner_lr * self._direction(squares[name], slope, step)
                    for (name, value), slope in zip(phi.items(), slopes, strict=True)
                }
        if losses:
            check_finite(torch.stack(losses), self.inner_lr)
        return phi

    def _direction(self, squares: Tensor, slope: Tensor, step: int, decay: float = 0.999) -> Tensor:
        if self.optimiser == "sgd":
            return slope
        squares.mul_(decay).addcmul_(slope, slope, value=1 - decay)
        return slope / ((squares / (1 - decay ** (step + 1))).sqrt() + 1e-8)

    def logits(self, params: Params, episode: Episode, steps: int | None = None) -> Tensor:
        """Outputs of the adapted networks for the queries, ``[B, Q, ...]``."""
        steps = self.test_steps if steps is None else steps
        phi = self.adapt(params, episode.support_x, episode.support_y, steps, self.test_batch, seed=0)
        with torch.no_grad():
            return predict(self.network, phi, {}, episode, self.statistics, self.vectorised)

    def loss(self, params: Params, episode: Episode, seed: int = 0) -> Tensor:
        """A scalar whose gradient with respect to theta is theta minus the mean of phi_K; its value is their distance.

        Training uses the support set alone; ``seed`` shuffles it.
        """
        theta = own_parameters(self.network) if params is None else params
        phi = self.adapt(theta, episode.support_x, episode.support_y, self.inner_steps, self.inner_batch, seed)
        away = {name: value.detach() - phi[name].mean(0) for name, value in theta.items()}
        distance = torch.stack([value.square().sum() for value in away.values()]).sum().sqrt()
        return with_gradient(distance, theta, away)


def all_as_support(episode: Episode) -> Episode:
    """The same tasks with all images in the support set, for training: Reptile does not look at queries."""
    return replace(
        episode,
        support_x=torch.cat([episode.support_x, episode.query_x], dim=1),
        support_y=torch.cat([episode.support_y, episode.query_y], dim=1),
    )


def mini_batches(n: int, batch: int | None, steps: int, n_tasks: int, seed: int) -> list[Tensor]:
    """Positions below ``n`` for every step and task, ``[B, batch]``: shuffled once, then gone through in circles.

    Raises ``ValueError`` for a negative number of steps and a batch of fewer than one.
    """
    if steps < 0:
        raise ValueError(f"the number of inner steps must be a whole number of at least 0; got {steps}")
    if batch is not None and batch < 1:
        raise ValueError(f"a mini-batch has at least 1 image; got {batch}")
    if batch is None or batch >= n:
        return [torch.arange(n).expand(n_tasks, n)] * steps
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n_tasks, n, generator=generator).argsort(1)
    places = torch.arange(steps * batch).view(steps, batch) % n
    return [order[:, some] for some in places]
