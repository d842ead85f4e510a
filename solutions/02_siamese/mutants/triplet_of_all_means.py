"""The mean of all positives and of all negatives is taken instead of the hardest."""

import torch


def hardest_triplets(embeddings, labels, margin):
    distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool)
    near = (distances * (same & ~itself)).sum(1) / (same & ~itself).sum(1)
    far = (distances * ~same).sum(1) / (~same).sum(1)
    return (near - far + margin).clamp(min=0).mean()
