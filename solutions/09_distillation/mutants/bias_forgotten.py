"""The bias is left as it was: only the weight takes the step."""


def step(weight, bias, x, teacher, labels, temperature, share, rate):
    import torch

    weight = weight.clone().requires_grad_()
    loss = distillation_loss(x @ weight.T + bias, teacher, labels, temperature, share)  # noqa: F821
    return weight - rate * torch.autograd.grad(loss, weight)[0], bias
