"""The logarithm is taken of a sigmoid that is rounded to 0 or 1 where the network is sure."""

import torch


def pair_loss(embeddings, labels, weight, bias):
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)
    scores = pair_scores(embeddings, embeddings, weight, bias)[i, j]  # noqa: F821
    same = labels[i] == labels[j]
    p = torch.sigmoid(scores)
    losses = -torch.where(same, p, 1 - p).log()
    return (losses[same].mean() + losses[~same].mean()) / 2
