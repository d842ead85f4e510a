"""The softmax runs over the queries instead of the classes."""

import torch


def log_probabilities(queries, prototypes):
    return torch.log_softmax(-(queries[:, None] - prototypes).square().sum(-1), dim=0)
