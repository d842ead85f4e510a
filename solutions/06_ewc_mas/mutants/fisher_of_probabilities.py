"""The gradient is that of p, where it should be that of log p."""

import torch


def fisher(params, x):
    def p(params, one):
        return torch.softmax(outputs(params, one), dim=-1)  # noqa: F821

    of_labels = torch.func.vmap(torch.func.jacrev(p), in_dims=(None, 0))(params, x)
    return tuple(torch.einsum("nc,nc...->...", p(params, x), g.square()) / len(x) for g in of_labels)
