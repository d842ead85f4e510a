"""Body, last layer and the outputs of old tasks: what several methods need of a network that learns a stream.

In the scenario ``"task"`` the network with one vector of outputs *is* the multi-head network of the lecture: the body
is what all tasks share (theta_s), and the rows of the last layer that belong to a task's units are its head (theta_o of
an old task, theta_n of the new one).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from utils.data.streams import Stream, Task
from utils.functional.distillation import distillation_loss


def body_and_head(network: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """``embedding`` and ``head`` of a :class:`utils.fewshot.classifier.ClassifierNetwork`, or of what has both.

    Raises ``TypeError`` for a network whose last layer cannot be told.
    """
    body, head = getattr(network, "embedding", None), getattr(network, "head", None)
    if not isinstance(body, nn.Module) or not isinstance(head, nn.Linear):
        raise TypeError(
            "this method takes the last layer apart: give it a ClassifierNetwork, whose `embedding` makes features and "
            f"whose `head` is an nn.Linear; got {type(network).__name__}"
        )
    return body, head


def head_logits(logits: Tensor, stream: Stream, task: int, seen: int) -> Tensor:
    """Outputs ``[N, units of the task]`` of the head of ``task``, out of all the ``logits`` ``[N, units]``.

    Raises ``ValueError`` for a task that is not among the ``seen`` first, whose head was never trained, and in
    scenarios where a task has no head of its own.
    """
    if stream.scenario != "task":
        raise ValueError(
            f'only in the scenario "task" has a task a head of its own; this stream is {stream.scenario!r}'
        )
    if not 0 <= task < seen <= len(stream.tasks):
        raise ValueError(
            f"task {task} has no trained head: {seen} of {len(stream.tasks)} tasks were learned, so there are heads of "
            f"tasks 0 to {seen - 1}"
        )
    return logits[:, stream.units(task, seen)]


def frozen(network: nn.Module) -> nn.Module:
    """A copy as it is now, in evaluation mode, that nothing trains any more."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def features(network: nn.Module, task: Task, images: Tensor, chunk: int = 1000) -> Tensor:
    """What the body makes of uint8 ``images`` of a task, each for itself: ``[N, D]``, in evaluation mode."""
    body, training = body_and_head(network)[0], network.training
    network.eval()
    found = torch.cat([body(task.seen(some)) for some in images.split(chunk)])
    network.train(training)
    return found


def old_units(stream: Stream, task: int) -> list[slice]:
    """Units of the softmaxes that were there before ``task``.

    One an old task in the scenario ``"task"``; elsewhere one over all units of the tasks before. None for the first.
    """
    if not task:
        return []
    return [stream.units(old, task) for old in (range(task) if stream.scenario == "task" else [task - 1])]


def old_terms(
    student: Tensor, teacher: Tensor, stream: Stream, task: int, temperature: float, squared: bool = True
) -> list[Tensor]:
    """T^2 KL(teacher || student), mean over the batch, for each of :func:`old_units`; without T^2 if not ``squared``.

    ``student`` and ``teacher`` are logits ``[N, units]``.
    """
    labels = torch.zeros(len(student), dtype=torch.int64, device=student.device)  # of weight 0
    scale = 1.0 if squared else temperature**-2
    return [
        scale * distillation_loss(student[:, units], teacher[:, units], labels, temperature, weight=1.0)
        for units in old_units(stream, task)
    ]
