"""Knowledge distillation (Hinton, Vinyals and Dean 2015): a small network learns from the probabilities of a large one.

At a temperature T the probabilities q_i = exp(z_i / T) / sum_j exp(z_j / T) of a trained network, the teacher, also say
which wrong classes an image resembles. A student that is to reproduce them learns from every image about all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.batches import ImageBatches
from utils.data.images import ImageSet, as_float
from utils.functional.distillation import distillation_loss
from utils.training import Checkpoint, fit


def soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities ``softmax(logits / T)`` over the last axis.

    Raises ``ValueError`` for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive; got {temperature}")
    return (logits / temperature).softmax(-1)


def lecture_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """``-sum p log q + 1 / T^2 * -log softmax(s)_y``: the lecture's form, with a smaller hard term; a scalar.

    p and q are the teacher's and the student's probabilities at temperature T, the mean is over the batch. Its gradient
    is ``2 / T^2`` times that of ``distillation_loss(..., temperature, weight=0.5)``, where the soft term is enlarged by
    T^2 instead (the paper's section 2): the same direction, another rate.
    """
    p = soft_targets(teacher_logits.detach(), temperature)
    soft = F.cross_entropy(student_logits / temperature, p)
    return soft + F.cross_entropy(student_logits, labels) / temperature**2


@dataclass(frozen=True)
class Distillation:
    """``(1 - weight) cross-entropy + weight T^2 KL(teacher || student)``: labels, and a ``teacher`` at temperature T.

    ``weight=1`` needs no labels; ``weight=0`` is training without a teacher. The teacher answers in evaluation mode,
    and learns nothing. Raises ``ValueError`` for a temperature that is not positive and a weight outside 0 .. 1.
    """

    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be positive; got {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the teacher's weight lies in 0 .. 1; got {self.weight}")

    def loss(self, student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """On images ``[N, C, H, W]`` and labels ``[N]``; a scalar."""
        self.teacher.eval()
        with torch.no_grad():
            taught = self.teacher(x)
        return distillation_loss(student(x), taught, y, self.temperature, self.weight)


def train(
    network: nn.Module,
    batches: ImageBatches,
    steps: int,
    optimizer: torch.optim.Optimizer,
    distillation: Distillation | None = None,
    classes: Sequence[int] | None = None,
    checkpoint: Checkpoint | None = None,
    label: str = "training",
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> list[float]:
    """Train on ``steps`` batches, from a teacher or, without one, from the labels alone; returns the losses.

    ``classes``: which output of the network each class of ``batches`` is, where the set holds only some of them (see
    :func:`without`); by default the first the first, and so on. Resumed and refused as :func:`utils.training.fit` does.

    Raises ``ValueError`` where ``classes`` do not fit the set.
    """
    numbers = torch.arange(batches.n_classes) if classes is None else torch.as_tensor(list(classes))
    if len(numbers) != batches.n_classes:
        raise ValueError(f"the set has {batches.n_classes} classes; got {len(numbers)} numbers for them")
    numbers = numbers.to(batches.images.device)

    def loss_at(step: int) -> Tensor:
        x, y = batches.sample(step)
        y = numbers[y]
        return F.cross_entropy(network(x), y) if distillation is None else distillation.loss(network, x, y)

    return fit(network, loss_at, steps, optimizer, scheduler, checkpoint, label)


def without(images: ImageSet, missing: Sequence[int]) -> tuple[ImageSet, list[int]]:
    """A transfer set that lacks some classes, and the numbers of those it has.

    Raises ``ValueError`` for classes that are not there, and where none would be left.
    """
    if wrong := [one for one in missing if not 0 <= one < images.n_classes]:
        raise ValueError(f"there are classes 0 to {images.n_classes - 1}; got {wrong}")
    kept = [one for one in range(images.n_classes) if one not in set(missing)]
    if not kept:
        raise ValueError("a transfer set needs at least one class")
    return images.select(kept), kept


def few(images: ImageSet, n: int) -> ImageSet:
    """The first ``n`` images of every class. Raises ``ValueError`` where a class has fewer."""
    if not 1 <= n <= int(images.counts.min()):
        raise ValueError(f"every class has at least {int(images.counts.min())} images; got n={n}")
    return ImageSet(images.images[:, :n], images.class_names, images.group_names, images.name, images.split)


@torch.no_grad()
def class_accuracies(network: nn.Module, images: ImageSet, raised: Tensor | None = None, chunk: int = 1000) -> Tensor:
    """Of every class the part of its images that is classified rightly, float64 ``[n_classes]``, in evaluation mode.

    ``raised`` ``[n_classes]`` is added to the logits: the bias of a class that was missing from the transfer set can be
    put right that way (the paper's section 3).
    """
    network.eval()
    x, y = images.flat()
    logits = torch.cat([network(as_float(some)) for some in x.split(chunk)])
    right = (logits if raised is None else logits + raised).argmax(1) == y
    sums = torch.zeros(images.n_classes, dtype=torch.float64, device=y.device).index_add_(0, y, right.double())
    return (sums / y.bincount(minlength=images.n_classes)).cpu()
