"""Lab: prototypical networks (Snell, Swersky and Zemel 2017), from their formulas to a trained classifier."""

from __future__ import annotations

import torch


def prototypes(embeddings: torch.Tensor, labels: torch.Tensor, n_way: int) -> torch.Tensor:
    """The mean embedding of each class: ``[S, D]``, int64 ``[S]`` to ``[n_way, D]``, row k for label k."""
    raise NotImplementedError("your code here")


def log_probabilities(queries: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """log p(y = k | x) from squared Euclidean distances: ``[Q, D]``, ``[n_way, D]`` to ``[Q, n_way]``."""
    raise NotImplementedError("your code here")


def episode_loss(
    support: torch.Tensor, support_y: torch.Tensor, queries: torch.Tensor, query_y: torch.Tensor, n_way: int
) -> torch.Tensor:
    """Mean of -log p(y | x) over the queries of an episode of embeddings ``[S, D]`` and ``[Q, D]``: a scalar."""
    raise NotImplementedError("your code here")


def predict(
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    n_way: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """The class of each query, int64 ``[Q]``, under the embedding f(x) = relu(weight x + bias).

    ``support_x [S, P]`` and ``query_x [Q, P]`` are images as vectors, ``weight [D, P]``, ``bias [D]``.
    """
    raise NotImplementedError("your code here")


def experiment(images: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Train on labelled images, then classify the queries of tasks with new classes.

    Parameters
    ----------
    images : uint8 ``[class, image, 1, 14, 14]``, the training classes.
    tasks : for each setting ``(support_x, support_y, query_x, n_way)``: support_x uint8 ``[E, S, 1, 14, 14]`` and
        query_x ``[E, Q, 1, 14, 14]`` of E episodes, support_y int64 ``[E, S]`` with labels 0 .. n_way - 1.
    steps : training episodes.
    seed : of all that is random.

    Returns
    -------
    For each setting the predicted labels of the queries, int64 ``[E, Q]``.
    """
    raise NotImplementedError("your code here")
