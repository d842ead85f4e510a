"""Digits: the real images, all of them, each in one split, the same ones every time."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from utils.data.digits import digits


@pytest.fixture(scope="module")
def sets():
    return {split: digits(split) for split in ("train", "test", "all")}


def rows(data) -> list[bytes]:
    return [image.numpy().tobytes() for image in data.flat()[0]]


def test_every_split_has_ten_classes_of_8x8_images(sets):
    for split, data in sets.items():
        assert data.image_shape == (1, 8, 8)
        assert data.class_names == tuple("0123456789")
        assert data.group_names == ("digit",) * 10
        assert (data.name, data.split) == ("digits", split)


def test_number_of_images(sets):
    assert {split: int(data.counts.sum()) for split, data in sets.items()} == {"train": 1433, "test": 364, "all": 1797}
    assert torch.equal(sets["train"].counts + sets["test"].counts, sets["all"].counts)
    assert torch.equal(sets["all"].counts, torch.from_numpy(np.bincount(load_digits().target)))
    # stratified: a fifth of each digit
    assert torch.equal(sets["test"].counts, (sets["all"].counts + 4) // 5)


def test_images_are_those_of_scikit_learn(sets):
    data = load_digits()
    x, y = sets["all"].flat()
    order = np.argsort(data.target, kind="stable")
    assert np.array_equal(y.numpy(), data.target[order])
    exact = data.images[order] * 255 / 16
    assert np.abs(x[:, 0].numpy() - exact).max() <= 0.5
    assert x.min() == 0 and x.max() == 255


def test_padding_is_zero_and_behind(sets):
    for data in sets.values():
        assert data.images.shape[1] == int(data.counts.max())
        assert len(set(data.counts.tolist())) > 1
        for images, count in zip(data.images, data.counts.tolist(), strict=True):
            assert images[:count].flatten(1).any(1).all()
            assert not images[count:].any()


def test_each_image_is_in_one_split(sets):
    train, test, everything = (rows(sets[split]) for split in ("train", "test", "all"))
    assert sorted(train + test) == sorted(everything)
    assert not set(train) & set(test)


def test_splits_are_alike(sets):
    # one nearest neighbour by pixels: a split by accident of order (the people wrote in turn) would score lower
    (x, y), (queries, truth) = sets["train"].flat(), sets["test"].flat()
    distance = torch.cdist(queries.flatten(1).float(), x.flatten(1).float())
    assert (y[distance.argmin(1)] == truth).float().mean() > 0.97


def test_split_never_changes(sets):
    assert torch.equal(digits("test").images, sets["test"].images)
    assert (
        hashlib.sha256(sets["test"].images.numpy()).hexdigest()
        == "71a0b8b44024bce7d82a77e1a5b26049d355afd1cb24edf4b0645ea9e2625594"
    )


@pytest.mark.parametrize("split", ["val", "", None])
def test_wrong_split_says_which_there_are(split):
    with pytest.raises(ValueError, match="train, test, all"):
        digits(split)
