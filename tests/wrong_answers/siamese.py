"""Typical wrong answers to the exercises of the chapter on Siamese networks."""

import torch
import torch.nn.functional as F


def both_kinds(scores, labels, diagonal=False):
    """The mean of same and different pairs; on purpose with the diagonal if asked for."""
    same = labels[:, None] == labels
    losses = F.binary_cross_entropy_with_logits(scores, same.to(scores.dtype), reduction="none")
    other = diagonal | ~torch.eye(len(labels), dtype=torch.bool)
    return (losses[same & other].mean() + losses[~same].mean()) / 2


MISTAKES = {
    "pair_loss": [
        lambda s, y: F.binary_cross_entropy_with_logits(s, (y[:, None] == y).to(s.dtype)),
        lambda s, y: F.binary_cross_entropy_with_logits(s.triu(1), (y[:, None] == y).to(s.dtype)),
        lambda s, y: both_kinds(s, y, diagonal=True),
        lambda s, y: both_kinds(s, y) * 2,
        lambda s, y: both_kinds(-s, y),
        lambda s, y: both_kinds(s, y)[None],
    ],
    "hardest": [
        lambda d, y: (d.masked_fill(y[:, None] != y, -1).amax(1), d.amin(1)),
        lambda d, y: (d.masked_fill(y[:, None] != y, 99).amin(1), d.masked_fill(y[:, None] == y, 99).amin(1)),
        lambda d, y: (d.masked_fill(y[:, None] != y, -1).amax(1), d.masked_fill(y[:, None] == y, -1).amax(1)),
        lambda d, y: d.masked_fill(y[:, None] != y, -1).amax(1),
    ],
    "threshold": [
        lambda s, share: float(s.quantile(1 - share)),
        lambda s, share: float(s.sort().values[int(share * len(s))]),
        lambda s, share: float(s.max()),
        lambda s, share: float(s.sort(descending=True).values[max(0, int(share * len(s)) - 1)]),
    ],
}
