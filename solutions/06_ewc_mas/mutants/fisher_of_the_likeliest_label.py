"""The expectation over the network's labels is left out: only the likeliest label of each image counts."""

import torch


def fisher(params, x):
    def log_p(params, one):
        return torch.log_softmax(outputs(params, one), dim=-1).max()  # noqa: F821

    of_each = torch.func.vmap(torch.func.grad(log_p), in_dims=(None, 0))(params, x)
    return tuple(g.square().mean(0) for g in of_each)
