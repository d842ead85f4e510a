"""More hidden units and a slower rate, a larger weight of the old answers, and losses as divergences."""

import torch

HIDDEN, RATE, OLD = 70, 8e-3, 7.0


def soften(probabilities, temperature):
    return torch.nn.functional.normalize(probabilities.pow(1 / temperature), p=1, dim=1)


def old_heads_loss(logits, recorded, heads, temperature):
    total = 0 * logits.sum()
    for begin, end in heads:
        answers = soften(recorded.detach()[:, begin:end], temperature)
        log_q = torch.log_softmax(logits[:, begin:end] / temperature, dim=1)
        divergence = torch.nn.functional.kl_div(log_q, answers, reduction="batchmean")
        total = total + divergence + torch.special.entr(answers).sum(1).mean()
    return total


def bic_loss(logits, labels, old_logits, temperature):
    n = old_logits.shape[1]
    share = n / logits.shape[1]
    log_q = torch.log_softmax(logits[:, :n] / temperature, dim=1)
    answers = torch.softmax(old_logits.detach() / temperature, dim=1)
    right = torch.nn.functional.one_hot(labels, logits.shape[1])
    classifying = -(right * torch.log_softmax(logits, dim=1)).sum(1).mean()
    return (1 - share) * classifying - share * torch.einsum("nk,nk->n", answers, log_q).mean()
