"""Learn a stream, one task after the other; and what learns without any precaution, the reference of all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import mix_seed
from utils.data.streams import Stream
from utils.training import Checkpoint, progress

Memory = dict[str, object]
"""What a method keeps: tensors, numbers, and lists and dictionaries of them; also modules, of which a checkpoint holds
the state. Modules must be there from :meth:`Plain.start` on."""


class Batch(NamedTuple):
    """Training images ``x`` and labels ``y`` of number ``task`` of a ``stream``."""

    stream: Stream
    task: int
    x: Tensor
    y: Tensor

    @property
    def units(self) -> slice:
        """Outputs that take part while the task is learned."""
        return self.stream.units(self.task, self.task + 1)


@dataclass(frozen=True)
class Plain:
    """Trains on the task at hand and remembers nothing: what catastrophic forgetting happens to.

    Methods that remember override what they need. All are functions of the network and the memory; what is random in
    them is drawn from ``generator``.
    """

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        """The memory before the first task."""
        return {}

    def before_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        """The memory with which ``task`` is learned."""
        return memory

    def added(self, network: nn.Module, memory: Memory) -> Tensor | None:
        """What is added to the task's own loss, whatever the batch; a scalar, or nothing."""
        return None

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        """What is minimised on a batch; a scalar."""
        own = task_loss(network(batch.x), batch.y, batch.units)
        added = self.added(network, memory)
        return own if added is None else own + added

    def after_step(self, network: nn.Module, memory: Memory) -> Memory:
        """The memory after a step of the optimiser; gradients are those that it used."""
        return memory

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        """The memory after ``task`` was learned."""
        return memory

    def logits(self, network: nn.Module, memory: Memory, x: Tensor) -> Tensor:
        """Outputs ``[N, units]`` by which images are classified."""
        return network(x)


def task_loss(logits: Tensor, y: Tensor, units: slice) -> Tensor:
    """Cross-entropy over the ``units`` that take part, of labels that are numbers of units."""
    return F.cross_entropy(logits[:, units], y - units.start)


@dataclass(frozen=True)
class Learned:
    """What became of a stream.

    ``accuracies[i, j]``: on task j after the tasks 0 to i, ``[T, T]`` in [0, 1]; ``untrained[j]`` before all of them.
    """

    network: nn.Module
    memory: Memory = field(repr=False)
    accuracies: Tensor
    untrained: Tensor


def learn(
    network: nn.Module,
    stream: Stream,
    method: Plain,
    steps: int,
    batch_size: int,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    label: str = "tasks",
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    keep_optimizer: bool = False,
) -> Learned:
    """Train ``network`` on the tasks of ``stream``, ``steps`` batches each, and test it on all tasks after each.

    ``optimizer`` makes a new one of the parameters for every task: what an optimiser remembers belongs to the task; but
    with ``keep_optimizer`` it goes on with what the last one remembered. ``schedule`` makes of it what sets its rate,
    step by step, from the beginning in every task. All that is random follows from ``seed``. With a ``checkpoint`` the
    run is saved after every task and resumed there.

    Raises ``FloatingPointError`` where a loss is no longer finite.
    """
    n_tasks = len(stream.tasks)
    memory, first, kept = method.start(network, stream), 0, None
    accuracies, untrained = torch.zeros(n_tasks, n_tasks, dtype=torch.float64), None
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        network.load_state_dict(state["network"])
        device = next(network.parameters()).device
        memory, first = _restored(memory, state["memory"], device), state["tasks"]
        accuracies, untrained, kept = state["accuracies"], state["untrained"], state["optimizer"]
    if untrained is None:
        untrained = _tested(method, network, memory, stream, 0)
    with progress(n_tasks * steps, label) as bar:
        bar.update(first * steps)
        for task in range(first, n_tasks):
            generator = torch.Generator().manual_seed(mix_seed(seed, n_tasks + task))
            network.eval()  # as after the last task, also where the run is resumed
            memory = method.before_task(network, memory, stream, task, generator)
            network.train()
            own = optimizer([value for value in network.parameters() if value.requires_grad])
            if kept is not None:
                own.load_state_dict(kept)
            rate = None if schedule is None else schedule(own)
            losses = torch.zeros(steps, device=next(network.parameters()).device)
            for step in range(steps):
                batch = Batch(stream, task, *stream.batch(task, step, batch_size, seed))
                own.zero_grad(set_to_none=True)
                loss = method.loss(network, memory, batch, generator)
                loss.backward()
                own.step()
                if rate is not None:
                    rate.step()
                memory = method.after_step(network, memory)
                losses[step] = loss.detach()
                bar.update()
            if not bool(losses.isfinite().all()):
                raise FloatingPointError(
                    f"the loss of task {task} is not finite: lower the learning rate or the strength"
                )
            kept = own.state_dict() if keep_optimizer else None
            network.eval()
            memory = method.after_task(network, memory, stream, task, generator)
            accuracies[task] = _tested(method, network, memory, stream, task + 1)
            if checkpoint is not None:
                checkpoint.save(
                    {
                        "network": network.state_dict(),
                        "memory": {key: _stored(value) for key, value in memory.items()},
                        "optimizer": kept,
                        "tasks": task + 1,
                        "accuracies": accuracies,
                        "untrained": untrained,
                    }
                )
    network.eval()
    return Learned(network, memory, accuracies, untrained)


@torch.no_grad()
def accuracy(
    method: Plain, network: nn.Module, memory: Memory, stream: Stream, task: int, seen: int, chunk: int = 1000
) -> float:
    """Part of the test images of ``task`` that are classified rightly after ``seen`` tasks."""
    network.eval()
    data, units, right = stream.tasks[task], stream.units(task, seen), 0
    for x, y in zip(data.test_x.split(chunk), data.test_y.split(chunk), strict=True):
        found = method.logits(network, memory, data.seen(x))[:, units].argmax(1) + units.start
        right += int((found == y).sum())
    return right / len(data.test_y)


def _tested(method: Plain, network: nn.Module, memory: Memory, stream: Stream, seen: int) -> Tensor:
    found = [accuracy(method, network, memory, stream, task, seen) for task in range(len(stream.tasks))]
    return torch.tensor(found, dtype=torch.float64)


def _stored(value: object) -> object:
    return value.state_dict() if isinstance(value, nn.Module) else value


def _restored(started: Memory, stored: Memory, device: torch.device) -> Memory:
    memory = dict(started)
    for key, value in stored.items():
        if isinstance(started.get(key), nn.Module):
            started[key].load_state_dict(value)
        else:
            memory[key] = _moved(value, device)
    return memory


def _moved(value: object, device: torch.device) -> object:
    """To where the network is: a checkpoint is read on the CPU."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    return [_moved(one, device) for one in value] if isinstance(value, list) else value
