"""Classes found by sorting, softmax by hand with its maximum taken off, and strides instead of pooling."""

import torch


def prototypes(embeddings, labels, n_way):
    order = labels.argsort()
    groups = embeddings[order].split(torch.bincount(labels, minlength=n_way).tolist())
    return torch.stack([group.mean(0) for group in groups])


def log_probabilities(queries, prototypes):
    scores = torch.stack([-((queries - prototype) ** 2).sum(1) for prototype in prototypes], dim=1)
    scores = scores - scores.max(dim=1, keepdim=True).values
    return scores - scores.exp().sum(dim=1, keepdim=True).log()


def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(64),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1024, 128),
    )
