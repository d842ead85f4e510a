"""Matching networks (Vinyals et al. 2016): a query takes the labels of the support images that it attends to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, call, check_statistics, embed_episode, part
from utils.functional import cosine_similarity, one_hot


def attention_log_probabilities(similarity: Tensor, support_y: Tensor, n_way: int) -> Tensor:
    """``log p(y = k | x, S)`` of an attention over the support: ``[B, Q, S]``, ``[B, S]`` to ``[B, Q, n_way]``.

    p(y = k | x, S) = sum_{i: y_i = k} a(x, x_i),  a(x, x_i) = exp(c_i) / sum_j exp(c_j)

    (Vinyals et al. 2016, eq. 1; the attention is that of section 2.1.1). The weights of a class are *summed*: with
    unequal shots, a class with more images has more of them. Computed as a difference of two log-sums, so that a
    probability near 0 has a logarithm all the same.

    Raises ``ValueError`` for shapes that do not fit, an empty support set, a class without support (on the CPU).
    """
    if similarity.ndim != 3 or support_y.shape != (similarity.shape[0], similarity.shape[2]):
        raise ValueError(
            "expected similarities [B, Q, S] and labels [B, S]; "
            f"got {list(similarity.shape)} and {list(support_y.shape)}"
        )
    if similarity.shape[2] == 0:
        raise ValueError("the support set is empty: there is nothing to attend to")
    member = one_hot(support_y, n_way, torch.bool)
    of_class = torch.where(member[:, None], similarity[:, :, None], -torch.inf).logsumexp(-1)
    return of_class - similarity.logsumexp(-1, keepdim=True)


def largest_probability(n_way: int, scale: float = 1.0) -> float:
    """The most that one-shot matching can give to a class: ``e^s / (e^s + (n_way - 1) e^-s)`` at cosines 1 and -1.

    The paper's attention has ``s = 1``: 0.649 for 5 classes, 0.280 for 20, however good the embedding.
    """
    return 1 / (1 + (n_way - 1) * math.exp(-2 * scale))


class FullContext(nn.Module):
    """Full context embeddings (Vinyals et al. 2016, appendix A): every embedding sees the whole support set.

    Support: ``g_i = h_i(forward) + h_i(backward) + g'_i``, a bidirectional LSTM over the support in the given order.
    Query: from ``h = f'`` on, ``steps`` times ``r = sum_i softmax_i(h . g_i) g_i``, ``h', c = LSTM(f', [h, r], c)``,
    ``h = h' + f'``; what comes in is always ``f'``, what is remembered is what was read from the support.

    ``[B, S, D]``, ``[B, Q, D]`` to the same shapes. A query does not see other queries. The support embeddings depend
    on the order of the support, as in the paper.
    """

    def __init__(self, features: int, steps: int = 5) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"the query is read at least once; got steps={steps}")
        self.steps = steps
        self.forwards, self.backwards = nn.LSTMCell(features, features), nn.LSTMCell(features, features)
        # The paper's hidden state [h, r] enters by one matrix, and so it may come in as input [f', r] and state h.
        self.read = nn.LSTMCell(2 * features, features)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        support = support + self._both_ways(support)
        return support, self._attend(support, query)

    def _both_ways(self, support: Tensor) -> Tensor:
        """``h(forward) + h(backward)``, the two directions computed side by side."""
        cells = (self.forwards, self.backwards)
        sequences = zip(cells, (support, support.flip(1)), strict=True)
        gates = torch.stack([F.linear(x, cell.weight_ih, cell.bias_ih + cell.bias_hh) for cell, x in sequences])
        weight = torch.stack([cell.weight_hh.mT for cell in cells])
        hidden = state = support.new_zeros(2, support.shape[0], support.shape[2])
        states = []
        for incoming in gates.unbind(2):
            hidden, state = _lstm(torch.baddbmm(incoming, hidden, weight), state)
            states.append(hidden)
        forwards, backwards = torch.stack(states, 2)
        return forwards + backwards.flip(1)

    def _attend(self, support: Tensor, query: Tensor) -> Tensor:
        features = query.shape[-1]
        of_query, of_read = self.read.weight_ih.split(features, dim=1)
        always = F.linear(query, of_query, self.read.bias_ih + self.read.bias_hh)  # the same in every step
        # What is read enters by a product with each support embedding, so that product is taken once.
        enters = support @ of_read.mT
        weight, hidden, state = self.read.weight_hh.mT, query, torch.zeros_like(query)
        for _ in range(self.steps):
            attention = (hidden @ support.mT).softmax(-1)
            gates = torch.baddbmm(always, attention, enters) + hidden @ weight
            hidden, state = _lstm(gates, state)
            hidden = hidden + query
        return hidden


def _lstm(gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What :class:`torch.nn.LSTMCell` makes of its four gates ``[..., 4 D]`` and the state ``[..., D]``."""
    enter, forget, new, leave = gates.chunk(4, -1)
    state = forget.sigmoid() * state + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * state.tanh(), state


class MatchingNetwork(nn.Module):
    """An ``embedding``, how much its cosines weigh, and, if wanted, full context embeddings.

    ``scale`` multiplies the cosines; the paper has 1. With ``learned`` it is a parameter, kept as its logarithm so
    that it stays positive. ``context_steps`` 0 means no full context embeddings.
    """

    def __init__(self, embedding: nn.Module, scale: float = 1.0, learned: bool = False, context_steps: int = 0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"a scale must be positive; got {scale}")
        self.embedding = embedding
        self.scale = CosineScale(scale, learned)
        self.context = FullContext(embedding.out_features, context_steps) if context_steps else None


class CosineScale(nn.Module):
    """``exp(log_scale) * similarity``."""

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def forward(self, similarity: Tensor) -> Tensor:
        return self.log_scale.exp() * similarity


@dataclass(frozen=True)
class Matching:
    """A matching network around a :class:`MatchingNetwork`.

    ``statistics`` says whose batch-norm statistics are used, as in all methods of this package. ``params`` of the
    methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: MatchingNetwork
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings without context: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def similarity(self, params: Params, support: Tensor, query: Tensor) -> Tensor:
        """``s cos(f(x), g(x_i))`` of embeddings, ``[B, S, D]``, ``[B, Q, D]`` to ``[B, Q, S]``."""
        if self.network.context is not None:
            support, query = call(self.network.context, part(params, "context"), support, query)
        return call(self.network.scale, part(params, "scale"), cosine_similarity(query, support))

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """``log p(y = k | x, S)`` of the queries, ``[B, n_way * n_query, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        return attention_log_probabilities(self.similarity(params, support, query), episode.support_y, episode.n_way)

    def classify_embedded(self, episode: Episode) -> Tensor:
        """The same of an episode whose entries are embeddings already."""
        similarity = self.similarity(None, episode.support_x, episode.query_x)
        return attention_log_probabilities(similarity, episode.support_y, episode.n_way)

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``-log p(y | x, S)`` over all queries of all tasks, a scalar (Vinyals et al. 2016, eq. 2)."""
        return F.nll_loss(self.logits(params, episode).flatten(0, 1), episode.query_y.flatten())
