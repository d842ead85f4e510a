"""Episodes: n-way k-shot tasks drawn from an image set by index arithmetic and one gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.data.images import ImageSet, as_float
from utils.functional.gather import gather_support_and_query, sent


@dataclass(frozen=True)
class Episode:
    """A batch of tasks of the same shape; every tensor carries a leading task axis ``B``.

    ``support_x`` float32 ``[B, n_way * k_shot, C, H, W]`` in [0, 1], ``support_y`` int64 ``[B, n_way * k_shot]``;
    ``query_x``, ``query_y`` likewise with ``n_query`` images a class. Images are ordered class by class, labels run
    from 0 to ``n_way - 1``. ``classes`` int64 ``[B, n_way]`` (CPU) says which class of the split each label is,
    ``instances`` int64 ``[B, n_way, k_shot + n_query]`` (CPU) which of its images were drawn, support first.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    n_way: int
    classes: Tensor
    instances: Tensor

    @property
    def n_tasks(self) -> int:
        return self.support_x.shape[0]

    def task(self, number: int) -> Episode:
        """Task ``number`` as an episode of its own, its task axis kept."""
        if not 0 <= number < self.n_tasks:
            raise ValueError(f"this episode has tasks 0 to {self.n_tasks - 1}; got {number}")
        one = slice(number, number + 1)
        return Episode(
            self.support_x[one], self.support_y[one], self.query_x[one], self.query_y[one], self.n_way,
            self.classes[one], self.instances[one],
        )  # fmt: skip


def mix_seed(seed: int, index: int) -> int:
    """Hash (seed, index) to 32 bits, all that the Mersenne twister's seed holds (splitmix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) & 0xFFFFFFFF


def _distinct(rows: int, n: int, n_of: int, generator: torch.Generator) -> Tensor:
    """``rows`` uniform draws of ``n`` distinct numbers below ``n_of``, in random order: int64 ``[rows, n]``."""
    if n * n > n_of:  # collisions are likely: rank random keys instead
        return torch.rand(rows, n_of, generator=generator).topk(n, dim=1).indices
    # Few out of many: draw with repetition and redraw whole rows that collide. Keeping a row only when it is free of
    # repetition leaves every ordered choice equally likely, and costs a tenth of ranking 4,112 keys.
    drawn = torch.randint(n_of, (rows, n), generator=generator)
    while True:
        ordered = drawn.sort(dim=1).values
        collide = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[:, 0]
        if not collide.numel():
            return drawn
        drawn[collide] = torch.randint(n_of, (len(collide), n), generator=generator)


def _gather(entries: Tensor, classes: Tensor, instances: Tensor) -> Tensor:
    """Entries ``[class, image, ...]`` at ``classes [B, n]`` and ``instances [B, n, m]``: ``[B, n, m, ...]``."""
    rows = classes[..., None] * entries.shape[1] + instances
    return entries.flatten(0, 1).index_select(0, sent(rows.flatten(), entries.device)).unflatten(0, rows.shape)


@dataclass(frozen=True)
class EpisodeSampler:
    """Draws batches of n-way k-shot episodes from ``images``, on the device where the images are.

    Episode ``sample(i)`` depends on ``seed`` and ``i`` alone, so that runs can be resumed anywhere, methods can be
    compared on the same episodes, and the same seed gives the same episodes on every machine.

    Parameters
    ----------
    n_way, k_shot, n_query : classes a task, support images a class, query images a class.
    batch_size : tasks a batch (``B`` of :class:`Episode`).
    rotations : also treat every class turned by 90, 180 and 270 degrees as a class of its own, as is usual with
        Omniglot (Santoro et al. 2016); class id ``c + r * n_classes`` is class ``c`` turned ``r`` times.

    Raises
    ------
    ValueError : where the split has too few classes or too few images a class; the message says what it holds.
    """

    images: ImageSet
    n_way: int
    k_shot: int
    n_query: int
    batch_size: int = 1
    rotations: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_way", "k_shot", "n_query", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0; got {self.seed!r}")
        where = f"{self.images.name}/{self.images.split}"
        if self.n_way > self.n_classes:
            turned = " (rotations counted)" if self.rotations else ""
            raise ValueError(
                f"{self.n_way}-way episodes need {self.n_way} classes; {where} has {self.n_classes}{turned}"
            )
        wanted, smallest = self.k_shot + self.n_query, int(self.images.counts.min())
        if wanted > smallest:
            raise ValueError(
                f"{self.k_shot} support and {self.n_query} query images need {wanted} images a class; "
                f"the smallest class of {where} has {smallest}"
            )
        height, width = self.images.image_shape[1:]
        if self.rotations and height != width:
            raise ValueError(f"rotation classes need square images; those of {where} are {height} x {width}")

    @property
    def n_classes(self) -> int:
        """Classes to draw from, rotated ones included."""
        return self.images.n_classes * (4 if self.rotations else 1)

    def indices(self, index: int) -> tuple[Tensor, Tensor]:
        """Class ids ``[B, n_way]`` and image indices ``[B, n_way, k_shot + n_query]`` of batch ``index`` (CPU)."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, index))
        classes = _distinct(self.batch_size, self.n_way, self.n_classes, generator)
        n_images = self.images.images.shape[1]
        keys = torch.rand(self.batch_size, self.n_way, n_images, generator=generator)
        counts = self.images.counts
        if int(counts.min()) < n_images:  # padding must never be drawn
            keys[torch.arange(n_images) >= counts[classes % self.images.n_classes][..., None]] = -1.0
        return classes, keys.topk(self.k_shot + self.n_query, dim=-1).indices

    def sample(self, index: int, bank: Tensor | None = None) -> Episode:
        """Batch number ``index`` of the seed's endless sequence.

        With ``bank``, float ``[n_classes, image, ...]`` (rotated classes behind the others), the episode holds its
        entries instead of images: embeddings that do not depend on the episode are computed once that way.
        """
        classes, instances = self.indices(index)
        images = self.images.images
        if bank is None:
            base, turns = classes[..., None], None
            if self.rotations:  # class c + r * n_classes is class c, its images turned r times
                base, turns = base % self.images.n_classes, base // self.images.n_classes
            rows = base * images.shape[1] + instances
            support, query = gather_support_and_query(images.flatten(0, 1), rows, self.k_shot, turns)
        elif bank.shape[:2] != (self.n_classes, images.shape[1]):
            raise ValueError(
                f"a bank for this sampler has {self.n_classes} classes of {images.shape[1]} entries; "
                f"got {list(bank.shape)}"
            )
        else:
            block = _gather(bank, classes, instances)
            support, query = block[:, :, : self.k_shot], block[:, :, self.k_shot :]
            support, query = as_float(support).flatten(1, 2), as_float(query).flatten(1, 2)
        labels = torch.arange(self.n_way, device=support.device)
        return Episode(
            support_x=support,
            support_y=labels.repeat_interleave(self.k_shot).expand(self.batch_size, -1),
            query_x=query,
            query_y=labels.repeat_interleave(self.n_query).expand(self.batch_size, -1),
            n_way=self.n_way,
            classes=classes,
            instances=instances,
        )

    def batches(self, n: int, start: int = 0, bank: Tensor | None = None) -> Iterator[Episode]:
        """Batches ``start`` to ``start + n - 1``."""
        return (self.sample(index, bank) for index in range(start, start + n))
