"""Sine waves: what is drawn lies where it should, is a wave, and depends on seed and index alone."""

from __future__ import annotations

import math

import pytest
import torch

from utils.data.sinusoids import SinusoidSampler

PARTS = ("support_x", "support_y", "query_x", "query_y", "amplitude", "phase")


@pytest.fixture(scope="module")
def many():
    return SinusoidSampler(10, 20, 500, seed=3).sample(0)


def test_shapes_and_precision(many):
    assert many.n_tasks == 500
    assert many.support_x.shape == many.support_y.shape == (500, 10, 1)
    assert many.query_x.shape == many.query_y.shape == (500, 20, 1)
    assert many.amplitude.shape == many.phase.shape == (500,)
    assert {getattr(many, part).dtype for part in PARTS} == {torch.float32}


def test_outputs_lie_on_the_wave(many):
    for x, y in ((many.support_x, many.support_y), (many.query_x, many.query_y)):
        torch.testing.assert_close(many.wave(x), y, rtol=0, atol=1e-5)
    for task in (0, 17, 499):
        a, b = float(many.amplitude[task]), float(many.phase[task])
        for x, y in zip(many.query_x[task, :, 0].tolist(), many.query_y[task, :, 0].tolist(), strict=True):
            assert y == pytest.approx(a * math.sin(x - b), abs=1e-5)


@pytest.mark.parametrize(
    ("part", "bounds"),
    [("amplitude", (0.1, 5)), ("phase", (0, math.pi)), ("support_x", (-5, 5)), ("query_x", (-5, 5))],
)
def test_everything_is_uniform_in_the_ranges_of_the_paper(many, part, bounds):
    values, (low, high) = getattr(many, part).flatten().double(), bounds
    n = len(values)
    assert low <= values.min() and values.max() <= high + 1e-6
    assert values.min() < low + 10 * (high - low) / n and values.max() > high - 10 * (high - low) / n
    unit = (values - low) / (high - low)
    assert abs(unit.mean() - 0.5) < 4 / math.sqrt(12 * n)
    assert abs(unit.var() - 1 / 12) < 4 / math.sqrt(180 * n)


def test_a_batch_depends_on_seed_and_index_alone():
    first, again = SinusoidSampler(5, 7, 3, seed=1), SinusoidSampler(5, 7, 3, seed=1)
    again.sample(0)
    torch.rand(3)
    one = first.sample(4)
    assert all(torch.equal(getattr(one, part), getattr(again.sample(4), part)) for part in PARTS)
    for other in (first.sample(5), SinusoidSampler(5, 7, 3, seed=2).sample(4)):
        assert not any(torch.equal(getattr(one, part), getattr(other, part)) for part in PARTS)


def test_tasks_and_points_of_a_batch_differ(many):
    for part in PARTS:
        values = getattr(many, part).flatten(1 if getattr(many, part).ndim > 1 else 0)
        assert len(values.unique(dim=0)) == 500
    assert not torch.isin(many.support_x, many.query_x).all()
    assert all(len(row.unique()) == 10 for row in many.support_x)


def test_even_queries_lie_on_a_grid_and_change_nothing_else():
    drawn, even = (SinusoidSampler(5, 11, 3, seed=1, even_queries=even).sample(2) for even in (False, True))
    assert even.query_x[1, :, 0].tolist() == list(range(-5, 6))
    torch.testing.assert_close(even.wave(even.query_x), even.query_y)
    assert all(torch.equal(getattr(even, part), getattr(drawn, part)) for part in PARTS if part[:5] != "query")
    assert not torch.equal(even.query_x, drawn.query_x)


@pytest.mark.parametrize("name", ["k_shot", "n_query", "batch_size"])
@pytest.mark.parametrize("wrong", [0, -1, 2.0, None])
def test_sizes_must_be_whole_numbers_of_at_least_1(name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1; got {wrong}"):
        SinusoidSampler(**{"k_shot": 5, "n_query": 5, name: wrong})
