"""The D x D system in double precision where it is the smaller one, weights of Newton's step by Cholesky, loops."""

import torch


def ridge(features, targets, strength):
    x, y = features.to(torch.float64), targets.to(torch.float64)
    n, d = x.shape
    if n < d:
        inverse = torch.linalg.inv(torch.mm(x, x.T) + strength.double() * torch.eye(n, dtype=torch.float64))
        return (x.T @ inverse @ y).to(features.dtype)
    matrix = torch.mm(x.T, x) + strength.double() * torch.eye(d, dtype=torch.float64)
    return torch.linalg.solve(matrix, x.T @ y).to(features.dtype)


def adapted_logits(support, support_y, queries, n_way, log_strength, scale, offset):
    targets = torch.stack([(support_y == k).to(support.dtype) for k in range(n_way)], dim=1)
    weights = ridge(support, targets, torch.exp(log_strength))
    return torch.stack([scale * (query @ weights) + offset for query in queries])


def newton_step(weights, features, labels, strength):
    x, w, y = features.double(), weights.double(), labels.double()
    p = 1 / (1 + torch.exp(-(x @ w)))
    slope, curvature = strength * w, strength.double() * torch.eye(len(w), dtype=torch.float64)
    for row, guess, label in zip(x, p, y, strict=True):
        slope = slope + (guess - label) * row
        curvature = curvature + guess * (1 - guess) * torch.outer(row, row)
    step = torch.cholesky_solve(slope[:, None], torch.linalg.cholesky(curvature))[:, 0]
    return (w - step).to(weights.dtype)


def network():
    layers = []
    for before, after, pooled in ((1, 24, True), (24, 32, True), (32, 32, False)):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(2)] if pooled else []
    return torch.nn.Sequential(*layers, torch.nn.Flatten())
