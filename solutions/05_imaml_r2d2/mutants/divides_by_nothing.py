"""It goes on after it has arrived, where the length of a step is 0 / 0."""

import torch


def conjugate_gradient(matrix, b, steps):
    x, residual, direction = torch.zeros_like(b), b, b
    for _ in range(steps):
        product = matrix @ direction
        length = (residual @ residual) / (direction @ product)
        x = x + length * direction
        new = residual - length * product
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
    return x
