"""beta comes first in the answer."""

import torch


def bias_correction(logits, labels, n_old):
    at = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([at], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(corrected(logits.double(), n_old, at[0], at[1]), labels)  # noqa: F821
        value.backward()
        return value

    optimizer.step(loss)
    return at.detach().float().flip(0)
