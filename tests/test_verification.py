"""The equal error rate: by hand, by its symmetries, and for what cannot have one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.functional.verification import equal_error_rate


@pytest.mark.parametrize(
    ("scores", "same", "rate"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 0.0),  # parted
        ([1, 2, 3, 4], [1, 1, 0, 0], 1.0),  # the wrong way round
        ([0, 0, 0, 0], [1, 1, 0, 0], 0.5),  # knows nothing
        ([4, 3, 2, 1], [1, 0, 1, 0], 0.5),  # one of two wrong, either way
        ([9, 8, 7, 6, 5, 4, 3, 2], [1, 1, 1, 0, 1, 0, 0, 0], 0.25),
        ([5, 4, 3, 2, 1], [1, 1, 0, 1, 0], 1 / 3),  # at 1/3 rejected the wrongly accepted go from 0 to 1/2
    ],
)
def test_by_hand(scores, same, rate):
    assert equal_error_rate(scores, same) == pytest.approx(rate)


def test_two_normal_distributions():
    """Means 0 and 2, variance 1: the best threshold is 1, and beyond it lies Phi(-1) of each."""
    generator = np.random.default_rng(0)
    same = np.arange(200_000) % 2 == 0
    assert equal_error_rate(generator.normal(2 * same), same) == pytest.approx(0.15866, abs=2e-3)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30), st.integers(1, 4))
def test_only_the_order_counts(pairs, stretch):
    scores, same = (np.array(x) for x in zip(*pairs, strict=True))
    if same.all() or not same.any():
        return
    rate = equal_error_rate(scores, same)
    assert 0 <= rate <= 1
    assert equal_error_rate(stretch * scores**3 + 7, same) == pytest.approx(rate)
    assert equal_error_rate(-scores, ~same) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("scores", "same", "said"),
    [
        ([1, 2], [True], "as many scores as answers"),
        ([[1, 2]], [[True, False]], "as many scores as answers"),
        ([1, np.nan], [True, False], "finite"),
        ([1, 2], [True, True], "pairs of the same class and pairs of different ones"),
        ([], [], "pairs of the same class and pairs of different ones"),
    ],
)
def test_what_has_no_rate_is_refused(scores, same, said):
    with pytest.raises(ValueError, match=said):
        equal_error_rate(scores, same)
