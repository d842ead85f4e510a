"""Lab: Siamese networks (Koch, Zemel and Salakhutdinov 2015): the same or not, learned from pairs."""

from __future__ import annotations

import torch


def pair_scores(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Logits of "the same class" of all pairs of embeddings ``[N, D]``, ``[M, D]``, with ``weight [D]``: ``[N, M]``."""
    raise NotImplementedError("your code here")


def pair_loss(embeddings: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over all pairs of a batch ``[N, D]``, half of it for each kind of pair: a scalar."""
    raise NotImplementedError("your code here")


def hardest_triplets(embeddings: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Triplet loss of each image ``[N, D]`` with its farthest positive and nearest negative, a mean: a scalar."""
    raise NotImplementedError("your code here")


def one_shot(
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    embedding: tuple[torch.Tensor, torch.Tensor],
    head: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The label of each query, int64 ``[Q]``: that of the support image it is most likely to be a pair with.

    Images are vectors, ``support_x [S, P]`` and ``query_x [Q, P]``. With embedding = (W [D, P], b [D]) and
    head = (weight [D], bias): f(x) = relu(W x + b), scores by ``pair_scores``.
    """
    raise NotImplementedError("your code here")


def experiment(images: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Learn from pairs of images, then name the queries of tasks with new classes by comparison.

    Parameters
    ----------
    images : uint8 ``[class, image, 1, 14, 14]``, the training classes.
    tasks : for 5 and for 20 classes ``(support_x, support_y, query_x)``: uint8 ``[E, S, 1, 14, 14]``, int64 ``[E, S]``
        and uint8 ``[E, Q, 1, 14, 14]`` of E episodes with one support image a class.
    steps : batches of training.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the queries, int64 ``[E, Q]``: of the Siamese network for 5 classes, the same for 20, and
    for 20 classes those of the nearest neighbour in pixels.
    """
    raise NotImplementedError("your code here")
