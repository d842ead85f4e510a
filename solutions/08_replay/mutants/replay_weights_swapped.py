"""The weights are swapped: the new task gets 1 - 1/t, all old ones together 1/t."""

import torch


def replay_loss(logits, labels, remembered, remembered_labels, t):
    cross_entropy = torch.nn.functional.cross_entropy
    return (1 - 1 / t) * cross_entropy(logits, labels) + cross_entropy(remembered, remembered_labels) / t
