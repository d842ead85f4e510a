"""Relation networks (Sung et al. 2018): a learned comparison of a class with a query, trained as a regression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.backbones import Conv4, EpisodeNorm2d
from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, call, check_statistics, embed_episode, part
from utils.functional import one_hot

CHUNK = 2**20
"""Numbers in the maps of the pairs that :func:`relation_scores` holds at a time: 4 MB in float32."""


def class_sums(maps: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """``sum_{i in S_k} f(x_i)``: what stands for a class of several shots (Sung et al. 2018, section 3.2).

    A *sum*: with K shots its entries are about K times those of a query, and the relation module is trained for one K.
    (Much public code takes the mean, which for one shot is the same.)

    Parameters: ``maps`` float ``[B, S, ...]``; ``labels`` int64 ``[B, S]`` in ``0 .. n_way - 1``, any number of images
    a class. Returns ``[B, n_way, ...]``.

    Raises as :func:`utils.functional.one_hot`, and ``ValueError`` where maps and labels do not fit. On a GPU, a class
    without support sums to zero.
    """
    if maps.ndim < 3 or labels.shape != maps.shape[:2]:
        raise ValueError(
            f"expected maps [B, S, ...] and labels [B, S]; got {list(maps.shape)} and {list(labels.shape)}"
        )
    return (one_hot(labels, n_way, maps.dtype) @ maps.flatten(2)).unflatten(-1, maps.shape[2:])


class RelationModule(nn.Module):
    """``g_phi``: how much an image belongs to a class, in [0, 1].

    r = sigmoid(w_2 . relu(W_1 block(block([class; image])) + b_1) + b_2), where a block is convolution 3x3, batch
    normalisation, ReLU, 2x2 max-pooling (Sung et al. 2018, section 3.4), for maps of ``channels`` x ``side`` x ``side``
    concatenated channel by channel, the class first. ``hidden`` is the length of ``b_1``.

    Raises ``ValueError`` where two halvings leave nothing of the maps.
    """

    def __init__(self, channels: int = 64, side: int = 7, hidden: int = 8) -> None:
        super().__init__()
        if side < 4:
            raise ValueError(f"two halvings need maps of at least 4 x 4; got {side} x {side}")
        self.channels, self.side = channels, side
        self.convs = nn.ModuleList(nn.Conv2d(i, channels, 3, padding=1, bias=False) for i in (2 * channels, channels))
        self.norms = nn.ModuleList(EpisodeNorm2d(channels) for _ in range(2))
        self.hidden = nn.Linear(channels * (side // 4) ** 2, hidden)
        self.output = nn.Linear(hidden, 1)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, classes: Tensor, images: Tensor, statistics: str | None = None, n_support: int | None = None
    ) -> Tensor:
        """All relations of ``classes`` ``[N, channels, side, side]`` with ``images`` ``[M, ...]``: ``[M, N]``.

        ``statistics`` are taken over all pairs (``"batch"``), over the pairs of the first ``n_support`` images
        (``"support"``), or are the ``"running"`` ones.
        """
        expected = (self.channels, self.side, self.side)
        if classes.ndim != 4 or images.ndim != 4 or not classes.shape[1:] == images.shape[1:] == expected:
            raise ValueError(
                f"expected classes and images as maps [N, {', '.join(map(str, expected))}]; "
                f"got {list(classes.shape)} and {list(images.shape)}"
            )
        # A convolution of concatenated maps is a sum of two convolutions: they are computed for N + M maps, not N * M.
        of_class, of_image = (
            F.conv2d(maps.contiguous(memory_format=torch.channels_last), weight, padding=1)
            for maps, weight in zip((classes, images), self.convs[0].weight.split(self.channels, dim=1), strict=True)
        )
        of_class, of_image = normalise_sums(self.norms[0], of_class, of_image, statistics, n_support)
        even = self.side // 2 * 2  # the pooling leaves an odd row and column out; so need not be added up either
        pairs = (of_image[:, None, :, :even, :even] + of_class[..., :even, :even]).flatten(0, 1)  # image by image
        # ReLU and maximum commute: taking the maximum first leaves a quarter of the work to the ReLU.
        pairs = self.convs[1](F.relu(F.max_pool2d(pairs, 2)))
        n_pairs = None if n_support is None else n_support * len(classes)
        pairs = F.relu(F.max_pool2d(self.norms[1](pairs, statistics, n_pairs), 2))
        return self.output(F.relu(self.hidden(pairs.flatten(1)))).sigmoid().view(len(images), len(classes))


def normalise_sums(
    norm: EpisodeNorm2d, a: Tensor, b: Tensor, statistics: str | None = None, n_support: int | None = None
) -> tuple[Tensor, Tensor]:
    """``a'``, ``b'`` such that ``a'_n + b'_m`` is the batch normalisation of all ``a_n + b_m``, without making those.

    mean(a + b) = mean(a) + mean(b) and var(a + b) = var(a) + var(b) + 2 cov(a, b), per channel, where over all pairs
    a and b are correlated through their position alone:
    cov(a, b) = E_p[(E_n a_np - E a) (E_m b_mp - E b)].

    Parameters: ``a`` ``[N, C, H, W]``, ``b`` ``[M, C, H, W]``; ``statistics`` as for :class:`EpisodeNorm2d`, those of
    the ``"support"`` being of the pairs of the first ``n_support`` of ``b``. As there, in training mode the running
    averages follow the ``"batch"``. Returns tensors of the same shapes.
    """
    check = "batch" if norm.training else "running"
    statistics = check if statistics is None else statistics
    check_statistics(statistics)
    dtype = a.dtype
    a, b = a.to(norm.weight.dtype), b.to(norm.weight.dtype)  # under autocast: statistics in the parameters' precision
    if statistics == "running":
        centred_a, centred_b, var = a, b - norm.running_mean[:, None, None], norm.running_var
    else:
        if statistics == "support":
            if n_support is None or not 0 < n_support <= len(b):
                raise ValueError(
                    f'statistics="support" needs n_support between 1 and {len(b)}, the number of images; '
                    f"got {n_support}"
                )
            of_b = b[:n_support]
        else:
            of_b = b
        mean_a, mean_b = a.mean(dim=(0, 2, 3), keepdim=True), of_b.mean(dim=(0, 2, 3), keepdim=True)
        centred_a, centred_b, of_b = a - mean_a, b - mean_b, of_b - mean_b
        covariance = (centred_a.mean(0) * of_b.mean(0)).mean(dim=(1, 2))
        var = centred_a.square().mean(dim=(0, 2, 3)) + of_b.square().mean(dim=(0, 2, 3)) + 2 * covariance
        if statistics == "batch" and norm.training:
            n = len(a) * b.numel() // norm.num_features
            with torch.no_grad():
                norm.num_batches_tracked.add_(1)
                norm.running_mean.lerp_((mean_a + mean_b).flatten(), norm.momentum)
                norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)
    scale = (norm.weight * torch.rsqrt(var + norm.eps))[:, None, None]
    return (centred_a * scale).to(dtype), (centred_b * scale + norm.bias[:, None, None]).to(dtype)


class RelationNetwork(nn.Module):
    """The two parts of a relation network: ``embedding`` (f_phi), which makes maps, and ``relation`` (g_phi).

    ``embedding`` is a :class:`Conv4` with ``maps``; :class:`RelationModule` is built to fit, ``hidden`` numbers wide
    before the last layer. The learner :class:`Relation` puts the parts together.

    Raises ``ValueError`` for an embedding without maps.
    """

    def __init__(self, embedding: Conv4, hidden: int = 8) -> None:
        super().__init__()
        if not getattr(embedding, "maps", False):
            raise ValueError("a relation network compares maps: build its embedding as Conv4(..., maps=True)")
        channels = embedding.convs[-1].out_channels
        self.embedding = embedding
        self.relation = RelationModule(channels, round((embedding.out_features / channels) ** 0.5), hidden)


def relation_scores(
    network: RelationNetwork,
    support_maps: Tensor,
    support_y: Tensor,
    query_maps: Tensor,
    n_way: int,
    params: Params = None,
) -> Tensor:
    """``r_ij`` of every query with every class, from maps embedded already and with running statistics.

    Parameters: ``support_maps`` ``[B, S, channels, side, side]``, ``support_y`` int64 ``[B, S]``, ``query_maps``
    ``[B, Q, channels, side, side]``; ``params`` as of ``network.named_parameters()``. Returns ``[B, Q, n_way]`` in
    [0, 1].

    No query influences another, so they are taken some at a time: without gradients, memory does not grow with Q.

    Raises ``ValueError`` as :func:`class_sums` does, and for maps that do not fit the network.
    """
    if query_maps.ndim != 5 or query_maps.shape[0] != support_maps.shape[0]:
        raise ValueError(
            "expected support and query maps [B, N, channels, side, side] of the same B; "
            f"got {list(support_maps.shape)} and {list(query_maps.shape)}"
        )
    classes = class_sums(support_maps, support_y, n_way)
    some = max(1, CHUNK // max(1, classes[0].numel()))
    relate, params = network.relation, part(params, "relation")
    return torch.stack(
        [
            torch.cat([call(relate, params, task, queries, statistics="running") for queries in images.split(some)])
            for task, images in zip(classes, query_maps, strict=True)
        ]
    )


@dataclass(frozen=True)
class Relation:
    """A relation network as a learner (Sung et al. 2018).

    r_ij = g_phi(C(sum_{x in S_i} f_phi(x), f_phi(x_j))) for class i and query x_j (eq. 1), where C concatenates the
    maps channel by channel, class first; trained to be 1 where x_j is of class i and 0 elsewhere (eq. 2).

    ``statistics`` says whose batch-norm statistics are used, in the embedding and in the relation module:

    - ``"batch"``: the embedding's are those of support and query images together, the relation module's those of all
      pairs of a class and a query, each task by itself. Transductive: a score depends on the other queries;
    - ``"support"``: those of the support images, and of the pairs of a class and a support image. (The paper has no
      such choice; of one shot, these include the pairs of an image with itself.) No score depends on another query;
    - ``"running"``: the averages kept while training.

    ``params`` of the methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: RelationNetwork
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, channels, side, side]``, ..."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def scores(self, params: Params, episode: Episode) -> Tensor:
        """Relations ``r`` of the queries with the classes, in [0, 1]: ``[B, Q, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        if self.statistics == "running":
            return relation_scores(self.network, support, episode.support_y, query, episode.n_way, params)
        classes = class_sums(support, episode.support_y, episode.n_way)
        # The support's own pairs are only needed where the statistics are theirs.
        n_support = support.shape[1] if self.statistics == "support" else 0
        images = torch.cat([support[:, :n_support], query], dim=1)
        relate, params = self.network.relation, part(params, "relation")
        options = {"statistics": self.statistics, "n_support": n_support or None}
        tasks = [call(relate, params, *task, **options) for task in zip(classes, images, strict=True)]
        return torch.stack(tasks)[:, n_support:]

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """The same as :meth:`scores`, under the name that all learners share: the largest says the class.

        They are no logits of a softmax: the relations of a query do not compete and need not add up to 1.
        """
        return self.scores(params, episode)

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """Mean of ``(r_ij - 1{y_j = i})^2`` over all pairs of a class and a query, of all tasks: a scalar.

        The paper's eq. 2 is the sum; the mean makes the learning rate independent of the size of the episode.

        Raises ``ValueError``, on the CPU, for a query label out of range.
        """
        scores, labels = self.scores(params, episode), episode.query_y
        if labels.device.type == "cpu" and not (int(labels.min()) >= 0 and int(labels.max()) < episode.n_way):
            raise ValueError(
                f"query labels must lie in 0 .. {episode.n_way - 1}; got {int(labels.min())} .. {int(labels.max())}"
            )
        same = labels[..., None] == torch.arange(episode.n_way, device=labels.device)
        return F.mse_loss(scores, same.to(scores.dtype))
