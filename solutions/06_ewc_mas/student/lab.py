"""Lab: what a network must not forget: EWC (Kirkpatrick et al. 2017) and MAS (Aljundi et al. 2018)."""

from __future__ import annotations

import torch

Params = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def outputs(params: Params, x: torch.Tensor) -> torch.Tensor:
    """W2 relu(W1 x + b1) + b2 for params = (W1 [H, D], b1 [H], W2 [C, H], b2 [C]): ``[..., D]`` to ``[..., C]``."""
    raise NotImplementedError("your code here")


def fisher(params: Params, x: torch.Tensor) -> Params:
    """Diagonal Fisher information, a mean over ``x [N, D]`` with labels as the network itself gives them."""
    raise NotImplementedError("your code here")


def mas_importance(params: Params, x: torch.Tensor) -> Params:
    """Mean over ``x [N, D]`` of the absolute gradient of the squared norm of the outputs."""

    raise NotImplementedError("your code here")


def penalty(theta: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor], strength: float) -> torch.Tensor:
    """strength / 2 sum_i importance_i (theta_i - anchor_i)^2 of ``[P]``, with memory = (importance, anchor)."""
    raise NotImplementedError("your code here")


def consolidate(
    memory: tuple[torch.Tensor, torch.Tensor], importance: torch.Tensor, theta: torch.Tensor, decay: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is remembered after one more task, whose importance is ``[P]`` and whose solution ``theta [P]``."""
    raise NotImplementedError("your code here")


def experiment(
    images: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, steps: int, seed: int
) -> list[torch.Tensor]:
    """Learn the tasks of every stream with EWC, with MAS and with neither, then classify images of all its tasks.

    Parameters
    ----------
    images : uint8 ``[S, T, N, 64]``, of S streams with T tasks each.
    labels : int64 ``[S, T, N]``, 0 .. 9.
    test : uint8 ``[S, E, Q, 64]``, for each stream E episodes with images of all its tasks, mixed.
    steps : of training on each task.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of ``test``, int64 ``[S * E, Q]``, after the last task: with EWC, with MAS, of plain training.
    """
    raise NotImplementedError("your code here")
