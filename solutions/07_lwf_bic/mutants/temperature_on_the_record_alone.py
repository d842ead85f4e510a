"""The temperature softens what was recorded, not what is compared with it."""

import torch


def old_heads_loss(logits, recorded, heads, temperature):
    return sum(
        torch.nn.functional.cross_entropy(logits[:, a:b], soften(recorded[:, a:b].detach(), temperature))  # noqa: F821
        for a, b in heads
    )
