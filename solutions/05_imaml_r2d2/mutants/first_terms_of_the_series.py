"""The inverse is replaced by I - H / strength, the first two terms of a series that need not converge."""


def implicit_gradient(hessian, gradient, strength, steps):
    return gradient - hessian @ gradient / strength
