"""Batches of single images with their classes, for learners that do not see episodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.data.episodes import mix_seed
from utils.data.images import ImageSet, as_float


@dataclass(frozen=True)
class ImageBatches:
    """Every image of a set once an epoch, in an order that depends on ``seed`` and the epoch alone.

    Batch ``sample(i)`` depends on ``seed`` and ``i`` alone, so that runs can be resumed anywhere. With ``rotations``,
    every class turned by 90, 180 and 270 degrees is a class of its own, numbered as in
    :class:`utils.data.episodes.EpisodeSampler`. What does not fill a batch at an epoch's end is left out of that epoch.

    Raises ``ValueError`` for a batch size below 1 or above the number of images, and for rotations of images that
    are not square.
    """

    images: ImageSet
    batch_size: int
    rotations: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.n_images:
            raise ValueError(f"a batch can hold 1 to {self.n_images} images; got batch_size={self.batch_size}")
        height, width = self.images.image_shape[1:]
        if self.rotations and height != width:
            raise ValueError(f"rotation classes need square images; these are {height} x {width}")

    @property
    def n_classes(self) -> int:
        """Classes, rotated ones included."""
        return self.images.n_classes * (4 if self.rotations else 1)

    @property
    def n_images(self) -> int:
        """Images, rotated ones included."""
        return int(self.images.counts.sum()) * (4 if self.rotations else 1)

    @property
    def per_epoch(self) -> int:
        """Batches an epoch."""
        return self.n_images // self.batch_size

    def sample(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch number ``index``: float32 ``[batch_size, C, H, W]`` in [0, 1], int64 ``[batch_size]``."""
        epoch, place = divmod(index, self.per_epoch)
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        order = torch.randperm(self.n_images, generator=generator)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        counts = self.images.counts
        turns, unturned = chosen // int(counts.sum()), chosen % int(counts.sum())
        ends = counts.cumsum(0)
        classes = torch.searchsorted(ends, unturned, right=True)
        number = unturned - (ends - counts)[classes]
        device = self.images.images.device
        x = self.images.images[classes.to(device), number.to(device)]
        for turn in (1, 2, 3) if self.rotations else ():
            where = (turns == turn).nonzero()[:, 0].to(device)
            x[where] = torch.rot90(x[where], turn, (-2, -1))
        return as_float(x), (classes + turns * self.images.n_classes).to(device)
