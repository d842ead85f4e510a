"""The old network's softmax runs over the batch: ``dim=0``, as in a public library's BiC."""

import torch


def bic_loss(logits, labels, old_logits, temperature):
    n_old = old_logits.shape[1]
    answers = torch.softmax(old_logits.detach() / temperature, dim=0)
    log_q = torch.log_softmax(logits[:, :n_old] / temperature, dim=-1)
    share = n_old / logits.shape[1]
    classifying = torch.nn.functional.cross_entropy(logits, labels)
    return -share * (answers * log_q).sum(-1).mean() + (1 - share) * classifying
