"""Items without a place, -1, are written to the last one."""

import torch


def add(memory, items, seen, size, draws):
    room = min(size, seen + len(items)) - len(memory)
    memory = torch.cat([memory, items[:room]])
    for place, item in zip(places(seen, size, draws).tolist(), items, strict=True):  # noqa: F821
        memory[place] = item
    return memory
