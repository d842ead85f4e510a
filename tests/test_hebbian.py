"""Hebb's rule: the definition in loops, recall that goes downhill, one winner, means of what was won, digits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from utils.continual.hebbian import compete, energy, hebbian_weights, recall, winner
from utils.data.digits import digits
from utils.data.images import as_float


def signs(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (n, size), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


# --------------------------------------------------------------------------------------------------------- weights


def test_weights_are_the_mean_products():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(7, n, generator=generator, dtype=torch.float64) for n in (3, 4))
    among, between = hebbian_weights(x), hebbian_weights(x, y)
    assert among.shape == (3, 3) and between.shape == (4, 3)
    for i in range(3):
        for j in range(3):
            assert among[i, j].item() == pytest.approx(sum(float(x[k, i] * x[k, j]) for k in range(7)) / 7)
        for j in range(4):
            assert between[j, i].item() == pytest.approx(sum(float(x[k, i] * y[k, j]) for k in range(7)) / 7)
    assert torch.equal(hebbian_weights(x[:1]), x[0][:, None] * x[0])  # one pattern: w_ij = x_i x_j


# ---------------------------------------------------------------------------------------------------------- recall


def test_few_patterns_are_recalled_from_parts_of_them():
    patterns = signs(4, 100)
    weights, broken = hebbian_weights(patterns), patterns.clone()
    broken[:, :20] = 1.0
    assert (broken != patterns).sum() > 20
    assert torch.equal(recall(weights, broken), patterns)
    assert torch.equal(recall(weights, -broken), -patterns)  # what is stored is stored with its negative


def test_too_many_patterns_are_not():
    patterns = signs(60, 100)
    assert (recall(hebbian_weights(patterns), patterns) != patterns).double().mean() > 0.05


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 999))
def test_recall_goes_downhill_and_comes_to_rest(size, n, seed):
    weights, cues = hebbian_weights(signs(n, size, seed)), signs(5, size, seed + 1)
    states = cues
    for _ in range(50):
        further = recall(weights, states, sweeps=1)
        assert (energy(weights, further) <= energy(weights, states) + 1e-12).all()
        if torch.equal(further, states):
            break
        states = further
    assert torch.equal(recall(weights, cues, 50), states)
    felt = states @ (weights - weights.diag().diag())
    assert ((felt.abs() < 1e-12) | (felt.sign() == states)).all()


def test_neurons_one_after_the_other_do_not_swing():
    """Two neurons that want to be alike: at once they would change places for ever."""
    weights, cue = torch.tensor([[5.0, 1.0], [1.0, 5.0]]), torch.tensor([[1.0, -1.0]])
    assert recall(weights, cue).tolist() == [[-1.0, -1.0]]
    assert cue.tolist() == [[1.0, -1.0]]


def test_a_neuron_that_feels_nothing_stays():
    assert recall(torch.zeros(3, 3), torch.tensor([[1.0, -1.0, 1.0]])).tolist() == [[1.0, -1.0, 1.0]]


def test_energy_leaves_out_what_a_neuron_has_with_itself():
    weights, states = hebbian_weights(signs(3, 6)), signs(2, 6, 1)
    for one, found in zip(states, energy(weights, states), strict=True):
        pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
        assert found.item() == pytest.approx(-sum(float(weights[i, j] * one[i] * one[j]) for i, j in pairs) / 2)


# ----------------------------------------------------------------------------------------------------- competition


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 999))
def test_who_is_nearest_wins_and_only_the_winner_learns(k, size, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(k, size, generator=generator, dtype=torch.float64)
    x = torch.randn(1, size, generator=generator, dtype=torch.float64)
    nearest = int((weights - x).square().sum(1).argmin())
    assert winner(weights, x).tolist() == [nearest]
    after = compete(weights, x, 0.25)
    rest = [i for i in range(k) if i != nearest]
    assert torch.equal(after.weights[rest], weights[rest])
    torch.testing.assert_close(after.weights[nearest], 0.75 * weights[nearest] + 0.25 * x[0])
    assert after.wins.tolist() == [int(i == nearest) for i in range(k)] and after.winners.tolist() == [nearest]


def test_of_equals_exactly_one_wins():
    after = compete(torch.ones(3, 2), torch.ones(6, 2), 0.5)
    assert after.wins.sum() == 6 and after.winners.shape == (6,)
    assert compete(torch.zeros(2, 1), torch.tensor([[1.0]]), 1.0).wins.sum() == 1


def test_without_a_rate_a_neuron_is_the_mean_of_what_it_won():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    after = compete(x[:4], x)
    assert after.wins.tolist() == after.winners.bincount(minlength=4).tolist()
    for k in range(4):
        torch.testing.assert_close(after.weights[k], x[after.winners == k].mean(0))


def test_a_competition_can_go_on():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    start = x[:4].clone()
    whole, first = compete(start, x), compete(start, x[:25])
    second = compete(first.weights, x[25:], wins=first.wins)
    assert torch.equal(whole.weights, second.weights) and torch.equal(whole.wins, second.wins)
    assert torch.equal(whole.winners, torch.cat([first.winners, second.winners]))
    assert torch.equal(start, x[:4])  # left as it was


def test_neurons_come_to_stand_for_digits():
    images, labels = digits("train").flat()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, labels = as_float(images[order]).flatten(1), labels[order]
    after = compete(x[:20], x)
    members = winner(after.weights, x)
    table = torch.zeros(20, 10, dtype=torch.int64).index_put_((members, labels), torch.tensor(1), accumulate=True)
    assert table.amax(1).sum() / len(labels) > 0.65  # by chance 0.1
    error = [(x - w[winner(w, x)]).square().sum(1).mean() for w in (x[:20], after.weights)]
    assert error[1] < 0.8 * error[0]


# -------------------------------------------------------------------------------------------------- what does not fit


def test_other_shapes_and_numbers_are_refused():
    two = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"activities \[P, I\] before and \[P, J\] after.*got \[2, 3\] and \[4, 3\]"):
        hebbian_weights(two, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="P > 0 patterns"):
        hebbian_weights(torch.zeros(0, 3))
    with pytest.raises(TypeError, match=r"one floating-point dtype; got torch\.int64 and torch\.int64"):
        hebbian_weights(two.long())
    with pytest.raises(TypeError, match=r"got torch\.float32 and torch\.float64"):
        hebbian_weights(two, two.double())
    with pytest.raises(ValueError, match=r"symmetric weights \[I, I\]; got \[2, 3\]"):
        recall(two, two)
    with pytest.raises(ValueError, match="symmetric weights"):
        energy(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"3 neurons need cues \[N, 3\]; got \[2\]"):
        recall(torch.zeros(3, 3), torch.ones(2))
    with pytest.raises(ValueError, match="a neuron is -1 or 1; the cues hold other numbers"):
        recall(torch.zeros(3, 3), two)
    with pytest.raises(ValueError, match=r"weights \[K, I\] and inputs \[N, I\]; got \[2, 3\] and \[2, 4\]"):
        compete(two, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"weights \[K, I\]"):
        winner(torch.zeros(0, 3), two)
    with pytest.raises(ValueError, match="rate must be above 0 and at most 1, or None; got 0"):
        compete(two, two, 0)
    with pytest.raises(ValueError, match=r"2 neurons need as many numbers of wins; got \[3\]"):
        compete(two, two, wins=torch.zeros(3, dtype=torch.int64))
