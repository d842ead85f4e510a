"""The ``detach`` of the teacher is missing: the gradient pulls the teacher towards its student."""

import torch


def soft_loss(student, teacher, temperature):
    p = torch.log_softmax(teacher / temperature, dim=-1)
    q = torch.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (p.exp() * (p - q)).sum(-1).mean()
