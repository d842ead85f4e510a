"""Replay of real images: experience replay from a memory, exact replay of everything, and joint training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.continual.learn import Batch, Memory, Plain, task_loss
from utils.continual.memory import as_bytes, reservoir
from utils.data.images import as_float
from utils.data.streams import Stream


def loss_over_tasks(logits: Tensor, y: Tensor, stream: Stream, seen: int) -> Tensor:
    """Cross-entropy of images of any of the first ``seen`` tasks, each over the units that take part in its task."""
    if stream.scenario != "task":
        return task_loss(logits, y, stream.units(seen - 1, seen))
    ends = torch.tensor([task.last for task in stream.tasks], device=y.device)
    head = torch.searchsorted(ends, torch.arange(logits.shape[1], device=y.device))  # of which task a unit is
    return F.cross_entropy(logits.masked_fill(head != head[y][:, None], -torch.inf), y)


@dataclass(frozen=True)
class ExperienceReplay(Plain):
    """Every batch is joined by as many remembered images of old tasks, with their labels.

    1/t of the loss is that of the new task, the t-th, and the rest that of the remembered images: every task counts the
    same, however few images of it are left. ``size``: images in the memory, a reservoir through which all images of a
    task go once, in random order, after the task was learned (Vitter 1985); ``None`` keeps all, which is exact replay
    and the bound of what replay can do.

    Raises ``ValueError`` for a memory without room.
    """

    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"the memory needs room for at least one image; got {self.size}")

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        return {"images": stream.tasks[0].train_x[:0], "labels": stream.tasks[0].train_y[:0], "seen": 0}

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        stream, task, x, y = batch
        if not task:
            return super().loss(network, memory, batch, generator)
        labels = memory["labels"]
        chosen = torch.randint(len(labels), (len(x),), generator=generator).to(labels.device)
        new, old = network(torch.cat([x, as_float(memory["images"][chosen])])).chunk(2)
        new = task_loss(new, y, batch.units)
        return (new + task * loss_over_tasks(old, labels[chosen], stream, task + 1)) / (task + 1)

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        data = stream.tasks[task]
        order = torch.randperm(len(data.train_y), generator=generator).to(data.train_y.device)
        new_images, new_labels = as_bytes(data, data.train_x[order]), data.train_y[order]
        images, labels, seen = memory["images"], memory["labels"], memory["seen"]
        size = seen + len(order) if self.size is None else self.size
        places, items = (where.to(order.device) for where in reservoir(seen, len(order), size, generator))
        room = min(size, seen + len(order)) - len(labels)
        images, labels = torch.cat([images, new_images[:room]]), torch.cat([labels, new_labels[:room]])
        images[places], labels[places] = new_images[items], new_labels[items]
        return {"images": images, "labels": labels, "seen": seen + len(order)}


@dataclass(frozen=True)
class Joint(Plain):
    """Trains on the data of all tasks so far, every task as likely in a batch: the upper bound, also called offline."""

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        stream, task, x, y = batch
        share = torch.randint(task + 1, (len(x),), generator=generator).bincount(minlength=task + 1).tolist()
        parts = [(x[: share[task]], y[: share[task]])]
        for data, n in zip(stream.tasks[:task], share, strict=False):
            rows = torch.randint(len(data.train_y), (n,), generator=generator).to(y.device)
            parts.append((data.seen(data.train_x[rows]), data.train_y[rows]))
        x, y = (torch.cat(part) for part in zip(*parts, strict=True))
        return loss_over_tasks(network(x), y, stream, task + 1)
