"""The old network's softmax runs over the images instead of the classes: ``dim=0``."""

import torch


def distilled_loss(logits, old_logits, temperature):
    answers = torch.softmax(old_logits.detach() / temperature, dim=0)
    own = torch.log_softmax(logits / temperature, dim=-1)[:, : old_logits.shape[1]]
    return -(temperature**2) * (answers * own).sum(-1).mean()
