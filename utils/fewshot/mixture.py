"""Infinite mixture prototypes (Allen et al. 2019): as many clusters a class as its support asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, check_statistics, embed_episode, part
from utils.functional import class_means, squared_distances

NEGLIGIBLE = 1e-3
"""A cluster with less than this of a single point is removed, as in the authors' code."""


class Clusters(NamedTuple):
    """Clusters of every class of every task, in slots of which some are empty.

    ``means`` float ``[B, n_way, C, D]``; ``exists`` bool ``[B, n_way, C]`` says which slots hold a cluster. Slot 0
    begins as the class mean; the others are for clusters opened at support points.
    """

    means: Tensor
    exists: Tensor

    @property
    def counts(self) -> Tensor:
        """Clusters of each class, int64 ``[B, n_way]``."""
        return self.exists.sum(-1)


def estimate_threshold(prototypes: Tensor, sigma: float | Tensor, alpha: float = 0.1) -> Tensor:
    """lambda = -2 sigma log(alpha / (1 + rho / sigma)^(D/2)), the squared distance beyond which a cluster is opened.

    rho is the variance of the class means (unbiased over the classes, mean over the D coordinates; 0 for one class),
    ``sigma`` the variance of a cluster and ``alpha`` the concentration of the Dirichlet process: the larger, the more
    clusters. (Allen et al. 2019, section 3, after the small-variance limit of Kulis and Jordan 2012.)

    Parameters: ``prototypes`` ``[B, n_way, D]``. Returns ``[B]``.
    """
    n_way, d = prototypes.shape[-2:]
    rho = prototypes.var(dim=-2).mean(-1) if n_way > 1 else torch.zeros_like(prototypes[:, 0, 0])
    return 2 * sigma * (d / 2 * torch.log1p(rho / sigma) - math.log(alpha))


def by_class(embedding: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Points in rows of their class, in their order: ``[B, S, D]``, int64 ``[B, S]`` to ``[B, n_way, K, D]``.

    K is the largest number of points of a class; the second result, bool ``[B, n_way, K]``, says which are there.
    (On a GPU this waits for the device once, to know K.)
    """
    counts = (labels[:, None] == torch.arange(n_way, device=labels.device)[:, None]).sum(-1)
    places = torch.arange(int(counts.max()), device=labels.device)
    first = counts.cumsum(-1) - counts
    order = labels.argsort(dim=-1, stable=True)
    index = (first[..., None] + places).clamp_max(labels.shape[1] - 1)
    rows = order.gather(1, index.flatten(1))
    points = embedding.gather(1, rows[..., None].expand(-1, -1, embedding.shape[-1]))
    return points.unflatten(1, index.shape[1:]), places < counts[..., None]


def _opened(points: Tensor, present: Tensor, clusters: Clusters, threshold: Tensor) -> Tensor:
    """Which points open a cluster, going through them in their order: bool ``[B, n_way, K]``.

    A point does, if the squared distance to the nearest cluster of its class exceeds ``threshold`` ``[B]``, those
    opened by points before it included. Classes do not influence each other, so only the places within a class need a
    loop.
    """
    with torch.no_grad():  # a decision has no slope
        # Without the matrix product, whose rounding would open a second cluster at a point of distance zero.
        exactly = {"compute_mode": "donot_use_mm_for_euclid_dist"}
        points, means = points.to(threshold.dtype), clusters.means.to(threshold.dtype)
        far = torch.cdist(points, means, **exactly).square().masked_fill_(~clusters.exists[:, :, None], math.inf)
        far = far.amin(-1)
        between = torch.cdist(points, points, **exactly).square()
        opened = []
        for place in range(points.shape[2]):
            opens = present[..., place] & (far[..., place] > threshold[:, None])
            far = torch.where(opens[..., None], torch.minimum(far, between[:, :, place]), far)
            opened.append(opens)
        return torch.stack(opened, dim=-1)


def infer_clusters(
    embedding: Tensor,
    labels: Tensor,
    n_way: int,
    threshold: float | Tensor | None = None,
    sigma: float | Tensor = 1.0,
    steps: int = 1,
    alpha: float = 0.1,
) -> Clusters:
    """Clusters of the support set of every task (Allen et al. 2019, algorithm 1).

    It begins with one cluster a class, its mean. Then, ``steps`` times:

    - each point in turn, if ``min_c ||h_i - mu_c||^2 > threshold`` over the clusters of its own class, opens another
      cluster there: ``mu_c = h_i``;
    - points belong to the clusters of their class in proportion to the densities,
      ``z_ic = N(h_i; mu_c, sigma) / sum_c' N(h_i; mu_c', sigma)``;
    - means become ``mu_c = sum_i z_ic h_i / sum_i z_ic``, and a cluster that hardly a point belongs to
      (``sum_i z_ic`` of at most 0.001) is removed.

    Parameters
    ----------
    embedding : float ``[B, S, D]``. labels : int64 ``[B, S]`` in ``0 .. n_way - 1``, any number of points a class.
    threshold : lambda, a squared distance (one number, or one a task ``[B]``); ``None`` estimates it from the class
        means (:func:`estimate_threshold`, with ``alpha``). Infinity leaves prototypical networks.
    sigma : variance of a cluster, a squared distance.

    Returns
    -------
    :class:`Clusters` with ``1 + steps * K`` slots a class, where K is the largest number of points of a class.
    Gradients pass through means and memberships (the authors' code holds the memberships fixed), not through the
    decision to open a cluster. The order of the points of a class can decide which of them open one.

    Raises
    ------
    ValueError : as :func:`utils.functional.class_means` does, and for a negative number of steps.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative; got {steps}")
    prototypes = class_means(embedding, labels, n_way)
    if threshold is None:
        threshold = estimate_threshold(prototypes.detach(), sigma, alpha)
    wide = torch.promote_types(embedding.dtype, torch.float32)  # there is no cdist in half precision
    threshold = torch.as_tensor(threshold, dtype=wide, device=embedding.device).detach().expand(len(embedding))
    points, present = by_class(embedding, labels, n_way)
    slot = torch.ones(present.shape[:2], dtype=torch.bool, device=embedding.device)
    clusters = Clusters(prototypes[:, :, None], slot[..., None])
    for _ in range(steps):
        opened = _opened(points, present, clusters, threshold)
        means, exists = (torch.cat(pair, dim=2) for pair in zip(clusters, (points, opened), strict=True))
        density = -squared_distances(points, means) / (2 * sigma)
        belongs = density.masked_fill(~exists[:, :, None], -math.inf).softmax(-1) * present[..., None]
        mass = belongs.sum(2)  # [B, n_way, C]
        exists = exists & (mass > NEGLIGIBLE)
        clusters = Clusters(belongs.mT @ points / mass.clamp_min(NEGLIGIBLE)[..., None], exists)
    return clusters


def mixture_logits(clusters: Clusters, query_embedding: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    """``-min_c ||f(x) - mu_c||^2 / (2 sigma)`` over the clusters of each class: ``[B, Q, D]`` to ``[B, Q, n_way]``.

    Their softmax over the classes is ``p(y | x)``: only the nearest cluster of a class speaks for it (Allen et al.
    2019, section 3).
    """
    means, exists = clusters
    distances = squared_distances(query_embedding, means.flatten(1, 2)).unflatten(-1, means.shape[1:3])
    return -distances.masked_fill(~exists[:, None], math.inf).amin(-1) / (2 * sigma)


def classify_embedded(
    episode: Episode,
    sigma: float | Tensor = 1.0,
    threshold: float | Tensor | None = None,
    steps: int = 1,
    alpha: float = 0.1,
) -> Tensor:
    """Class scores ``[B, Q, n_way]`` of an episode whose entries are embeddings already."""
    clusters = infer_clusters(
        episode.support_x, episode.support_y, episode.n_way, threshold, sigma, steps=steps, alpha=alpha
    )
    return mixture_logits(clusters, episode.query_x, sigma)


class MixtureNetwork(nn.Module):
    """``embedding`` and the logarithm of the variance of a cluster, ``log_sigma``, both learned.

    ``sigma`` is where the variance begins: 5, as in the authors' code for Omniglot. Calling it embeds images.
    """

    def __init__(self, embedding: nn.Module, sigma: float = 5.0) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma, a variance, must be positive; got {sigma}")
        self.embedding = embedding
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    def forward(self, x: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        return self.embedding(x, statistics=statistics, n_support=n_support)


@dataclass(frozen=True)
class Mixture:
    """Infinite mixture prototypes around ``network``, for labelled supports (Allen et al. 2019).

    ``statistics`` says whose batch-norm statistics are used: ``"batch"`` (support and query together, each episode by
    itself), ``"support"``, or ``"running"``. ``threshold`` is lambda, ``None`` to estimate it from each support set
    with the concentration ``alpha``; ``clustering_steps`` how often clusters are opened and moved
    (:func:`infer_clusters`).

    ``params`` of the methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: MixtureNetwork
    statistics: str = "batch"
    threshold: float | None = None
    clustering_steps: int = 1
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_statistics(self.statistics)
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive; got {self.alpha}")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold, a squared distance, must not be negative; got {self.threshold}")
        if self.clustering_steps < 0:
            raise ValueError(f"clustering_steps must not be negative; got {self.clustering_steps}")

    def sigma(self, params: Params) -> Tensor:
        """The variance of a cluster, a scalar."""
        return (self.network.log_sigma if params is None else params["log_sigma"]).exp()

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def clusters(self, params: Params, support: Tensor, labels: Tensor, n_way: int) -> Clusters:
        """Clusters of embedded supports ``[B, S, D]`` with the learner's threshold, steps and variance."""
        sigma = self.sigma(params)
        return infer_clusters(support, labels, n_way, self.threshold, sigma, self.clustering_steps, self.alpha)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """Class scores of the queries, ``[B, Q, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        clusters = self.clusters(params, support, episode.support_y, episode.n_way)
        return mixture_logits(clusters, query, self.sigma(params))

    def classify(self, params: Params, episode: Episode) -> Tensor:
        """Predicted labels of the queries, int64 ``[B, Q]``."""
        return self.logits(params, episode).argmax(-1)

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``-log p(y | x)`` over all queries of all tasks, a scalar."""
        return F.cross_entropy(self.logits(params, episode).flatten(0, 1), episode.query_y.flatten())
