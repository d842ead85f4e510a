"""A softmax by its formula, exp over sum, overflows where logits are large."""

import torch


def soften(logits, temperature):
    weights = torch.exp(logits / temperature)
    return weights / weights.sum(-1, keepdim=True)
