"""At the adapted parameters the gradient of the support set is taken, and not that of the queries."""

import torch


def first_order_gradient(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    def at_adapted(x, y):
        return torch.func.grad(task_loss)(adapt(theta, x, y, sizes, rate, steps), x, y, sizes)  # noqa: F821

    return torch.vmap(at_adapted)(support_x, support_y).mean(0)
