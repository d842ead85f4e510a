"""The weights p (1 - p) of the examples are missing from the curvature: that of squared errors is used."""

import torch


def newton_step(weights, features, labels, strength):
    x, w = features.double(), weights.double()
    p = torch.sigmoid(x @ w)
    slope = x.T @ (p - labels) + strength * w
    curvature = x.T @ x + strength * torch.eye(len(w), dtype=x.dtype)
    return (w - torch.linalg.solve(curvature, slope)).to(weights.dtype)
