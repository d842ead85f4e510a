"""Loops over items and classes, and fewer hidden units."""

import torch

HIDDEN = 80


def places(first, size, draws):
    found = []
    for t, draw in enumerate(draws.tolist(), first):
        place = t if t < size else int(draw * (t + 1))
        found.append(place if place < size else -1)
    return torch.tensor(found)


def add(memory, items, seen, size, draws):
    kept = list(memory)
    for item, draw in zip(items, draws, strict=True):
        if seen < size:
            kept.append(item)
        elif (place := int(draw * (seen + 1))) < size:
            kept[place] = item
        seen += 1
    return torch.stack(kept)


def sample(labels, draws):
    classes = sorted(set(labels.tolist()))
    places = [(labels == label).nonzero()[:, 0].tolist() for label in classes]
    chosen = []
    for of_class, of_item in draws.tolist():
        found = places[int(of_class * len(classes))]
        chosen.append(found[int(of_item * len(found))])
    return torch.tensor(chosen)
