"""Reference solutions of the exercises in ``chapters/08_replay.ipynb``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def place(t: int, size: int, generator: torch.Generator) -> int | None:
    """The place of image t, counted from 0, in a fair memory; none if it is not kept."""
    if t < size:
        return t
    drawn = int(torch.randint(t + 1, (), generator=generator))
    return drawn if drawn < size else None


def solver_loss(new: Tensor, labels: Tensor, past: Tensor, old: Tensor, n_old: int, n: int, t: int) -> Tensor:
    """L(new) / t + (1 - 1/t) L(past, likeliest old answer), over the outputs met so far."""
    answers = old[:, :n_old].argmax(1)
    return F.cross_entropy(new[:, :n], labels) / t + (1 - 1 / t) * F.cross_entropy(past[:, :n], answers)


def gan_losses(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """-log sigma(D(x)) - log(1 - sigma(D(G(z)))) and -log sigma(D(G(z))), from scores."""
    return F.softplus(-real).mean() + F.softplus(made).mean(), F.softplus(-made).mean()
