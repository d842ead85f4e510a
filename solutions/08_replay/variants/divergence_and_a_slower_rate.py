"""The cross-entropy as divergence and entropy, positions by masks, and a slower rate."""

import torch

RATE = 0.04


def places(first, size, draws):
    number = first + torch.arange(len(draws))
    place = (draws * (number + 1)).floor().to(torch.int64)
    place[number < size] = number[number < size]
    place[place >= size] = -1
    return place


def sample(labels, draws):
    member = labels == labels.unique()[:, None]
    of_class = torch.floor(draws[:, 0] * len(member)).long()
    rank = torch.floor(draws[:, 1] * member.sum(1)[of_class]).long()
    count = member.cumsum(1)[of_class]
    return (member[of_class] & (count == rank[:, None] + 1)).long().argmax(1)


def distilled_loss(logits, old_logits, temperature):
    old = (old_logits.detach() / temperature).log_softmax(1)
    own = (logits / temperature).log_softmax(1)[:, : old.shape[1]]
    divergence = torch.nn.functional.kl_div(own, old, log_target=True, reduction="batchmean")
    entropy = -(old.exp() * old).sum(1).mean()
    return temperature**2 * (divergence + entropy)
