"""After every inner step the parameters are made a new leaf: nothing of the outer gradient reaches theta."""

import torch


def adapt(theta, x, y, sizes, rate, steps):
    for _ in range(steps):
        theta = (theta - rate * torch.func.grad(task_loss)(theta, x, y, sizes)).detach()  # noqa: F821
    return theta
