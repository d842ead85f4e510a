"""Typical wrong answers to the exercises of the chapter on kernels."""

import torch

MISTAKES = {
    "log_probabilities": [
        lambda q, c: (2 * q @ c.mT - c.square().sum(-1)).log_softmax(-1),
        lambda q, c: (2 * q @ c.mT - c.square().sum(-1)).log_softmax(0),
        lambda q, c: ((q - c.mean(0)) @ (c - c.mean(0)).mT).log_softmax(-1),
        lambda q, c: (-torch.cdist(q, c)).log_softmax(-1),
        lambda q, c: (-(q.double()[:, None] - c).square().sum(-1)).log_softmax(-1),
    ],
    "weight_gradient": [
        lambda a, b, s, t: (a * s).sum(0) + (b * t).sum(0),
        lambda a, b, s, t: ((a - a.mean(0)) * s).sum(0) + ((b - b.mean(0)) * t).sum(0),
        lambda a, b, s, t: ((a - 1000) * s).sum(0) - ((b - 1000) * t).sum(0),
        lambda a, b, s, t: s.sum(0),
        lambda a, b, s, t: a * s,
    ],
}
