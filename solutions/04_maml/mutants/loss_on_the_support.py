"""The outer loss is taken on the support set that was just learned, and not on the queries."""

import torch


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    losses = [
        task_loss(adapt(theta, x, y, sizes, rate, steps), x, y, sizes)  # noqa: F821
        for x, y in zip(support_x, support_y, strict=True)
    ]
    return torch.stack(losses).mean()
