"""The gradient reaches the recorded answers too: ``detach`` is missing, and the teacher learns from its pupil."""

import torch


def old_heads_loss(logits, recorded, heads, temperature):
    return sum(
        torch.nn.functional.cross_entropy(logits[:, a:b] / temperature, soften(recorded[:, a:b], temperature))  # noqa: F821
        for a, b in heads
    )
