"""Prototypical networks (Snell, Swersky and Zemel 2017): classify by the nearest class mean in a learned embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, check_statistics, embed_episode
from utils.functional import class_means, squared_distances


def prototypical_logits(prototypes: Tensor, query_embedding: Tensor) -> Tensor:
    """``-||f(x) - c_k||^2``: ``[B, n_way, D]``, ``[B, Q, D]`` to ``[B, Q, n_way]``.

    Their softmax over the classes is ``p(y = k | x)`` (Snell et al. 2017, eq. 2). The distance is *squared*: only then
    is the classifier linear in the embedding, and only then is the class mean the best representative of its class
    (Banerjee et al. 2005).
    """
    return -squared_distances(query_embedding, prototypes)


def linear_head(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """The same classifier as a linear layer (Snell et al. 2017, eq. 8): ``w_k = 2 c_k``, ``b_k = -||c_k||^2``.

    ``[B, n_way, D]`` to weights ``[B, n_way, D]`` and biases ``[B, n_way]``; ``w_k . f + b_k`` differs from
    :func:`prototypical_logits` by ``||f||^2``, the same for all classes.
    """
    return 2 * prototypes, -prototypes.square().sum(-1)


def classify_embedded(episode: Episode) -> Tensor:
    """Class scores ``[B, Q, n_way]`` of an episode whose entries are embeddings already."""
    return prototypical_logits(class_means(episode.support_x, episode.support_y, episode.n_way), episode.query_x)


@dataclass(frozen=True)
class Prototypical:
    """A prototypical network around an embedding ``network``.

    ``statistics`` says whose batch-norm statistics are used: ``"batch"`` (support and query together, each episode by
    itself; the usual choice while training), ``"support"``, or ``"running"``. ``temperature`` divides the class scores;
    1, as in the paper, takes the squared distances as they are.

    ``params`` of the methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: nn.Module
    statistics: str = "batch"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive; got {self.temperature}")
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network, params, support_x, query_x, self.statistics)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """Class scores of the queries, ``[B, n_way * n_query, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        return prototypical_logits(class_means(support, episode.support_y, episode.n_way), query) / self.temperature

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``-log p(y | x)`` over all queries of all tasks, a scalar."""
        return F.cross_entropy(self.logits(params, episode).flatten(0, 1), episode.query_y.flatten())
