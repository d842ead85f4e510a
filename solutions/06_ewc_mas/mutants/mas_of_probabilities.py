"""The outputs go through a softmax first, and say little where the network is sure."""

import torch


def mas_importance(params, x):
    def norm(params, one):
        return torch.softmax(outputs(params, one), dim=-1).square().sum()  # noqa: F821

    of_each = torch.func.vmap(torch.func.grad(norm), in_dims=(None, 0))(params, x)
    return tuple(g.abs().mean(0) for g in of_each)
