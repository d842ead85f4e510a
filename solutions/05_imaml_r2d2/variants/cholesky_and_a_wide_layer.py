"""Cholesky factors of the system, reweighted least squares, products with functions, a larger first filter."""

import torch


def ridge(features, targets, strength):
    x = features.double()
    system = torch.einsum("id,jd->ij", x, x) + torch.diag(strength.double().expand(len(x)))
    solved = torch.cholesky_solve(targets.double(), torch.linalg.cholesky(system))
    return torch.einsum("id,ik->dk", x, solved).to(features.dtype)


def newton_step(weights, features, labels, strength):
    x, w = features.double(), weights.double()
    scores = x @ w
    p = scores.sigmoid()
    s = p * (1 - p)
    wanted = s * scores + (labels - p)  # s z, which needs no division
    curvature = x.T @ torch.diag(s) @ x + strength * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(curvature, x.T @ wanted).to(weights.dtype)


def conjugate_gradient(matrix, b, steps):
    return _solved(lambda v: matrix @ v, b, steps)


def _solved(times, b, steps):
    found, direction, left = b * 0, b.clone(), b.clone()
    square = left.dot(left)
    for _ in range(steps):
        if square == 0:
            return found
        along = times(direction)
        rate = square / direction.dot(along)
        found, left = found + rate * direction, left - rate * along
        square, before = left.dot(left), square
        direction = left + square / before * direction
    return found


def implicit_gradient(hessian, gradient, strength, steps):
    return _solved(lambda v: v + hessian @ v / strength, gradient, steps)


def network():
    layers = [torch.nn.Conv2d(1, 32, 5, padding=2), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    layers += [torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten())
