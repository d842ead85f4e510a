"""Every inner step takes the gradient at theta again, and not at where the last step has led."""

import torch


def adapt(theta, x, y, sizes, rate, steps):
    return theta - steps * rate * torch.func.grad(task_loss)(theta, x, y, sizes)  # noqa: F821
