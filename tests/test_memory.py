"""Memories of a fixed size: quotas, shrinking, and the reservoir as a fair sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from utils.continual.memory import as_bytes, first_of_each, mixed_batch, quota, reservoir
from utils.data.images import as_float
from utils.data.streams import Task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_reservoir(n: int, size: int, rng: torch.Generator) -> list[int]:
    """Vitter's algorithm R, an item at a time."""
    kept: list[int] = []
    for item in range(n):
        place = int(torch.rand(1, generator=rng, dtype=torch.float64) * (item + 1))
        if item < size:
            kept.append(item)
        elif place < size:
            kept[place] = item
    return kept


def filled(chunks: list[int], size: int, rng: torch.Generator) -> Tensor:
    kept, seen = torch.full((size,), -1), 0
    for n in chunks:
        places, items = reservoir(seen, n, size, rng)
        kept[places] = seen + items
        seen += n
    return kept[: min(size, seen)]


def small_task(pixels: Tensor | None = None) -> Task:
    images = torch.randint(0, 256, (6, 1, 2, 3), generator=generator(5)).to(torch.uint8)
    labels = torch.tensor([3, 3, 4, 4, 5, 5])
    return Task((0, 1, 2), images, labels, images, labels, 3, 5, pixels)


# ------------------------------------------------------------------------------------------------------- reservoir


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 30), st.integers(0, 100))
def test_the_reservoir_is_vitters_however_the_items_are_divided(chunks, size, seed):
    found = filled(chunks, size, generator(seed))
    assert found.tolist() == naive_reservoir(sum(chunks), size, generator(seed))


def test_every_item_is_kept_with_the_same_probability():
    n, size, runs, rng = 60, 12, 4000, generator(3)
    counts = torch.stack([filled([25, 35], size, rng).bincount(minlength=n) for _ in range(runs)]).sum(0)
    assert int(counts.sum()) == runs * size
    # Draws without replacement: the counts have (n - 1) / n of the variance that independent ones would have.
    expected, variance = runs * size / n, runs * size / n * (1 - size / n)
    chi2 = float(((counts - expected) ** 2 / variance).sum() * (n - 1) / n)
    assert stats.chi2.sf(chi2, n - 1) > 1e-3
    assert stats.chi2.cdf(chi2, n - 1) > 1e-3


def test_places_are_given_once():
    places, items = reservoir(10, 500, 7, generator())
    assert places.tolist() == sorted(set(places.tolist()))
    assert len(items) == len(places) and 0 <= int(items.min()) <= int(items.max()) < 500


def test_a_reservoir_needs_a_place():
    with pytest.raises(ValueError, match="at least one place"):
        reservoir(0, 3, 0, generator())


# --------------------------------------------------------------------------------------------------------- classes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 6))
def test_the_first_of_each_class_in_their_order(labels, n):
    expected, taken = [], dict.fromkeys(range(6), 0)
    for place, label in enumerate(labels):
        if taken[label] < n:
            expected.append(place)
        taken[label] += 1
    assert first_of_each(torch.tensor(labels, dtype=torch.int64), n).tolist() == expected


def test_shrinking_twice_is_shrinking_once():
    labels = torch.randint(0, 4, (50,), generator=generator())
    twice = first_of_each(labels, 7)
    twice = twice[first_of_each(labels[twice], 3)]
    assert twice.tolist() == first_of_each(labels, 3).tolist()


def test_the_quota_never_exceeds_the_memory():
    assert [quota(2000, n) for n in (20, 60, 100)] == [100, 33, 20]
    with pytest.raises(ValueError, match="a memory of 9 images cannot hold one of each of 10 classes"):
        quota(9, 10)


# ---------------------------------------------------------------------------------------------------------- images


def test_images_are_kept_as_the_network_sees_them():
    pixels = torch.randperm(6, generator=generator(1))
    task = small_task(pixels)
    stored = as_bytes(task, task.train_x)
    assert stored.dtype == torch.uint8 and not torch.equal(stored, task.train_x)
    torch.testing.assert_close(as_float(stored), task.seen(task.train_x), rtol=0, atol=0)


def test_a_mixed_batch_holds_each_image_alike():
    task = small_task()
    images, labels = torch.full((2, 1, 2, 3), 7, dtype=torch.uint8), torch.tensor([0, 1])
    x, y = mixed_batch(images, labels, task, torch.tensor([1, 2, 4]), 5000, generator(2))
    assert x.shape == (5000, 1, 2, 3) and x.dtype == torch.float32
    shares = y.bincount(minlength=6) / 5000
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0, 0.2, 0.2, 0.2]), rtol=0, atol=0.03)
    assert bool((x[y < 2] == as_float(images)[0, 0, 0, 0]).all())
    for row, label in ((1, 3), (2, 4), (4, 5)):
        assert bool((x[y == label] == task.seen(task.train_x[row : row + 1])).all())
