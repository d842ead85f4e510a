"""Lab: knowledge distillation (Hinton, Vinyals and Dean 2015), from softened answers to a student with a teacher."""

from __future__ import annotations

import torch


def soften(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The probabilities of the classes at a temperature: ``[B, C]`` to ``[B, C]``."""
    raise NotImplementedError("your code here")


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student) of the softened answers, mean over the rows of logits ``[B, C]``: a scalar."""
    raise NotImplementedError("your code here")


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float, share: float
) -> torch.Tensor:
    """(1 - share) cross-entropy with the labels ``[B]`` + share times the soft loss: a scalar."""
    raise NotImplementedError("your code here")


def step(
    weight: torch.Tensor,
    bias: torch.Tensor,
    x: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    share: float,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``[C, P]`` and bias ``[C]`` of a linear student after one step of gradient descent.

    Its logits are ``x weight^T + bias`` for the inputs ``x [B, P]``; ``teacher [B, C]`` has those of the teacher.
    """
    raise NotImplementedError("your code here")


def experiment(
    images: torch.Tensor, labels: torch.Tensor, transfer: torch.Tensor, queries: torch.Tensor, steps: int, seed: int
) -> list[torch.Tensor]:
    """Train a large teacher, and for every transfer set two small students: one taught by it, one by labels alone.

    Parameters
    ----------
    images, labels : uint8 ``[N, 1, 8, 8]`` and int64 ``[N]``, what the teacher learns from.
    transfer : int64 ``[E, M]``, for each of E episodes which of the images its students learn from.
    queries : uint8 ``[E, Q, 1, 8, 8]``, what its students are asked: new images of the same classes.
    steps : of training, for each student; the teacher gets three times as many.
    seed : of all that is random.

    Returns
    -------
    The classes of the queries, int64 ``[E, Q]``: by the students with the teacher, then by those without.
    """
    raise NotImplementedError("your code here")
