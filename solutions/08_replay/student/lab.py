"""Lab: replay from a small memory: a fair sample (Vitter 1985), what it counts, and an old network's answers for it."""

from __future__ import annotations

import torch


def places(first: int, size: int, draws: torch.Tensor) -> torch.Tensor:
    """Where items number first, first + 1, ... go in a reservoir of ``size`` places: int64 ``[N]``, -1 for nowhere.

    ``draws`` float64 ``[N]`` are numbers from [0, 1), one an item.
    """
    raise NotImplementedError("your code here")


def add(memory: torch.Tensor, items: torch.Tensor, seen: int, size: int, draws: torch.Tensor) -> torch.Tensor:
    """A reservoir ``[min(seen, size), D]`` after the items ``[N, D]`` that come next: ``[min(seen + N, size), D]``."""
    raise NotImplementedError("your code here")


def sample(labels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """A batch in which every class is as likely: positions in ``labels [M]``, int64 ``[B]``, from ``draws [B, 2]``."""
    raise NotImplementedError("your code here")


def replay_loss(
    logits: torch.Tensor, labels: torch.Tensor, remembered: torch.Tensor, remembered_labels: torch.Tensor, t: int
) -> torch.Tensor:
    """Loss while the t-th task is learned, from logits ``[B, C]`` of its images and ``[R, C]`` of remembered ones."""
    raise NotImplementedError("your code here")


def distilled_loss(logits: torch.Tensor, old_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Loss on replayed images, ``logits [R, C]``, with answers of the old network, ``old_logits [R, n_old]``."""
    raise NotImplementedError("your code here")


def experiment(streams: tuple, size: int, steps: int, seed: int) -> list[torch.Tensor]:
    """Learn classes two by two with a small memory, and all at once, then classify images of all of them.

    Parameters
    ----------
    streams : for each stream ``(tasks, test)``. Its tasks are ``(images, labels)``, uint8 ``[N, 64]`` and int64
        ``[N]``, with labels 0 and 1 in the first task, 2 and 3 in the second, and so on. Its test is uint8
        ``[E, Q, 64]``: images of all ten classes, mixed.
    size : images that the memory holds.
    steps : of training on each task.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the tests, int64 ``[streams * E, Q]``, stream after stream: with experience replay, with
    distillation, and of joint training.
    """
    raise NotImplementedError("your code here")
