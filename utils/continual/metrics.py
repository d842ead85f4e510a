"""What a learner knows after each task, and what it has lost: numbers of the accuracy matrix.

``R[i, j]`` is the accuracy on task j after the tasks 0 to i were learned, ``[T, T]``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def average_accuracy(matrix: Tensor) -> float:
    """mean_j R[T-1, j]: the accuracy over all tasks in the end (Lopez-Paz and Ranzato 2017)."""
    return float(_checked(matrix)[-1].mean())


def forgetting(matrix: Tensor) -> float:
    """mean_{j < T-1} (max_{i < T-1} R[i, j] - R[T-1, j]): what was lost of the best (Chaudhry et al. 2018, eq. 3)."""
    matrix = _checked(matrix, least=2)
    return float((matrix[:-1, :-1].amax(0) - matrix[-1, :-1]).mean())


def backward_transfer(matrix: Tensor) -> float:
    """mean_{j < T-1} (R[T-1, j] - R[j, j]): what later tasks did to those before (Lopez-Paz and Ranzato 2017)."""
    matrix = _checked(matrix, least=2)
    return float((matrix[-1] - matrix.diagonal())[:-1].mean())


def forward_transfer(matrix: Tensor, untrained: Tensor) -> float:
    """mean_{j > 0} (R[j-1, j] - b_j): what earlier tasks did for a task not yet met (Lopez-Paz and Ranzato 2017).

    ``untrained`` ``[T]`` are the accuracies b of the network before all training.
    """
    matrix = _checked(matrix, least=2)
    if untrained.shape != matrix.shape[:1]:
        raise ValueError(f"{len(matrix)} tasks need as many accuracies before training; got {list(untrained.shape)}")
    return float((matrix.diagonal(1) - untrained[1:]).mean())


def _checked(matrix: Tensor, least: int = 1) -> Tensor:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < least:
        raise ValueError(f"expected accuracies [T, T] of T >= {least} tasks; got {list(matrix.shape)}")
    return matrix.to(torch.float64)
