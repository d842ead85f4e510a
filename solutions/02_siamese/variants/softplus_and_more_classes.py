"""Losses from softplus, and more classes in a batch."""

import torch

WAY, SHOT = 33, 2


def pair_loss(embeddings, labels, weight, bias):
    scores = pair_scores(embeddings, embeddings, weight, bias)  # noqa: F821
    same = (labels[:, None] == labels).to(scores.dtype)
    pairs = torch.ones_like(same).tril(-1)
    alike, other = same * pairs, (1 - same) * pairs
    of_alike = (torch.nn.functional.softplus(-scores) * alike).sum() / alike.sum()
    of_other = (torch.nn.functional.softplus(scores) * other).sum() / other.sum()
    return 0.5 * of_alike + 0.5 * of_other


def hardest_triplets(embeddings, labels, margin):
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels
    far = torch.where(same, distances, torch.zeros_like(distances)).max(1).values
    near = torch.where(same, torch.full_like(distances, torch.inf), distances).min(1).values
    return torch.nn.functional.relu(far - near + margin).mean()


def one_shot(support_x, support_y, query_x, embedding, head):
    def f(x):
        return torch.nn.functional.linear(x, *embedding).relu()

    labels = []
    for query in f(query_x):
        scores = (f(support_x) - query).abs() @ head[0] + head[1]
        labels.append(support_y[scores.argmax()])
    return torch.stack(labels)
