"""A prototype is the mean of its class, not the median: only the mean has the smallest squared distances to it."""

import torch


def prototypes(embeddings, labels, n_way):
    return torch.stack([embeddings[labels == k].median(0).values for k in range(n_way)])
