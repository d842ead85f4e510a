"""Learning without forgetting (Li and Hoiem 2016), and the strategies that the lecture compares it with.

They are about a network with a head for every task. With a stream in the scenario ``"task"`` that is the one network of
the stream (:mod:`utils.continual.heads`), and the strategies differ in which parameters train:

    fine-tuning           ``FineTuning()``, the same as ``Plain()``: theta_s and theta_n. No head but the new one takes
                          part in the loss, so the old ones stay as they are
    fine-tuning the FC    ``FineTuning(frozen=names of the convolutional layers)``
    feature extraction    ``FineTuning(frozen=("embedding",))``: theta_n alone
    joint training        ``utils.continual.replay.Joint()``: all, with the data of all tasks
    LwF                   ``LwF()``: all, with the data of the new task alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.continual.heads import body_and_head, features, frozen, old_terms
from utils.continual.learn import Batch, Memory, Plain, task_loss
from utils.data.streams import Stream


@dataclass(frozen=True)
class LwF(Plain):
    """Minimise ``L_new(Y_n, ^Y_n) + weight * L_old(Y_o, ^Y_o)`` on the new task's images alone (algorithm of figure 3).

    Y_o is what the network answered before the task: here a frozen copy of it in evaluation mode is asked about every
    batch, which gives the same as asking about all images beforehand and keeping the answers.

    L_old is the cross-entropy of the probabilities at ``temperature`` T (eq. 2 to 4), here as the divergence, which has
    the same gradient and is 0 for a network that has not changed, times T^2 if ``squared``. The paper has no T^2, and
    ``weight`` (lambda_o) 1 and T 2. In the scenario ``"task"`` there is a softmax for each old task, and the sum is
    taken (section 3); in ``"class"`` one over all old units, in ``"domain"`` one over all.

    Before the task as a whole, ``warmup_steps`` steps of Adam with ``warmup_lr`` train its head alone.

    Raises ``ValueError`` for a temperature that is not positive, and for negative weights and steps.
    """

    weight: float = 1.0
    temperature: float = 2.0
    squared: bool = True
    warmup_steps: int = 0
    warmup_lr: float = 0.01

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be positive; got {self.temperature}")
        if self.weight < 0 or self.warmup_steps < 0:
            raise ValueError(f"weight and warmup_steps must not be negative; got {self.weight}, {self.warmup_steps}")

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        return {"teacher": frozen(network)}

    def before_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        memory = {**memory, "teacher": frozen(network)}
        if task and self.warmup_steps:
            warm_up(network, stream, task, self.warmup_steps, self.warmup_lr)
        return memory

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        stream, task, x, y = batch
        logits = network(x)
        loss = task_loss(logits, y, batch.units)
        if not task:
            return loss
        with torch.no_grad():
            recorded = memory["teacher"](x)
        return loss + self.weight * sum(old_terms(logits, recorded, stream, task, self.temperature, self.squared))


def warm_up(network: nn.Module, stream: Stream, task: int, steps: int, lr: float) -> None:
    """Train the head of ``task`` alone, in place: theta_s and theta_o stay as they are, to the bit.

    Steps of Adam on all its images at a time. Of a frozen body the features are computed once, in evaluation mode.
    """
    _, head = body_and_head(network)
    data, units = stream.tasks[task], stream.units(task, task + 1)
    own = slice(data.first, data.last + 1)
    inputs = features(network, data, data.train_x)
    parts = [part.detach()[own].clone().requires_grad_() for part in (head.weight, head.bias)]
    others = F.linear(inputs, head.weight, head.bias).detach()[:, units.start : own.start]
    optimizer = torch.optim.Adam(parts, lr)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            logits = torch.cat([others, F.linear(inputs, *parts)], dim=1)
            F.cross_entropy(logits, data.train_y - units.start).backward()
            optimizer.step()
    with torch.no_grad():
        head.weight[own], head.bias[own] = parts


@dataclass(frozen=True)
class FineTuning(Plain):
    """Goes on training, from the second task on without the parts named ``frozen``.

    Those keep their parameters and their running statistics, which they also use. Names are as of
    ``network.named_modules()``. The loss is that of :class:`Plain`.

    Raises ``ValueError`` for a name that the network does not have.
    """

    frozen: tuple[str, ...] = ()

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        parts(network, self.frozen)
        return {}

    def before_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        for part in parts(network, self.frozen) if task else []:
            part.requires_grad_(False)
        return memory

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        for part in parts(network, self.frozen) if batch.task else []:
            part.eval()
        return super().loss(network, memory, batch, generator)

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        for part in parts(network, self.frozen):
            part.requires_grad_(True)
        return memory


def parts(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these names. Raises ``ValueError`` for a name that is not there."""
    modules = dict(network.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(f"the network has no parts {unknown}; it has {', '.join(filter(None, modules))}")
    return [modules[name] for name in names]
