"""The strength grows with the number of examples: in the formula the squared errors are summed, not averaged."""

import torch


def ridge(features, targets, strength):
    x, y = features.double(), targets.double()
    system = x @ x.T + len(x) * strength * torch.eye(len(x), dtype=x.dtype)
    return (x.T @ torch.linalg.solve(system, y)).to(features.dtype)
