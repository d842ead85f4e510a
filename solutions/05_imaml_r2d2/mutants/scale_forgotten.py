"""The learned scale is missing: a regression to 0 and 1 makes logits that are hardly sure of anything."""

import torch


def adapted_logits(support, support_y, queries, n_way, log_strength, scale, offset):
    targets = torch.nn.functional.one_hot(support_y, n_way).to(support.dtype)
    return queries @ ridge(support, targets, log_strength.exp()) + offset  # noqa: F821
