"""The gradient does not reach the strength, which is learned too: ``detach`` or ``item`` makes it a constant."""

import torch


def ridge(features, targets, strength):
    x, y = features.double(), targets.double()
    system = x @ x.T + strength.detach() * torch.eye(len(x), dtype=x.dtype)
    return (x.T @ torch.linalg.solve(system, y)).to(features.dtype)
