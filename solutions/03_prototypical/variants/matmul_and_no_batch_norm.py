"""Means by a matrix of memberships, cross-entropy of the scores, and convolutions without batch norm."""

import torch


def prototypes(embeddings, labels, n_way):
    member = (labels[None, :] == torch.arange(n_way)[:, None]).to(embeddings.dtype)
    return (member @ embeddings) / member.sum(1, keepdim=True)


def episode_loss(support, support_y, queries, query_y, n_way):
    difference = queries.unsqueeze(1) - prototypes(support, support_y, n_way).unsqueeze(0)
    return torch.nn.functional.cross_entropy(-torch.sum(difference**2, dim=2), query_y)


def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
    )
