"""The square of the batch's mean gradient is multiplied by the number of images, which does not undo the cancelling."""

import torch


def fisher(params, x):
    def mean_log_p(params, label):
        log_p = torch.log_softmax(outputs(params, x), dim=-1)  # noqa: F821
        weight = log_p[:, label].detach().exp().sqrt()
        return (weight * log_p[:, label]).mean()

    of_labels = [torch.func.grad(mean_log_p)(params, label) for label in range(len(params[3]))]
    return tuple(len(x) * sum(g[i].square() for g in of_labels) for i in range(4))
