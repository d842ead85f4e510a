"""The D x D system, right on paper, is inverted in single precision, which loses digits where D is large."""

import torch


def ridge(features, targets, strength):
    system = features.T @ features + strength * torch.eye(features.shape[1], dtype=features.dtype)
    return torch.linalg.inv(system) @ features.T @ targets
