"""Reptile's tasks are learned one after the other, each from the parameters that the last one has left."""


def reptile_direction(theta, x, y, sizes, rate, steps):
    adapted = theta
    for one_x, one_y in zip(x, y, strict=True):
        adapted = adapt(adapted, one_x, one_y, sizes, rate, steps)  # noqa: F821
    return theta - adapted
