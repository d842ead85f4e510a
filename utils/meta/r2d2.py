"""R2-D2 (Bertinetto, Henriques, Torr and Vedaldi 2019): adapt by ridge regression, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, call, check_statistics, embed_episode, part
from utils.functional import one_hot, ridge_logits
from utils.functional.solvers import check_positive


class RidgeHead(nn.Module):
    """``alpha (x W) + beta`` with the W of ridge regression on the support; lambda, alpha and beta are learned.

    Lambda is kept as its logarithm, so that it stays positive.
    """

    def __init__(self, regularisation: float, scale: float, offset: float, bias: bool) -> None:
        super().__init__()
        check_positive("regularisation", regularisation)
        check_positive("scale", scale)
        self.log_regularisation = nn.Parameter(torch.tensor(math.log(regularisation)))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.offset = nn.Parameter(torch.tensor(float(offset)))
        self.bias = bias

    def forward(self, support: Tensor, support_y: Tensor, query: Tensor, n_way: int) -> Tensor:
        """``[B, S, D]``, ``[B, S]``, ``[B, Q, D]`` to ``[B, Q, n_way]``."""
        targets = one_hot(support_y, n_way, support.dtype).mT
        if self.bias:
            support, query = (F.pad(x, (0, 1), value=1.0) for x in (support, query))
        return self.scale * ridge_logits(support, targets, query, self.log_regularisation.exp()) + self.offset


class R2D2Network(nn.Module):
    """An ``embedding`` and the :class:`RidgeHead` on it, whose three numbers are learned with the embedding.

    The paper learns lambda, alpha and beta, and its formulas have no bias. The authors' code (github.com/bertinetto/
    r2d2) differs: it appends a constant 1 to the embedding (``bias=True``, penalised as the other weights), divides
    embeddings and targets by sqrt(n), so that its lambda weighs n times as much as here, keeps lambda at 50, and starts
    alpha at 10 (CIFAR-FS) or 1e-4 (miniImageNet), beta at 0.

    Here lambda starts at ``regularisation``, 50 as there: with a small one, every embedding of a few images is fitted
    all but perfectly, which is little to learn from. Alpha starts at ``scale``: targets are 0 and 1, and at alpha = 1
    a perfect fit would have a probability of 0.40 among 5 classes. Of a single ``offset`` beta, added to all classes,
    the softmax takes no notice: it is there because it is in the paper, and its gradient is 0 but for rounding.

    Raises ``ValueError`` where ``regularisation`` or ``scale`` is not positive.
    """

    def __init__(
        self,
        embedding: nn.Module,
        regularisation: float = 50.0,
        scale: float = 10.0,
        offset: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = RidgeHead(regularisation, scale, offset, bias)


@dataclass(frozen=True)
class R2D2:
    """Ridge regression from embeddings to one-hot labels, task by task, around a :class:`R2D2Network`.

    W = X^T (X X^T + lambda I)^-1 Y,  p(y | x) = softmax(alpha f(x) W + beta),  for ``X`` the support embeddings and
    ``Y`` their one-hot labels. All of a task's learning is the solution of one linear system, as large as the support
    set, which the gradient passes through.

    ``statistics`` says whose batch-norm statistics are used, as in all methods of this package. ``params`` of the
    methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: R2D2Network
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """Class scores of the queries, ``[B, n_way * n_query, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        return call(self.network.head, part(params, "head"), support, episode.support_y, query, episode.n_way)

    def classify_embedded(self, episode: Episode) -> Tensor:
        """The same of an episode whose entries are embeddings already."""
        return self.network.head(episode.support_x, episode.support_y, episode.query_x, episode.n_way)

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``-log p(y | x)`` over all queries of all tasks, a scalar."""
        return F.cross_entropy(self.logits(params, episode).flatten(0, 1), episode.query_y.flatten())
