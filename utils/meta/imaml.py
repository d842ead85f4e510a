"""Implicit MAML (Rajeswaran, Finn, Kakade and Levine 2019): the gradient at the end of the road, not along it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, check_statistics
from utils.functional.solvers import conjugate_gradient
from utils.meta.inner import (
    Stacked,
    apply,
    check_finite,
    descend,
    losses_of,
    own_parameters,
    predict,
    stacked,
    with_gradient,
)


@dataclass(frozen=True)
class IMAML:
    """Learn theta such that the solution of a task *near* theta does well on the task's queries.

    phi* = argmin_phi L(phi, S) + lambda / 2 ||phi - theta||^2 (eq. 3 of the paper), found by ``inner_steps`` of
    gradient descent; the meta-gradient is (I + H / lambda)^{-1} grad L(phi*, Q) with H the Hessian of L(., S) at phi*
    (eq. 6), by ``cg_steps`` of conjugate gradient. How phi* was found does not enter: memory does not grow with the
    number of inner steps.

    ``regularisation`` is lambda. ``damping`` is added to I + H / lambda for networks whose H has negative
    eigenvalues, for which conjugate gradient is not made; 0 is the formula as it stands. The other fields are those of
    :class:`utils.meta.maml.MAML`.
    """

    network: nn.Module
    inner_lr: float = 0.1
    inner_steps: int = 16
    regularisation: float = 2.0
    cg_steps: int = 5
    damping: float = 0.0
    statistics: str = "batch"
    criterion: Callable[..., Tensor] = F.cross_entropy
    vectorised: bool = True

    def __post_init__(self) -> None:
        if not self.regularisation > 0:
            raise ValueError(f"regularisation must be positive; got {self.regularisation}")
        if self.cg_steps < 1:
            raise ValueError(f"the number of conjugate-gradient steps must be at least 1; got {self.cg_steps}")
        check_statistics(self.statistics)

    def adapt(self, params: Params, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Stacked:
        """phi* of every task, without a graph. Raises ``FloatingPointError`` where a task diverges."""
        theta = {name: value.detach() for name, value in self._theta(params).items()}

        def objective(phi: Stacked, step: int) -> Tensor:
            away = sum((phi[name] - value).square().flatten(1).sum(1) for name, value in theta.items())
            return self._support_losses(phi, support_x, support_y) + self.regularisation / 2 * away

        with torch.no_grad():
            steps = self.inner_steps if steps is None else steps
            return descend(objective, stacked(theta, len(support_x)), self.inner_lr, steps, order=1, keep=False).end

    def _theta(self, params: Params) -> dict[str, Tensor]:
        return own_parameters(self.network) if params is None else dict(params)

    def _support_losses(self, phi: Stacked, support_x: Tensor, support_y: Tensor) -> Tensor:
        statistics = "running" if self.statistics == "running" else "batch"
        outputs = apply(self.network, phi, {}, support_x, self.vectorised, statistics=statistics)
        return losses_of(self.criterion, outputs, support_y)

    def logits(self, params: Params, episode: Episode, steps: int | None = None) -> Tensor:
        """Outputs of the adapted networks for the queries, ``[B, Q, ...]``."""
        phi = self.adapt(params, episode.support_x, episode.support_y, steps)
        return predict(self.network, phi, {}, episode, self.statistics, self.vectorised)

    def implicit_gradient(self, phi: Stacked, episode: Episode) -> tuple[Tensor, Stacked]:
        """Query losses ``[B]`` at ``phi`` and every task's meta-gradient (I + H / lambda)^{-1} grad L(phi, Q)."""
        with torch.enable_grad():
            phi = {name: value.detach().requires_grad_() for name, value in phi.items()}
            values = list(phi.values())
            outputs = predict(self.network, phi, {}, episode, self.statistics, self.vectorised)
            losses = losses_of(self.criterion, outputs, episode.query_y)
            by_query = _flat(torch.autograd.grad(losses.sum(), values))
            by_support = torch.autograd.grad(
                self._support_losses(phi, episode.support_x, episode.support_y).sum(), values, create_graph=True
            )

        def matvec(v: Tensor) -> Tensor:
            hessian = torch.autograd.grad(by_support, values, _unflat(v, values), retain_graph=True)
            return (1 + self.damping) * v + _flat(hessian) / self.regularisation

        solved = conjugate_gradient(matvec, by_query, self.cg_steps)
        # Where the curvature is negative along the first direction already, the solver stays at 0. The plain gradient,
        # what lambda = infinity would give, is at least a direction of descent.
        stuck = (solved == 0).all(1, keepdim=True)
        solved = _unflat(torch.where(stuck, by_query, solved), values)
        return losses.detach(), dict(zip(phi, solved, strict=True))

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean query loss at the adapted parameters, with the implicit gradient as its gradient (first order only)."""
        theta = self._theta(params)
        phi = self.adapt(theta, episode.support_x, episode.support_y)
        losses, gradient = self.implicit_gradient(phi, episode)
        check_finite(losses[None], self.inner_lr, self.inner_steps)
        return with_gradient(losses.mean(), theta, {name: value.mean(0) for name, value in gradient.items()})


def _flat(values: Sequence[Tensor]) -> Tensor:
    """``[B, ...]`` each, to ``[B, P]``."""
    return torch.cat([value.flatten(1) for value in values], dim=1)


def _unflat(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([value[0].numel() for value in like], dim=1)
    return [part.view_as(value) for part, value in zip(parts, like, strict=True)]
