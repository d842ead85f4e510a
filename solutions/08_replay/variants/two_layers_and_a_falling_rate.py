"""Two hidden layers, a rate that falls, and soft targets by the library's cross-entropy."""

import torch


def network():
    return torch.nn.Sequential(
        torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)
    )


def fit(net, steps, loss_of_a_batch):
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.2, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of_a_batch().backward()
        optimizer.step()
        schedule.step()


def distilled_loss(logits, old_logits, temperature):
    new = logits.shape[1] - old_logits.shape[1]
    known = torch.nn.functional.pad(old_logits.detach(), (0, new), value=-torch.inf)
    return temperature**2 * torch.nn.functional.cross_entropy(logits / temperature, (known / temperature).softmax(1))
