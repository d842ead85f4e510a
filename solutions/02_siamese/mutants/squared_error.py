"""The squared error of the probability takes the place of the cross-entropy."""

import torch


def pair_loss(embeddings, labels, weight, bias):
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)
    scores = pair_scores(embeddings, embeddings, weight, bias)[i, j]  # noqa: F821
    same = labels[i] == labels[j]
    losses = (torch.sigmoid(scores) - same.to(scores.dtype)).square()
    return (losses[same].mean() + losses[~same].mean()) / 2
