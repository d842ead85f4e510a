"""The gradient stops at the prototypes: ``detach`` or ``no_grad`` keeps the support set from being learned from."""

import torch


def prototypes(embeddings, labels, n_way):
    return torch.stack([embeddings[labels == k].mean(0) for k in range(n_way)]).detach()
