"""Recorded probabilities as logits again, Newton's method for the two numbers, and fewer hidden units."""

import torch

HIDDEN = 40


def soften(probabilities, temperature):
    return torch.softmax(probabilities.log() / temperature, dim=1)


def old_heads_loss(logits, recorded, heads, temperature):
    losses = []
    for begin, end in heads:
        with torch.no_grad():
            answers = soften(recorded[:, begin:end], temperature)
        log_q = (logits[:, begin:end] / temperature).log_softmax(1)
        losses.append(-(answers * log_q).sum(1).mean())
    return torch.stack(losses).sum() if losses else logits.sum() * 0


def bias_correction(logits, labels, n_old):
    new = torch.arange(logits.shape[1]) >= n_old

    def loss(at):
        scores = torch.where(new, logits.double() * at[0] + at[1], logits.double())
        return torch.nn.functional.cross_entropy(scores, labels)

    at = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(30):
        slope, curve = torch.func.grad(loss)(at), torch.func.hessian(loss)(at)
        step = torch.linalg.solve(curve + 1e-9 * torch.eye(2, dtype=torch.float64), slope)
        while loss(at - step) > loss(at) and step.abs().max() > 1e-9:
            step = step / 2
        at = at - step
        if step.abs().max() < 1e-9:
            break
    return at.float()
