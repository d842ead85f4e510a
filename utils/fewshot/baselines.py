"""What needs no learning: nearest neighbours on the pixels."""

from __future__ import annotations

from torch import Tensor

from utils.data.episodes import Episode
from utils.functional import cosine_similarity, squared_distances


def nearest_neighbour(support: Tensor, support_y: Tensor, query: Tensor, metric: str = "cosine") -> Tensor:
    """Label of the nearest support vector of each query.

    Parameters: ``support`` float ``[B, S, D]``, ``support_y`` int64 ``[B, S]``, ``query`` float ``[B, Q, D]``;
    ``metric`` is ``"cosine"`` (largest cosine) or ``"euclidean"`` (smallest distance). Returns int64 ``[B, Q]``.
    """
    if metric == "cosine":
        nearest = cosine_similarity(query, support).argmax(-1)
    elif metric == "euclidean":
        nearest = squared_distances(query, support).argmin(-1)
    else:
        raise ValueError(f'metric must be "cosine" or "euclidean"; got {metric!r}')
    return support_y.gather(1, nearest)


def pixel_nearest_neighbour(episode: Episode, metric: str = "cosine") -> Tensor:
    """Predicted labels ``[B, n_way * n_query]`` by the nearest support image, compared pixel by pixel."""
    return nearest_neighbour(episode.support_x.flatten(2), episode.support_y, episode.query_x.flatten(2), metric)
