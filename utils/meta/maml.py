"""MAML (Finn, Abbeel and Levine 2017): an initialisation from which a few steps of gradient descent suffice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, check_statistics
from utils.meta.inner import (
    Order,
    Path,
    Rates,
    Stacked,
    apply,
    check_finite,
    descend,
    losses_of,
    own_parameters,
    predict,
    split,
    stacked,
)


@dataclass(frozen=True)
class MAML:
    """Learn theta such that ``inner_steps`` steps on a task's support set make a good learner for its queries.

    theta'_i = theta - alpha grad L_i(theta) on the support set, once or several times; then on the queries
    theta <- theta - beta grad sum_i L_i(theta'_i) (Finn et al. 2017, algorithms 1 and 2).

    Parameters
    ----------
    network : ``network(x, statistics=, n_support=)`` maps ``[N, ...]`` to outputs ``[N, ...]``.
    inner_lr : alpha: a number, or one that is learned for each parameter and step (:mod:`utils.meta.rates`).
    order : 2 differentiates through the inner gradients; 1 takes them as constants (first-order MAML); or a function
        of the inner step.
    adapted : names of modules or parameters that the inner loop changes; ``None`` means all. ``("head",)`` is ANIL
        (Raghu et al. 2020).
    statistics : batch-norm statistics of the queries: ``"batch"`` are those of the queries themselves, as in the
        paper: transductive; ``"support"`` those of the support set, seen by the adapted network; ``"running"`` the
        averages. The support set is normalised by itself, or by the averages with ``"running"``.
    criterion : a loss as of ``torch.nn.functional``: ``cross_entropy``, ``mse_loss``.
    at_step : a function of the number of inner steps taken so far, for what the inner loop does not change but what
        differs from step to step, by name: normalisation layers of their own (:mod:`utils.meta.maml_plus_plus`).
    vectorised : all tasks at once (see :func:`utils.meta.inner.apply`). Training them so, the running averages of
        batch normalisation stay as they are: no task's are those of another.

    ``params`` of the methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: nn.Module
    inner_lr: Rates = 0.1
    inner_steps: int = 1
    order: Order = 2
    adapted: tuple[str, ...] | None = None
    statistics: str = "batch"
    criterion: Callable[..., Tensor] = F.cross_entropy
    at_step: Callable[[int], Mapping[str, Tensor]] | None = None
    vectorised: bool = True

    def __post_init__(self) -> None:
        check_statistics(self.statistics)
        if isinstance(self.inner_lr, int | float) and not self.inner_lr >= 0:
            raise ValueError(f"the inner rate must not be negative; got {self.inner_lr}")

    def adapt(
        self,
        params: Params,
        support_x: Tensor,
        support_y: Tensor,
        steps: int | None = None,
        order: Order | None = None,
        keep: bool = True,
    ) -> Path:
        """The inner loop of every task: ``support_x`` ``[B, S, ...]``, ``support_y`` ``[B, S, ...]``.

        ``steps`` and ``order`` override the learner's; without ``keep``, only the end of the path remains. Raises
        ``FloatingPointError`` where a task diverges.
        """
        own, shared = self._parts(params)
        if self.at_step is not None and (both := own.keys() & self.at_step(0).keys()):
            raise ValueError(f"adapted as well as given for every step: {', '.join(sorted(both))}; leave it to one")
        statistics = "running" if self.statistics == "running" else "batch"

        def objective(phi: Stacked, step: int) -> Tensor:
            outputs = apply(
                self.network, phi, self._at(step, shared), support_x, self.vectorised, statistics=statistics
            )
            return losses_of(self.criterion, outputs, support_y)

        order = (self.order if torch.is_grad_enabled() else 1) if order is None else order
        steps = self.inner_steps if steps is None else steps
        return descend(objective, stacked(own, len(support_x)), self.inner_lr, steps, order, keep)

    def _parts(self, params: Params) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return split(own_parameters(self.network) if params is None else params, self.adapted)

    def _at(self, step: int, shared: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return shared if self.at_step is None else {**shared, **self.at_step(step)}

    def predict(self, params: Params, path: Path, episode: Episode, step: int = -1) -> Tensor:
        """Outputs for the queries with the parameters after ``step`` steps (-1: the last), ``[B, Q, ...]``."""
        number = len(path.losses) + 1
        step = range(number)[step]
        shared = self._at(step, self._parts(params)[1])
        return predict(self.network, path.params[step - number], shared, episode, self.statistics, self.vectorised)

    def logits(self, params: Params, episode: Episode, steps: int | None = None) -> Tensor:
        """Outputs of the adapted networks for the queries, ``[B, Q, ...]``.

        Raises ``FloatingPointError`` where a task has diverged, the last step included.
        """
        path = self.adapt(params, episode.support_x, episode.support_y, steps, keep=False)
        outputs = self.predict(params, path, episode)
        check_finite(torch.cat([path.losses, outputs.detach().flatten(1).sum(1)[None]]), self.inner_lr)
        return outputs

    def task_losses(
        self, params: Params, episode: Episode, order: Order | None = None, weights: Sequence[float] | None = None
    ) -> Tensor:
        """Loss on the queries after adapting, of every task: ``[B]``.

        ``weights``, one for each inner step, asks for the weighted sum of the losses after each of them (multi-step
        loss); without, the loss after the last.
        """
        if weights is not None and len(weights) != self.inner_steps:
            raise ValueError(f"{self.inner_steps} inner steps need as many weights; got {len(weights)}")
        path = self.adapt(params, episode.support_x, episode.support_y, order=order, keep=weights is not None)
        if weights is None:
            weights = [0.0] * (self.inner_steps - 1) + [1.0]
        after = range(1, self.inner_steps + 1) if self.inner_steps else [0]
        losses = {
            step: losses_of(self.criterion, self.predict(params, path, episode, step), episode.query_y)
            for step, weight in zip(after, weights, strict=True)
            if weight
        }
        seen = torch.cat([path.losses, path.losses.new_zeros(1, episode.n_tasks)])
        for step, loss in losses.items():
            seen[step] = loss.detach()
        check_finite(seen, self.inner_lr)
        return sum(weights[step - 1] * loss if weights[step - 1] != 1 else loss for step, loss in losses.items())

    def loss(
        self, params: Params, episode: Episode, order: Order | None = None, weights: Sequence[float] | None = None
    ) -> Tensor:
        """The meta-objective: the mean over the tasks of the loss on the queries after adapting, a scalar."""
        return self.task_losses(params, episode, order, weights).mean()
