"""The divergence is taken the other way round: of the teacher from the student."""

import torch


def soft_loss(student, teacher, temperature):
    p = torch.log_softmax(teacher.detach() / temperature, dim=-1)
    q = torch.log_softmax(student / temperature, dim=-1)
    return temperature**2 * (q.exp() * (q - p)).sum(-1).mean()
