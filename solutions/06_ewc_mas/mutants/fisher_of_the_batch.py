"""The gradient of the batch's mean is squared: examples cancel before the square, which belongs to each of them."""

import torch


def fisher(params, x):
    def mean_log_p(params, label):
        log_p = torch.log_softmax(outputs(params, x), dim=-1)  # noqa: F821
        weight = log_p[:, label].detach().exp().sqrt()
        return (weight * log_p[:, label]).mean()

    of_labels = [torch.func.grad(mean_log_p)(params, label) for label in range(len(params[3]))]
    return tuple(sum(g[i].square() for g in of_labels) for i in range(4))
