"""Claims of a report against a rerun: honest students are left alone, over-claims are noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from utils.claims.statistics import interval
from utils.grading.claims import ALPHA, OUTCOMES, Claimed, Judgement, Rerun, Spread, holm, judge

EPISODE_SD = 10.0
SEED_SD = 1.2
CLAIMS = 6
SETTINGS = [f"setting {i}" for i in range(CLAIMS)]


def cohort(generator, students, inflation, reference_seeds=20, reruns=1, claimed=600, repeated=200, references=600):
    """Outcomes ``[students][claims]``: the spread measured on reference seeds, then claims and reruns of their own."""
    truth = generator.uniform(60, 90, CLAIMS)
    error = EPISODE_SD / math.sqrt(references)
    means = truth + generator.normal(0, math.hypot(SEED_SD, error), (reference_seeds, CLAIMS))
    spreads = {s: Spread.of(means[:, i], error) for i, s in enumerate(SETTINGS)}
    outcomes = []
    # of the normal's moments: means of that many episodes, and their sample standard deviation by chi-square
    for _ in range(students):
        value = truth + inflation + generator.normal(0, math.hypot(SEED_SD, EPISODE_SD / math.sqrt(claimed)), CLAIMS)
        spread = math.hypot(SEED_SD, EPISODE_SD / math.sqrt(repeated)) / math.sqrt(reruns)
        mean = truth + generator.normal(0, spread, CLAIMS)
        sd = EPISODE_SD * np.sqrt(generator.chisquare(reruns * (repeated - 1), CLAIMS) / (reruns * (repeated - 1)))
        claims = [Claimed(s, min(100, round(v, 1)), claimed, step=0.1) for s, v in zip(SETTINGS, value, strict=True)]
        again = {s: Rerun(m, d, repeated, reruns) for s, m, d in zip(SETTINGS, mean, sd, strict=True)}
        outcomes.append([judgement.outcome for judgement in judge(claims, again, spreads)])
    return outcomes


def flagged(outcomes):
    return sum("not reproduced" in of_student for of_student in outcomes)


# The two promises, simulated


def test_honest_students_are_hardly_ever_flagged():
    """200 students x 6 claims: 1 % flagged at most, of 16,000 students in 80 cohorts.

    The students of a cohort share the reference's spread, so the interval of the rate is one over cohorts. The test
    fails when the rate is above 1 % beyond chance (99.5 %), and when it could not tell 1 % from 1.5 %.
    """
    generator = np.random.default_rng(0)
    rates = [flagged(cohort(generator, 200, 0.0)) / 200 for _ in range(80)]
    half = stats.t.ppf(0.995, 79) * stats.sem(rates)
    print(f"honest: {100 * np.mean(rates):.2f} % ± {100 * half:.2f}")
    assert np.mean(rates) - half <= ALPHA and np.mean(rates) + half < 0.015


def test_inflation_by_five_points_is_noticed_with_two_reruns():
    """With one rerun and 20 seeds of the reference 87 % are caught, with two reruns 97 %."""
    generator = np.random.default_rng(1)
    found = {
        reruns: [flagged(cohort(generator, 200, 5.0, reruns=reruns)) / 200 for _ in range(10)] for reruns in (1, 2)
    }
    print({reruns: f"{100 * np.mean(rates):.1f}" for reruns, rates in found.items()})
    mean, half, _ = interval(found[2])
    assert mean - half >= 0.9 and np.mean(found[1]) < mean


def test_inflation_by_ten_points_is_always_noticed():
    assert flagged(cohort(np.random.default_rng(2), 100, 10.0)) == 100


def test_without_the_spread_most_honest_students_would_be_flagged():
    """The known mistake, made on purpose: intervals over episodes alone."""
    generator = np.random.default_rng(3)
    outcomes = []
    for _ in range(200):
        z = generator.normal(0, math.hypot(*[math.hypot(SEED_SD, 10 / math.sqrt(n)) for n in (600, 200)]), CLAIMS)
        claims = [Claimed(s, 70 + d, 600) for s, d in zip(SETTINGS, z, strict=True)]
        reruns = {s: Rerun(70, EPISODE_SD, 200) for s in SETTINGS}
        outcomes.append([j.outcome for j in judge(claims, reruns, {s: Spread(0.0, 20) for s in SETTINGS})])
    assert flagged(outcomes) > 20


# One claim


def one(value=80.0, rerun=None, spread=None, **claim) -> Judgement:
    claims = [Claimed("5-way 1-shot", value, **claim)]
    reruns = {"5-way 1-shot": rerun or Rerun(80.0, 10.0, 200)}
    (judgement,) = judge(claims, reruns, {"5-way 1-shot": spread or Spread(1.2, 20)})
    assert judgement.outcome in OUTCOMES
    return judgement


@pytest.mark.parametrize(
    ("value", "outcome"), [(80, "reproduced"), (83, "reproduced"), (90, "not reproduced"), (70, "under-claimed")]
)
def test_outcomes_by_difference(value, outcome):
    judgement = one(value, episodes=600)
    assert judgement.outcome == outcome
    assert judgement.difference == value - 80 and f"{value} %" in judgement.reason and "80.0 %" in judgement.reason
    assert ("person" in judgement.reason) == (outcome == "not reproduced")


def test_error_and_p_value_are_those_of_the_formula():
    judgement = one(84.0, Rerun(80.0, 10.0, 200, seeds=2), Spread(1.2, 20), episodes=600, step=1.0)
    seeds, episodes = 1.44 * 1.5, 100 / 600 + 1 / 12 + 100 / 400
    variance = seeds + episodes
    freedom = variance**2 / (seeds**2 / 20 + episodes**2 / 398)
    assert judgement.error == pytest.approx(math.sqrt(variance))
    assert judgement.p_high == pytest.approx(stats.t.sf(4 / math.sqrt(variance), freedom))
    assert judgement.p_low == pytest.approx(1 - judgement.p_high)


def test_few_reference_seeds_make_the_test_more_careful():
    assert one(85.5, spread=Spread(1.2, 200)).outcome == "not reproduced"
    assert one(85.5, spread=Spread(1.2, 5)).outcome == "reproduced"


def test_a_spread_knows_how_little_it_knows():
    means = [70.0, 71.0, 72.0, 73.0, 74.0]
    exact, taken_off, unresolved = Spread.of(means, 0.0), Spread.of(means, 0.5), Spread.of(means, 1.5)
    assert (exact.sd, exact.freedom) == (pytest.approx(math.sqrt(2.5)), pytest.approx(4))
    assert (taken_off.sd, taken_off.freedom) == (pytest.approx(1.5), pytest.approx(4 * 0.9**2))
    assert (unresolved.sd, unresolved.freedom) == (pytest.approx(math.sqrt(2.5)), 4)


def test_missing_numbers_of_the_claim():
    as_rerun = one(81.0)
    assert as_rerun.error == one(81.0, episodes=200).error
    assert one(81.0, ci95=1.96).error == pytest.approx(math.sqrt(1 + 0.5 + 2 * 1.44))
    assert one(81.0, ci95=50.0, episodes=200).error == as_rerun.error  # a wide interval buys nothing


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ci95": 10.0}, "might not be noticed"),
        ({"episodes": 2}, "might not be noticed"),
        ({"spread": Spread(6.0, 20)}, "might not be noticed"),
        ({"rerun": Rerun(80.0, 0.0, 200), "spread": Spread(0.0, 20)}, "no difference"),
    ],
)
def test_too_imprecise_is_not_testable(change, why):
    judgement = one(88.0, **change)
    assert judgement.outcome == "not testable" and why in judgement.reason and judgement.p_high is None


def test_what_is_too_high_for_an_imprecise_test_is_too_high():
    # predictions by chance, and a report that says 97 %: their spread over episodes is large, and the gap much larger
    vague = {"rerun": Rerun(20.0, 8.0, 60, 2), "spread": Spread(6.0, 6)}
    assert one(97.0, **vague).outcome == "not reproduced"
    assert one(22.0, **vague).outcome == "not testable"


def test_without_rerun_or_spread_nothing_is_tested_and_nothing_corrected_for():
    claims = [Claimed(s, 85.0, 600) for s in SETTINGS]
    rerun, spread = Rerun(80.0, 10.0, 200), Spread(1.2, 20)
    judgements = judge(claims, {SETTINGS[0]: rerun, SETTINGS[1]: rerun}, {SETTINGS[0]: spread})
    assert [j.outcome for j in judgements] == ["not reproduced"] + ["not testable"] * 5
    alone = one(85.0, episodes=600)
    assert judgements[0].p_high == alone.p_high and "budget" in judgements[2].reason
    assert "spread" in judgements[1].reason
    assert judge([], {}, {}) == []


def test_holm_corrects_over_the_claims_of_the_student():
    claims = [Claimed(SETTINGS[0], 85.3, 600)] + [Claimed(s, 80.0, 600) for s in SETTINGS[1:]]
    reruns = {s: Rerun(80.0, 10.0, 200) for s in SETTINGS}
    spreads = {s: Spread(1.2, 20) for s in SETTINGS}
    alone = judge(claims[:1], reruns, spreads)[0]
    among = judge(claims, reruns, spreads)[0]
    assert alone.outcome == "not reproduced" and among.outcome == "reproduced"
    assert among.p_high == pytest.approx(6 * alone.p_high)


@given(some.lists(some.floats(0, 1), max_size=12))
def test_holm_by_its_definition(p_values):
    """Step down from the smallest: reject while p_(k) <= alpha / (m - k); the first that fails ends it."""
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.3):
        expected, going = [False] * len(p_values), True
        for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            going = going and (len(p_values) - k) * p_values[i] <= alpha
            expected[i] = going
        assert [p <= alpha for p in adjusted] == expected


# Reruns from episodes


def test_rerun_is_the_mean_over_seeds_with_the_spread_within():
    rerun = Rerun.of([[50.0, 60.0, 70.0], [70.0, 80.0, 90.0]])
    assert (rerun.mean, rerun.sd, rerun.episodes, rerun.seeds) == (70.0, 10.0, 3, 2)


@pytest.mark.parametrize(
    ("runs", "complaint"),
    [
        ([], "same number"),
        ([[1.0, 2.0], [1.0]], "same number"),
        ([[1.0]], "at least two"),
        ([[1.0, math.nan]], "not finite"),
        ([[50.0, 101.0]], "0 .. 100"),
    ],
)
def test_no_rerun_of_bad_accuracies(runs, complaint):
    with pytest.raises(ValueError, match=complaint):
        Rerun.of(runs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Claimed("a", 101.0),
        lambda: Claimed("a", math.nan),
        lambda: Claimed("a", 50.0, episodes=0),
        lambda: Claimed("a", 50.0, ci95=-1.0),
        lambda: Claimed("a", 50.0, step=math.inf),
        lambda: Spread(1.0, 0.5),
        lambda: Spread.of([70.0], 0.4),
        lambda: Spread(math.nan, 9),
        lambda: judge([Claimed("a", 50.0), Claimed("a", 60.0)], {}, {}),
        lambda: judge([], {}, {}, alpha=0.9),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ValueError):
        make()
