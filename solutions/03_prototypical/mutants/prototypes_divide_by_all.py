"""The sum of a class is divided by the number of all examples instead of those of the class."""

import torch


def prototypes(embeddings, labels, n_way):
    return torch.stack([embeddings[labels == k].sum(0) / len(labels) for k in range(n_way)])
