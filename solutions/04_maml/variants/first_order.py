"""First-order MAML, with the gradients that the lab asks for handed to the optimiser."""

import torch


def reptile_direction(theta, x, y, sizes, rate, steps):
    moved = [adapt(theta, *task, sizes, rate, steps) for task in zip(x, y, strict=True)]  # noqa: F821
    return -(torch.stack(moved) - theta).mean(0)


def trained(points, labels, steps, inner_steps):
    theta = beginning()  # noqa: F821
    optimizer = torch.optim.Adam([theta], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        tasks = torch.randperm(len(points))[:20]
        order = torch.randperm(points.shape[1])
        x, y = points[tasks][:, order], labels[tasks][:, order]
        parts = (x[:, :20], y[:, :20], x[:, 20:], y[:, 20:])
        theta.grad = first_order_gradient(theta, *parts, SIZES, RATE, inner_steps)  # noqa: F821
        optimizer.step()
        schedule.step()
    return theta
