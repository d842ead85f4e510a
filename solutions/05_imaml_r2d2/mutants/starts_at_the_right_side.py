"""It starts at b instead of 0, while the residual is that of 0."""


def conjugate_gradient(matrix, b, steps):
    x, residual, direction = b, b, b
    for _ in range(steps):
        if not residual.any():
            break
        product = matrix @ direction
        length = (residual @ residual) / (direction @ product)
        x = x + length * direction
        new = residual - length * product
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
    return x
