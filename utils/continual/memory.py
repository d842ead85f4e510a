"""Memories of a fixed size: so many images a class, or a fair sample of all that came by. Places only, no pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.data.images import as_float
from utils.data.streams import Task


def as_bytes(task: Task, images: Tensor) -> Tensor:
    """uint8 ``images`` of a task as a memory keeps them: in the order of pixels in which the network sees them."""
    return (task.seen(images) * 255).round().to(torch.uint8)


def quota(size: int, n_classes: int) -> int:
    """Images a class in a memory of ``size`` images that serves all classes alike, ``size // n_classes``.

    Raises ``ValueError`` for a memory smaller than the number of classes.
    """
    if size < n_classes:
        raise ValueError(
            f"a memory of {size} images cannot hold one of each of {n_classes} classes: it must be at least as large "
            "as the number of classes that the stream ends with"
        )
    return size // n_classes


def first_of_each(labels: Tensor, n: int) -> Tensor:
    """Places, int64 and rising, of the first ``n`` images of every class among ``labels`` ``[N]``.

    Of images in an order of importance this is how a memory shrinks (iCaRL, algorithm 5).
    """
    by_class = labels.argsort(stable=True)
    start = torch.searchsorted(labels[by_class], labels[by_class])  # where the class begins
    rank = torch.arange(len(labels), device=labels.device) - start
    return by_class[rank < n].sort().values


def reservoir(seen: int, n_new: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of ``n_new`` items go where in a reservoir of ``size`` places that has ``seen`` so many before.

    Item t (from 0) draws a place from 0 .. t and takes it if it is below ``size``; the first ``size`` fill it
    (algorithm R, Vitter 1985). Each of the t + 1 items seen so far is then in it with probability ``size / (t + 1)``.
    Of several that take the same place the last stays. How the items are divided into calls does not matter.

    Returns places and items, int64 of the same length, places rising and different.

    Raises ``ValueError`` for a reservoir without a place.
    """
    if size < 1:
        raise ValueError(f"a reservoir needs at least one place; got {size}")
    number = torch.arange(seen, seen + n_new)
    drawn = (torch.rand(n_new, generator=generator, dtype=torch.float64) * (number + 1)).long()
    places = torch.where(number < size, number, drawn)
    last = torch.full((size,), -1)
    stays = places < size
    last.scatter_reduce_(0, places[stays], torch.arange(n_new)[stays], "amax")
    taken = (last >= 0).nonzero()[:, 0]
    return taken, last[taken]


def mixed_batch(
    images: Tensor, labels: Tensor, task: Task, rows: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``size`` images, each as likely as every other, of those remembered and of the ``rows`` of a task together.

    ``images`` uint8 ``[M, C, H, W]`` and ``labels`` ``[M]`` are the memory's. Returns what the network sees and labels.
    """
    chosen = torch.randint(len(labels) + len(rows), (size,), generator=generator).to(labels.device)
    old, new = chosen[chosen < len(labels)], rows[chosen[chosen >= len(labels)] - len(labels)]
    x = torch.cat([images[old], as_bytes(task, task.train_x[new])])
    return as_float(x), torch.cat([labels[old], task.train_y[new]])
