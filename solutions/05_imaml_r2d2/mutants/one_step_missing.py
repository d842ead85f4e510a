"""One step fewer than asked for is taken."""

import torch


def conjugate_gradient(matrix, b, steps):
    x, residual, direction = torch.zeros_like(b), b, b
    for _ in range(steps - 1):
        if not residual.any():
            break
        product = matrix @ direction
        length = (residual @ residual) / (direction @ product)
        x = x + length * direction
        new = residual - length * product
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
    return x
