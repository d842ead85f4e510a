"""The length of a step is that of the first, and not calculated anew."""

import torch


def conjugate_gradient(matrix, b, steps):
    x, residual, direction = torch.zeros_like(b), b, b
    length = None
    for _ in range(steps):
        if not residual.any():
            break
        product = matrix @ direction
        length = length if length is not None else (residual @ residual) / (direction @ product)
        x = x + length * direction
        new = residual - length * product
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
    return x
