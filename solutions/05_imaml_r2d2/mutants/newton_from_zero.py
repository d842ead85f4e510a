"""Every step starts at zero again instead of the weights that it is given."""

import torch


def newton_step(weights, features, labels, strength):
    x, w = features.double(), 0 * weights.double()
    p = torch.sigmoid(x @ w)
    slope = x.T @ (p - labels) + strength * w
    curvature = x.T @ ((p * (1 - p))[:, None] * x) + strength * torch.eye(len(w), dtype=x.dtype)
    return (w - torch.linalg.solve(curvature, slope)).to(weights.dtype)
