"""Gradients by ``backward``, loops over the rows, and tanh instead of ReLU."""

import torch


def soft_loss(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        t = t.detach() / temperature
        s = s / temperature
        total = total + (t.softmax(0) * (t.log_softmax(0) - s.log_softmax(0))).sum()
    return temperature**2 * total / len(student)


def distillation_loss(student, teacher, labels, temperature, share):
    hard = -torch.log_softmax(student, 1)[range(len(labels)), labels].mean()
    p, q = torch.log_softmax(teacher.detach() / temperature, 1), torch.log_softmax(student / temperature, 1)
    return (1 - share) * hard + share * temperature**2 * (p.exp() * (p - q)).sum() / len(student)


def step(weight, bias, x, teacher, labels, temperature, share, rate):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    distillation_loss(layer(x), teacher, labels, temperature, share).backward()
    with torch.no_grad():
        return layer.weight - rate * layer.weight.grad, layer.bias - rate * layer.bias.grad


def network(hidden):
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, hidden),
        torch.nn.Tanh(),
        torch.nn.Linear(hidden, hidden),
        torch.nn.Tanh(),
        torch.nn.Linear(hidden, 10),
    )
