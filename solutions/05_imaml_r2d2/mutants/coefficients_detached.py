"""The coefficients of the examples are taken as given, ``detach``, although they change with the features."""

import torch


def ridge(features, targets, strength):
    x, y = features.double(), targets.double()
    system = x @ x.T + strength * torch.eye(len(x), dtype=x.dtype)
    return (x.T @ torch.linalg.solve(system, y).detach()).to(features.dtype)
