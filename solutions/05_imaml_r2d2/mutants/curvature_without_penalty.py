"""The penalty is missing from the curvature, and stands in the slope alone."""

import torch


def newton_step(weights, features, labels, strength):
    x, w = features.double(), weights.double()
    p = torch.sigmoid(x @ w)
    slope = x.T @ (p - labels) + strength * w
    curvature = x.T @ ((p * (1 - p))[:, None] * x) + 1e-6 * torch.eye(len(w), dtype=x.dtype)
    return (w - torch.linalg.solve(curvature, slope)).to(weights.dtype)
