"""Digits: the 1,797 real handwritten digits of 8x8 pixels that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from utils.data.images import ImageSet
from utils.data.mnist import group_by_label
from utils.data.packs import check_split

SPLITS = ("train", "test", "all")
_TEST_EVERY = 5


def digits(split: str) -> ImageSet:
    """Digits by class: uint8 ``[10, most of a digit, 1, 8, 8]``, ink = 255, in scikit-learn's order within a digit.

    The intensities 0..16 become 0..255, ``round(255 * v / 16)``. The digits have different numbers of images
    (``counts``, int64 ``[10]``); shorter ones are padded with zeros behind.

    Within each digit the images are put into a fixed pseudo-random order, in which every fifth one, beginning with the
    first, belongs to the test split (1,433 train, 364 test). Both splits hold images by the same 13 people.

    Parameters
    ----------
    split : "train", "test" or "all".

    Raises
    ------
    ValueError : no such split.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI repository (1998), its test part.
    """
    check_split("digits", split, SPLITS)
    from sklearn.datasets import load_digits  # takes a second; only who asks for these images shall wait

    data = load_digits()
    labels = data.target.astype(np.int64)
    # whole numbers, so that no rounding mode matters
    images = ((data.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    in_test = _in_test(labels)
    chosen = {"train": ~in_test, "test": in_test, "all": np.ones_like(in_test)}[split]
    grouped, counts = group_by_label(images[chosen], labels[chosen], 10)
    return ImageSet(
        torch.from_numpy(grouped)[:, :, None],
        tuple(str(digit) for digit in range(10)),
        ("digit",) * 10,
        "digits",
        split,
        torch.from_numpy(counts),
    )


def _in_test(labels: np.ndarray) -> np.ndarray:
    # raw bits, because numpy promises them for ever, but not what its shuffle makes of them
    order = np.random.PCG64(1998).random_raw(len(labels)).argsort(kind="stable")
    in_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        in_test[order[labels[order] == label][::_TEST_EVERY]] = True
    return in_test
