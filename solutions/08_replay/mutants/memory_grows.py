"""Items are appended and nothing is dropped: the memory is no longer small."""

import torch


def add(memory, items, seen, size, draws):
    return torch.cat([memory, items])
