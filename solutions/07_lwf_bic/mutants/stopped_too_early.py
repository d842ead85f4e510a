"""Ten steps of gradient descent do not reach the minimum."""

import torch


def bias_correction(logits, labels, n_old):
    at = torch.tensor([1.0, 0.0], requires_grad=True)
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(corrected(logits, n_old, at[0], at[1]), labels)  # noqa: F821
        (slope,) = torch.autograd.grad(loss, at)
        at = (at - 0.1 * slope).detach().requires_grad_()
    return at.detach()
