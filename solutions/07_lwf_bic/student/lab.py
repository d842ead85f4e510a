"""Lab: learning without forgetting (Li and Hoiem 2016) and bias correction (BiC, Wu et al. 2019)."""

from __future__ import annotations

import torch


def soften(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities ``[N, C]`` at a temperature: y_k^(1/T) / sum_j y_j^(1/T)."""
    raise NotImplementedError("your code here")


def old_heads_loss(
    logits: torch.Tensor, recorded: torch.Tensor, heads: tuple[tuple[int, int], ...], temperature: float
) -> torch.Tensor:
    """What LwF adds to the loss: ``logits [N, C]``, recorded probabilities ``[N, C]``, (begin, end) of old heads."""
    raise NotImplementedError("your code here")


def bic_loss(logits: torch.Tensor, labels: torch.Tensor, old_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """BiC's first stage: ``logits [N, n + m]`` of n old and m new classes, the old network's ``old_logits [N, n]``."""
    raise NotImplementedError("your code here")


def herding(vectors: torch.Tensor, m: int) -> torch.Tensor:
    """Positions, int64 ``[m]``, of the vectors ``[N, D]`` whose mean follows that of all, in the order of choice."""
    raise NotImplementedError("your code here")


def bias_correction(logits: torch.Tensor, labels: torch.Tensor, n_old: int) -> torch.Tensor:
    """BiC's second stage: alpha and beta ``[2]`` that minimise the cross-entropy of the corrected logits ``[N, C]``."""
    raise NotImplementedError("your code here")


def experiment(
    images: torch.Tensor,
    labels: torch.Tensor,
    by_task: torch.Tensor,
    mixed: torch.Tensor,
    size: int,
    steps: int,
    seed: int,
) -> list[torch.Tensor]:
    """Learn new classes task by task in every stream, by LwF and by BiC, then classify images of all its tasks.

    Parameters
    ----------
    images : uint8 ``[S, T, N, 64]``, of S streams with T tasks each.
    labels : int64 ``[S, T, N]``. The labels of a task follow those of the one before, from 0 to 9.
    by_task : uint8 ``[S, E, Q, 64]``, for LwF and fine-tuning: the first Q / T images of an episode are of the first
        task, the next of the second, and so on. Their labels are places within the task, from 0.
    mixed : uint8 ``[S, E, Q, 64]``, images of all classes, for BiC and distillation.
    size : images that the memory of BiC holds in a stream, those that are held out included.
    steps : of training on each task.
    seed : of all that is random.

    Returns
    -------
    The predicted labels, int64 ``[S * E, Q]``: of ``by_task`` by LwF and by fine-tuning, of ``mixed`` by BiC and by
    its first stage alone (distillation).
    """
    raise NotImplementedError("your code here")
