"""Tasks one after the other, gradients by ``autograd.grad``, and two inner steps in training."""

import torch

INNER_STEPS = 2


def outputs(theta, x, sizes):
    shapes = [n for at in range(len(sizes) - 1) for n in (sizes[at] * sizes[at + 1], sizes[at + 1])]
    parts = theta.split(shapes)
    for layer in range(len(sizes) - 1):
        weight, bias = parts[2 * layer].reshape(sizes[layer + 1], sizes[layer]), parts[2 * layer + 1]
        x = torch.nn.functional.linear(x, weight, bias)
        if layer + 2 < len(sizes):
            x = x.clamp(min=0)
    return x


def adapt(theta, x, y, sizes, rate, steps):
    phi = theta if theta.requires_grad else theta.detach().requires_grad_()
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(outputs(phi, x, sizes), y)
        phi = phi - rate * torch.autograd.grad(loss, phi, create_graph=True)[0]
    return phi


def meta_loss(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    total = 0
    for i in range(len(support_x)):
        phi = adapt(theta, support_x[i], support_y[i], sizes, rate, steps)
        total = total + torch.nn.functional.cross_entropy(outputs(phi, query_x[i], sizes), query_y[i])
    return total / len(support_x)


def first_order_gradient(theta, support_x, support_y, query_x, query_y, sizes, rate, steps):
    found = torch.zeros_like(theta)
    for i in range(len(support_x)):
        phi = adapt(theta, support_x[i], support_y[i], sizes, rate, steps).detach().requires_grad_()
        torch.nn.functional.cross_entropy(outputs(phi, query_x[i], sizes), query_y[i]).backward()
        found += phi.grad / len(support_x)
    return found


def reptile_direction(theta, x, y, sizes, rate, steps):
    return sum(theta - adapt(theta, *task, sizes, rate, steps) for task in zip(x, y, strict=True)) / len(x)


def predictions(theta, task):
    return torch.stack(
        [
            outputs(adapt(theta, x, y, SIZES, RATE, TEST_STEPS), new_x, SIZES).argmax(1)  # noqa: F821
            for x, y, new_x in zip(*task, strict=True)
        ]
    )
