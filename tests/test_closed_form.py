"""R2-D2, LR-D2 and MetaOptNet: each against its formula image by image, and what holds for all of them."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import empty_support, noise_episode, parameters, unequal_shots, used_network, without_class
from torch import Tensor, nn
from torch.func import grad

from utils.backbones import MLP, STATISTICS
from utils.data.episodes import Episode
from utils.meta.lr_d2 import LRD2, LRD2Network
from utils.meta.metaoptnet import MetaOptNet, MetaOptNetwork, svm_logits
from utils.meta.r2d2 import R2D2, R2D2Network

LEARNERS = ("r2d2", "r2d2 with bias", "lr_d2", "lr_d2 with bias", "svm", "ridge")
N_WAY, K_SHOT, N_QUERY, N_TASKS = 3, 2, 2, 2


def learner(name: str, statistics: str = "running"):
    embedding, bias = used_network(), name.endswith("bias")
    if name.startswith("r2d2"):
        return R2D2(R2D2Network(embedding, 2.0, 3.0, 0.5, bias).double(), statistics)
    if name.startswith("lr_d2"):
        return LRD2(LRD2Network(embedding, 2.0, bias).double(), 4, statistics)
    return MetaOptNet(MetaOptNetwork(embedding, 3.0).double(), name, 0.02, 4.0, statistics)


@pytest.fixture(scope="module")
def episode() -> Episode:
    return noise_episode(N_WAY, K_SHOT, N_QUERY, N_TASKS)


@pytest.fixture(params=LEARNERS)
def name(request) -> str:
    return request.param


# ------------------------------------------------------------------------------------------------ the papers' formulas


def by_formula(name: str, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """The scores of one task, with normal equations d x d and a class at a time."""
    if name.endswith("bias"):
        support, query = (torch.cat([x, torch.ones_like(x[:, :1])], 1) for x in (support, query))
    identity = torch.eye(support.shape[1], dtype=support.dtype)
    scores = []
    for k in range(n_way):
        y = (labels == k).to(support.dtype)
        if name.startswith("lr_d2"):
            w = torch.zeros_like(support[0])
            for _ in range(4):
                mu = (support @ w).sigmoid()
                s = mu * (1 - mu)
                z = support @ w + (y - mu) / s
                w = torch.linalg.solve(support.T @ (s[:, None] * support) + 2.0 * identity, support.T @ (s * z))
            scores.append(query @ w)
        elif name == "ridge":
            scores.append(3.0 * query @ torch.linalg.solve(support.T @ support + 4.0 * identity, support.T @ y))
        else:
            w = torch.linalg.solve(support.T @ support + 2.0 * identity, support.T @ y)
            scores.append(3.0 * (query @ w) + 0.5)
    return torch.stack(scores, 1)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "svm"])
def test_loss_and_gradient_are_those_of_the_formula(name, episode):
    method = learner(name)
    embed = method.network.embedding
    scores = torch.stack(
        [
            by_formula(
                name,
                embed(episode.support_x[task], "running"),
                episode.support_y[task],
                embed(episode.query_x[task], "running"),
                N_WAY,
            )
            for task in range(N_TASKS)
        ]
    )
    torch.testing.assert_close(method.logits(None, episode), scores, rtol=1e-8, atol=1e-10)
    expected = -scores.log_softmax(-1).gather(-1, episode.query_y[..., None]).mean()
    loss = method.loss(None, episode)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    slopes = torch.autograd.grad(loss, list(embed.parameters()))
    wanted = torch.autograd.grad(expected, list(embed.parameters()))
    assert max(float(slope.abs().max()) for slope in wanted) > 1e-3
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-6, atol=1e-9)


def test_the_support_vector_machine_is_that_of_liblinear(episode):
    svm = pytest.importorskip("sklearn.svm")
    method = learner("svm")
    embed = method.network.embedding
    logits = method.logits(None, episode).detach()
    for task in range(N_TASKS):
        with torch.no_grad():
            support, query = (embed(x[task], "running") for x in (episode.support_x, episode.query_x))
        model = (
            svm.LinearSVC(
                multi_class="crammer_singer", fit_intercept=False, C=0.02, dual=True, tol=1e-10, max_iter=10**6
            )
            .set_params(random_state=0)
            .fit(support.numpy(), episode.support_y[task].numpy())
        )
        expected = 3.0 * torch.from_numpy(model.decision_function(query.numpy()))
        torch.testing.assert_close(logits[task], expected, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_the_svm_is_that_of_finite_differences(episode):
    method = learner("svm")
    params = parameters(method.network)
    slopes = grad(method.loss)(params, episode)
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in params.items()
    }
    h = 1e-6
    shifted = [method.loss({n: v + side * h * direction[n] for n, v in params.items()}, episode) for side in (1, -1)]
    slope = sum((slopes[n] * direction[n]).sum() for n in params)
    assert abs(float(slope)) > 1e-3
    torch.testing.assert_close(slope, (shifted[0] - shifted[1]) / (2 * h), rtol=1e-5, atol=1e-8)


def test_two_classes_are_one_logistic_regression():
    two = noise_episode(2, 3, 4, 2)
    method = learner("lr_d2")
    logits = method.logits(None, two)
    scores = logits[..., 1] - logits[..., 0]
    torch.testing.assert_close(logits[..., 0], -logits[..., 1])
    embed = method.network.embedding
    for task in range(2):
        support, query = (embed(x[task], "running") for x in (two.support_x, two.query_x))
        expected = by_formula("lr_d2", support, two.support_y[task], query, 2)
        torch.testing.assert_close(scores[task], expected[:, 1], rtol=1e-8, atol=1e-10)
    loss = F.binary_cross_entropy_with_logits(scores, two.query_y.double())
    torch.testing.assert_close(method.loss(None, two), loss)


def test_a_bias_is_a_feature_that_is_always_one(episode):
    plain, biased = (learner(name).logits(None, episode) for name in ("r2d2", "r2d2 with bias"))
    assert not torch.allclose(plain, biased)

    class Appended(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = used_network()

        def forward(self, x, statistics=None, n_support=None):
            x = self.body(x, statistics, n_support)
            return torch.cat([x, torch.ones_like(x[:, :1])], 1)

    appended = R2D2(R2D2Network(Appended(), 2.0, 3.0, 0.5).double(), "running")
    torch.testing.assert_close(appended.logits(None, episode), biased)


def test_more_newton_steps_are_another_classifier(episode):
    method = learner("lr_d2")
    scores = [replace(method, newton_steps=steps).logits(None, episode) for steps in (1, 2, 20, 21)]
    assert not torch.allclose(scores[0], scores[1]) and not torch.allclose(scores[1], scores[2])
    torch.testing.assert_close(scores[2], scores[3])


def test_classifiers_of_metaoptnet_differ_by_their_hyper_parameters(episode):
    svm, ridge = learner("svm"), learner("ridge")
    assert not torch.allclose(svm.logits(None, episode), ridge.logits(None, episode))
    assert not torch.allclose(replace(svm, C=0.001).logits(None, episode), svm.logits(None, episode))
    assert not torch.allclose(replace(ridge, regularisation=1.0).logits(None, episode), ridge.logits(None, episode))
    assert torch.equal(replace(svm, regularisation=1.0).logits(None, episode), svm.logits(None, episode))
    assert torch.equal(replace(ridge, C=1.0).logits(None, episode), ridge.logits(None, episode))


# ------------------------------------------------------------------------------------------------- the learned numbers


def slopes_of(method, episode: Episode) -> dict[str, float]:
    values = dict(method.network.named_parameters())
    slopes = torch.autograd.grad(method.loss(None, episode), list(values.values()))
    return {name: float(slope.abs().max()) for name, slope in zip(values, slopes, strict=True)}


def test_the_gradient_reaches_everything_that_is_learned(name, episode):
    found = slopes_of(learner(name), episode)
    own = {name: value for name, value in found.items() if not name.startswith("embedding.")}
    expected = {
        "r2d2": {"head.log_regularisation", "head.scale", "head.offset"},
        "lr_d2": {"head.log_regularisation"},
        "svm": {"scaled.scale"},
        "ridge": {"scaled.scale"},
    }[name.split()[0]]
    assert own.keys() == expected
    assert found["embedding.convs.0.weight"] > 1e-4 and found["embedding.norms.3.bias"] > 1e-4
    for name, value in own.items():
        if name == "head.offset":  # added to all classes, it changes nothing
            assert value < 1e-15
        else:
            assert value > 1e-4


def test_the_numbers_start_where_they_are_said_to():
    head = R2D2Network(used_network(), 2.0, 3.0, 0.5).head
    found = [value.item() for value in (head.log_regularisation.exp(), head.scale, head.offset)]
    assert found == pytest.approx([2.0, 3.0, 0.5])
    assert LRD2Network(used_network(), 5.0).head.log_regularisation.item() == pytest.approx(math.log(5.0))
    assert MetaOptNetwork(used_network()).scaled.scale.item() == 1.0
    assert MetaOptNet(MetaOptNetwork(used_network())).C == 0.1


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_penalties_and_scales_are_positive(wrong):
    embedding = used_network()
    for make in (R2D2Network, LRD2Network):
        with pytest.raises(ValueError, match=f"regularisation must be positive and finite; got {wrong}"):
            make(embedding, regularisation=wrong)
    for make in (R2D2Network, MetaOptNetwork):
        with pytest.raises(ValueError, match=f"scale must be positive and finite; got {wrong}"):
            make(embedding, scale=wrong)
    network = MetaOptNetwork(embedding)
    with pytest.raises(ValueError, match=f"C must be positive and finite; got {wrong}"):
        MetaOptNet(network, C=wrong)
    with pytest.raises(ValueError, match=f"regularisation must be positive and finite; got {wrong}"):
        MetaOptNet(network, "ridge", regularisation=wrong)


def test_other_choices_are_refused():
    with pytest.raises(ValueError, match=r"head must be one of \('svm', 'ridge'\); got 'SVM'"):
        MetaOptNet(MetaOptNetwork(used_network()), "SVM")
    for steps in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match=f"newton_steps must be a whole number of at least 1; got {steps}"):
            LRD2(LRD2Network(used_network()), steps)
    for method in (R2D2(R2D2Network(used_network())), LRD2(LRD2Network(used_network())), learner("svm")):
        with pytest.raises(ValueError, match="statistics must be one of"):
            replace(method, statistics="queries")
        with pytest.raises(FrozenInstanceError):
            method.statistics = "running"
        assert type(method)(method.network).statistics == "batch"


# --------------------------------------------------------------------------------------------------- what all must hold


def test_given_parameters_are_used_instead_of_the_networks_own(name, episode):
    for statistics in STATISTICS:
        method = learner(name, statistics)
        own, params = method.loss(None, episode), parameters(method.network)
        assert torch.equal(method.loss(params, episode), own)
        own_numbers = {key for key in params if not key.startswith("embedding.")} - {"head.offset"}
        for changed in ("embedding.norms.3.weight", "embedding.norms.3.bias", *own_numbers):
            other = params | {changed: 1.3 * params[changed] + 0.1}
            assert not torch.allclose(method.loss(other, episode), own), changed
        assert all(torch.equal(value, params[key]) for key, value in method.network.named_parameters())
    other = {key: 1.3 * value for key, value in params.items()}
    result = method.loss(other, episode)
    method.network.load_state_dict({**method.network.state_dict(), **other})
    torch.testing.assert_close(method.loss(None, episode), result)


def test_the_loss_can_be_differentiated_as_a_function_of_the_parameters(name, episode):
    method = learner(name)
    slopes = grad(method.loss)(parameters(method.network), episode)
    wanted = torch.autograd.grad(method.loss(None, episode), list(method.network.parameters()))
    for slope, other in zip(slopes.values(), wanted, strict=True):
        torch.testing.assert_close(slope, other)


def test_renaming_the_classes_renames_the_scores(name, episode):
    new = torch.tensor([2, 0, 1])
    renamed = replace(episode, support_y=new[episode.support_y], query_y=new[episode.query_y])
    method = learner(name)
    torch.testing.assert_close(method.logits(None, renamed)[..., new], method.logits(None, episode))
    torch.testing.assert_close(method.loss(None, renamed), method.loss(None, episode))
    two = noise_episode(2, 3, 4, 2)
    swapped = replace(two, support_y=1 - two.support_y, query_y=1 - two.query_y)
    torch.testing.assert_close(method.logits(None, swapped).flip(-1), method.logits(None, two))


@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_order_of_the_support_does_not_matter(name, statistics, episode):
    method = learner(name, statistics)
    order = torch.randperm(N_WAY * K_SHOT, generator=torch.Generator().manual_seed(0))
    shuffled = replace(episode, support_x=episode.support_x[:, order], support_y=episode.support_y[:, order])
    torch.testing.assert_close(method.logits(None, shuffled), method.logits(None, episode))


def one_by_one(method, episode: Episode) -> Tensor:
    """The scores of each query, seen alone with the support."""
    queries = range(episode.query_x.shape[1])
    alone = [
        replace(episode, query_x=episode.query_x[:, q : q + 1], query_y=episode.query_y[:, q : q + 1]) for q in queries
    ]
    return torch.cat([method.logits(None, one) for one in alone], dim=1)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_queries_can_come_one_by_one_unless_the_statistics_are_theirs(name, statistics, episode):
    method = learner(name, statistics)
    if statistics == "batch":
        difference = (one_by_one(method, episode) - method.logits(None, episode)).abs()
        assert (difference.amax(dim=(1, 2)) > 1e-4).all()
    else:
        torch.testing.assert_close(one_by_one(method, episode), method.logits(None, episode))


def test_query_labels_reach_the_loss_and_not_the_scores(name, episode):
    method = learner(name)
    lied = replace(episode, query_y=(episode.query_y + 1) % N_WAY)
    assert torch.equal(method.logits(None, lied), method.logits(None, episode))
    assert not torch.allclose(method.loss(None, lied), method.loss(None, episode))


def test_tasks_do_not_influence_each_other(name, episode):
    for statistics in STATISTICS:
        method = learner(name, statistics)
        together = method.logits(None, episode)
        losses = []
        for task in range(N_TASKS):
            torch.testing.assert_close(together[task], method.logits(None, episode.task(task))[0])
            losses.append(method.loss(None, episode.task(task)))
        torch.testing.assert_close(method.loss(None, episode), torch.stack(losses).mean())


def test_entries_of_a_bank_are_classified_as_their_images(name, episode):
    method = learner(name)
    support, query = method.embed(None, episode.support_x, episode.query_x)
    banked = replace(episode, support_x=support, query_x=query)
    torch.testing.assert_close(method.classify_embedded(banked), method.logits(None, episode))


def test_classes_may_have_different_numbers_of_shots(name, episode):
    method = learner(name)
    unequal = unequal_shots(episode)
    logits = method.logits(None, unequal)
    assert logits.shape == (N_TASKS, N_WAY * N_QUERY, N_WAY)
    assert not torch.allclose(logits, method.logits(None, episode))
    if name != "svm":
        embed = method.network.embedding
        for task in range(N_TASKS):
            support, query = (embed(x[task], "running") for x in (unequal.support_x, unequal.query_x))
            expected = by_formula(name, support, unequal.support_y[task], query, N_WAY)
            torch.testing.assert_close(logits[task], expected, rtol=1e-8, atol=1e-10)


def test_a_support_set_that_says_nothing_is_refused(name, episode):
    method = learner(name)
    with pytest.raises(ValueError, match="the support set is empty"):
        method.loss(None, empty_support(episode))
    with pytest.raises(ValueError, match="class 1 of task 0 has no support image"):
        method.loss(None, without_class(episode, 1))
    with pytest.raises(ValueError, match=r"expected support \[B, S, C, H, W\]"):
        method.embed(None, episode.support_x[0], episode.query_x[0])


def test_one_class_is_none_to_tell_apart():
    one = noise_episode(1, 3, 2, 2)
    for name in ("lr_d2", "svm"):
        with pytest.raises(ValueError, match=r"at least two classes.*got n_way=1"):
            learner(name).logits(None, one)


def test_embeddings_that_do_not_fit_are_refused():
    x, y = torch.rand(2, 6, 5), torch.arange(3).repeat(2).expand(2, -1)
    with pytest.raises(ValueError, match=r"expected support \[B, S, D\] and query \[B, Q, D\]; got"):
        svm_logits(x, y, torch.rand(2, 4, 6), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_network_decides_the_precision(name, dtype, episode):
    torch.manual_seed(0)
    method = learner(name)
    method.network.embedding = MLP(256, (8,))
    method.network.to(dtype)
    some = replace(episode, support_x=episode.support_x.to(dtype), query_x=episode.query_x.to(dtype))
    assert method.logits(None, some).dtype == method.loss(None, some).dtype == dtype


def test_float32_agrees_with_float64(name, episode):
    method = learner(name)
    expected = method.logits(None, episode)
    method.network.float()
    single = replace(episode, support_x=episode.support_x.float(), query_x=episode.query_x.float())
    torch.testing.assert_close(method.logits(None, single), expected.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_computes_the_same_loss(name, episode):
    method = learner(name)
    expected = method.loss(None, episode)
    method.network.cuda()
    there = replace(
        episode, **{key: getattr(episode, key).cuda() for key in ("support_x", "support_y", "query_x", "query_y")}
    )
    torch.testing.assert_close(method.loss(None, there).cpu(), expected)
