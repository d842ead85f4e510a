"""Siamese networks: the formula pair by pair, its symmetries, and the best match."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import (
    assert_same_loss_and_gradient,
    empty_support,
    noise_episode,
    parameters,
    unequal_shots,
    used_network,
    without_class,
)
from torch import Tensor
from torch.func import grad

from utils.backbones import STATISTICS
from utils.data.episodes import Episode
from utils.fewshot.siamese import PairHead, Siamese, SiameseNetwork, pair_loss


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode()


@pytest.fixture
def network() -> SiameseNetwork:
    network = SiameseNetwork(used_network()).double()
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([-1.0, 0.5, -2.0, -0.1, 0.0]))
        network.head.bias.fill_(1.5)
    return network.eval()


def paper(network: SiameseNetwork, episode: Episode, statistics: str) -> Tensor:
    """Koch et al. (2015), section 3.1 and the cross-entropy of 3.2, pair by pair, as many same as different pairs."""
    total = 0.0
    for task in range(episode.n_tasks):
        images = torch.cat([episode.support_x[task], episode.query_x[task]])
        labels = torch.cat([episode.support_y[task], episode.query_y[task]]).tolist()
        embedding = network.embedding(images, statistics, len(episode.support_x[task]))
        same, different = [], []
        for i in range(len(labels)):
            for j in range(i):
                score = network.head.bias
                for d in range(embedding.shape[1]):
                    score = score + network.head.weight[d] * abs(embedding[i, d] - embedding[j, d])
                p = 1 / (1 + torch.exp(-score))
                if labels[i] == labels[j]:
                    same.append(-torch.log(p))
                else:
                    different.append(-torch.log(1 - p))
        total = total + sum(same) / len(same) / 2 + sum(different) / len(different) / 2
    return total / episode.n_tasks


@pytest.mark.parametrize("statistics", STATISTICS)
def test_loss_and_gradient_are_those_of_the_paper(network, episode, statistics):
    loss = Siamese(network, statistics).loss(None, episode)
    assert loss.shape == () and loss.dtype == torch.float64
    assert_same_loss_and_gradient(loss, paper(network, episode, statistics), network)


def test_a_pair_scores_the_same_both_ways_and_an_image_with_itself_scores_the_bias(network, episode):
    learner = Siamese(network, "running")
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    scores = learner.scores(None, query, support)
    assert torch.equal(scores, learner.scores(None, support, query).mT)
    with_itself = learner.scores(None, support, support).diagonal(dim1=-2, dim2=-1)
    assert torch.equal(with_itself, torch.full_like(with_itself, 1.5))


def test_the_head_starts_as_a_distance_that_can_say_yes():
    head = PairHead(16)
    points = torch.rand(1, 4, 16)
    scores = head(points, points)
    assert torch.sigmoid(scores.diagonal(dim1=-2, dim2=-1)).allclose(torch.tensor(1 / (1 + math.exp(-4.0))))
    assert (scores <= 4).all() and (head.weight == -0.25).all()
    torch.testing.assert_close(scores, 4 - torch.cdist(points, points, p=1) / 4)


def test_loss_of_four_images_by_hand():
    """Labels 0 0 1 1: the pairs (0, 1) and (2, 3) are the same, four are different."""
    scores = torch.zeros(4, 4)
    scores[0, 1], scores[2, 3] = 2.0, -1.0
    same = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    labels = torch.tensor([0, 0, 1, 1])
    assert float(pair_loss(scores, labels)) == pytest.approx((same + math.log(2)) / 2, rel=1e-6)
    # Nothing below the diagonal or on it counts: each pair once, no image with itself.
    scores[1, 0], scores[2, 2] = 50.0, -50.0
    assert float(pair_loss(scores, labels)) == pytest.approx((same + math.log(2)) / 2, rel=1e-6)


def test_loss_is_the_mean_of_pairs_drawn_half_and_half():
    """What the paper draws at random is what the package averages."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(3)
    scores = torch.randn(12, 12, generator=generator)
    i, j = torch.triu_indices(12, 12, 1)
    same = labels[i] == labels[j]
    drawn = []
    for kind in (same, ~same):
        which = kind.nonzero()[:, 0]
        pick = which[torch.randint(len(which), (40_000,), generator=generator)]
        drawn.append(F.binary_cross_entropy_with_logits(scores[i[pick], j[pick]], same[pick].float()))
    assert float(pair_loss(scores, labels)) == pytest.approx(float(sum(drawn) / 2), abs=0.01)


def test_prediction_is_the_class_of_the_best_match(network, episode):
    episode = unequal_shots(episode)
    learner = Siamese(network, "running")
    logits = learner.logits(None, episode)
    assert logits.shape == (2, 6, 3)
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    for task in range(2):
        for q in range(6):
            scores = [learner.scores(None, query[task, q][None, None], s[None, None]).item() for s in support[task]]
            best = max(range(5), key=scores.__getitem__)
            assert int(logits[task, q].argmax()) == int(episode.support_y[task, best])
    embedded = Episode(support, episode.support_y, query, episode.query_y, 3, episode.classes, episode.instances)
    torch.testing.assert_close(learner.classify_embedded(embedded), logits)


@pytest.mark.parametrize("statistics", ["support", "running"])
def test_a_prediction_does_not_depend_on_other_queries(network, episode, statistics):
    learner = Siamese(network, statistics)
    together = learner.logits(None, episode)
    singly = [learner.logits(None, replace(episode, query_x=x[:, None])) for x in episode.query_x.unbind(1)]
    torch.testing.assert_close(torch.cat(singly, 1), together)


def test_given_parameters_are_used_instead_of_the_networks_own(network, episode):
    learner = Siamese(network, "running")
    params = parameters(network)
    assert torch.equal(learner.loss(params, episode), learner.loss(None, episode))
    for name in ("head.weight", "head.bias", "embedding.convs.0.weight"):
        other = params | {name: params[name] + 0.3}
        assert not torch.allclose(learner.loss(other, episode), learner.loss(None, episode))
        assert not torch.allclose(learner.logits(other, episode), learner.logits(None, episode))
    slopes = grad(learner.loss)(params, episode)
    wanted = torch.autograd.grad(learner.loss(None, episode), list(network.parameters()))
    for slope, expected in zip(slopes.values(), wanted, strict=True):
        torch.testing.assert_close(slope, expected)


def test_one_class_has_no_different_pairs_and_one_shot_is_enough():
    network = SiameseNetwork(used_network()).double()
    learner = Siamese(network, "running")
    alone = noise_episode(n_way=1, k_shot=1)
    assert torch.isfinite(learner.loss(None, alone)) and learner.logits(None, alone).shape == (2, 2, 1)
    one_shot = noise_episode(k_shot=1)
    assert learner.logits(None, one_shot).shape == (2, 6, 3)


def test_what_does_not_fit_is_refused(network, episode):
    learner = Siamese(network, "running")
    with pytest.raises(ValueError, match="the support set is empty"):
        learner.logits(None, empty_support(episode))
    with pytest.raises(ValueError, match="class 1 of task 0 has no support image"):
        learner.logits(None, without_class(episode, 1))
    with pytest.raises(ValueError, match="statistics must be one of"):
        Siamese(network, "test")
    with pytest.raises(ValueError, match=r"expected scores \[..., N, N\]"):
        pair_loss(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="type"):  # float32 images, float64 weights: PyTorch says which
        learner.logits(None, noise_float(episode))


def noise_float(episode: Episode) -> Episode:
    return replace(episode, support_x=episode.support_x.float(), query_x=episode.query_x.float())
