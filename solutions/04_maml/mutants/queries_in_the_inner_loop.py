"""The inner loop learns from the queries, with their labels, along with the support set."""

import torch


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    both_x, both_y = torch.cat([support_x, query_x], 1), torch.cat([support_y, query_y], 1)
    losses = [
        task_loss(adapt(theta, x, y, sizes, rate, steps), new_x, new_y, sizes)  # noqa: F821
        for x, y, new_x, new_y in zip(both_x, both_y, query_x, query_y, strict=True)
    ]
    return torch.stack(losses).mean()
