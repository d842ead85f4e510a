"""The task is taken to be counted from 0: the second one gets a third."""

import torch


def replay_loss(logits, labels, remembered, remembered_labels, t):
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, labels) + t * cross_entropy(remembered, remembered_labels)) / (t + 1)
