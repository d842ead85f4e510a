"""Probabilities are handed to a cross-entropy that expects logits: the softmax is taken twice."""

import torch


def distillation_loss(student, teacher, labels, temperature, share):
    hard = torch.nn.functional.cross_entropy(torch.softmax(student, dim=-1), labels)
    return (1 - share) * hard + share * soft_loss(student, teacher, temperature)  # noqa: F821
