"""The absolute value is taken of the batch's mean gradient, in which images that pull either way cancel."""

import torch


def mas_importance(params, x):
    def norm(params):
        return outputs(params, x).square().sum(-1).mean()  # noqa: F821

    return tuple(g.abs() for g in torch.func.grad(norm)(params))
