"""BiC, bias correction (Wu et al. 2019): distillation with exemplars, then two numbers against the favour of the new.

A last layer trained on many images of new classes and few of old ones answers too often with new ones. A small balanced
set of images on which nothing was trained shows by how much, and alpha and beta take it back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.continual.heads import body_and_head, features, frozen
from utils.continual.icarl import check_memory, exemplars, no_exemplars
from utils.continual.learn import Batch, Memory, Plain
from utils.continual.memory import as_bytes, first_of_each, mixed_batch, quota
from utils.data.distortions import shifted_and_mirrored
from utils.data.images import as_float
from utils.data.streams import Stream
from utils.functional.distillation import distillation_loss

LAST_LAYERS = ("plain", "corrected", "retrained")


@dataclass(frozen=True)
class BiC(Plain):
    """Class-incremental learning with ``size`` images in memory; the four rows of the lecture's table.

    ==================  ==========================================
    baseline-1          ``BiC(size, "plain", distil=False)``
    baseline-2          ``BiC(size, "plain")``
    BiC                 ``BiC(size)``
    upper bound         ``BiC(size, "retrained")``
    ==================  ==========================================

    Stage 1 minimises ``lambda L_d + (1 - lambda) L_c``, lambda = n / (n + m) for n old and m new classes (eq. 3 and 4):
    L_c the cross-entropy over all of them, L_d that between the probabilities at ``temperature`` T of the old classes,
    without T^2, of the network before the task and of the present one. Batches are drawn from new images and exemplars
    together, each image as likely as every other. (Those handed in are only counted: they hold no exemplars.)

    Stage 2, where the last layer is ``"corrected"``: ``validation`` of the memory, at least one image a class, is held
    out from all training, and as many images of each new class. On them alpha and beta of
    ``q_k = alpha o_k + beta`` are found for the new k, while ``q_k = o_k`` for all old ones (eq. 5 and 6), with the
    network frozen and in evaluation mode: :func:`bias_correction`.

    As in the authors' code, only the latest correction is in force: the next task's L_d is towards *corrected* outputs,
    so the network itself learns what was corrected. And the validation images of a class are never trained on.

    ``"retrained"``: after every task the last layer is fitted to *all* images of all tasks so far, which no learner
    within its memory could do; the network goes on without that.

    ``shift``: training images are shifted by up to so many pixels and mirrored, at random, the same for the network
    before the task and the present one; 4 for CIFAR. 0: they are shown as they are.

    Raises ``ValueError`` for another scenario than ``"class"``, a memory smaller than the number of classes (than twice
    their number, for a correction), and settings out of range.
    """

    size: int
    last_layer: str = "corrected"
    distil: bool = True
    temperature: float = 2.0
    validation: float = 0.1
    penalty: float = 0.1
    shift: int = 0

    def __post_init__(self) -> None:
        if self.last_layer not in LAST_LAYERS:
            raise ValueError(f"last_layer must be one of {LAST_LAYERS}; got {self.last_layer!r}")
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be positive; got {self.temperature}")
        if self.shift < 0:
            raise ValueError(f"images are shifted by 0 pixels or more; got {self.shift}")
        if not 0 < self.validation < 1:
            raise ValueError(f"the part of the memory for validation lies between 0 and 1; got {self.validation}")

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        check_memory(stream, self.size, "BiC")
        if self.last_layer == "corrected" and self.size < 2 * stream.n_units:
            raise ValueError(
                f"for {stream.n_units} classes BiC needs a memory of at least {2 * stream.n_units} images, one of each "
                f"to train with and one to validate; got {self.size}"
            )
        weight, images, labels = body_and_head(network)[1].weight, *no_exemplars(stream)
        memory = {
            "images": images,
            "labels": labels,
            "held_images": images,
            "held_labels": labels,
            "rows": labels,
            "teacher": frozen(network),
            "alpha": weight.new_ones(stream.n_units),
            "beta": weight.new_zeros(stream.n_units),
        }
        if self.last_layer == "retrained":
            memory["head"] = frozen(network.head)
        return memory

    def before_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        """Hold out as many images of every new class as there are of the old ones."""
        data = stream.tasks[task]
        held = held_out(self.share(data.first or data.last + 1)[1], data.train_y, generator)
        return {
            **memory,
            "rows": (~held).nonzero()[:, 0],
            "held_images": torch.cat([memory["held_images"], as_bytes(data, data.train_x[held])]),
            "held_labels": torch.cat([memory["held_labels"], data.train_y[held]]),
            "teacher": frozen(network),
        }

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        task, data = batch.task, batch.stream.tasks[batch.task]
        x, y = mixed_batch(memory["images"], memory["labels"], data, memory["rows"], len(batch.x), generator)
        if self.shift:
            x = shifted_and_mirrored(x, self.shift, generator)
        logits = network(x)[:, : data.last + 1]
        if not (task and self.distil):
            return F.cross_entropy(logits, y)
        with torch.no_grad():
            teacher = corrected(memory["teacher"](x), memory)[:, : data.first]
        of_old = data.first / (data.last + 1)
        distilling = distillation_loss(logits, teacher, y, self.temperature, weight=1.0) / self.temperature**2
        return of_old * distilling + (1 - of_old) * F.cross_entropy(logits, y)

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        data = stream.tasks[task]
        memory = dict(memory)
        if self.last_layer == "corrected":
            memory["alpha"], memory["beta"] = torch.ones_like(memory["alpha"]), torch.zeros_like(memory["beta"])
            if task:
                with torch.no_grad():
                    logits = network(as_float(memory["held_images"]))[:, : data.last + 1]
                own = slice(data.first, data.last + 1)
                memory["alpha"][own], memory["beta"][own] = bias_correction(
                    logits, memory["held_labels"], data.first, self.penalty
                )
        if self.last_layer == "retrained":
            memory["head"] = retrained(network, stream, task + 1)
        n_train, n_held = self.share(data.last + 1)
        keep = first_of_each(memory["held_labels"], n_held)
        memory["held_images"], memory["held_labels"] = memory["held_images"][keep], memory["held_labels"][keep]
        memory["images"], memory["labels"] = exemplars(network, memory, stream, task, memory["rows"], n_train)
        return {**memory, "rows": memory["rows"][:0]}

    def logits(self, network: nn.Module, memory: Memory, x: Tensor) -> Tensor:
        if self.last_layer == "retrained":
            return memory["head"](network.embedding(x))
        return corrected(network(x), memory)

    def share(self, n_classes: int) -> tuple[int, int]:
        """Images in memory of each of ``n_classes``: to train with, and to validate."""
        whole = quota(self.size, n_classes)
        held = max(1, int(self.validation * whole)) if self.last_layer == "corrected" else 0
        return whole - held, held


def held_out(n: int, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Bool ``[N]``: ``n`` images of every class among ``labels``, drawn at random.

    Raises ``ValueError`` where that leaves none of a class to train with.
    """
    if int(labels.unique(return_counts=True)[1].min()) <= n:
        raise ValueError(f"{n} images of each class are held out for validation, and a class has no more than that")
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    held = torch.zeros_like(labels, dtype=torch.bool)
    held[order[first_of_each(labels[order], n)]] = True
    return held


def corrected(logits: Tensor, memory: Memory) -> Tensor:
    """``alpha_k o_k + beta_k`` of ``[N, units]``; alpha is 1 and beta 0 for all but the newest classes."""
    return logits * memory["alpha"] + memory["beta"]


def bias_correction(
    logits: Tensor, labels: Tensor, n_old: int, penalty: float = 0.1, steps: int = 100
) -> tuple[float, float]:
    """alpha and beta that minimise ``-mean log softmax(q)_y + penalty / 2 beta^2``; q_k = alpha o_k + beta for new k.

    ``logits`` ``[N, n_old + n_new]``, of images that were not trained on, and ``labels`` ``[N]`` (eq. 5 and 6; the
    penalty, 0.1 on beta alone, is that of the authors' code). The function is convex in both, and Newton's method in
    float64 finds in a few steps the minimum that gradient descent goes towards.

    Raises ``ValueError`` without both old and new classes, and for labels of only one of the two: the minimum would be
    at infinity.
    """
    if not 0 < n_old < logits.shape[1]:
        raise ValueError(f"of {logits.shape[1]} classes some must be old and some new; got n_old={n_old}")
    if not bool((labels < n_old).any()) or not bool((labels >= n_old).any()):
        raise ValueError("the validation images must be of old and of new classes")
    old, new = logits.detach().double().split([n_old, logits.shape[1] - n_old], dim=1)
    target = F.one_hot(labels, logits.shape[1]).double()[:, n_old:]
    shrink = torch.tensor([0.0, penalty], dtype=torch.float64, device=logits.device)

    def value(at: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.cat([old, at[0] * new + at[1]], dim=1).log_softmax(1)
        return -log_p.gather(1, labels[:, None]).mean() + (shrink * at.square()).sum() / 2, log_p[:, n_old:].exp()

    at = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device)
    loss, p = value(at)
    for _ in range(steps):
        # dq/dalpha = o and dq/dbeta = 1 for new classes, so all that is needed are moments of o under p.
        slope = torch.stack([((p - target) * new).sum(1), (p - target).sum(1)]).mean(1) + shrink * at
        first = torch.stack([(p * new).sum(1), p.sum(1)])
        second = torch.stack([(p * new * new).sum(1), first[0], first[0], first[1]]).mean(1).view(2, 2)
        curve = second - first @ first.mT / len(labels) + shrink.diag()
        step = torch.linalg.solve(curve + 1e-12 * torch.eye(2, dtype=curve.dtype, device=curve.device), slope)
        if float(slope @ step) < 1e-16:
            break
        while (found := value(at - step))[0] > loss:
            step = step / 2
        at, (loss, p) = at - step, found
    return float(at[0]), float(at[1])


def retrained(network: nn.Module, stream: Stream, seen: int, penalty: float = 1e-3) -> nn.Linear:
    """A last layer fitted to all training images of the first ``seen`` tasks, the body as it is: the upper bound.

    Minimises the cross-entropy over their classes and ``penalty / 2`` times the squares of its weights by L-BFGS, from
    the present last layer.
    """
    tasks = stream.tasks[:seen]
    inputs = torch.cat([features(network, task, task.train_x) for task in tasks])
    labels, n = torch.cat([task.train_y for task in tasks]), tasks[-1].last + 1
    head = frozen(body_and_head(network)[1])
    values = [head.weight[:n].clone().requires_grad_(), head.bias[:n].clone().requires_grad_()]
    optimizer = torch.optim.LBFGS(values, max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(inputs, *values), labels) + penalty / 2 * values[0].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        head.weight[:n], head.bias[:n] = values
    return head
