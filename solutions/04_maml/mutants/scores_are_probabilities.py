"""The network ends with a softmax, and the cross-entropy takes another one."""

import torch


def outputs(theta, x, sizes):
    start = 0
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer : layer + 2]
        middle, end = start + n_in * n_out, start + n_in * n_out + n_out
        x = x if layer == 0 else torch.relu(x)
        x = x @ theta[start:middle].view(n_out, n_in).T + theta[middle:end]
        start = end
    return x.softmax(-1)
