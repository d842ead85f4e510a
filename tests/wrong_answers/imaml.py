"""Typical wrong answers to the exercises of the chapter on implicit and closed-form inner learners."""

import torch


def slope_of(loss, phi):
    return torch.autograd.grad(loss(phi), phi, create_graph=True)[0]


def curvature_times(loss, phi, v):
    return torch.autograd.grad(slope_of(loss, phi) @ v, phi)[0]


def by_the_dense_matrix(loss, phi, v, strength):
    return v + torch.autograd.functional.hessian(loss, phi) @ v / strength


def by_differences(loss, phi, v, strength):
    return v + (slope_of(loss, phi + 0.01 * v) - slope_of(loss, phi)) / 0.01 / strength


def regression_parts(x, y, q, t, theta, strength, solved=True):
    """H, the adapted weights (theta itself if not solved) and the gradient on the queries there."""
    hessian = 2 / len(x) * x.T @ x
    eye = torch.eye(len(theta), dtype=theta.dtype)
    phi = torch.linalg.solve(hessian + strength * eye, 2 / len(x) * x.T @ y + strength * theta) if solved else theta
    return hessian, eye, 2 / len(q) * q.T @ (q @ phi - t)


def solved_with(system, solved=True):
    """A wrong implicit gradient: ``system(H, I, lambda)`` is solved for the gradient on the queries."""

    def answer(x, y, q, t, theta, strength):
        hessian, eye, at_phi = regression_parts(x, y, q, t, theta, strength, solved)
        return torch.linalg.solve(system(hessian, eye, strength), at_phi)

    return answer


def primal_ridge(x, y, strength):
    return torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def dual_ridge(x, y, strength, scale=1.0, transposed=True):
    a = torch.linalg.solve(x @ x.T * scale + strength * torch.eye(len(x), dtype=x.dtype), y)
    return x.T @ a if transposed else a


MISTAKES = {
    "system_product": [
        lambda loss, phi, v, strength: curvature_times(loss, phi, v),
        lambda loss, phi, v, strength: v + curvature_times(loss, phi, v),
        lambda loss, phi, v, strength: v + strength * curvature_times(loss, phi, v),
        lambda loss, phi, v, strength: v + slope_of(loss, phi) * v / strength,
        lambda loss, phi, v, strength: slope_of(loss, phi) @ v,
        by_the_dense_matrix,
        by_differences,
    ],
    "implicit_gradient": [
        lambda *arguments: regression_parts(*arguments)[2],
        solved_with(lambda hessian, eye, strength: hessian + strength * eye),
        solved_with(lambda hessian, eye, strength: eye + hessian),
        solved_with(lambda hessian, eye, strength: eye + hessian / 2 / strength),
        solved_with(lambda hessian, eye, strength: eye + hessian / strength, solved=False),
        lambda x, y, q, t, theta, strength: regression_parts(x, y, q, t, theta, strength)[2][:2],
    ],
    "ridge_weights": [
        primal_ridge,
        lambda x, y, strength: dual_ridge(x, y, strength, scale=1 / len(x)),
        lambda x, y, strength: dual_ridge(x, y, strength, transposed=False),
        lambda x, y, strength: dual_ridge(x, y, len(x) * strength),
        lambda x, y, strength: dual_ridge(x, y, strength**2),
        lambda x, y, strength: (dual_ridge(x, y, strength),),
    ],
}
