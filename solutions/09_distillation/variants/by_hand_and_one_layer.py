"""Softmax by hand with its maximum taken off, cross-entropies instead of the divergence, one hidden layer."""

import torch


def soften(logits, temperature):
    scaled = (logits - logits.max(1, keepdim=True).values) / temperature
    return scaled.exp() / scaled.exp().sum(1, keepdim=True)


def soft_loss(student, teacher, temperature):
    p = soften(teacher, temperature).detach()
    cross = -(p * torch.log_softmax(student / temperature, 1)).sum(1)
    own = -(p * torch.log_softmax(teacher.detach() / temperature, 1)).sum(1)
    return temperature * temperature * (cross - own).mean()


def network(hidden):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 2 * hidden), torch.nn.ReLU(), torch.nn.Linear(2 * hidden, 10)
    )
