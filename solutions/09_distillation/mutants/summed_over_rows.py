"""The soft loss is summed over the batch instead of averaged, so that it grows with the batch."""

import torch


def soft_loss(student, teacher, temperature):
    p = torch.log_softmax(teacher.detach() / temperature, dim=-1)
    return temperature**2 * (p.exp() * (p - torch.log_softmax(student / temperature, dim=-1))).sum()
