"""Plain least squares: the penalty is forgotten, and with few examples every one of them is fitted perfectly."""

import torch


def ridge(features, targets, strength):
    return torch.linalg.pinv(features) @ targets
