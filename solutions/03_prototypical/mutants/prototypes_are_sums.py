"""A prototype is the mean of its class, not the sum."""

import torch


def prototypes(embeddings, labels, n_way):
    return torch.stack([embeddings[labels == k].sum(0) for k in range(n_way)])
