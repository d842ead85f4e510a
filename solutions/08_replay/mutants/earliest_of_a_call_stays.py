"""Of several items that take the same place the last stays; here it is the first."""

import torch


def add(memory, items, seen, size, draws):
    room = min(size, seen + len(items)) - len(memory)
    memory = torch.cat([memory, items[:room]])
    for place, item in reversed(list(zip(places(seen, size, draws).tolist(), items))):  # noqa: B905, F821
        if place >= 0:
            memory[place] = item
    return memory
