"""The penalty is missing from the slope, and stands in the curvature alone."""

import torch


def newton_step(weights, features, labels, strength):
    x, w = features.double(), weights.double()
    p = torch.sigmoid(x @ w)
    slope = x.T @ (p - labels)
    curvature = x.T @ ((p * (1 - p))[:, None] * x) + strength * torch.eye(len(w), dtype=x.dtype)
    return (w - torch.linalg.solve(curvature, slope)).to(weights.dtype)
