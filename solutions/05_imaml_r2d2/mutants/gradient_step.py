"""This is a step of gradient descent: Newton's divides the slope by the curvature."""

import torch


def newton_step(weights, features, labels, strength):
    p = torch.sigmoid(features @ weights)
    return weights - (features.T @ (p - labels) + strength * weights)
