"""The sum of the chosen is compared with the mean, not divided by how many they are."""

import torch


def herding(vectors, m):
    mean, total, chosen = vectors.mean(0), torch.zeros_like(vectors[0]), []
    for _ in range(m):
        distances = (mean - (total + vectors)).square().sum(-1)
        distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
        total = total + vectors[chosen[-1]]
    return torch.tensor(chosen)
