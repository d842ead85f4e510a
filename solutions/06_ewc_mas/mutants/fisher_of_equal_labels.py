"""Labels are weighted alike, where each counts with the probability that the network gives it."""

import torch


def fisher(params, x):
    def log_p(params, one):
        return torch.log_softmax(outputs(params, one), dim=-1)  # noqa: F821

    of_labels = torch.func.vmap(torch.func.jacrev(log_p), in_dims=(None, 0))(params, x)
    return tuple(g.square().mean((0, 1)) for g in of_labels)
