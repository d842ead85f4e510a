"""New and remembered images count one half each, whatever the task: the newest counts as much as all others."""

import torch


def replay_loss(logits, labels, remembered, remembered_labels, t):
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, labels) + cross_entropy(remembered, remembered_labels)) / 2
