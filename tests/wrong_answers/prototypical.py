"""Typical wrong answers to the exercises of the chapter on metric methods."""

import torch


def unequal_means_by_equal_split(embedding, labels, n_way):
    return embedding.unflatten(0, (n_way, -1)).mean(1)


def sums_instead_of_means(embedding, labels, n_way):
    return torch.stack([embedding[labels == k].sum(0) for k in range(n_way)])


MISTAKES = {
    "prototypes": [unequal_means_by_equal_split, sums_instead_of_means, lambda e, y, n: [0] * n],
    "linear_head": [
        lambda c: (c, -c.square().sum(-1)),
        lambda c: (2 * c, c.square().sum(-1)),
        lambda c: (2 * c, -c.norm(dim=-1)),
        lambda c: 2 * c,
    ],
    "interval": [
        lambda a: (float(a.mean()), float(a.std())),
        lambda a: (float(a.mean()), float(1.96 * a.std() / len(a) ** 0.5)),
        lambda a: (float(a.mean()), float(a.std() / len(a) ** 0.5)),
        lambda a: (float(a.median()), float(1.96 * a.std() / len(a) ** 0.5)),
    ],
}
