"""A label is taken for the number of its class among those that are there."""

import torch


def sample(labels, draws):
    chosen = (draws[:, 0] * (labels.max() + 1)).long()
    found = [(labels == k).nonzero()[:, 0] for k in chosen]
    return torch.stack(
        [p[int(d * len(p))] if len(p) else torch.tensor(0) for p, d in zip(found, draws[:, 1], strict=True)]
    )
