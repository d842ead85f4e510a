"""The plain distance decides; the weights that were learned for it are forgotten."""

import torch


def one_shot(support_x, support_y, query_x, embedding, head):
    w, b = embedding
    support, queries = (torch.relu(x @ w.T + b) for x in (support_x, query_x))
    return support_y[torch.cdist(queries, support, p=1).argmin(-1)]
