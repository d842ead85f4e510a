"""Of every layer the bias is read before the weight; the weight comes first."""

import torch


def outputs(theta, x, sizes):
    start = 0
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer : layer + 2]
        middle, end = start + n_out, start + n_in * n_out + n_out
        x = x if layer == 0 else torch.relu(x)
        x = x @ theta[middle:end].view(n_out, n_in).T + theta[start:middle]
        start = end
    return x
