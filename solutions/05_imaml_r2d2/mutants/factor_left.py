"""The system is strength I + H, whose solution is smaller by the factor strength: it is missing in front."""

import torch


def implicit_gradient(hessian, gradient, strength, steps):
    eye = torch.eye(len(gradient), dtype=gradient.dtype)
    return conjugate_gradient(strength * eye + hessian, gradient, steps)  # noqa: F821
