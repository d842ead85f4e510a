"""The targets are 1 and -1; they are one-hot, 1 and 0."""

import torch


def adapted_logits(support, support_y, queries, n_way, log_strength, scale, offset):
    targets = torch.nn.functional.one_hot(support_y, n_way).to(support.dtype) * 2 - 1
    return scale * (queries @ ridge(support, targets, log_strength.exp())) + offset  # noqa: F821
