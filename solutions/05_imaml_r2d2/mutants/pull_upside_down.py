"""The Hessian is multiplied by the strength; a strong pull makes it count less, not more."""

import torch


def implicit_gradient(hessian, gradient, strength, steps):
    eye = torch.eye(len(gradient), dtype=gradient.dtype)
    return conjugate_gradient(eye + hessian * strength, gradient, steps)  # noqa: F821
