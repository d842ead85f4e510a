"""The references of labs, which import nothing of the course, agree with the course's own methods."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils.continual.bic import bias_correction
from utils.continual.ewc import consolidated, fisher_diagonal
from utils.continual.learn import Batch
from utils.continual.mas import output_importance
from utils.continual.memory import reservoir
from utils.continual.replay import ExperienceReplay
from utils.data import load
from utils.data.images import as_float
from utils.data.streams import split_stream
from utils.functional.distillation import distillation_loss, distillation_terms
from utils.functional.pairs import pairwise_weighted_l1
from utils.functional.solvers import conjugate_gradient, logistic_newton, ridge
from utils.grading.labs import read_lab
from utils.meta.r2d2 import RidgeHead

SOLUTIONS = Path(__file__).parents[2] / "solutions"


def reference(name):
    return read_lab(SOLUTIONS / name).reference


def network(n_inputs=5, hidden=7, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)).double().eval()


def test_importances_are_those_of_the_continual_package():
    net, lab = network(), reference("06_ewc_mas")
    params = tuple(value.detach() for value in net.parameters())
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 4
    torch.testing.assert_close(lab.outputs(params, x), net(x).detach())
    for mine, theirs in (
        (lab.fisher(params, x), fisher_diagonal(net, [(x,)], slice(0, 4))),
        (lab.empirical_fisher(params, x, y), fisher_diagonal(net, [(x, y)], slice(0, 4), "empirical")),
        (lab.mas_importance(params, x), output_importance(net, [(x,)])),
    ):
        torch.testing.assert_close(list(mine), list(theirs.values()))


def test_the_online_form_is_that_of_the_continual_package():
    lab, parts = reference("06_ewc_mas"), torch.rand(4, 6, dtype=torch.float64)
    importance, anchor, fisher, theta = ({"w": part} for part in parts)
    wanted = consolidated(importance, anchor, fisher, theta, online=True, decay=0.7)
    found = lab.consolidate((parts[0], parts[1]), parts[2], parts[3], 0.7)
    torch.testing.assert_close(list(found), [part["w"] for part in wanted])


def test_scores_of_pairs_are_those_of_the_functional_package():
    a, b, weight = torch.randn(3, 5), torch.randn(4, 5), torch.randn(5)
    found = reference("02_siamese").pair_scores(a, b, weight, 0.5)
    torch.testing.assert_close(found, pairwise_weighted_l1(a, b, weight) + 0.5)


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
