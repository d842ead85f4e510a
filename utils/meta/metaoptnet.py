"""MetaOptNet (Lee, Maji, Ravichandran and Soatto 2019): adapt by a convex problem, and differentiate its solution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, call, check_statistics, embed_episode, part
from utils.functional import crammer_singer, one_hot, ridge_logits
from utils.functional.solvers import check_positive

HEADS = ("svm", "ridge")


def svm_logits(support: Tensor, support_y: Tensor, query: Tensor, n_way: int, C: float = 0.1) -> Tensor:
    """``w_k . f(x)`` of the multi-class support vector machine of each task.

    ``[B, S, D]``, int64 ``[B, S]``, ``[B, Q, D]`` to ``[B, Q, n_way]``. Raises as
    :func:`utils.functional.crammer_singer`, and can be differentiated once, as that.
    """
    if support.ndim != 3 or query.ndim != 3 or support.shape[::2] != query.shape[::2]:
        raise ValueError(
            f"expected support [B, S, D] and query [B, Q, D]; got {list(support.shape)} and {list(query.shape)}"
        )
    precise = support.double()
    alpha = crammer_singer(precise @ precise.mT, support_y, n_way, C)
    return query @ (precise.mT @ alpha).to(query.dtype)


class Scale(nn.Module):
    """``gamma * scores``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        check_positive("scale", scale)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, scores: Tensor) -> Tensor:
        return self.scale * scores


class MetaOptNetwork(nn.Module):
    """An ``embedding`` and the learned number ``gamma`` that the scores are multiplied by, ``scale`` at first.

    Raises ``ValueError`` where ``scale`` is not positive.
    """

    def __init__(self, embedding: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.embedding = embedding
        self.scaled = Scale(scale)


@dataclass(frozen=True)
class MetaOptNet:
    """A linear classifier, the best one of its kind for the support set of each task, around a :class:`MetaOptNetwork`.

    p(y = k | x) = softmax_k(gamma w_k . f(x)), where the ``w_k`` are those of

    - ``head="svm"``: the multi-class support vector machine of Crammer and Singer, eq. 8 of the paper, with ``C``;
    - ``head="ridge"``: ridge regression to one-hot labels with penalty ``regularisation``.

    C = 0.1, lambda = 50 and gamma = 1 at first are those of the authors' code (github.com/kjunelee/MetaOptNet), whose
    ridge regression has targets of 2 in the place of 1; gamma makes up for that. The paper also smooths the labels of
    the queries while training, which is left out here.

    ``statistics`` says whose batch-norm statistics are used, as in all methods of this package. ``params`` of the
    methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: MetaOptNetwork
    head: str = "svm"
    C: float = 0.1
    regularisation: float = 50.0
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}; got {self.head!r}")
        check_positive("C", self.C)
        check_positive("regularisation", self.regularisation)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def scores(self, support: Tensor, support_y: Tensor, query: Tensor, n_way: int) -> Tensor:
        """``w_k . f(x)`` from embeddings: ``[B, S, D]``, ``[B, S]``, ``[B, Q, D]`` to ``[B, Q, n_way]``."""
        if self.head == "svm":
            return svm_logits(support, support_y, query, n_way, self.C)
        targets = one_hot(support_y, n_way, support.dtype).mT
        return ridge_logits(support, targets, query, self.regularisation)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """Class scores of the queries times gamma, ``[B, n_way * n_query, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        scores = self.scores(support, episode.support_y, query, episode.n_way)
        return call(self.network.scaled, part(params, "scaled"), scores)

    def classify_embedded(self, episode: Episode) -> Tensor:
        """The same of an episode whose entries are embeddings already."""
        return self.network.scaled(self.scores(episode.support_x, episode.support_y, episode.query_x, episode.n_way))

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``-log p(y | x)`` over all queries of all tasks, a scalar."""
        return F.cross_entropy(self.logits(params, episode).flatten(0, 1), episode.query_y.flatten())
