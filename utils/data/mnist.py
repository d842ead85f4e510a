"""MNIST: 70,000 handwritten digits of 28x28 pixels (LeCun et al., 1998)."""

from __future__ import annotations

import numpy as np
import torch

from utils.data.images import ImageSet
from utils.data.packs import check_split, read_pack

SPLITS = ("train", "test")


def mnist(split: str, download: bool = False) -> ImageSet:
    """MNIST by digit: uint8 ``[10, most of a digit, 1, 28, 28]``, ink = 255, in the original order within a digit.

    The digits have different numbers of images (``counts``, int64 ``[10]``); shorter ones are padded with zeros.

    Parameters
    ----------
    split : "train" (60,000 images) or "test" (10,000).
    download : fetch the set (12 MB) if it is missing.

    Raises
    ------
    ValueError : no such split. DataError : the data is missing or damaged.
    """
    check_split("mnist", split, SPLITS)
    arrays = read_pack("mnist", download)
    images, counts = group_by_label(arrays[f"{split}_images"], arrays[f"{split}_labels"], 10)
    return ImageSet(
        torch.from_numpy(images)[:, :, None],
        tuple(str(digit) for digit in range(10)),
        ("digit",) * 10,
        "mnist",
        split,
        torch.from_numpy(counts),
    )


def group_by_label(images: np.ndarray, labels: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[n, ...]`` and labels ``[n]`` -> zero-padded ``[class, most, ...]`` and int64 counts ``[class]``."""
    counts = np.bincount(labels, minlength=n_classes).astype(np.int64)
    grouped = np.zeros((n_classes, int(counts.max()), *images.shape[1:]), images.dtype)
    for label in range(n_classes):
        grouped[label, : counts[label]] = images[labels == label]
    return grouped, counts
