"""The queries, with their labels, leak into the prototypes that they are compared with."""

import torch


def episode_loss(support, support_y, queries, query_y, n_way):
    means = prototypes(torch.cat([support, queries]), torch.cat([support_y, query_y]), n_way)  # noqa: F821
    return torch.nn.functional.nll_loss(log_probabilities(queries, means), query_y)  # noqa: F821
