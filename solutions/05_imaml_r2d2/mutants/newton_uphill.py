"""The step is added where it has to be subtracted."""

import torch


def newton_step(weights, features, labels, strength):
    x, w = features.double(), weights.double()
    p = torch.sigmoid(x @ w)
    slope = x.T @ (p - labels) + strength * w
    curvature = x.T @ ((p * (1 - p))[:, None] * x) + strength * torch.eye(len(w), dtype=x.dtype)
    return (w + torch.linalg.solve(curvature, slope)).to(weights.dtype)
