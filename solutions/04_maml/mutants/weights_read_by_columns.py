"""The weights are read as [in, out], column by column; they stand row by row as [out, in]."""

import torch


def outputs(theta, x, sizes):
    start = 0
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer : layer + 2]
        middle, end = start + n_in * n_out, start + n_in * n_out + n_out
        x = x if layer == 0 else torch.relu(x)
        x = x @ theta[start:middle].view(n_in, n_out) + theta[middle:end]
        start = end
    return x
