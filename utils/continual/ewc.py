"""Elastic weight consolidation (Kirkpatrick et al. 2017): weights that the model's answers depend on are held.

After task t the loss of the tasks so far is replaced by a parabola around the solution theta_t, whose curvature is the
diagonal of the Fisher information. Two ways to go on from there, of which only one is what Bayes' rule says:

    separate    sum_t F_t (theta - theta_t)^2            a parabola a task (Kirkpatrick et al. 2017)
    online      (sum_t F_t) (theta - theta_T)^2          one, at the latest solution (Huszar 2018, Schwarz et al. 2018)

theta_T was found under the pull of the earlier parabolas, so it knows of the earlier tasks already. Parabolas around
earlier solutions as well count these tasks twice, and pull to a place that is none of the solutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.continual.importance import (
    Params,
    check_architecture,
    check_images,
    check_strength,
    copied,
    parameter_importance,
    quadratic_penalty,
    task_batches,
    trained,
    zeros,
)
from utils.continual.learn import Memory, Plain
from utils.data.streams import Stream

KINDS = ("exact", "sampled", "empirical")
PENALTIES = ("separate", "online")


def fisher_diagonal(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    units: slice,
    kind: str = "exact",
    generator: torch.Generator | None = None,
) -> Params:
    """Diagonal of the Fisher information: how fast the model's probabilities move with every parameter.

    ``F_i = mean_x E_y (d log p(y | x) / dtheta_i)^2``, a mean over single examples, with the softmax over the ``units``
    that take part. Of which y:

        exact        the expectation over all of them under the model; one backward pass a unit and batch;
        sampled      one a image, drawn from the model by ``generator``: the same on average;
        empirical    that of the data: no Fisher information, and smaller yet where the data is fitted well.

    Parameters: ``network`` as for :func:`utils.continual.importance.parameter_importance`; ``batches`` ``(x, y)`` with
    ``y`` int64, numbers of units (``(x,)`` is enough but for ``"empirical"``). Returns as that function does.

    Raises ``ValueError`` for another kind, ``"sampled"`` without a generator and ``"empirical"`` without labels.

    Kirkpatrick et al. 2017; Kunstner et al. 2019 on what the empirical Fisher is not.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of Fisher information must be one of {KINDS}; got {kind!r}")
    if kind == "sampled" and generator is None:
        raise ValueError('labels are drawn by an explicit generator: kind="sampled" needs one')

    def losses(logits: Tensor, y: Tensor | None = None) -> Iterator[Tensor]:
        logs = F.log_softmax(logits[:, units], dim=1)
        if kind == "exact":
            roots = logs.detach().exp().sqrt()  # so that the squares are weighted with the probabilities
            for of_unit, root in zip(logs.unbind(1), roots.unbind(1), strict=True):
                yield (root * of_unit).sum()
            return
        if kind == "sampled":
            labels = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator)[:, 0].to(logs.device)
        elif y is None:
            raise ValueError('kind="empirical" needs the labels of the data: batches (x, y)')
        else:
            labels = y - units.start
        yield -logs.gather(1, labels[:, None]).sum()

    return parameter_importance(network, batches, losses)


def consolidated(
    importance: Params, anchor: Params, fisher: Params, params: Params, online: bool, decay: float = 1.0
) -> tuple[Params, Params]:
    """The parabola ``sum_i importance_i (theta_i - anchor_i)^2``, and one of a new task, as one parabola.

    A sum of parabolas is a parabola around the mean of their centres, weighted by their curvatures, and a constant,
    which moves nothing and is left out. So neither form needs more memory with more tasks:

        separate    importance' = importance + fisher;   anchor' = (importance anchor + fisher params) / importance'
        online      importance' = decay importance + fisher;   anchor' = params

    Raises ``ValueError`` where the four are not of the same architecture.

    Huszar 2018 gives the mean of the centres; Schwarz et al. 2018 the decay.
    """
    check_architecture(params, importance=importance, anchor=anchor, fisher=fisher)
    if online:
        summed = {name: decay * importance[name] + fisher[name] for name in params}
        return summed, {name: value.detach().clone() for name, value in params.items()}
    summed, centre = {}, {}
    for name, value in params.items():
        summed[name] = importance[name] + fisher[name]
        part = torch.where(summed[name] > 0, fisher[name] / summed[name], 1.0)  # where nothing matters, any will do
        centre[name] = torch.lerp(anchor[name], value.detach(), part)
    return summed, centre


@dataclass(frozen=True)
class EWC(Plain):
    """L(theta) + (strength / 2) sum_i F_i (theta_i - anchor_i)^2, F the Fisher information of the tasks so far.

    Parameters
    ----------
    strength : lambda (Kirkpatrick et al. 2017, eq. 3). F and the loss are means over images, so 1 is Bayes' rule for
        tasks of equal size. The curvature at a solution that fits well is much below that on the way there, which is
        why far larger values do better.
    fisher : as :func:`fisher_diagonal`'s ``kind``.
    images : on how many training images of a task F is measured; ``None`` for all.
    penalty : ``"separate"`` or ``"online"``, see the module.
    decay : gamma of the online form, how much of the old F remains (Schwarz et al. 2018).

    Raises ``ValueError`` for anything else, and for a decay with separate penalties, which have none.
    """

    strength: float = 100.0
    fisher: str = "exact"
    images: int | None = None
    penalty: str = "separate"
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_strength(self.strength)
        check_images(self.images)
        if self.fisher not in KINDS:
            raise ValueError(f"fisher must be one of {KINDS}; got {self.fisher!r}")
        if self.penalty not in PENALTIES:
            raise ValueError(f"penalty must be one of {PENALTIES}; got {self.penalty!r}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1; got {self.decay}")
        if self.decay < 1 and self.penalty == "separate":
            raise ValueError('separate penalties do not decay: penalty="online", or decay=1')

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        return {"importance": zeros(network), "anchor": copied(network)}

    def added(self, network: nn.Module, memory: Memory) -> Tensor:
        return quadratic_penalty(trained(network), memory["importance"], memory["anchor"], self.strength)

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        batches = task_batches(stream.tasks[task], self.images, generator)
        fisher = fisher_diagonal(network, batches, stream.units(task, task + 1), self.fisher, generator)
        importance, anchor = consolidated(
            memory["importance"], memory["anchor"], fisher, trained(network), self.penalty == "online", self.decay
        )
        return {"importance": importance, "anchor": anchor}
