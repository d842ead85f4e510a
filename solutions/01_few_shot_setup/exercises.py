"""Reference solutions of the exercises in ``chapters/01_few_shot_setup.ipynb``."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def episode(
    images: Tensor, labels: Tensor, n_way: int, k_shot: int, n_query: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shuffle the classes and take the first few; shuffle the images of each and divide the first few of them."""
    known = labels.unique()
    chosen = known[torch.randperm(len(known), generator=generator)[:n_way]]
    support, query = [], []
    for c in chosen:
        of_class = (labels == c).nonzero()[:, 0]
        drawn = of_class[torch.randperm(len(of_class), generator=generator)[: k_shot + n_query]]
        support.append(drawn[:k_shot])
        query.append(drawn[k_shot:])
    numbers = torch.arange(n_way)
    return (
        images[torch.cat(support)],
        numbers.repeat_interleave(k_shot),
        images[torch.cat(query)],
        numbers.repeat_interleave(n_query),
    )


def vote(support: Tensor, support_y: Tensor, query: Tensor, n_way: int, k: int) -> Tensor:
    """Count the votes; among the neighbours, nearest first, find the first one whose class has the most."""
    nearest = torch.cdist(query, support).topk(k, largest=False).indices
    labels = support_y[nearest]
    votes = (labels[..., None] == torch.arange(n_way)).sum(1)
    of_neighbour = votes.gather(1, labels)
    first = (of_neighbour == votes.max(1, keepdim=True).values).int().argmax(1)
    return labels.gather(1, first[:, None])[:, 0]


def log_density(support: Tensor, query: Tensor, h: float) -> Tensor:
    """log mean exp = logsumexp - log n; the constant is the same for all hills."""
    n, d = support.shape
    exponents = -torch.cdist(query, support).square() / (2 * h**2)
    return exponents.logsumexp(1) - math.log(n) - d / 2 * math.log(2 * math.pi * h**2)
