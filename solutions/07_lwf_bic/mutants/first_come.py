"""The first m images are kept."""

import torch


def herding(vectors, m):
    return torch.arange(m)
