"""The gradient is multiplied by the system, where the system has to be solved."""


def implicit_gradient(hessian, gradient, strength, steps):
    return gradient + hessian @ gradient / strength
