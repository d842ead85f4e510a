"""The step goes up the gradient instead of down: plus where minus belongs."""


def step(weight, bias, x, teacher, labels, temperature, share, rate):
    import torch

    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    loss = distillation_loss(x @ weight.T + bias, teacher, labels, temperature, share)  # noqa: F821
    gradients = torch.autograd.grad(loss, (weight, bias))
    return weight + rate * gradients[0], bias + rate * gradients[1]
