"""All images are averaged together, so that the size of the batches decides what a task counts."""

import torch


def replay_loss(logits, labels, remembered, remembered_labels, t):
    together = torch.cat([logits, remembered]), torch.cat([labels, remembered_labels])
    return torch.nn.functional.cross_entropy(*together)
