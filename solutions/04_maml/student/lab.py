"""Lab: model-agnostic meta-learning (Finn, Abbeel and Levine 2017), with all parameters of a network in one vector."""

from __future__ import annotations

import torch


def outputs(theta: torch.Tensor, x: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """The network: ``x [N, sizes[0]]`` to scores of the classes ``[N, sizes[-1]]``, with the parameters ``theta [P]``.

    Layer after layer, ``theta`` holds the weight ``[out, in]`` row by row, then the bias ``[out]``.
    """
    raise NotImplementedError("your code here")


def adapt(
    theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, sizes: tuple[int, ...], rate: float, steps: int
) -> torch.Tensor:
    """The inner loop: theta after ``steps`` steps of gradient descent on a support set ``x [S, D]``, ``y [S]``.

    What comes back is a function of ``theta`` that autograd can differentiate, the inner gradients too.
    """
    raise NotImplementedError("your code here")


def meta_loss(
    theta: torch.Tensor,
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    query_y: torch.Tensor,
    sizes: tuple[int, ...],
    rate: float,
    steps: int,
) -> torch.Tensor:
    """The outer loss: the mean over T tasks of the loss on the task's queries after adapting to its support set.

    ``support_x [T, S, D]``, ``support_y [T, S]``, ``query_x [T, Q, D]``, ``query_y [T, Q]`` to a scalar.
    """

    raise NotImplementedError("your code here")


def first_order_gradient(
    theta: torch.Tensor,
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    query_y: torch.Tensor,
    sizes: tuple[int, ...],
    rate: float,
    steps: int,
) -> torch.Tensor:
    """What first-order MAML descends: the mean over tasks of the queries' gradient at the adapted parameters, ``[P]``.

    The tasks are given as in ``meta_loss``.
    """

    raise NotImplementedError("your code here")


def reptile_direction(
    theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, sizes: tuple[int, ...], rate: float, steps: int
) -> torch.Tensor:
    """What Reptile descends: theta minus the mean of what it adapts to, over tasks ``x [T, S, D]``, ``y [T, S]``.

    An optimiser that is given it as a gradient moves theta towards the adapted parameters.
    """
    raise NotImplementedError("your code here")


def experiment(points: torch.Tensor, labels: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Train a start by MAML and one by pre-training, then adapt both to new tasks and classify their queries.

    Parameters
    ----------
    points, labels : float32 ``[N, M, 2]`` and int64 ``[N, M]``: N training tasks with M points each and their classes.
    tasks : for each number of shots ``(support_x, support_y, query_x)``: support_x float32 ``[E, S, 2]``, support_y
        int64 ``[E, S]`` and query_x ``[E, Q, 2]`` of E new tasks.
    steps : of training, for each of the two, with twenty training tasks each.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the queries, int64 ``[E, Q]``: of MAML for each of the tasks, then of the baseline for each.
    """
    raise NotImplementedError("your code here")
