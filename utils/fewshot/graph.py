"""Few-shot learning with graph networks (Garcia and Bruna 2018): labels travel along learned edges to the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, call, check_statistics, embed_episode, part
from utils.functional import one_hot

CHUNK = 2**22
"""Numbers that one layer of the edges of some queries' graphs may hold: 16 MB in float32."""

Nodes = list[tuple[Tensor, Tensor]]
"""Features of support nodes ``[B, Q or 1, S, F]`` and of the query node ``[B, Q, 1, F]``, a pair for every layer that
made some. Those that every query's graph has in common are kept once."""


class Edges(nn.Module):
    """The score of an edge: a perceptron of two hidden layers on ``|x_i - x_j|``, the same from both ends.

    Each hidden layer, ``widths`` wide, is followed by layer normalisation and leaky ReLU. (The output has no bias: the
    softmax would not see it.)
    """

    def __init__(self, in_features: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, widths[0])
        self.second = nn.Linear(widths[0], widths[1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.output = nn.Linear(widths[1], 1, bias=False)

    def forward(self, differences: Sequence[Tensor]) -> Tensor:
        """``|x_i - x_j|`` in pieces ``[..., F]`` whose leading axes broadcast, to scores ``[...]``."""
        # The weights times a concatenation are a sum: pieces that all queries have in common are multiplied once.
        weights = self.first.weight.split([piece.shape[-1] for piece in differences], dim=1)
        hidden = sum(piece @ weight.mT for piece, weight in zip(differences, weights, strict=True)) + self.first.bias
        hidden = F.leaky_relu(self.norms[0](hidden))
        hidden = F.leaky_relu(self.norms[1](self.second(hidden)))
        return self.output(hidden).squeeze(-1)


class GraphLayer(nn.Module):
    """``G(x) = theta [x; A x] + b`` with ``A_ij = softmax_j(edge(x_i, x_j))`` over ``j != i``.

    (Garcia and Bruna 2018, section 4.2, with the operators {1, A}.) ``at_query`` says to compute the query's row alone,
    all that is left to know in the last layer.
    """

    def __init__(self, in_features: int, out_features: int, edge_widths: tuple[int, int], at_query: bool) -> None:
        super().__init__()
        self.at_query = at_query
        self.edges = Edges(in_features, edge_widths)
        self.linear = nn.Linear(2 * in_features, out_features)

    def forward(self, nodes: Nodes) -> Tensor:
        """To ``[B, Q, S + 1, out_features]``, the query node last, or ``[B, Q, 1, out_features]``."""
        to_query = self.edges([(query - support).abs() for support, query in nodes])  # [B, Q, S]
        n_support = to_query.shape[-1]
        support, query = (
            torch.cat([x.expand(-1, to_query.shape[1], -1, -1) for x in features], dim=-1)
            for features in zip(*nodes, strict=True)
        )
        if self.at_query:
            x, neighbours = query, support
            adjacency = to_query.softmax(-1)[:, :, None]
        else:
            x = neighbours = torch.cat([support, query], dim=-2)
            # An edge is the same from both ends: each pair of support nodes is looked at once.
            i, j = torch.triu_indices(n_support, n_support, 1, device=x.device)
            pairs = self.edges([(s.index_select(-2, i) - s.index_select(-2, j)).abs() for s, _ in nodes])
            adjacency = _adjacency(pairs, to_query)
        return self.linear(torch.cat([x, adjacency @ neighbours], dim=-1))


def _adjacency(pairs: Tensor, to_query: Tensor) -> Tensor:
    """Scores of the pairs of support nodes ``[B, Q or 1, S (S - 1) / 2]``, in the order of ``torch.triu_indices``, and
    of the edges to the query ``[B, Q, S]``, to rows that sum to 1: ``[B, Q, S + 1, S + 1]``, the query node last."""
    n_pairs, n_support = pairs.shape[-1], to_query.shape[-1]
    nobody = to_query.new_full((*to_query.shape[:2], 1), -torch.inf)  # no node is its own neighbour
    scores = torch.cat([pairs.expand(-1, to_query.shape[1], -1), to_query, nobody], dim=-1)
    where = torch.full((n_support + 1, n_support + 1), n_pairs + n_support, device=pairs.device)
    i, j = torch.triu_indices(n_support, n_support, 1, device=pairs.device)
    where[i, j] = where[j, i] = torch.arange(n_pairs, device=pairs.device)
    where[-1, :-1] = where[:-1, -1] = n_pairs + torch.arange(n_support, device=pairs.device)
    return scores.index_select(-1, where.flatten()).unflatten(-1, where.shape).softmax(-1)


class GraphNetwork(nn.Module):
    """``embedding`` and the ``layers`` of a graph network that classifies a query into ``n_way`` classes.

    Each query has a graph of its own, of all support images and itself. A node begins as
    ``x_i = [f(x_i); one-hot label]``, the query's label being uniform, ``1 / n_way`` (Garcia and Bruna 2018, section
    4.1; the authors' code has zeros there). Each layer adds to it, ``x <- [x; phi(norm(G(x)))]`` with phi the leaky
    ReLU, and the last one gives the scores at the query node, ``G(x)_query``.

    Parameters
    ----------
    embedding : a network with ``out_features``, such as :class:`utils.backbones.Conv4`.
    n_way : classes of an episode, here fixed, because labels are part of the nodes' features.
    widths : what each layer but the last adds to a node. edge_widths : hidden layers of the edges.

    The paper normalises nodes and edges by the batch, across all graphs. Here each node and each edge is normalised by
    itself (layer normalisation), so that no query influences another and there are no statistics to declare.

    Permuting the support leaves the scores as they are. Permuting the labels does *not* merely permute the scores:
    each label channel has weights of its own, and only training makes the network treat them (nearly) alike.
    """

    def __init__(
        self,
        embedding: nn.Module,
        n_way: int,
        widths: tuple[int, ...] = (48, 48),
        edge_widths: tuple[int, int] = (64, 32),
    ) -> None:
        super().__init__()
        if n_way < 1:
            raise ValueError(f"n_way must be at least 1; got {n_way}")
        if len(edge_widths) != 2:
            raise ValueError(f"an edge has two hidden layers; got widths {edge_widths}")
        self.embedding, self.n_way = embedding, n_way
        sizes = [embedding.out_features + n_way]
        for width in widths:
            sizes.append(sizes[-1] + width)
        outputs = [*widths, n_way]
        self.layers = nn.ModuleList(
            GraphLayer(size, out, edge_widths, at_query=layer == len(widths))
            for layer, (size, out) in enumerate(zip(sizes, outputs, strict=True))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)

    def forward(self, support: Tensor, support_y: Tensor, query: Tensor) -> Tensor:
        """Class scores of embedded queries: ``[B, S, D]``, int64 ``[B, S]``, ``[B, Q, D]`` to ``[B, Q, n_way]``.

        With S support images, each layer but the first and the last looks at Q S^2 / 2 pairs: memory for a gradient is
        about Q S^2 / 2 numbers times the widths of nodes and edges (1 GB in float32 for 100 queries of 20-way 5-shot
        tasks). Without gradients queries are taken some at a time.

        Raises ``ValueError`` for shapes that do not fit and, on the CPU, for a class without support or a label out of
        range.
        """
        if support.ndim != 3 or query.ndim != 3 or support_y.shape != support.shape[:2] or len(query) != len(support):
            raise ValueError(
                "expected embeddings [B, S, D] and [B, Q, D] and labels [B, S]; "
                f"got {list(support.shape)}, {list(query.shape)} and {list(support_y.shape)}"
            )
        known = one_hot(support_y, self.n_way, support.dtype).mT
        unknown = query.new_full((*query.shape[:2], self.n_way), 1 / self.n_way)
        support, query = torch.cat([support, known], dim=-1)[:, None], torch.cat([query, unknown], dim=-1)[:, :, None]
        widest = max(self.layers[0].edges.first.out_features, *(layer.linear.out_features for layer in self.layers))
        some = max(1, CHUNK // max(1, len(support) * support.shape[2] ** 2 // 2 * widest))
        return torch.cat([self._scores(support, queries) for queries in query.split(some, dim=1)], dim=1)

    def _scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Nodes ``[B, 1, S, F]`` and ``[B, Q, 1, F]`` to ``[B, Q, n_way]``."""
        nodes = [(support, query)]
        for layer, norm in zip(self.layers, self.norms, strict=False):  # the last layer has none
            added = F.leaky_relu(norm(layer(nodes)))
            nodes.append((added[..., :-1, :], added[..., -1:, :]))
        return self.layers[-1](nodes)[..., 0, :]


def classify_embedded(network: GraphNetwork, episode: Episode, params: Params = None) -> Tensor:
    """Class scores ``[B, Q, n_way]`` of an episode whose entries are embeddings already.

    Raises ``ValueError`` for an episode with another number of classes than the network's.
    """
    if episode.n_way != network.n_way:
        raise ValueError(
            f"this graph network was built for {network.n_way} classes; the episode has {episode.n_way}: "
            "labels are part of its nodes, so another number of classes needs another network"
        )
    return call(network, params, episode.support_x, episode.support_y, episode.query_x)


@dataclass(frozen=True)
class Graph:
    """A graph network as a learner (Garcia and Bruna 2018), one query a graph: not transductive by itself.

    ``statistics`` says whose batch-norm statistics the embedding uses: ``"batch"`` (support and query together, each
    episode by itself), ``"support"``, or ``"running"``. The graph network has none.

    ``params`` of the methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: GraphNetwork
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """Class scores of the queries, ``[B, Q, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        return classify_embedded(self.network, replace(episode, support_x=support, query_x=query), params)

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``-log p(y | x)`` over all queries of all tasks, a scalar."""
        return F.cross_entropy(self.logits(params, episode).flatten(0, 1), episode.query_y.flatten())
