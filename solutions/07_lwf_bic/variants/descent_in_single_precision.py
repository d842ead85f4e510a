"""The two numbers in single precision by steps of half the length, sums by hand, and larger batches."""

import torch

BATCH = 40


def bic_loss(logits, labels, old_logits, temperature):
    n, total = old_logits.shape[1], logits.shape[1]
    p = (old_logits.detach() / temperature).softmax(1)
    softened = logits[:, :n] / temperature
    distilling = (softened.logsumexp(1) - (p * softened).sum(1)).mean()
    classifying = (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean()
    return (n * distilling + (total - n) * classifying) / total


def herding(vectors, m):
    left, mean = list(range(len(vectors))), vectors.mean(dim=0)
    total, chosen = torch.zeros_like(mean), []
    while len(chosen) < m:
        means = (total + vectors[left]) / (len(chosen) + 1)
        chosen.append(left.pop(int((mean - means).norm(dim=1).argmin())))
        total = total + vectors[chosen[-1]]
    return torch.tensor(chosen)


def bias_correction(logits, labels, n_old):
    alpha, beta = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([alpha, beta], lr=0.5, max_iter=60, tolerance_grad=1e-6, tolerance_change=1e-7)
    old, new = logits.detach()[:, :n_old], logits.detach()[:, n_old:]

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.hstack([old, alpha * new + beta]), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.stack([alpha, beta]).detach()
