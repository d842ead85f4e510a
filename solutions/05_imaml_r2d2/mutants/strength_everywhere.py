"""The strength is added to every entry of the system instead of those on its diagonal."""

import torch


def ridge(features, targets, strength):
    x, y = features.double(), targets.double()
    system = x @ x.T + strength
    return (x.T @ torch.linalg.solve(system, y)).to(features.dtype)
