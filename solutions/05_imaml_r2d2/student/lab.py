"""Lab: closed-form and implicit inner learners (R2-D2 and LR-D2 of Bertinetto et al. 2019, iMAML)."""

from __future__ import annotations

import torch


def ridge(features: torch.Tensor, targets: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Weights of ridge regression by a system of S equations: ``[S, D]``, ``[S, K]``, a scalar to ``[D, K]``."""
    raise NotImplementedError("your code here")


def adapted_logits(
    support: torch.Tensor,
    support_y: torch.Tensor,
    queries: torch.Tensor,
    n_way: int,
    log_strength: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """The logits of R2-D2 for the queries of a task of embeddings ``[S, D]`` and ``[Q, D]``: ``[Q, n_way]``."""
    raise NotImplementedError("your code here")


def newton_step(
    weights: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, strength: torch.Tensor
) -> torch.Tensor:
    """Weights ``[D]`` of logistic regression on ``features [S, D]`` with labels 0 and 1, one Newton step further."""
    raise NotImplementedError("your code here")


def conjugate_gradient(matrix: torch.Tensor, b: torch.Tensor, steps: int) -> torch.Tensor:
    """``steps`` steps of conjugate gradients from 0 towards the x with matrix x = b: ``[P, P]``, ``[P]`` to ``[P]``."""
    raise NotImplementedError("your code here")


def implicit_gradient(hessian: torch.Tensor, gradient: torch.Tensor, strength: float, steps: int) -> torch.Tensor:
    """(I + hessian / strength)^-1 gradient, by conjugate gradients: ``[P, P]``, ``[P]`` to ``[P]``."""
    raise NotImplementedError("your code here")


def experiment(images: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Train an embedding through ridge regression, then classify the queries of tasks with new classes.

    Parameters
    ----------
    images : uint8 ``[class, image, 1, 14, 14]``, the training classes.
    tasks : for each kind of task ``(support_x, support_y, query_x, n_way)``: support_x uint8 ``[E, S, 1, 14, 14]`` and
        query_x ``[E, Q, 1, 14, 14]`` of E episodes, support_y int64 ``[E, S]`` with labels 0 .. n_way - 1.
    steps : training episodes.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the queries, int64 ``[E, Q]``: for each kind of task those of the trained network, then for
    each those of the same ridge regression on the pixels themselves.
    """
    raise NotImplementedError("your code here")
