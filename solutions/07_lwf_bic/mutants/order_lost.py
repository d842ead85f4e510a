"""The positions come sorted; their order says which are kept when the memory shrinks."""

import torch


def herding(vectors, m):
    mean, total, chosen = vectors.mean(0), torch.zeros_like(vectors[0]), []
    for k in range(1, m + 1):
        distances = (mean - (total + vectors) / k).square().sum(-1)
        distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
        total = total + vectors[chosen[-1]]
    return torch.tensor(sorted(chosen))
