"""Matching networks: attention and full context embeddings step by step, the cap of plain cosines, unequal shots."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from comparison_fixtures import (
    assert_same_loss_and_gradient,
    empty_support,
    noise_episode,
    parameters,
    unequal_shots,
    used_network,
    without_class,
)
from torch import Tensor, nn
from torch.func import grad

from utils.backbones import STATISTICS
from utils.data.episodes import Episode
from utils.fewshot.matching import (
    FullContext,
    Matching,
    MatchingNetwork,
    attention_log_probabilities,
    largest_probability,
)


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode()


def made(scale: float = 3.0, learned: bool = True, context_steps: int = 0) -> MatchingNetwork:
    torch.manual_seed(1)
    return MatchingNetwork(used_network(), scale, learned, context_steps).double().eval()


def lstm(cell: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step, gate by gate (input, forget, cell, output)."""
    gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def contextual(context: FullContext, support: Tensor, query: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Vinyals et al. (2016), appendix A.1 and A.2, of one task."""
    n, zero = len(support), torch.zeros_like(support[0])
    states = {}
    for name, cell, order in (
        ("forward", context.forwards, range(n)),
        ("backward", context.backwards, reversed(range(n))),
    ):
        h, c = zero, zero
        for i in order:
            h, c = lstm(cell, support[i], h, c)
            states[name, i] = h
    g = [states["forward", i] + states["backward", i] + support[i] for i in range(n)]
    f = []
    for x in query:
        h, c = x, zero
        for _ in range(context.steps):
            weights = torch.softmax(torch.stack([h @ gi for gi in g]), 0)
            r = sum(w * gi for w, gi in zip(weights, g, strict=True))
            # LSTM(f', [h, r], c): the weights on r lie with those on f'
            out, c = lstm(context.read, torch.cat([x, r]), h, c)
            h = out + x
        f.append(h)
    return g, f


def paper(network: MatchingNetwork, episode: Episode, statistics: str) -> Tensor:
    """Equation 1 with the softmax over cosines, image by image, and the loss of equation 2."""
    total, n = 0.0, 0
    for task in range(episode.n_tasks):
        s = len(episode.support_x[task])
        images = torch.cat([episode.support_x[task], episode.query_x[task]])
        embedding = network.embedding(images, statistics, s)
        g, f = embedding[:s], embedding[s:]
        if network.context is not None:
            g, f = contextual(network.context, g, f)
        for q, x in enumerate(f):
            weights = [torch.exp(network.scale.log_scale.exp() * (x @ y) / (x.norm() * y.norm())) for y in g]
            right = [w for w, y in zip(weights, episode.support_y[task], strict=True) if y == episode.query_y[task, q]]
            total = total - torch.log(sum(right) / sum(weights))
            n += 1
    return total / n


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("context_steps", [0, 1, 3])
def test_loss_and_gradient_are_those_of_the_paper(episode, statistics, context_steps):
    network = made(context_steps=context_steps)
    learner = Matching(network, statistics)
    for given in (episode, unequal_shots(episode)):
        loss = learner.loss(None, given)
        assert loss.shape == () and loss.dtype == torch.float64
        assert_same_loss_and_gradient(loss, paper(network, given, statistics), network)


def test_the_weights_of_the_support_sum_to_one(episode):
    learner = Matching(made(), "running")
    probabilities = learner.logits(None, unequal_shots(episode)).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    assert probabilities.min() > 0


def test_the_weights_of_a_class_are_summed_not_averaged():
    """Three images of class 0 and one of class 1, all equally similar: 3/4 and 1/4."""
    log_p = attention_log_probabilities(torch.zeros(1, 1, 4), torch.tensor([[0, 0, 1, 0]]), 2)
    torch.testing.assert_close(log_p.exp(), torch.tensor([[[0.75, 0.25]]]))


def test_a_probability_near_zero_keeps_its_logarithm():
    similarity = torch.tensor([[[500.0, -500.0]]])
    log_p = attention_log_probabilities(similarity, torch.tensor([[0, 1]]), 2)
    torch.testing.assert_close(log_p, torch.tensor([[[0.0, -1000.0]]]))


@pytest.mark.parametrize(("n_way", "cap", "loss"), [(5, 0.6488, 0.4327), (20, 0.2800, 1.2729)])
def test_plain_cosines_cannot_be_sure(n_way, cap, loss):
    """The best that there is: a query in its class's direction, all other classes opposite."""
    assert largest_probability(n_way) == pytest.approx(cap, abs=5e-5)
    assert -math.log(largest_probability(n_way)) == pytest.approx(loss, abs=5e-5)
    similarity = torch.full((1, 1, n_way), -1.0)
    similarity[..., 0] = 1
    best = attention_log_probabilities(similarity, torch.arange(n_way)[None], n_way).exp()[0, 0, 0]
    assert float(best) == pytest.approx(cap, abs=5e-5)
    generator = torch.Generator().manual_seed(0)
    cosines = 2 * torch.rand(1, 5000, n_way, generator=generator) - 1
    assert float(attention_log_probabilities(cosines, torch.arange(n_way)[None], n_way).max()) <= -loss + 1e-3
    assert largest_probability(n_way, scale=10) > 0.9999


def test_only_a_learned_scale_is_trained(episode):
    fixed, learned = made(learned=False), made(learned=True)
    for network, moves in ((fixed, False), (learned, True)):
        assert network.scale.log_scale.requires_grad is moves
        assert network.scale.log_scale.exp().item() == pytest.approx(3)
        learner = Matching(network, "running")
        learner.loss(None, episode).backward()
        assert (network.scale.log_scale.grad is not None) is moves
    with pytest.raises(ValueError, match="a scale must be positive; got 0"):
        MatchingNetwork(used_network(), 0)


def test_support_order_matters_to_full_context_alone(episode):
    flipped = replace(episode, support_x=episode.support_x.flip(1), support_y=episode.support_y.flip(1))
    for steps, same in ((0, True), (2, False)):
        learner = Matching(made(context_steps=steps), "running")
        assert torch.allclose(learner.logits(None, episode), learner.logits(None, flipped)) is same


@pytest.mark.parametrize("statistics", ["support", "running"])
@pytest.mark.parametrize("context_steps", [0, 2])
def test_a_prediction_does_not_depend_on_other_queries(episode, statistics, context_steps):
    learner = Matching(made(context_steps=context_steps), statistics)
    together = learner.logits(None, episode)
    singly = [learner.logits(None, replace(episode, query_x=x[:, None])) for x in episode.query_x.unbind(1)]
    torch.testing.assert_close(torch.cat(singly, 1), together)


def test_given_parameters_are_used_instead_of_the_networks_own(episode):
    network = made(context_steps=2)
    learner = Matching(network, "running")
    params = parameters(network)
    assert torch.equal(learner.loss(params, episode), learner.loss(None, episode))
    for name in ("scale.log_scale", "context.read.weight_hh", "context.backwards.bias_ih", "embedding.convs.3.weight"):
        other = params | {name: params[name] + 0.3}
        assert not torch.allclose(learner.loss(other, episode), learner.loss(None, episode))
    slopes = grad(learner.loss)(params, episode)
    wanted = torch.autograd.grad(learner.loss(None, episode), list(network.parameters()))
    for slope, expected in zip(slopes.values(), wanted, strict=True):
        torch.testing.assert_close(slope, expected)


def test_an_episode_of_embeddings_is_classified_alike(episode):
    for steps in (0, 2):
        learner = Matching(made(context_steps=steps), "running")
        support, query = learner.embed(None, episode.support_x, episode.query_x)
        embedded = replace(episode, support_x=support, query_x=query)
        torch.testing.assert_close(learner.classify_embedded(embedded), learner.logits(None, episode))


def test_one_class_and_one_shot():
    learner = Matching(made(), "running")
    assert torch.equal(learner.logits(None, noise_episode(n_way=1, k_shot=1)), torch.zeros(2, 2, 1).double())
    assert learner.logits(None, noise_episode(k_shot=1)).shape == (2, 6, 3)


def test_what_does_not_fit_is_refused(episode):
    learner = Matching(made(), "running")
    with pytest.raises(ValueError, match="the support set is empty"):
        learner.logits(None, empty_support(episode))
    with pytest.raises(ValueError, match="the support set is empty"):
        attention_log_probabilities(torch.zeros(1, 2, 0), torch.zeros(1, 0, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="class 1 of task 0 has no support image"):
        learner.logits(None, without_class(episode, 1))
    with pytest.raises(ValueError, match="expected similarities"):
        attention_log_probabilities(torch.zeros(1, 2, 3), torch.zeros(1, 4, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="statistics must be one of"):
        Matching(made(), "test")
    with pytest.raises(ValueError, match="read at least once"):
        FullContext(4, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_are_kept(dtype):
    similarity = torch.linspace(-1, 1, 6).reshape(1, 2, 3)
    labels = torch.tensor([[0, 1, 0]])
    result = attention_log_probabilities(similarity.to(dtype), labels, 2)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), attention_log_probabilities(similarity, labels, 2), rtol=2e-2, atol=2e-2)
