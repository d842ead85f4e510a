"""The nearest example decides instead of the nearest prototype."""

import torch


def predict(support_x, support_y, query_x, n_way, weight, bias):
    support, queries = (torch.relu(x @ weight.T + bias) for x in (support_x, query_x))
    return support_y[torch.cdist(queries, support).argmin(1)]
