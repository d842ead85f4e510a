"""log p is multiplied by p before the square, so labels are weighted with p squared."""

import torch


def fisher(params, x):
    def log_p(params, one):
        return torch.log_softmax(outputs(params, one), dim=-1)  # noqa: F821

    p = log_p(params, x).exp()
    of_labels = torch.func.vmap(torch.func.jacrev(log_p), in_dims=(None, 0))(params, x)
    return tuple(torch.einsum("nc,nc...->...", p.square(), g.square()) / len(x) for g in of_labels)
