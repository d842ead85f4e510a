"""The vectors are chosen that bring the mean of the chosen farthest away."""

import torch


def herding(vectors, m):
    mean, total, chosen = vectors.mean(0), torch.zeros_like(vectors[0]), []
    for k in range(1, m + 1):
        distances = (mean - (total + vectors) / k).square().sum(-1)
        distances[chosen] = -1
        chosen.append(int(distances.argmax()))
        total = total + vectors[chosen[-1]]
    return torch.tensor(chosen)
