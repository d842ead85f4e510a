"""A softmax of the probabilities over T: they are no logits, and nearly nothing of them is left."""

import torch


def soften(probabilities, temperature):
    return torch.softmax(probabilities / temperature, dim=-1)
