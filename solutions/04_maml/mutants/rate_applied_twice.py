"""The gradient is multiplied by the inner rate twice, in the loss and in the step."""

import torch


def adapt(theta, x, y, sizes, rate, steps):
    for _ in range(steps):
        theta = theta - rate * rate * torch.func.grad(task_loss)(theta, x, y, sizes)  # noqa: F821
    return theta
