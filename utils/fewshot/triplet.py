"""Triplet networks (Schroff et al. 2015, Hermans et al. 2017): one's own class nearer than any other, by a margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, check_statistics, embed_episode
from utils.functional import best_of_class, squared_distances

MINING = ("hard", "semi-hard", "all")
NO_TRIPLET = "there is no triplet: no image has another one of its class and one of another class beside it"


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, squared: bool = False) -> Tensor:
    """Mean over given triplets of ``[d(a, p) - d(a, n) + margin]_+``.

    ``d`` is the Euclidean distance (Hermans et al. 2017, eq. 4) or, with ``squared``, its square (Schroff et al. 2015,
    section 3.1). Parameters: floats ``[..., D]`` of the same shape and dtype. Returns a scalar.

    Raises ``ValueError`` for shapes that differ, for no triplets and for a negative margin, ``TypeError`` for dtypes.
    """
    _check_margin(margin)
    if not (anchor.shape == positive.shape == negative.shape and anchor.ndim and anchor.numel()):
        shapes = ", ".join(str(list(x.shape)) for x in (anchor, positive, negative))
        raise ValueError(f"expected anchors, positives and negatives of one shape [..., D], not empty; got {shapes}")
    if not anchor.is_floating_point() or not anchor.dtype == positive.dtype == negative.dtype:
        raise TypeError(f"expected one floating-point dtype; got {anchor.dtype}, {positive.dtype}, {negative.dtype}")
    near, far = ((anchor - other).square().sum(-1) for other in (positive, negative))
    if not squared:
        near, far = _root(near), _root(far)
    return F.relu(near - far + margin).mean()


def embedding_distances(embedding: Tensor, squared: bool = False) -> Tensor:
    """All Euclidean distances within a batch, ``[..., N, D]`` to ``[..., N, N]``, or with ``squared`` their squares.

    The root has an infinite slope at 0. Where two embeddings coincide, its gradient is taken as 0, the middle of all
    that the slope of a norm can be there. Distances that are nothing but rounding count as 0 too: their direction
    would be noise.
    """
    distances = squared_distances(embedding, embedding)
    with torch.no_grad():
        length = (embedding - embedding.mean(-2, keepdim=True)).square().sum(-1)
        eps = torch.finfo(embedding.dtype).eps * (4 + embedding.shape[-1] ** 0.5)
        rounding = distances <= eps * (length[..., :, None] + length[..., None, :])
    distances = distances.masked_fill(rounding, 0)
    return distances if squared else _root(distances)


def batch_hard_triplets(distances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each anchor the distance to the farthest of its class and to the nearest of another one.

    Parameters: ``distances`` ``[..., N, N]``, ``labels`` int64 ``[..., N]``, any numbers. Returns three ``[..., N]``:
    the hardest positive (never the anchor itself), the hardest negative, and bool: has the anchor both? Where it has
    no positive the first is ``-inf``, where it has no negative the second is ``inf``.

    Raises ``ValueError`` for shapes that do not fit.
    """
    same, other = _pairs(distances, labels)
    positive = torch.where(same, distances, -torch.inf).amax(-1)
    negative = torch.where(other, distances, torch.inf).amin(-1)
    return positive, negative, same.any(-1) & other.any(-1)


def batch_hard_loss(
    embedding: Tensor, labels: Tensor, margin: float, soft: bool = False, squared: bool = False
) -> Tensor:
    """Batch hard: each image against its farthest positive and its nearest negative (Hermans et al. 2017, eq. 5).

    mean_a [ max_p d(a, p) - min_n d(a, n) + margin ]_+, over the anchors of all tasks that have both.

    With ``soft`` the hinge is replaced by ``log(1 + exp(.))``, which needs no margin and ignores it (section 2,
    "soft-margin"). Parameters: ``embedding`` float ``[..., N, D]``, ``labels`` int64 ``[..., N]``; images of different
    tasks do not meet. Returns a scalar.

    If all embeddings coincide the loss is the margin and its gradient 0: a collapsed network stays so.

    Raises ``ValueError`` for shapes that do not fit, a negative margin and, on the CPU, where there is no triplet. On
    a GPU the labels are not looked at: without a triplet the loss is NaN.
    """
    _check_batch(embedding, labels, margin)
    near, far, valid = batch_hard_triplets(embedding_distances(embedding, squared), labels)
    # -inf where an anchor lacks one of the two; both functions make it 0, with gradient 0.
    difference = near - far
    loss = F.softplus(difference) if soft else F.relu(difference + margin)
    return loss.sum() / _some(valid)


def semi_hard_loss(embedding: Tensor, labels: Tensor, margin: float, squared: bool = False) -> Tensor:
    """Every pair of a class against the nearest negative behind the positive (Schroff et al. 2015, section 3.2).

    mean_{a, p} [ d(a, p) - d(a, n) + margin ]_+,  n = argmin { d(a, n) : d(a, n) > d(a, p) }.

    Where every negative is nearer than the positive, the paper says nothing; the farthest negative is taken, as usual.
    The paper has ``squared`` distances of embeddings of length 1. Parameters, returns, raises as
    :func:`batch_hard_loss`.
    """
    _check_batch(embedding, labels, margin)
    distances = embedding_distances(embedding, squared)
    same, other = _pairs(distances, labels)
    ordered = torch.where(other, distances, torch.inf).sort(-1).values
    farther = torch.searchsorted(ordered.detach(), distances.detach().contiguous(), right=True)
    last = other.sum(-1, keepdim=True) - 1
    negative = ordered.gather(-1, torch.minimum(farther, last).clamp_min(0))
    valid = same & other.any(-1, keepdim=True)
    loss = F.relu(distances - negative + margin)  # 0 where there is no negative: the distance is infinite
    return torch.where(valid, loss, 0).sum() / _some(valid)


def batch_all_loss(embedding: Tensor, labels: Tensor, margin: float, squared: bool = False) -> tuple[Tensor, Tensor]:
    """Batch all: every triplet, and how many of them still count (Hermans et al. 2017, eq. 6).

    Returns two scalars: the mean of ``[d(a, p) - d(a, n) + margin]_+`` over the triplets of all tasks where it is not 0
    (their "batch all, non-zero": as training goes on, a mean over all would be diluted by solved ones), or 0 if there
    are none; and the fraction of triplets that these are. Parameters, raises as :func:`batch_hard_loss`.

    Without a tensor of all triplets: with the negatives of an anchor in order of distance, those that count for a pair
    are the first ones, and their sum is a difference of prefix sums. O(N^2 log N) time, O(N^2) memory.
    """
    _check_batch(embedding, labels, margin)
    distances = embedding_distances(embedding, squared)
    same, other = _pairs(distances, labels)
    ordered = torch.where(other, distances, torch.inf).sort(-1).values
    reach = distances + margin
    active = torch.searchsorted(ordered.detach(), reach.detach().contiguous())  # negatives nearer than that
    finite = torch.where(ordered.isinf(), 0, ordered)
    sums = F.pad(finite.cumsum(-1), (1, 0)).gather(-1, active)
    active = active * same
    total = torch.where(same, active * reach - sums, 0).sum()
    n_triplets = _some(same.sum(-1) * other.sum(-1))
    n_active = active.sum()
    mean = total / n_active.clamp_min(1)
    return torch.where(n_triplets > 0, mean, torch.nan), n_active / n_triplets


def _root(squared: Tensor) -> Tensor:
    zero = squared == 0
    return torch.where(zero, 1, squared).sqrt().masked_fill(zero, 0)


def _pairs(distances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs are of the same class, without those of an image and itself, and which of different classes."""
    n = distances.shape[-1]
    if distances.ndim < 2 or distances.shape != (*labels.shape, n) or labels.shape[-1] != n:
        raise ValueError(
            f"expected distances [..., N, N] and labels [..., N]; got {list(distances.shape)} and {list(labels.shape)}"
        )
    same = labels[..., :, None] == labels[..., None, :]
    return same & ~torch.eye(n, dtype=torch.bool, device=labels.device), ~same


def _some(count: Tensor) -> Tensor:
    """The sum, which must not be 0."""
    total = count.sum()
    if count.device.type == "cpu" and not total:
        raise ValueError(NO_TRIPLET)
    return total


def _check_margin(margin: float) -> None:
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0; got {margin}")


def _check_batch(embedding: Tensor, labels: Tensor, margin: float) -> None:
    _check_margin(margin)
    if embedding.ndim < 2 or labels.shape != embedding.shape[:-1]:
        raise ValueError(
            f"expected embedding [..., N, D] and labels [..., N]; got {list(embedding.shape)} and {list(labels.shape)}"
        )
    if not labels.numel():
        raise ValueError(NO_TRIPLET)


@dataclass(frozen=True)
class Triplet:
    """A triplet network around an embedding ``network``.

    ``mining`` says which triplets of a task are learned from: ``"hard"``, ``"semi-hard"`` or ``"all"``. In a training
    as short as the lecture's, the last two learn more. ``soft`` (with ``"hard"`` alone) replaces the hinge and its
    ``margin``; ``squared`` squares the distances of the loss.
    ``normalise`` divides each embedding by its length, as FaceNet does. ``statistics`` says whose batch-norm statistics
    are used, as in all methods of this package.

    ``params`` of the methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: nn.Module
    margin: float = 0.5
    mining: str = "semi-hard"
    statistics: str = "batch"
    normalise: bool = False
    soft: bool = False
    squared: bool = False

    def __post_init__(self) -> None:
        _check_margin(self.margin)
        if self.mining not in MINING:
            raise ValueError(f"mining must be one of {MINING}; got {self.mining!r}")
        if self.soft and self.mining != "hard":
            raise ValueError(f'a soft margin needs mining="hard"; got {self.mining!r}')
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        support, query = embed_episode(self.network, params, support_x, query_x, self.statistics)
        return (F.normalize(support, dim=-1), F.normalize(query, dim=-1)) if self.normalise else (support, query)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """Minus the distance to the nearest support image of each class, ``[B, n_way * n_query, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        return self._nearest(support, query, episode)

    def classify_embedded(self, episode: Episode) -> Tensor:
        """The same of an episode whose entries are embeddings already."""
        support, query = episode.support_x, episode.query_x
        if self.normalise:
            support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
        return self._nearest(support, query, episode)

    @staticmethod
    def _nearest(support: Tensor, query: Tensor, episode: Episode) -> Tensor:
        return best_of_class(-_root(squared_distances(query, support)), episode.support_y, episode.n_way)

    def loss(self, params: Params, episode: Episode) -> Tensor:
        """The loss of the mined triplets, a scalar: all images of a task, support and queries, are its batch."""
        embedding = torch.cat(self.embed(params, episode.support_x, episode.query_x), dim=1)
        labels = torch.cat([episode.support_y, episode.query_y], dim=1)
        if self.mining == "hard":
            return batch_hard_loss(embedding, labels, self.margin, self.soft, self.squared)
        if self.mining == "semi-hard":
            return semi_hard_loss(embedding, labels, self.margin, self.squared)
        return batch_all_loss(embedding, labels, self.margin, self.squared)[0]
