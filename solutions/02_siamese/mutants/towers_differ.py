"""Support and queries go through different towers: the support images miss the ReLU."""

import torch


def one_shot(support_x, support_y, query_x, embedding, head):
    w, b = embedding
    return support_y[pair_scores(torch.relu(query_x @ w.T + b), support_x @ w.T + b, *head).argmax(-1)]  # noqa: F821
