"""The last layer has a ReLU too, so that no score is negative."""

import torch


def outputs(theta, x, sizes):
    start = 0
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer : layer + 2]
        middle, end = start + n_in * n_out, start + n_in * n_out + n_out
        x = torch.relu(x @ theta[start:middle].view(n_out, n_in).T + theta[middle:end])
        start = end
    return x
