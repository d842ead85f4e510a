"""LR-D2 (Bertinetto, Henriques, Torr and Vedaldi 2019): adapt by logistic regression, a few Newton steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, call, check_statistics, embed_episode, part
from utils.functional import logistic_newton, one_hot
from utils.functional.solvers import check_positive


class LogisticHead(nn.Module):
    """``x W`` with the W of L2-regularised logistic regression on the support; lambda is learned, as its logarithm."""

    def __init__(self, regularisation: float, bias: bool) -> None:
        super().__init__()
        check_positive("regularisation", regularisation)
        self.log_regularisation = nn.Parameter(torch.tensor(math.log(regularisation)))
        self.bias = bias

    def forward(self, support: Tensor, support_y: Tensor, query: Tensor, n_way: int, steps: int) -> Tensor:
        """``[B, S, D]``, ``[B, S]``, ``[B, Q, D]`` to ``[B, Q, n_way]``."""
        if n_way < 2:
            raise ValueError(f"logistic regression tells at least two classes apart; got n_way={n_way}")
        targets = one_hot(support_y, n_way, support.dtype).mT
        if n_way == 2:  # one problem: is it the second class?
            targets = targets[..., 1:]
        if self.bias:
            support, query = (F.pad(x, (0, 1), value=1.0) for x in (support, query))
        scores = query @ logistic_newton(support, targets, self.log_regularisation.exp(), steps).to(query.dtype)
        return torch.cat([-scores / 2, scores / 2], -1) if n_way == 2 else scores


class LRD2Network(nn.Module):
    """An ``embedding`` and the :class:`LogisticHead` on it, whose lambda is learned with the embedding.

    The paper's formulas have no bias; the authors' code (github.com/bertinetto/r2d2) appends a constant 1 to the
    embedding (``bias=True``; penalised as the other weights) and keeps lambda at 50. There is no learned scale, in that
    code neither, so that a smaller lambda is also what makes a prediction more certain.

    Raises ``ValueError`` where ``regularisation``, at which lambda starts, is not positive.
    """

    def __init__(self, embedding: nn.Module, regularisation: float = 1.0, bias: bool = False) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = LogisticHead(regularisation, bias)


@dataclass(frozen=True)
class LRD2:
    """Logistic regression on embeddings, task by task, by ``newton_steps`` steps, around a :class:`LRD2Network`.

    w <- X^T (X X^T + lambda diag(s)^-1)^-1 z, see :func:`utils.functional.logistic_newton`, which the gradient passes
    through step by step. Two classes are one problem, and its probability is what is trained. More classes are each
    one problem against all others, and the softmax is taken of their scores ``w_k . f(x)``.

    ``statistics`` says whose batch-norm statistics are used, as in all methods of this package. ``params`` of the
    methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: LRD2Network
    newton_steps: int = 5
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)
        if not isinstance(self.newton_steps, int) or self.newton_steps < 1:
            raise ValueError(f"newton_steps must be a whole number of at least 1; got {self.newton_steps!r}")

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """Class scores of the queries, ``[B, n_way * n_query, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        head = (self.network.head, part(params, "head"))
        return call(*head, support, episode.support_y, query, episode.n_way, self.newton_steps)

    def classify_embedded(self, episode: Episode) -> Tensor:
        """The same of an episode whose entries are embeddings already."""
        return self.network.head(
            episode.support_x, episode.support_y, episode.query_x, episode.n_way, self.newton_steps
        )

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``-log p(y | x)`` over all queries of all tasks, a scalar."""
        return F.cross_entropy(self.logits(params, episode).flatten(0, 1), episode.query_y.flatten())
