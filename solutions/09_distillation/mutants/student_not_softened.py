"""Only the teacher is softened; both have to be, by the same temperature."""

import torch


def soft_loss(student, teacher, temperature):
    p = torch.log_softmax(teacher.detach() / temperature, dim=-1)
    return temperature**2 * (p.exp() * (p - torch.log_softmax(student, dim=-1))).sum(-1).mean()
