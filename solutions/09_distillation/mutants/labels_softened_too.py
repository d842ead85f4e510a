"""The cross-entropy with the labels is taken at the temperature; it belongs at 1."""

import torch


def distillation_loss(student, teacher, labels, temperature, share):
    hard = torch.nn.functional.cross_entropy(student / temperature, labels)
    return (1 - share) * hard + share * soft_loss(student, teacher, temperature)  # noqa: F821
