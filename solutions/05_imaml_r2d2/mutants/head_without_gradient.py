"""The head is solved in ``no_grad``: the embedding of the support set learns nothing from the task."""

import torch


def adapted_logits(support, support_y, queries, n_way, log_strength, scale, offset):
    targets = torch.nn.functional.one_hot(support_y, n_way).to(support.dtype)
    with torch.no_grad():
        weights = ridge(support, targets, log_strength.exp())  # noqa: F821
    return scale * (queries @ weights) + offset
