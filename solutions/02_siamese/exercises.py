"""Reference solutions of the exercises in ``chapters/02_siamese.ipynb``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Each pair once, by the part above the diagonal; then the mean of each kind."""
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)
    same = labels[i] == labels[j]
    losses = F.binary_cross_entropy_with_logits(scores[i, j], same.to(scores.dtype), reduction="none")
    return (losses[same].mean() + losses[~same].mean()) / 2


def hardest(distances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What is not of the kind that is looked for gets a distance that never wins."""
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool)
    positive = distances.masked_fill(~same | itself, -torch.inf).amax(1)
    negative = distances.masked_fill(same, torch.inf).amin(1)
    return positive, negative


def threshold(impostor_scores: Tensor, share: float) -> float:
    """From the top, go down as long as no more than the allowed share lies above."""
    allowed = int(share * len(impostor_scores) + 1e-9)
    return float(impostor_scores.sort(descending=True).values[allowed])
