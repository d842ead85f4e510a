"""Triplet networks: every loss against loops over its triplets, points worked out by hand, and the known traps."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode
from torch import Tensor, nn
from torch.func import grad

from utils.backbones import MLP, STATISTICS, Conv4
from utils.data.episodes import Episode
from utils.fewshot.triplet import (
    MINING,
    Triplet,
    batch_all_loss,
    batch_hard_loss,
    batch_hard_triplets,
    embedding_distances,
    semi_hard_loss,
    triplet_loss,
)

N_TASKS, N_WAY, K_SHOT, N_QUERY = 3, 4, 2, 3


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def labels_of(n_tasks: int, size: int, n_way: int = 4, seed: int = 0) -> Tensor:
    """Unequal shots, in random order; some label may stand alone."""
    return torch.randint(n_way, (n_tasks, size), generator=torch.Generator().manual_seed(seed)) * 7 - 3


@pytest.fixture(scope="module")
def episode() -> Episode:
    """Noise with a common part a class, in float64."""
    return noise_episode(N_WAY, K_SHOT, N_QUERY, N_TASKS)


@pytest.fixture
def network() -> Conv4:
    torch.manual_seed(0)
    network = Conv4(1, 5, 16).double()
    for _ in range(20):  # running statistics as after some training
        network(torch.rand(10, 1, 16, 16, dtype=torch.float64))
    return network.eval()


# ---------------------------------------------------------------------------------------- the definitions, in loops


def distance(a: Tensor, b: Tensor, squared: bool) -> Tensor:
    square = ((a - b) ** 2).sum()
    return square if squared else torch.sqrt(square)


def table(x: Tensor, squared: bool) -> list[list[Tensor]]:
    """Distances within one task; of an image to itself there is none."""
    n = range(len(x))
    return [[distance(x[i], x[j], squared) if i != j else None for j in n] for i in n]


def sets(labels: Tensor, anchor: int) -> tuple[list[int], list[int]]:
    """Positives and negatives of an anchor."""
    others = [i for i in range(len(labels)) if i != anchor]
    same = [i for i in others if labels[i] == labels[anchor]]
    return same, [i for i in others if labels[i] != labels[anchor]]


def number(x: Tensor) -> float:
    return x.detach().item()


def hinge(x: Tensor) -> Tensor:
    return x if number(x) > 0 else 0 * x


def naive_hard(x: Tensor, y: Tensor, margin: float, soft: bool, squared: bool) -> Tensor:
    terms = []
    for points, labels in zip(x, y, strict=True):
        d = table(points, squared)
        for a in range(len(points)):
            same, other = sets(labels, a)
            if same and other:
                near, far = max((d[a][p] for p in same), key=number), min((d[a][n] for n in other), key=number)
                terms.append(torch.log(1 + torch.exp(near - far)) if soft else hinge(near - far + margin))
    return sum(terms) / len(terms)


def naive_semi_hard(x: Tensor, y: Tensor, margin: float, squared: bool) -> Tensor:
    terms = []
    for points, labels in zip(x, y, strict=True):
        d = table(points, squared)
        for a in range(len(points)):
            same, other = sets(labels, a)
            for p in same if other else []:
                behind = [d[a][n] for n in other if d[a][n] > d[a][p]]
                far = min(behind, key=number) if behind else max((d[a][n] for n in other), key=number)
                terms.append(hinge(d[a][p] - far + margin))
    return sum(terms) / len(terms)


def naive_all(x: Tensor, y: Tensor, margin: float, squared: bool) -> tuple[Tensor, float]:
    values = []
    for points, labels in zip(x, y, strict=True):
        d = table(points, squared)
        for a in range(len(points)):
            same, other = sets(labels, a)
            values += [d[a][p] - d[a][n] + margin for p in same for n in other]
    active = [value for value in values if value > 0]
    return sum(active) / len(active), len(active) / len(values)


def compare(loss: Tensor, expected: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    slope, wanted = (torch.autograd.grad(value, x)[0] for value in (loss, expected))
    assert float(wanted.abs().max()) > 1e-3
    torch.testing.assert_close(slope, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("soft", [False, True])
def test_batch_hard_is_that_of_a_loop(margin, soft, squared):
    x, y = normal(3, 11, 4).requires_grad_(), labels_of(3, 11)
    compare(batch_hard_loss(x, y, margin, soft, squared), naive_hard(x, y, margin, soft, squared), x)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize("spread", [1.0, 2.0])  # positives among the negatives, and in front of most
def test_semi_hard_is_that_of_a_loop(margin, spread, squared):
    y = labels_of(3, 11)
    x = (normal(3, 11, 4) + (spread - 1) * normal(30, 4, seed=1)[y + 3]).requires_grad_()
    compare(semi_hard_loss(x, y, margin, squared), naive_semi_hard(x, y, margin, squared), x)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.4, 3.0])
def test_batch_all_is_that_of_a_loop(margin, squared):
    x, y = normal(3, 11, 4).requires_grad_(), labels_of(3, 11)
    (loss, fraction), (expected, share) = batch_all_loss(x, y, margin, squared), naive_all(x, y, margin, squared)
    compare(loss, expected, x)
    assert fraction.shape == () and float(fraction) == pytest.approx(share) and 0 < share < 1 + (margin > 2)


@pytest.mark.parametrize("squared", [False, True])
def test_given_triplets_are_those_of_a_loop(squared):
    points = [normal(5, 3, 4, seed=s).requires_grad_() for s in range(3)]
    loss = triplet_loss(*points, 0.5, squared)
    terms = [
        hinge(distance(a, p, squared) - distance(a, n, squared) + 0.5)
        for a, p, n in zip(*(x.flatten(0, 1) for x in points), strict=True)
    ]
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(loss, expected)
    for slope, wanted in zip(torch.autograd.grad(loss, points), torch.autograd.grad(expected, points), strict=True):
        torch.testing.assert_close(slope, wanted)
    if not squared:  # PyTorch's own adds 1e-6 to every difference
        other = nn.TripletMarginLoss(margin=0.5)(*(x.flatten(0, 1) for x in points))
        torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ by hand


def test_the_loss_is_zero_if_and_only_if_the_negative_is_behind_the_margin():
    """On a line: anchor at 0, positive at 1, negative at d: 0 from d = 1 + m on."""
    anchor, positive = torch.zeros(1, 1), torch.ones(1, 1)
    for far, expected in ((0.5, 0.75), (1.0, 0.25), (1.125, 0.125), (1.25, 0.0), (1.5, 0.0)):
        assert float(triplet_loss(anchor, positive, torch.tensor([[far]]), 0.25)) == expected
        squared = float(triplet_loss(anchor, positive, torch.tensor([[far]]), 0.25, squared=True))
        assert squared == max(0.0, 1 - far**2 + 0.25)


def test_batch_hard_on_four_points():
    """Two classes on a line, at 0 and 3, and at 4 and 10.

    anchor      0    3    4   10
    positive    3    3    6    6
    negative    4    1    1    7
    margin 2    1    4    7    1   mean 13 / 4
    """
    x, y = torch.tensor([[0.0], [3.0], [4.0], [10.0]]), torch.tensor([5, 5, 9, 9])
    positive, negative, valid = batch_hard_triplets((x - x.T).abs(), y)
    assert positive.tolist() == [3, 3, 6, 6] and negative.tolist() == [4, 1, 1, 7] and valid.all()
    assert float(batch_hard_loss(x, y, 2.0)) == pytest.approx(13 / 4)
    assert float(batch_hard_loss(x, y, 0.0)) == pytest.approx((0 + 2 + 5 + 0) / 4)
    softplus = [math.log(1 + math.exp(d)) for d in (-1, 2, 5, -1)]
    assert float(batch_hard_loss(x, y, 2.0, soft=True)) == pytest.approx(sum(softplus) / 4)
    # all eight triplets, margin 2: 0-3 against 4, 10; 3-0 against 4, 10; 4-10 against 0, 3; 10-4 against 0, 3
    loss, fraction = batch_all_loss(x, y, 2.0)
    values = [3 - 4 + 2, 3 - 10 + 2, 3 - 1 + 2, 3 - 7 + 2, 6 - 4 + 2, 6 - 1 + 2, 6 - 10 + 2, 6 - 7 + 2]
    active = [value for value in values if value > 0]
    assert float(fraction) == len(active) / 8 and float(loss) == pytest.approx(sum(active) / len(active))
    # the nearest negative behind the positive: 4, 7, none (so the farther, 4), 7
    assert float(semi_hard_loss(x, y, 2.0)) == pytest.approx((1 + 0 + 4 + 1) / 4)


def test_a_negative_beside_the_positive_is_not_behind_it():
    """From 0: positive at 2, negatives at -2 and 5; -2 is as far as the positive, so 5 is the one."""
    x, y = torch.tensor([[0.0], [2.0], [-2.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    # anchor 0: 2 - 5; anchor 2: 2 - 3; anchor -2: 7 and none behind, so 4; anchor 5: 7 and none behind, so 5
    assert number(semi_hard_loss(x, y, 3.5)) == pytest.approx((0.5 + 2.5 + 6.5 + 5.5) / 4)


def test_solved_triplets_cost_nothing():
    """Classes far apart: no loss, no gradient, no active triplet, and no division by their number."""
    x = torch.tensor([[0.0, 0], [0, 1], [50, 0], [50, 1]], requires_grad=True)
    y = torch.tensor([0, 0, 1, 1])
    for loss in (batch_hard_loss(x, y, 1.0), semi_hard_loss(x, y, 1.0), batch_all_loss(x, y, 1.0)[0]):
        (slope,) = torch.autograd.grad(loss, x)
        assert number(loss) == 0 and not slope.any()
    assert float(batch_all_loss(x, y, 1.0)[1]) == 0


# ------------------------------------------------------------------------------------------------------- the traps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("d", [1, 64, 1600])
def test_collapsed_embeddings_give_the_margin_and_a_finite_gradient(d, squared, dtype):
    """The root has an infinite slope at 0: a plain one makes every gradient NaN here."""
    x = normal(1, 1, d, dtype=dtype).expand(2, 60, d).clone().requires_grad_()
    y = torch.arange(60).expand(2, -1) % 20
    for loss in (
        batch_hard_loss(x, y, 0.25, squared=squared),
        semi_hard_loss(x, y, 0.25, squared),
        batch_all_loss(x, y, 0.25, squared)[0],
        triplet_loss(x[:, :5], x[:, 5:10], x[:, 10:15], 0.25, squared),
    ):
        (slope,) = torch.autograd.grad(loss, x)
        assert number(loss) == 0.25 and not slope.any()
    assert number(batch_hard_loss(x, y, 0.25, soft=True)) == pytest.approx(math.log(2))
    assert number(batch_all_loss(x, y, 0.25, squared)[1]) == 1
    plain = (x[:, :5] - x[:, 5:10]).square().sum(-1).sqrt()
    assert torch.autograd.grad(plain.sum(), x)[0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_two_coinciding_images_do_not_disturb_the_rest(dtype):
    """Rounding leaves their distance at 1e-4 in float32 or so, with a direction that means nothing."""
    x = normal(9, 64, dtype=dtype) + 3
    x[4] = x[1]
    x.requires_grad_()
    y = torch.tensor([0, 1, 2] * 3)
    distances = embedding_distances(x)
    assert number(distances[1, 4]) == 0 == number(distances[4, 1]) and not distances.diagonal().any()
    torch.testing.assert_close(distances, torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"))
    (slope,) = torch.autograd.grad(distances[1, 4] + distances[4, 1], x, retain_graph=True)
    assert not slope.any()
    for loss in (batch_hard_loss(x, y, 9.0), semi_hard_loss(x, y, 9.0), batch_all_loss(x, y, 9.0)[0]):
        (slope,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert slope.isfinite().all() and float(slope.norm(dim=-1).max()) < 3  # a distance has slope 1


@pytest.mark.parametrize("squared", [False, True])
def test_gradients_of_distances(squared):
    x = normal(2, 5, 3).requires_grad_()
    rows, columns = (~torch.eye(5, dtype=torch.bool)).nonzero().T
    assert torch.autograd.gradcheck(lambda x: embedding_distances(x, squared)[:, rows, columns], (x,))
    naive = torch.stack([torch.stack([torch.stack([distance(a, b, True) for b in t]) for a in t]) for t in x])
    torch.testing.assert_close(embedding_distances(x, True), naive)


def test_a_label_that_stands_alone_is_a_negative_and_no_anchor():
    x, y = normal(6, 3), torch.tensor([0, 0, 1, 1, 1, 2])
    positive, negative, valid = batch_hard_triplets(embedding_distances(x), y)
    assert valid.tolist() == [True] * 5 + [False]
    assert positive[5] == -torch.inf and negative.isfinite().all()
    torch.testing.assert_close(batch_hard_loss(x, y, 0.5), naive_hard(x[None], y[None], 0.5, False, False))
    near = x.clone()
    near[5] = near[0] + 1e-3  # it does count as a negative
    assert batch_hard_triplets(embedding_distances(near), y)[1][0] < 0.01


def test_an_anchor_is_not_its_own_positive():
    """All of a class at one place but for one image: the positives of that one are far, those of the rest too."""
    x = torch.tensor([[0.0], [0], [5], [20], [21]])
    positive, _, _ = batch_hard_triplets(embedding_distances(x), torch.tensor([0, 0, 0, 1, 1]))
    torch.testing.assert_close(positive, torch.tensor([5.0, 5, 5, 1, 1]))
    pair = batch_hard_triplets(embedding_distances(x[[0, 3]]), torch.tensor([0, 1]))
    assert pair[0].tolist() == [-torch.inf] * 2 and not pair[2].any()


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [4], []])
@pytest.mark.parametrize("loss", [batch_hard_loss, semi_hard_loss, batch_all_loss])
def test_one_class_one_image_a_class_or_none_is_an_error(loss, labels):
    x, y = normal(len(labels), 3), torch.tensor(labels, dtype=torch.int64)
    with pytest.raises(ValueError, match="there is no triplet: no image has another one of its class"):
        loss(x, y, 0.5)


def test_a_task_without_triplets_leaves_the_mean_to_the_others():
    x, y = normal(2, 5, 3), torch.tensor([[0, 0, 1, 1, 1], [2, 2, 2, 2, 2]])
    for loss in (batch_hard_loss, semi_hard_loss, lambda *a: torch.stack(batch_all_loss(*a))):
        torch.testing.assert_close(loss(x, y, 0.5), loss(x[:1], y[:1], 0.5))


def test_nan_is_not_hidden():
    x, y = normal(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    x[2, 1] = torch.nan
    assert batch_hard_loss(x, y, 0.5).isnan() and triplet_loss(x[:2], x[2:4], x[4:], 0.5).isnan()


def test_images_of_different_tasks_do_not_meet():
    x, y = normal(2, 8, 3), labels_of(2, 8, 2)
    one = [batch_hard_triplets(embedding_distances(x[t]), y[t]) for t in range(2)]
    for k, together in enumerate(batch_hard_triplets(embedding_distances(x), y)):
        torch.testing.assert_close(together, torch.stack([one[0][k], one[1][k]]))


@pytest.mark.parametrize("loss", [batch_hard_loss, semi_hard_loss, lambda *a: batch_all_loss(*a)[0]])
def test_order_and_names_of_the_classes_do_not_matter(loss):
    x, y = normal(9, 3), labels_of(1, 9, 3)[0]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(x[order], y[order], 0.5), loss(x, y, 0.5))
    torch.testing.assert_close(loss(x, 1000 - y, 0.5), loss(x, y, 0.5))
    torch.testing.assert_close(loss(x + 100, y, 0.5), loss(x, y, 0.5))


# ------------------------------------------------------------------------------------------------------ what is refused


def test_shapes_and_margins_that_do_not_fit():
    x, y = normal(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    for loss in (batch_hard_loss, semi_hard_loss, batch_all_loss):
        with pytest.raises(ValueError, match=r"expected embedding \[\.\.\., N, D\] and labels.*got \[6, 3\] and \[5\]"):
            loss(x, y[:5], 0.5)
        with pytest.raises(ValueError, match=r"got \[3\] and \[\]"):
            loss(x[0], torch.tensor(1), 0.5)
        for wrong in (-0.1, math.nan):
            with pytest.raises(ValueError, match=f"margin must be at least 0; got {wrong}"):
                loss(x, y, wrong)
        with pytest.raises(TypeError, match=r"floating-point vectors; got torch\.int64"):
            loss(x.long(), y, 0.5)
    with pytest.raises(ValueError, match=r"expected distances \[\.\.\., N, N\] and labels \[\.\.\., N\]"):
        batch_hard_triplets(normal(6, 5), y)
    with pytest.raises(ValueError, match=r"of one shape \[\.\.\., D\], not empty; got \[6, 3\], \[6, 3\], \[5, 3\]"):
        triplet_loss(x, x, x[:5], 0.5)
    with pytest.raises(ValueError, match="not empty"):
        triplet_loss(x[:0], x[:0], x[:0], 0.5)
    with pytest.raises(ValueError, match="margin must be at least 0"):
        triplet_loss(x, x, x, -1.0)
    with pytest.raises(
        TypeError, match=r"one floating-point dtype; got torch\.float64, torch\.float32, torch\.float64"
    ):
        triplet_loss(x, x.float(), x, 0.5)


# ----------------------------------------------------------------------------------------------------- the learner


def losses(mining: str, x: Tensor, y: Tensor, margin: float) -> Tensor:
    if mining == "all":
        return naive_all(x, y, margin, False)[0]
    return naive_hard(x, y, margin, False, False) if mining == "hard" else naive_semi_hard(x, y, margin, False)


def embeddings(network: nn.Module, episode: Episode, statistics: str) -> Tensor:
    """Support and queries of each task, from the definition of each kind of statistics."""
    tasks = []
    for support, query in zip(episode.support_x, episode.query_x, strict=True):
        tasks.append(network(torch.cat([support, query]), statistics, len(support)))
    return torch.stack(tasks)


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("mining", MINING)
def test_the_batch_is_all_images_of_a_task(network, episode, mining, statistics):
    learner = Triplet(network, 0.7, mining, statistics)
    loss = learner.loss(None, episode)
    y = torch.cat([episode.support_y, episode.query_y], dim=1)
    expected = losses(mining, embeddings(network, episode, statistics), y, 0.7)
    assert loss.shape == () and loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    wanted = torch.autograd.grad(expected, list(network.parameters()))
    assert max(float(slope.abs().max()) for slope in wanted) > 1e-3
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("normalise", [False, True])
def test_scores_are_minus_the_distance_to_the_nearest_of_a_class(network, episode, normalise):
    learner = Triplet(network, statistics="running", normalise=normalise)
    scores = learner.logits(None, episode)
    assert scores.shape == (N_TASKS, N_WAY * N_QUERY, N_WAY)
    x = embeddings(network, episode, "running")
    if normalise:
        x = x / x.norm(dim=-1, keepdim=True)
    support, query = x[:, : N_WAY * K_SHOT], x[:, N_WAY * K_SHOT :]
    for task in range(N_TASKS):
        for q in range(N_WAY * N_QUERY):
            for k in range(N_WAY):
                members = support[task][episode.support_y[task] == k]
                near = min((query[task, q] - member).norm() for member in members)
                torch.testing.assert_close(scores[task, q, k], -near)
    banked = replace(episode, support_x=support, query_x=query)
    torch.testing.assert_close(learner.classify_embedded(banked), scores)


def test_embeddings_are_divided_by_their_length_if_wanted(network, episode):
    for image in Triplet(network, normalise=True).embed(None, episode.support_x, episode.query_x):
        torch.testing.assert_close(image.norm(dim=-1), torch.ones(image.shape[:2], dtype=torch.float64))
    plain = Triplet(network).embed(None, episode.support_x, episode.query_x)
    unit = Triplet(network, normalise=True).embed(None, episode.support_x, episode.query_x)
    torch.testing.assert_close(F.normalize(plain[1], dim=-1), unit[1])


def test_options_reach_the_loss(network, episode):
    x = embeddings(network, episode, "batch")
    y = torch.cat([episode.support_y, episode.query_y], dim=1)
    torch.testing.assert_close(
        Triplet(network, mining="hard", soft=True).loss(None, episode), naive_hard(x, y, 0, True, False)
    )
    squared = Triplet(network, 0.3, "hard", squared=True).loss(None, episode)
    torch.testing.assert_close(squared, naive_hard(x, y, 0.3, False, True))
    squared = Triplet(network, 0.3, "semi-hard", squared=True, normalise=True).loss(None, episode)
    torch.testing.assert_close(squared, naive_semi_hard(x / x.norm(dim=-1, keepdim=True), y, 0.3, True))


def test_unequal_shots_and_one_shot(network, episode):
    support = torch.tensor([0, 1, 2, 4, 6])  # two of class 0, one of each of the others
    some = replace(episode, support_x=episode.support_x[:, support], support_y=episode.support_y[:, support])
    for mining in MINING:
        learner = Triplet(network, mining=mining, statistics="running")
        assert learner.loss(None, some).isfinite()
        whole = learner.logits(None, episode)
        assert (learner.logits(None, some) <= whole + 1e-12).all()  # fewer images are never nearer


def test_a_query_that_is_in_the_support_is_certain(network, episode):
    again = replace(episode, query_x=episode.support_x, query_y=episode.support_y)
    scores = Triplet(network, statistics="running").logits(None, again)
    assert torch.equal(scores.argmax(-1), episode.support_y)
    assert number(scores.amax(-1).abs().max()) < 1e-6


@pytest.mark.parametrize("mining", MINING)
def test_given_parameters_are_used_instead_of_the_networks_own(network, episode, mining):
    learner = Triplet(network, mining=mining)
    params = {name: value.detach().clone() for name, value in network.named_parameters()}
    own = learner.loss(None, episode)
    assert torch.equal(learner.loss(params, episode), own)
    other = {name: 1.3 * value for name, value in params.items()}
    assert not torch.allclose(learner.loss(other, episode), own)
    assert not torch.allclose(learner.logits(other, episode), learner.logits(None, episode))
    slopes = grad(Triplet(network, mining=mining, statistics="running").loss)(params, episode)
    loss = Triplet(network, mining=mining, statistics="running").loss(None, episode)
    for slope, wanted in zip(slopes.values(), torch.autograd.grad(loss, list(network.parameters())), strict=True):
        torch.testing.assert_close(slope, wanted)


def test_query_labels_reach_the_loss_and_not_the_scores(network, episode):
    learner = Triplet(network, statistics="running")
    lied = replace(episode, query_y=(episode.query_y + 1) % N_WAY)
    assert torch.equal(learner.logits(None, lied), learner.logits(None, episode))
    assert not torch.allclose(learner.loss(None, lied), learner.loss(None, episode))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_network_decides_the_precision(episode, dtype):
    torch.manual_seed(0)
    learner = Triplet(MLP(256, (8,)).to(dtype), mining="all")
    some = replace(episode, support_x=episode.support_x.to(dtype), query_x=episode.query_x.to(dtype))
    assert learner.logits(None, some).dtype == learner.loss(None, some).dtype == dtype


def test_learners_that_make_no_sense_are_refused(network, episode):
    with pytest.raises(ValueError, match=r"mining must be one of \('hard', 'semi-hard', 'all'\); got 'easy'"):
        Triplet(network, mining="easy")
    with pytest.raises(ValueError, match="margin must be at least 0; got -1"):
        Triplet(network, -1)
    with pytest.raises(ValueError, match="a soft margin needs mining=\"hard\"; got 'all'"):
        Triplet(network, mining="all", soft=True)
    with pytest.raises(ValueError, match="statistics must be one of"):
        Triplet(network, statistics="query")
    with pytest.raises(FrozenInstanceError):
        Triplet(network).margin = 1.0
    empty = replace(episode, support_x=episode.support_x[:, :0], support_y=episode.support_y[:, :0])
    for call in (Triplet(network).logits, Triplet(network).loss):
        with pytest.raises(ValueError, match="the support set is empty"):
            call(None, empty)
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 3; got 1 \.\. 4"):
        Triplet(network).logits(None, replace(episode, support_y=episode.support_y + 1))
    one = replace(episode, support_y=0 * episode.support_y, query_y=0 * episode.query_y)
    with pytest.raises(ValueError, match="there is no triplet"):
        Triplet(network).loss(None, one)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("mining", MINING)
def test_a_gpu_computes_the_same_loss(network, episode, mining):
    expected = Triplet(network, mining=mining).loss(None, episode)
    scores = Triplet(network, mining=mining).logits(None, episode)
    there = replace(
        episode, **{name: getattr(episode, name).cuda() for name in ("support_x", "support_y", "query_x", "query_y")}
    )
    learner = Triplet(network.cuda(), mining=mining)
    torch.testing.assert_close(learner.loss(None, there).cpu(), expected)
    torch.testing.assert_close(learner.logits(None, there).cpu(), scores)
    alone = torch.zeros(1, 4, dtype=torch.int64, device="cuda")
    x = torch.rand(1, 4, 3, device="cuda")
    assert batch_hard_loss(x, alone, 0.5).isnan() and semi_hard_loss(x, alone, 0.5).isnan()
    assert batch_all_loss(x, alone, 0.5)[0].isnan()
