"""The references of labs 02, 06, 07 and 08, which import nothing of the course, agree with the course's own methods."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils.continual.bic import bias_correction
from utils.continual.ewc import consolidated, fisher_diagonal
from utils.continual.mas import output_importance
from utils.functional.distillation import distillation_terms
from utils.functional.pairs import pairwise_weighted_l1
from utils.grading.labs import read_lab

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


@pytest.mark.parametrize("name", ["07_lwf_bic", "08_replay"])
def test_distilling_losses_are_the_divergence_and_the_old_answers_entropy(name):
    lab, temperature = reference(name), 2.0
    logits, old, labels = torch.randn(8, 6), torch.randn(8, 4), torch.arange(8) % 6
    hard, divergence = (part.mean() for part in distillation_terms(logits, old, labels, temperature))
    p = (old / temperature).softmax(1)
    distilling = divergence / temperature**2 - (p * p.log()).sum(1).mean()
    if name == "08_replay":
        torch.testing.assert_close(lab.distilled_loss(logits, old, temperature), temperature**2 * distilling)
    else:
        torch.testing.assert_close(lab.bic_loss(logits, labels, old, temperature), (4 * distilling + 2 * hard) / 6)


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
