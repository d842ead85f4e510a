"""The inner step goes up the gradient, not down."""

import torch


def adapt(theta, x, y, sizes, rate, steps):
    for _ in range(steps):
        theta = theta + rate * torch.func.grad(task_loss)(theta, x, y, sizes)  # noqa: F821
    return theta
