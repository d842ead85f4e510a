"""All outputs are held, also those of the new task, which the old network knows nothing of."""

import torch


def old_heads_loss(logits, recorded, heads, temperature):
    return sum(
        torch.nn.functional.cross_entropy(logits[:, a:b] / temperature, soften(recorded[:, a:b].detach(), temperature))  # noqa: F821
        for a, b in (*heads, (heads[-1][1], logits.shape[1]))
    )
