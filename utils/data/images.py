"""A set of images as one tensor: the form in which every data set of the course arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from utils.functional.gather import unit_range


def as_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], see :func:`unit_range`; what is float already stays as it is."""
    return unit_range(images) if images.dtype == torch.uint8 else images


@dataclass(frozen=True)
class ImageSet:
    """Images of one split, grouped by class, resident on one device.

    Parameters
    ----------
    images : uint8 tensor ``[class, image, channel, height, width]``, 0 = background, 255 = full ink or light.
    class_names : one name a class, unique.
    group_names : one name a class: the script of a character, the superclass of an object.
    name, split : which data, which part ("glyphs", "test").
    counts : int64 tensor ``[class]``, how many images each class really has; classes with fewer images than the
        tensor has room for are padded with zeros behind. Default: all of them.
    """

    images: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    name: str
    split: str
    counts: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 5:
            raise TypeError(
                f"images must be uint8 [class, image, channel, height, width]; "
                f"got {self.images.dtype} of shape {list(self.images.shape)}"
            )
        n_class, n_image = self.images.shape[:2]
        if len(self.class_names) != n_class or len(self.group_names) != n_class:
            raise ValueError(
                f"{n_class} classes need {n_class} class names and group names; "
                f"got {len(self.class_names)} and {len(self.group_names)}"
            )
        if len(set(self.class_names)) != n_class:
            raise ValueError("class names must be unique")
        counts = torch.full((n_class,), n_image) if self.counts is None else self.counts.to("cpu", torch.int64)
        if counts.shape != (n_class,) or (n_class and not (0 < int(counts.min()) <= int(counts.max()) <= n_image)):
            raise ValueError(f"counts must hold {n_class} numbers between 1 and {n_image}")
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "group_names", tuple(self.group_names))

    @property
    def n_classes(self) -> int:
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channel, height, width of one image."""
        return tuple(self.images.shape[2:])  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its images on ``device`` (``counts`` stay on the CPU, where episodes are drawn)."""
        return ImageSet(self.images.to(device), self.class_names, self.group_names, self.name, self.split, self.counts)

    def select(self, classes: Sequence[int], split: str | None = None) -> ImageSet:
        """Only these classes, in this order."""
        index = torch.as_tensor(list(classes), dtype=torch.int64)
        return ImageSet(
            self.images[index.to(self.device)],
            tuple(self.class_names[i] for i in index.tolist()),
            tuple(self.group_names[i] for i in index.tolist()),
            self.name,
            self.split if split is None else split,
            self.counts[index],
        )

    def flat(self) -> tuple[Tensor, Tensor]:
        """All images without their padding: uint8 ``[n, channel, height, width]`` and int64 labels ``[n]``."""
        real = torch.arange(self.images.shape[1]) < self.counts[:, None]
        labels = torch.arange(self.n_classes)[:, None].expand_as(real)[real]
        return self.images[real.to(self.device)], labels.to(self.device)

    def __repr__(self) -> str:  # a tensor of 25 MB is no help in a notebook
        channel, height, width = self.image_shape
        return (
            f"ImageSet({self.name}/{self.split}: {self.n_classes} classes of {len(set(self.group_names))} groups, "
            f"{int(self.counts.sum())} images {channel}x{height}x{width})"
        )
