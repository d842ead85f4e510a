"""The two draws are swapped: the second chooses the class, the first the image."""

import torch


def sample(labels, draws):
    classes = labels.unique()
    found = [(labels == classes[int(d * len(classes))]).nonzero()[:, 0] for d in draws[:, 1]]
    return torch.stack([p[int(d * len(p))] for p, d in zip(found, draws[:, 0], strict=True)])
