"""Nearest neighbour on pixels: what scikit-learn finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from utils.data import load
from utils.data.episodes import EpisodeSampler
from utils.fewshot.baselines import nearest_neighbour, pixel_nearest_neighbour
from utils.training import episode_accuracies


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_labels_are_those_of_scikit_learn(metric):
    support, query = vectors(6, 15, 8), vectors(6, 40, 8, seed=1)
    labels = torch.stack([torch.randperm(15, generator=torch.Generator().manual_seed(t)) % 5 for t in range(6)])
    found = nearest_neighbour(support, labels, query, metric)
    assert found.shape == (6, 40) and found.dtype == torch.int64
    for task in range(6):
        model = KNeighborsClassifier(1, metric=metric, algorithm="brute").fit(support[task].numpy(), labels[task])
        assert np.array_equal(found[task].numpy(), model.predict(query[task].numpy()))


def test_the_two_metrics_differ():
    support, query = torch.tensor([[[10.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.9]]])
    labels = torch.tensor([[7, 3]])
    assert nearest_neighbour(support, labels, query, "cosine").item() == 7
    assert nearest_neighbour(support, labels, query, "euclidean").item() == 3


def test_another_metric_is_refused():
    with pytest.raises(ValueError, match='metric must be "cosine" or "euclidean"; got \'manhattan\''):
        nearest_neighbour(vectors(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), vectors(1, 2, 3), "manhattan")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_pixels_of_real_digits_as_scikit_learn(metric):
    sampler = EpisodeSampler(load("digits", "test"), 5, 3, 10, batch_size=4)
    episode = sampler.sample(0)
    found = pixel_nearest_neighbour(episode, metric)
    for task in range(4):
        model = KNeighborsClassifier(1, metric=metric, algorithm="brute")
        model.fit(episode.support_x[task].flatten(1).numpy(), episode.support_y[task].numpy())
        assert (found[task].numpy() == model.predict(episode.query_x[task].flatten(1).numpy())).mean() > 0.99
    assert 0.6 < float((found == episode.query_y).double().mean()) < 1


def test_a_query_that_is_in_the_support_is_found():
    episode = EpisodeSampler(load("digits", "test"), 10, 3, 1).sample(0)
    pixels = episode.support_x.flatten(2)
    assert torch.equal(nearest_neighbour(pixels, episode.support_y, pixels), episode.support_y)


def test_glyphs_are_as_hard_as_omniglot_for_pixels():
    """Omniglot: 48 / 72 % (5-way 1-shot, 5-shot); the embedded set was made so that it is about as hard."""
    images = load("glyphs", "test")
    for k_shot, low, high in ((1, 0.38, 0.60), (5, 0.60, 0.84)):
        sampler = EpisodeSampler(images, 5, k_shot, 5, batch_size=50)
        assert low < float(episode_accuracies(pixel_nearest_neighbour, sampler, 200).mean()) < high
