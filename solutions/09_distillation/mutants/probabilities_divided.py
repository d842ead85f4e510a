"""The probabilities are divided by the temperature instead of the logits before the softmax."""

import torch


def soften(logits, temperature):
    p = torch.softmax(logits, dim=-1) / temperature
    return p / p.sum(-1, keepdim=True)
