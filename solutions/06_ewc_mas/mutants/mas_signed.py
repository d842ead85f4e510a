"""No absolute value is taken, so importance can be negative and images cancel."""

import torch


def mas_importance(params, x):
    def norm(params):
        return outputs(params, x).square().sum(-1).mean()  # noqa: F821

    return torch.func.grad(norm)(params)
