"""A ring: each item takes the place of the oldest, so only the last ones are remembered."""

import torch


def places(first, size, draws):
    return torch.arange(first, first + len(draws)) % size
