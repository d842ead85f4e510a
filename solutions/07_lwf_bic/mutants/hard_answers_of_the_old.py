"""The likeliest recorded class is learned instead of the recorded probabilities."""

import torch


def old_heads_loss(logits, recorded, heads, temperature):
    return sum(
        torch.nn.functional.cross_entropy(logits[:, a:b] / temperature, recorded[:, a:b].argmax(-1)) for a, b in heads
    )
