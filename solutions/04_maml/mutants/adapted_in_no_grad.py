"""The outer loss is right, but adapting happens without a gradient, so that nothing reaches theta."""

import torch


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    losses = []
    for x, y, new_x, new_y in zip(support_x, support_y, query_x, query_y, strict=True):
        with torch.no_grad():
            adapted = adapt(theta, x, y, sizes, rate, steps)  # noqa: F821
        losses.append(task_loss(adapted, new_x, new_y, sizes))  # noqa: F821
    return torch.stack(losses).mean()
