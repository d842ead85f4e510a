"""What needs no learning: nearest neighbours and kernel densities, on the pixels or on embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.data.episodes import Episode
from utils.functional import cosine_similarity, one_hot, squared_distances


def nearest_neighbour(support: Tensor, support_y: Tensor, query: Tensor, metric: str = "cosine") -> Tensor:
    """Label of the nearest support vector of each query.

    Parameters: ``support`` float ``[B, S, D]``, ``support_y`` int64 ``[B, S]``, ``query`` float ``[B, Q, D]``;
    ``metric`` is ``"cosine"`` (largest cosine) or ``"euclidean"`` (smallest distance). Returns int64 ``[B, Q]``.

    Raises ``ValueError`` for another metric, shapes that do not fit or an empty support set, ``TypeError`` for dtypes.
    """
    nearest = _nearness(support, support_y, query, metric).argmax(-1)
    return support_y.gather(1, nearest)


def pixel_nearest_neighbour(episode: Episode, metric: str = "cosine") -> Tensor:
    """Predicted labels ``[B, n_way * n_query]`` by the nearest support image, compared pixel by pixel."""
    return nearest_neighbour(episode.support_x.flatten(2), episode.support_y, episode.query_x.flatten(2), metric)


def k_nearest_neighbours(
    support: Tensor, support_y: Tensor, query: Tensor, n_way: int, k: int, metric: str = "cosine"
) -> Tensor:
    """Votes of the ``k`` nearest support vectors for each class; of tied classes the one with the nearest vector wins.

    score_k = votes_k + (k - r_k) / (k + 1), where r_k = 0 .. k - 1 is the rank of the nearest of the class's vectors
    among the k; 0 for a class without votes. So the whole part of a score is the number of votes, and its
    ``argmax`` is the decision (Cover and Hart 1967 for k = 1).

    Parameters: as of :func:`nearest_neighbour`; ``support_y`` in ``0 .. n_way - 1``, any number of vectors a class.
    Returns float ``[B, Q, n_way]``.

    Raises as :func:`nearest_neighbour`, and ``ValueError`` unless ``1 <= k <= S``; on the CPU also for a label out of
    range and a class without support.
    """
    nearness = _nearness(support, support_y, query, metric)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= support.shape[1]:
        raise ValueError(f"k must be a whole number from 1 to {support.shape[1]}, the size of the support; got {k!r}")
    one_hot(support_y, n_way)  # for its checks
    neighbours = nearness.topk(k, dim=-1).indices  # the nearest first
    labels = support_y[:, None, :].expand(-1, query.shape[1], -1).gather(-1, neighbours)
    member = labels[..., None] == torch.arange(n_way, device=labels.device)  # [B, Q, k, n_way]
    dtype = torch.promote_types(support.dtype, torch.float32)
    order = torch.arange(k, 0, -1, dtype=dtype, device=labels.device)[:, None]
    return member.sum(2).to(dtype) + (member * order).amax(2) / (k + 1)


def kernel_density(support: Tensor, support_y: Tensor, query: Tensor, n_way: int, bandwidth: float) -> Tensor:
    """Log joint density ``log p(x | k) + log p(k)`` by a Gaussian kernel on each support vector (Parzen 1962).

    log p(x | k) = log sum_{i: y_i = k} exp(-||x - x_i||^2 / (2 h^2)) - log n_k - (D / 2) log(2 pi h^2),
    p(k) = n_k / S, h the ``bandwidth``.

    Their softmax over the classes is ``p(k | x)``: for h towards 0 the class of the nearest neighbour, for h towards
    infinity the prior. Kept in the log domain throughout: of 784 pixels, nearly every density is 0 or infinite in
    float64.

    Parameters: ``support`` float ``[B, S, D]``, ``support_y`` int64 ``[B, S]`` in ``0 .. n_way - 1``, any number of
    vectors a class, ``query`` float ``[B, Q, D]``, ``bandwidth`` in the units of the vectors. Returns
    ``[B, Q, n_way]``.

    Raises ``ValueError`` for a bandwidth that is not positive and finite, shapes that do not fit, an empty support set
    and, on the CPU, a label out of range or a class without support; ``TypeError`` for dtypes.
    """
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth must be positive and finite; got {bandwidth}")
    exponents = _nearness(support, support_y, query, "euclidean") / (2 * bandwidth**2)
    member = one_hot(support_y, n_way, torch.bool)
    of_class = torch.where(member[:, None], exponents[:, :, None], -torch.inf).logsumexp(-1)
    # The -log n_k of the density and the log n_k of the prior cancel.
    normaliser = math.log(support.shape[1]) + support.shape[2] / 2 * math.log(2 * math.pi * bandwidth**2)
    return of_class - normaliser


def _nearness(support: Tensor, support_y: Tensor, query: Tensor, metric: str) -> Tensor:
    """Cosines or negative squared distances of all queries and support vectors, ``[B, Q, S]``."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f'metric must be "cosine" or "euclidean"; got {metric!r}')
    if support.ndim != 3 or query.ndim != 3 or support.shape[::2] != query.shape[::2]:
        raise ValueError(
            f"expected support [B, S, D] and query [B, Q, D]; got {list(support.shape)} and {list(query.shape)}"
        )
    if support_y.shape != support.shape[:2]:
        raise ValueError(f"expected labels {list(support.shape[:2])}, one a vector; got {list(support_y.shape)}")
    if support.shape[1] == 0:
        raise ValueError("the support set is empty: there is nothing to compare the queries with")
    if support.dtype != query.dtype:
        raise TypeError(f"support and query must have the same dtype; got {support.dtype} and {query.dtype}")
    return cosine_similarity(query, support) if metric == "cosine" else -squared_distances(query, support)
