"""The scores of a class are averaged over its images; the single best match should decide."""

import torch


def one_shot(support_x, support_y, query_x, embedding, head):
    w, b = embedding
    support, queries = (torch.relu(x @ w.T + b) for x in (support_x, query_x))
    scores, classes = pair_scores(queries, support, *head), support_y.unique()  # noqa: F821
    return classes[torch.stack([scores[:, support_y == k].mean(1) for k in classes]).argmax(0)]
