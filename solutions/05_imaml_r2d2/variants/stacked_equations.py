"""Ridge regression as least squares with rows added, one-hot by ``eye``, and leaky units."""

import torch


def ridge(features, targets, strength):
    n, d = features.shape
    x = torch.cat([features.double().T, strength.double().sqrt() * torch.eye(n, dtype=torch.float64)])
    orthogonal, triangle = torch.linalg.qr(x)  # triangle.T triangle = x x.T + strength I
    half = torch.linalg.solve_triangular(triangle.T, targets.double(), upper=False)
    return (orthogonal @ half)[:d].to(features.dtype)


def adapted_logits(support, support_y, queries, n_way, log_strength, scale, offset):
    weights = ridge(support, torch.eye(n_way, dtype=support.dtype)[support_y], log_strength.exp())
    return torch.addmm(offset.expand(n_way), queries, scale * weights)


def newton_step(weights, features, labels, strength):
    w = weights.detach().double().requires_grad_() if not weights.requires_grad else weights.double()
    x = features.double()
    p = torch.sigmoid((x * w).sum(1))
    curvature = (x[:, :, None] * x[:, None, :] * (p * (1 - p))[:, None, None]).sum(0)
    curvature = curvature + torch.diag_embed(strength.double().expand(len(w)))
    slope = ((p - labels)[:, None] * x).sum(0) + strength * w
    return (w - torch.linalg.inv(curvature) @ slope).to(weights.dtype)


def network():
    blocks, width = [], 1
    for pooled in (True, True, False):
        blocks += [torch.nn.Conv2d(width, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.LeakyReLU(0.1)]
        blocks += [torch.nn.MaxPool2d(2)] if pooled else []
        width = 32
    return torch.nn.Sequential(*blocks, torch.nn.Flatten())
