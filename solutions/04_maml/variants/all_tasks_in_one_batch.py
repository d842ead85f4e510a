"""A copy of theta for every task, all in one batch of matrices; the network is wider, with shorter and more steps."""

import torch

SIZES, RATE, INNER_STEPS, TEST_STEPS = (2, 50, 50, 2), 0.15, 3, 12


def outputs(theta, x, sizes):
    start, last = 0, len(sizes) - 2
    for layer in range(last + 1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        weight = theta[..., start : start + n_in * n_out].unflatten(-1, (n_out, n_in))
        start += n_in * n_out
        x = x @ weight.mT + theta[..., None, start : start + n_out]
        start += n_out
        x = x.maximum(torch.zeros_like(x)) if layer < last else x
    return x


def losses(theta, x, y, sizes):
    log_p = outputs(theta, x, sizes).log_softmax(-1)
    return -log_p.gather(-1, y[..., None]).squeeze(-1).mean(-1)


def adapt(theta, x, y, sizes, rate, steps):
    theta = theta if theta.requires_grad else theta.detach().clone().requires_grad_()
    for _ in range(steps):
        # no task's loss depends on another task's parameters: the gradient of the sum has every task's own
        slope = torch.autograd.grad(losses(theta, x, y, sizes).sum(), theta, create_graph=True)[0]
        theta = theta - rate * slope
    return theta


def copies(theta, count):
    return theta.expand(count, -1)


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    adapted = adapt(copies(theta, len(support_x)), support_x, support_y, sizes, rate, steps)
    return losses(adapted, query_x, query_y, sizes).mean()


def first_order_gradient(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    adapted = adapt(copies(theta, len(support_x)), support_x, support_y, sizes, rate, steps).detach().requires_grad_()
    return torch.autograd.grad(losses(adapted, query_x, query_y, sizes).mean(), adapted)[0].sum(0)


def reptile_direction(theta, x, y, sizes, rate, steps):
    return (theta - adapt(copies(theta, len(x)), x, y, sizes, rate, steps)).mean(0)


def predictions(theta, task):
    support_x, support_y, query_x = task
    adapted = adapt(copies(theta, len(support_x)), support_x, support_y, SIZES, RATE, TEST_STEPS)
    return outputs(adapted, query_x, SIZES).argmax(-1)
