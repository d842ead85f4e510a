"""Jacobians over all labels, the penalty as a weighted norm, more hidden units and a slower rate."""

import torch

HIDDEN, RATE, MEASURED = 150, 7e-3, 50
STRENGTHS = {"EWC": 40.0, "MAS": 0.04, "plain training": 0.0}


def fisher(params, x):
    def weighted(params, one):
        log_p = torch.log_softmax(outputs(params, one[None])[0], dim=0)  # noqa: F821
        return log_p.detach().exp().sqrt() * log_p

    squares = [torch.zeros_like(value) for value in params]
    for some in x.split(25):
        for square, jacobian in zip(
            squares, torch.func.vmap(torch.func.jacrev(weighted), (None, 0))(params, some), strict=True
        ):
            square += (jacobian**2).sum((0, 1))
    return [square / len(x) for square in squares]


def mas_importance(params, x):
    def norm(params, one):
        return (outputs(params, one[None]) ** 2).sum()  # noqa: F821

    gradients = [torch.func.grad(norm)(params, one) for one in x]
    return [torch.stack(each).abs().mean(0) for each in zip(*gradients, strict=True)]


def penalty(theta, memory, strength):
    importance, anchor = memory
    return strength * torch.linalg.vector_norm(importance.sqrt() * (theta - anchor)).square() / 2


def consolidate(memory, importance, theta, decay):
    old, _ = memory
    return torch.add(importance, old, alpha=decay), theta.clone()
