"""The larger of the two importances is kept instead of their sum."""

import torch


def consolidate(memory, importance, theta, decay):
    return torch.maximum(decay * memory[0], importance), theta
