"""Loops over classes, distances by ``cdist``, and half the channels."""

import torch


def prototypes(embeddings, labels, n_way):
    return torch.stack([embeddings[labels == k].mean(dim=0) for k in range(n_way)])


def log_probabilities(queries, prototypes):
    return torch.nn.functional.log_softmax(-(torch.cdist(queries, prototypes) ** 2), dim=1)


def network():
    layers = []
    for before, after in ((1, 16), (16, 16), (16, 32)):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(2)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten())
