"""Similarity is taken by the inner product instead of the distance: long prototypes win."""

import torch


def log_probabilities(queries, prototypes):
    return torch.log_softmax(queries @ prototypes.T, dim=-1)
