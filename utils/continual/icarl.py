"""iCaRL (Rebuffi et al. 2017): exemplars chosen by herding, and images classified by the nearest mean of exemplars."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.continual.heads import features, frozen
from utils.continual.learn import Batch, Memory, Plain
from utils.continual.memory import as_bytes, first_of_each, mixed_batch, quota
from utils.data.images import as_float
from utils.data.streams import Stream


def herding(vectors: Tensor, m: int) -> Tensor:
    """The ``m`` of ``vectors`` ``[..., N, D]`` whose mean follows the mean of all, in order: int64 ``[..., m]``.

    p_k = argmin_x || mu - (x + p_1 + ... + p_{k-1}) / k ||, each taken once (algorithm 4). As k^2 times the square is
    ``x.x + 2 x.(p_1 + ... + p_{k-1}) - 2 k x.mu`` and what does not depend on x, a step needs one more column of the
    Gram matrix and no sum over images. In float64; of equal ones the first. Any number of them, taken from the front,
    are the choice that asking for that number makes.

    Raises ``ValueError`` for ``m`` that is not in 1 .. N.
    """
    if not 1 <= m <= vectors.shape[-2]:
        raise ValueError(f"from {vectors.shape[-2]} vectors 1 to {vectors.shape[-2]} can be chosen; got {m}")
    vectors = vectors.double()
    to_mean = (vectors @ vectors.mean(-2, keepdim=True).mT).squeeze(-1)
    score = vectors.square().sum(-1)
    order = []
    for _ in range(m):
        score = score - 2 * to_mean
        best = score.argmin(-1, keepdim=True)
        order.append(best)
        column = vectors @ vectors.take_along_dim(best[..., None], -2).mT
        score = (score + 2 * column.squeeze(-1)).scatter(-1, best, torch.inf)
    return torch.cat(order, -1)


def class_means(vectors: Tensor, labels: Tensor, n_units: int) -> Tensor:
    """Mean of every class, brought to length 1: ``[n_units, D]`` from ``[N, D]`` and ``[N]``; NaN without images."""
    sums = vectors.new_zeros(n_units, vectors.shape[1]).index_add_(0, labels, vectors)
    counts = labels.bincount(minlength=n_units)[:, None]
    return torch.where(counts > 0, F.normalize(sums), torch.nan)


def nearest_mean_scores(vectors: Tensor, means: Tensor) -> Tensor:
    """``-||v - mu_c||^2`` ``[N, units]`` (algorithm 1); -inf for classes without a mean."""
    return -torch.cdist(vectors, means).square().nan_to_num(nan=torch.inf)


def exemplars(
    network: nn.Module, memory: Memory, stream: Stream, task: int, rows: Tensor, per_class: int
) -> tuple[Tensor, Tensor]:
    """Images and labels remembered after ``task``: the first of each old class and, herded, of each new one.

    ``rows``: which training images may be chosen. The features are the present network's, brought to length 1.
    """
    data = stream.tasks[task]
    keep = first_of_each(memory["labels"], per_class)
    vectors = F.normalize(features(network, data, data.train_x[rows]))
    chosen = []
    for unit in range(data.first, data.last + 1):
        own = (data.train_y[rows] == unit).nonzero()[:, 0]
        chosen.append(rows[own[herding(vectors[own], min(per_class, len(own)))]])
    chosen = torch.cat(chosen)
    return (
        torch.cat([memory["images"][keep], as_bytes(data, data.train_x[chosen])]),
        torch.cat([memory["labels"][keep], data.train_y[chosen]]),
    )


def no_exemplars(stream: Stream) -> tuple[Tensor, Tensor]:
    """The empty memory of images and labels that goes with the data of a stream."""
    return stream.tasks[0].train_x[:0], stream.tasks[0].train_y[:0]


def check_memory(stream: Stream, size: int, name: str) -> None:
    """``ValueError`` for another scenario than ``"class"``, and for a memory too small for the stream's classes."""
    if stream.scenario != "class":
        raise ValueError(f'{name} learns classes one after the other: scenario "class"; got {stream.scenario!r}')
    quota(size, stream.n_units)


@dataclass(frozen=True)
class ICaRL(Plain):
    """Trains with ``size`` exemplars in memory, and classifies by the nearest mean of exemplars.

    Every unit answers for itself through a sigmoid: new ones learn the label, old ones what the network answered before
    the task, on new images and on exemplars, drawn alike from both together (algorithm 3). The sum over the units, the
    mean over the images. The batches handed in are only counted: they hold no exemplars.

    Raises ``ValueError`` for another scenario than ``"class"`` and a memory smaller than the number of classes.
    """

    size: int

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        check_memory(stream, self.size, "iCaRL")
        images, labels = no_exemplars(stream)
        width = features(network, stream.tasks[0], stream.tasks[0].train_x[:1]).shape[1]
        means = torch.full((stream.n_units, width), torch.nan, device=images.device)
        return {"images": images, "labels": labels, "means": means, "teacher": frozen(network)}

    def before_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        return {**memory, "teacher": frozen(network)}

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        task, data = batch.task, batch.stream.tasks[batch.task]
        rows = torch.arange(len(data.train_y), device=data.train_y.device)
        x, y = mixed_batch(memory["images"], memory["labels"], data, rows, len(batch.x), generator)
        logits = network(x)[:, : data.last + 1]
        targets = F.one_hot(y, data.last + 1).to(logits.dtype)
        if task:
            with torch.no_grad():
                targets[:, : data.first] = memory["teacher"](x)[:, : data.first].sigmoid()
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        data = stream.tasks[task]
        rows = torch.arange(len(data.train_y), device=data.train_y.device)
        images, labels = exemplars(network, memory, stream, task, rows, quota(self.size, data.last + 1))
        means = exemplar_means(network, images, labels, stream.n_units)
        return {**memory, "images": images, "labels": labels, "means": means}

    def logits(self, network: nn.Module, memory: Memory, x: Tensor) -> Tensor:
        return nearest_mean_scores(F.normalize(network.embedding(x)), memory["means"])


@torch.no_grad()
def exemplar_means(network: nn.Module, images: Tensor, labels: Tensor, n_units: int, chunk: int = 1000) -> Tensor:
    """:func:`class_means` of the features, each of length 1, of uint8 exemplars; the network in evaluation mode."""
    vectors = torch.cat([network.embedding(as_float(some)) for some in images.split(chunk)])
    return class_means(F.normalize(vectors), labels, n_units)
