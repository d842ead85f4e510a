"""Siamese networks (Bromley et al. 1993; Koch, Zemel and Salakhutdinov 2015): are two images of the same class?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, call, check_statistics, embed_episode, part
from utils.functional import best_of_class, pairwise_weighted_l1


class SiameseNetwork(nn.Module):
    """An ``embedding`` used for both images, and a ``head`` that weighs how its coordinates differ.

    Score of a pair: ``W |f(x_i) - f(x_j)| + b``; its logistic function is the probability of the same class.
    """

    def __init__(self, embedding: nn.Module, bias: float = 4.0) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = PairHead(embedding.out_features, bias)


class PairHead(nn.Module):
    """``W |a - b| + b`` for all pairs: ``[..., N, D]``, ``[..., M, D]`` to ``[..., N, M]``.

    Starts as a plain city-block distance, every weight ``-1 / sqrt(D)``. An image and itself score ``b`` whatever the
    weights, so with negative weights ``sigmoid(b)`` is the largest probability there is. Started at ``b = 0``, one
    half, training first has to wait for ``b`` to grow; hence the default.
    """

    def __init__(self, in_features: int, bias: float = 4.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((in_features,), -(in_features**-0.5)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return pairwise_weighted_l1(a, b, self.weight) + self.bias


def pair_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over all pairs ``i < j`` of a batch, same and different pairs weighing half each.

    -(1/2) mean_same log p_ij - (1/2) mean_different log(1 - p_ij), p = sigmoid(score).

    That is the expected loss of a pair drawn as Koch et al. (2015, section 3.2) draw them, as many of the same class
    as of different ones. Parameters: ``scores`` ``[..., N, N]``, ``labels`` int64 ``[..., N]``. Returns a scalar, the
    mean over leading axes.

    Raises ``ValueError`` for shapes that do not fit. Without pairs of a kind the loss of that kind is 0: one class
    alone has no different pairs.
    """
    n = scores.shape[-1]
    if scores.ndim < 2 or scores.shape[-2] != n or scores.shape[:-1] != labels.shape:
        raise ValueError(
            f"expected scores [..., N, N] and labels [..., N]; got {list(scores.shape)} and {list(labels.shape)}"
        )
    same = (labels[..., :, None] == labels[..., None, :]).to(scores.dtype)
    pairs = torch.ones(n, n, dtype=scores.dtype, device=scores.device).triu(1)  # no image with itself, no pair twice
    loss = F.binary_cross_entropy_with_logits(scores, same, reduction="none")
    total = 0.0
    for kind in (same * pairs, (1 - same) * pairs):
        total = total + ((loss * kind).sum((-2, -1)) / kind.sum((-2, -1)).clamp_min(1)) / 2
    return total.mean()


@dataclass(frozen=True)
class Siamese:
    """A Siamese network around a :class:`SiameseNetwork`.

    ``statistics`` says whose batch-norm statistics are used, as in all methods of this package. ``params`` of the
    methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: SiameseNetwork
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def scores(self, params: Params, a: Tensor, b: Tensor) -> Tensor:
        """Scores of all pairs of embeddings, ``[B, N, D]``, ``[B, M, D]`` to ``[B, N, M]``; positive means same."""
        return call(self.network.head, part(params, "head"), a, b)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """For each query and class the score of the best match, ``[B, n_way * n_query, n_way]``.

        ``argmax`` over the classes is ``argmax_{i in S} p(x, x_i)`` of the lecture.
        """
        support, query = self.embed(params, episode.support_x, episode.query_x)
        return best_of_class(self.scores(params, query, support), episode.support_y, episode.n_way)

    def classify_embedded(self, episode: Episode) -> Tensor:
        """The same of an episode whose entries are embeddings already."""
        scores = self.scores(None, episode.query_x, episode.support_x)
        return best_of_class(scores, episode.support_y, episode.n_way)

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """:func:`pair_loss` over all pairs of images of a task, support and queries alike."""
        embedding = torch.cat(self.embed(params, episode.support_x, episode.query_x), dim=1)
        labels = torch.cat([episode.support_y, episode.query_y], dim=1)
        return pair_loss(self.scores(params, embedding, embedding), labels)
