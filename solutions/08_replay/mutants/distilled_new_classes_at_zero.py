"""New classes get the old logit 0 instead of the probability 0: the old network seems to believe in them."""

import torch


def distilled_loss(logits, old_logits, temperature):
    known = torch.nn.functional.pad(old_logits.detach(), (0, logits.shape[1] - old_logits.shape[1]))
    answers = torch.softmax(known / temperature, dim=-1)
    return -(temperature**2) * (answers * torch.log_softmax(logits / temperature, dim=-1)).sum(-1).mean()
