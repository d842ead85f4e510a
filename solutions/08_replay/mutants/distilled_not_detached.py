"""The gradient reaches the old network's answers too: the teacher would learn to agree with its pupil."""

import torch


def distilled_loss(logits, old_logits, temperature):
    answers = torch.softmax(old_logits / temperature, dim=-1)
    own = torch.log_softmax(logits / temperature, dim=-1)[:, : old_logits.shape[1]]
    return -(temperature**2) * (answers * own).sum(-1).mean()
