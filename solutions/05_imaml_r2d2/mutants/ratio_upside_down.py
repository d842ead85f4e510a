"""The ratio of the residuals is upside down: the new one belongs above, the old one below."""

import torch


def conjugate_gradient(matrix, b, steps):
    x, residual, direction = torch.zeros_like(b), b, b
    for _ in range(steps):
        if not residual.any():
            break
        product = matrix @ direction
        length = (residual @ residual) / (direction @ product)
        x = x + length * direction
        new = residual - length * product
        direction = new + (residual @ residual) / (new @ new) * direction
        residual = new
    return x
