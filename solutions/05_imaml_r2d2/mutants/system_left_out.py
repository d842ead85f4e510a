"""The gradient on the queries is returned as it is, as in first-order MAML: the system is left out."""


def implicit_gradient(hessian, gradient, strength, steps):
    return gradient.clone()
