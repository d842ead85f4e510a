"""Row k belongs to label k; here classes come in the order in which they are first seen."""

import torch


def prototypes(embeddings, labels, n_way):
    seen = list(dict.fromkeys(labels.tolist()))
    return torch.stack([embeddings[labels == k].mean(0) for k in seen])
