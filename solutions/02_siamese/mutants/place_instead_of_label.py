"""The position of the best support image is returned instead of its label."""

import torch


def one_shot(support_x, support_y, query_x, embedding, head):
    w, b = embedding
    support, queries = (torch.relu(x @ w.T + b) for x in (support_x, query_x))
    return pair_scores(queries, support, *head).argmax(-1)  # noqa: F821
