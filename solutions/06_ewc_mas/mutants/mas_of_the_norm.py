"""The norm of the outputs is not squared."""

import torch


def mas_importance(params, x):
    def norm(params, one):
        return outputs(params, one).norm()  # noqa: F821

    of_each = torch.func.vmap(torch.func.grad(norm), in_dims=(None, 0))(params, x)
    return tuple(g.abs().mean(0) for g in of_each)
