"""The inner loss is the sum over the support set where the mean is asked for: the step grows with the set."""

import torch


def adapt(theta, x, y, sizes, rate, steps):
    for _ in range(steps):
        theta = theta - rate * len(y) * torch.func.grad(task_loss)(theta, x, y, sizes)  # noqa: F821
    return theta
