"""The references of labs, which import nothing of the course, agree with the course's own methods."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from utils.backbones import MLP
from utils.continual.bic import bias_correction
from utils.continual.ewc import consolidated, fisher_diagonal
from utils.continual.icarl import herding
from utils.continual.importance import quadratic_penalty
from utils.continual.learn import Batch
from utils.continual.mas import output_importance
from utils.continual.memory import reservoir
from utils.continual.replay import ExperienceReplay
from utils.data import load
from utils.data.images import as_float
from utils.data.streams import split_stream
from utils.fewshot.siamese import pair_loss
from utils.fewshot.triplet import batch_hard_loss
from utils.functional.distillation import distillation_loss, distillation_terms
from utils.functional.pairs import pairwise_weighted_l1
from utils.functional.prototypes import best_of_class
from utils.functional.solvers import conjugate_gradient, logistic_newton, ridge
from utils.grading.labs import read_lab
from utils.meta.maml import MAML
from utils.meta.r2d2 import RidgeHead
from utils.meta.reptile import Reptile

SOLUTIONS = Path(__file__).parents[2] / "solutions"


def reference(name):
    return read_lab(SOLUTIONS / name).reference


def network(n_inputs=5, hidden=7, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)).double().eval()


def test_importances_are_those_of_the_continual_package():
    net, lab = network(), reference("06_ewc_mas")
    params = tuple(value.detach() for value in net.parameters())
    x = torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(lab.outputs(params, x), net(x).detach())
    for mine, theirs in (
        (lab.fisher(params, x), fisher_diagonal(net, [(x,)], slice(0, 4))),
        (lab.mas_importance(params, x), output_importance(net, [(x,)])),
    ):
        torch.testing.assert_close(list(mine), list(theirs.values()))


def test_the_penalty_is_that_of_the_continual_package():
    lab, (theta, importance, anchor) = reference("06_ewc_mas"), torch.rand(3, 6, dtype=torch.float64)
    wanted = quadratic_penalty({"w": theta}, {"w": importance}, {"w": anchor}, 3.0)
    torch.testing.assert_close(lab.penalty(theta, (importance, anchor), 3.0), wanted)


def test_the_online_form_is_that_of_the_continual_package():
    lab, parts = reference("06_ewc_mas"), torch.rand(4, 6, dtype=torch.float64)
    importance, anchor, fisher, theta = ({"w": part} for part in parts)
    wanted = consolidated(importance, anchor, fisher, theta, online=True, decay=0.7)
    found = lab.consolidate((parts[0], parts[1]), parts[2], parts[3], 0.7)
    torch.testing.assert_close(list(found), [part["w"] for part in wanted])


def test_pairs_are_scored_and_weighed_as_in_the_chapter():
    lab, embeddings, labels = reference("02_siamese"), torch.randn(9, 5), torch.arange(9) % 4
    weight, bias = torch.randn(5), torch.tensor(0.5)
    found = lab.pair_scores(embeddings[:3], embeddings, weight, bias)
    torch.testing.assert_close(found, pairwise_weighted_l1(embeddings[:3], embeddings, weight) + bias)
    wanted = pair_loss(pairwise_weighted_l1(embeddings, embeddings, weight) + bias, labels)
    torch.testing.assert_close(lab.pair_loss(embeddings, labels, weight, bias), wanted)


def test_the_hardest_triplets_are_those_of_the_few_shot_package():
    lab, labels = reference("02_siamese"), torch.arange(10) % 3
    embeddings = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    losses = lab.hardest_triplets(embeddings, labels, 0.5), batch_hard_loss(embeddings, labels, 0.5)
    gradients = [torch.autograd.grad(loss, embeddings)[0] for loss in losses]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_the_best_match_is_that_of_the_few_shot_package():
    lab, (support, queries) = reference("02_siamese"), torch.randn(30, 6).split((10, 20))
    (w, b), (weight, bias) = (torch.randn(4, 6), torch.randn(4)), (torch.randn(4), torch.tensor(1.0))
    labels = torch.arange(10) % 3
    scores = pairwise_weighted_l1(torch.relu(queries @ w.T + b), torch.relu(support @ w.T + b), weight) + bias
    found = lab.one_shot(support, labels, queries, (w, b), (weight, bias))
    assert found.tolist() == best_of_class(scores[None], labels[None], 3)[0].argmax(-1).tolist()


def test_exemplars_are_those_of_the_continual_package():
    vectors = torch.randn(12, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(reference("07_lwf_bic").herding(vectors, 7), herding(vectors, 7))


def test_old_heads_are_held_as_in_the_functional_package():
    """But for the entropy of what was recorded, which does not depend on the network; no factor T^2 here."""
    lab, temperature, heads = reference("07_lwf_bic"), 2.0, ((0, 2), (2, 5))
    logits, old, labels = torch.randn(8, 7), torch.randn(8, 7), torch.zeros(8, dtype=torch.int64)
    recorded, wanted = old.clone(), 0.0
    for a, b in heads:
        recorded[:, a:b] = old[:, a:b].softmax(1)
        p = (old[:, a:b] / temperature).softmax(1)
        torch.testing.assert_close(lab.soften(recorded[:, a:b], temperature), p)
        divergence = distillation_loss(logits[:, a:b], old[:, a:b], labels, temperature, weight=1.0)
        wanted += divergence / temperature**2 - (p * p.log()).sum(1).mean()
    torch.testing.assert_close(lab.old_heads_loss(logits, recorded, heads, temperature), wanted)


def test_the_correction_is_that_of_the_continual_package():
    lab = reference("07_lwf_bic")
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(200) % 6
    logits = torch.randn(200, 6, generator=generator) + nn.functional.one_hot(labels, 6)
    logits[:, 4:] = 1.3 * logits[:, 4:] + 1
    wanted = bias_correction(logits, labels, 4, penalty=0)
    assert lab.bias_correction(logits, labels, 4).tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_corrected_loss_is_the_divergence_the_old_answers_entropy_and_the_labels():
    lab, temperature = reference("07_lwf_bic"), 2.0
    logits, old, labels = torch.randn(8, 6), torch.randn(8, 4), torch.arange(8) % 6
    hard, divergence = (part.mean() for part in distillation_terms(logits, old, labels, temperature))
    p = (old / temperature).softmax(1)
    distilling = divergence / temperature**2 - (p * p.log()).sum(1).mean()
    torch.testing.assert_close(lab.bic_loss(logits, labels, old, temperature), (4 * distilling + 2 * hard) / 6)


def test_replayed_answers_weigh_as_in_generative_replay():
    """T^2 times divergence and entropy, where classes that the old network did not know have no probability."""
    lab, temperature = reference("08_replay"), 2.0
    logits, old, labels = torch.randn(8, 6), torch.randn(8, 4), torch.arange(8) % 4
    known = nn.functional.pad(old, (0, 2), value=-torch.inf)
    divergence = distillation_terms(logits, known, labels, temperature)[1].mean()
    p = (old / temperature).softmax(1)
    entropy = -(temperature**2) * (p * p.log()).sum(1).mean()
    torch.testing.assert_close(lab.distilled_loss(logits, old, temperature), divergence + entropy)


def test_a_reservoir_is_that_of_the_continual_package():
    lab, memory = reference("08_replay"), torch.zeros(0, 1)
    theirs = torch.full((20,), -1.0)
    for seen, new in ((0, 13), (13, 60)):
        draws = torch.rand(new, generator=torch.Generator().manual_seed(seen), dtype=torch.float64)
        items = torch.arange(seen, seen + new, dtype=torch.float32)
        memory = lab.add(memory, items[:, None], seen, 20, draws)
        places, kept = reservoir(seen, new, 20, torch.Generator().manual_seed(seen))
        theirs[places] = items[kept]
    assert memory[:, 0].tolist() == theirs.tolist()


def test_the_loss_with_replay_is_that_of_the_continual_package():
    lab, t = reference("08_replay"), 4
    generator = torch.Generator().manual_seed(2)
    stream = split_stream(load("digits", "train"), load("digits", "test"), 5, "class", list(range(10)))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    memory = {"images": torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8), "labels": torch.arange(9) % 6, "seen": 0}
    x, y = stream.batch(t - 1, 0, 5)
    chosen = torch.randint(9, (5,), generator=torch.Generator().manual_seed(2))
    wanted = ExperienceReplay(9).loss(net, memory, Batch(stream, t - 1, x, y), generator)
    images = as_float(memory["images"][chosen])
    found = lab.replay_loss(net(x)[:, :8], y, net(images)[:, :8], memory["labels"][chosen], t)
    torch.testing.assert_close(found, wanted)


def test_a_reservoir_keeps_every_item_with_the_same_chance():
    """Over all outcomes of the draws, each as likely: size / n of them keep an item, whichever it is."""
    lab, size, n = reference("08_replay"), 2, 5
    kept = np.zeros(n)
    outcomes = list(product(*(range(t + 1) for t in range(n))))
    for parts in outcomes:
        draws = torch.tensor([(part + 0.5) / (t + 1) for t, part in enumerate(parts)], dtype=torch.float64)
        memory = lab.add(torch.zeros(0, 1), torch.arange(n, dtype=torch.float32)[:, None], 0, size, draws)
        kept[memory[:, 0].int().tolist()] += 1
    assert kept.tolist() == [len(outcomes) * size / n] * n


def test_a_replayed_batch_has_every_class_alike():
    lab, labels = reference("08_replay"), torch.tensor([3, 0, 3, 3, 0, 3, 3, 3])
    grid = [((i + 0.5) / 2, (j + 0.5) / 12) for i in range(2) for j in range(12)]
    chosen = lab.sample(labels, torch.tensor(grid)).bincount(minlength=8).tolist()
    assert chosen == [2, 6, 2, 2, 6, 2, 2, 2]


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.3), (4.0, 0.9)])
def test_a_teacher_is_heard_as_in_the_functional_package(temperature, share):
    lab, labels = reference("09_distillation"), torch.arange(8) % 6
    student, teacher = torch.randn(2, 8, 6, dtype=torch.float64)
    wanted = distillation_loss(student, teacher, labels, temperature, share)
    torch.testing.assert_close(lab.distillation_loss(student, teacher, labels, temperature, share), wanted)
    divergence = distillation_terms(student, teacher, labels, temperature)[1].mean()
    torch.testing.assert_close(lab.soft_loss(student, teacher, temperature), divergence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ridge_regression_is_that_of_the_meta_package(dtype):
    lab, head = reference("05_imaml_r2d2"), RidgeHead(3.0, 5.0, 0.5, bias=False).to(dtype)
    x, queries, labels = torch.randn(6, 20, dtype=dtype), torch.randn(4, 20, dtype=dtype), torch.arange(6) % 3
    targets = nn.functional.one_hot(labels, 3).to(dtype)
    for features in (x, x[:, :4]):
        wanted = ridge(features, targets, 0.7)
        torch.testing.assert_close(lab.ridge(features, targets, torch.tensor(0.7, dtype=dtype)), wanted)
    found = lab.adapted_logits(x, labels, queries, 3, head.log_regularisation, head.scale, head.offset)
    torch.testing.assert_close(found, head(x[None], labels[None], queries[None], 3)[0])


def test_newton_steps_are_those_of_the_functional_package():
    lab, labels = reference("05_imaml_r2d2"), torch.arange(6) % 2
    features, strength = torch.randn(6, 4, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    weights = torch.zeros(4, dtype=torch.float64)
    for steps in (1, 2, 3):
        weights = lab.newton_step(weights, features, labels, strength)
        wanted = logistic_newton(features, labels[:, None].double(), 0.4, steps)[:, 0]
        torch.testing.assert_close(weights, wanted)


def test_implicit_gradients_are_solved_as_in_the_functional_package():
    torch.manual_seed(0)
    lab, root = reference("05_imaml_r2d2"), torch.randn(6, 6, dtype=torch.float64)
    hessian, gradient = root @ root.T, torch.randn(6, dtype=torch.float64)
    system = torch.eye(6, dtype=torch.float64) + hessian / 0.8
    for steps in (1, 3, 5):
        wanted = conjugate_gradient(lambda v: v @ system, gradient[None], steps)[0]
        torch.testing.assert_close(lab.conjugate_gradient(system, gradient, steps), wanted)
        torch.testing.assert_close(lab.implicit_gradient(hessian, gradient, 0.8, steps), wanted)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_adapting_and_its_gradients_are_those_of_the_meta_package(steps):
    torch.manual_seed(0)
    lab, sizes, rate, net = reference("04_maml"), (3, 5, 4), 0.3, MLP(3, (5, 4), activate_last=False).double()
    theta = nn.utils.parameters_to_vector(net.parameters()).detach().requires_grad_()
    support_x, query_x = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    support_y, query_y = torch.randint(4, (2, 6)), torch.randint(4, (2, 7))
    tasks = SimpleNamespace(
        support_x=support_x, support_y=support_y, query_x=query_x, query_y=query_y, n_tasks=len(support_x)
    )
    given = (support_x, support_y, query_x, query_y, sizes, rate, steps)
    torch.testing.assert_close(lab.outputs(theta, query_x[0], sizes), net(query_x[0]))

    def gradient(loss):
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()))])

    maml = MAML(net, rate, steps)
    loss, wanted = lab.meta_loss(theta, *given), maml.loss(None, tasks)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, theta)[0], gradient(wanted))
    found = lab.first_order_gradient(theta.detach(), *given)
    torch.testing.assert_close(found, gradient(maml.loss(None, tasks, order=1)))
    reptile = Reptile(net, rate, steps, optimiser="sgd")
    found = lab.reptile_direction(theta.detach(), support_x, support_y, sizes, rate, steps)
    torch.testing.assert_close(found, gradient(reptile.loss(None, tasks)))
    phi = maml.adapt(None, support_x, support_y).params[-1]
    found = lab.adapt(theta, support_x[0], support_y[0], sizes, rate, steps)
    torch.testing.assert_close(found, torch.cat([part[0].flatten() for part in phi.values()]))
