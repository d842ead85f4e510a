"""Column k belongs to label k; here classes come in the order in which they are first seen."""

import torch


def adapted_logits(support, support_y, queries, n_way, log_strength, scale, offset):
    seen = list(dict.fromkeys(support_y.tolist()))
    support_y = torch.tensor([seen.index(k) for k in support_y.tolist()])
    targets = torch.nn.functional.one_hot(support_y, n_way).to(support.dtype)
    return scale * (queries @ ridge(support, targets, log_strength.exp())) + offset  # noqa: F821
