"""Is an accuracy claimed in a report reproduced by a rerun? One-sided, with the seed-to-seed spread in mind.

Two honest trainings differ by more than their intervals over episodes say, because each has a seed of its own. With

    d    = claim - rerun
    se^2 = sd^2 / n_claim + step^2 / 12 + sd^2 / (n_rerun R) + s^2 (1 + 1 / R)

(sd of single episodes, R reruns with a seed each, s the reference's spread over seeds, step the last printed digit) a
claim is too high when d / se lies far out in Student's t. Its degrees of freedom are Welch and Satterthwaite's, because
s comes from few seeds. Over all claims of a student the false alarm is ``ALPHA`` (Holm 1979).
A claim that is not reproduced asks a person to look; it takes no points off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

from utils.claims.statistics import Z_POWER, interval, training_sd

ALPHA = 0.01
"""Accepted chance that an honest student has any claim called not reproduced."""

RESOLUTION = 10.0
"""Points: a comparison that would miss an inflation of this size is too imprecise to be called a test."""

OUTCOMES = ("reproduced", "not reproduced", "not testable", "under-claimed")


@dataclass(frozen=True)
class Claimed:
    """An accuracy in per cent as a report states it.

    ``setting`` names what was measured ("5-way 1-shot"). ``episodes`` and ``ci95`` (half-width of the 95 % interval)
    where the report has them. ``step`` is one unit of the last printed digit: 1 for "91 %", 0.01 for "91.37 %".
    """

    setting: str
    value: float
    episodes: int | None = None
    ci95: float | None = None
    step: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 100:
            raise ValueError(f"{self.setting}: an accuracy lies in 0 .. 100 per cent; got {self.value}")
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"{self.setting}: episodes are counted from 1; got {self.episodes}")
        for name, size in (("ci95", self.ci95), ("step", self.step)):
            if size is not None and not 0 <= size <= 100:
                raise ValueError(f"{self.setting}: {name} lies in 0 .. 100 points; got {size}")


@dataclass(frozen=True)
class Rerun:
    """What the student's code reached here: mean and standard deviation of single episodes, in per cent."""

    mean: float
    sd: float
    episodes: int
    seeds: int = 1

    @classmethod
    def of(cls, runs: Sequence[Sequence[float]]) -> Rerun:
        """From the accuracies (per cent) of every episode of every run; one run a seed, all of the same length.

        Raises ``ValueError`` for no run, runs of different lengths, fewer than two episodes, values not finite or
        outside 0 .. 100.
        """
        lengths = {len(run) for run in runs}
        if len(lengths) != 1:
            raise ValueError(f"a rerun needs runs of the same number of episodes; got {sorted(map(len, runs))}")
        summaries = [interval(run) for run in runs]
        if not all(0 <= accuracy <= 100 for run in runs for accuracy in run):
            raise ValueError("accuracies of episodes lie in 0 .. 100 per cent")
        mean = sum(mean for mean, _, _ in summaries) / len(runs)
        # within runs: what differs between them is the seeds' part
        sd = math.sqrt(sum(sd**2 for _, _, sd in summaries) / len(runs))
        return cls(mean, sd, lengths.pop(), len(runs))


@dataclass(frozen=True)
class Spread:
    """Standard deviation, in points, of what training reaches with different seeds, and its degrees of freedom."""

    sd: float
    freedom: float

    def __post_init__(self) -> None:
        if not (0 <= self.sd < math.inf and 1 <= self.freedom < math.inf):
            raise ValueError(f"a spread is a finite number of points with at least one degree of freedom; got {self}")

    @classmethod
    def of(cls, means: Sequence[float], standard_error: float) -> Spread:
        """From the reference's accuracy with several seeds, each known up to ``standard_error`` by its episodes.

        The episodes' part is taken off, which leaves fewer degrees of freedom than seeds: (n - 1) (sd^2 / var)^2
        (Satterthwaite 1946). Where that is less than one the means' whole spread is taken, which is at least as large.
        """
        sd, variance = training_sd(means, standard_error), interval(means)[2] ** 2
        freedom = (len(means) - 1) * (sd**2 / variance) ** 2 if variance else 0.0
        return cls(sd, freedom) if freedom >= 1 else cls(math.sqrt(variance), len(means) - 1)


@dataclass(frozen=True)
class Judgement:
    """What became of one claim. ``difference`` is claim minus rerun, ``error`` its standard error, both in points.

    ``p_high`` is the chance of so high a claim from an honest student, ``p_low`` of so low a one, both after Holm's
    correction over the claims of the student. ``reason`` is one sentence for the feedback.
    """

    setting: str
    outcome: str
    difference: float | None
    error: float | None
    p_high: float | None
    p_low: float | None
    reason: str


def judge(
    claims: Sequence[Claimed], reruns: Mapping[str, Rerun], spreads: Mapping[str, Spread], alpha: float = ALPHA
) -> list[Judgement]:
    """The outcome of every claim of one student, in their order.

    ``reruns`` and ``spreads`` are by setting; without either a claim is not testable and does not count for the
    correction. Where the two together are too imprecise to notice ``RESOLUTION`` points, a claim is not testable unless
    it is too high or too low for even that.
    Raises ``ValueError`` for a setting that is claimed twice and an ``alpha`` outside 0 .. 0.5.
    """
    if len({claim.setting for claim in claims}) < len(claims):
        raise ValueError("a setting is claimed twice; judge the claim that the report's abstract or conclusion makes")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is a chance of false alarm between 0 and 0.5; got {alpha}")
    tests = [_test(claim, reruns.get(claim.setting), spreads.get(claim.setting), alpha) for claim in claims]
    testable = [test for test in tests if not isinstance(test, str)]
    highs = iter(holm([test.p_high for test in testable]))
    lows = iter(holm([test.p_low for test in testable]))
    return [
        Judgement(claim.setting, "not testable", None, None, None, None, test)
        if isinstance(test, str)
        else _judgement(claim, reruns[claim.setting], test, next(highs), next(lows), alpha)
        for claim, test in zip(claims, tests, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction, in the given order: each at most ``alpha`` is rejected at ``alpha``."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


@dataclass(frozen=True)
class _Test:
    difference: float
    error: float
    p_high: float
    p_low: float
    vague: str = ""


def _test(claim: Claimed, rerun: Rerun | None, spread: Spread | None, alpha: float) -> _Test | str:
    """The test of one claim alone, or why there is none."""
    if rerun is None:
        return "There is no rerun of this setting within the budget."
    if spread is None:
        return "The reference's spread over seeds was not measured for this setting."
    of_claim = _claim_variance(claim, rerun)
    of_rerun = rerun.sd**2 / (rerun.episodes * rerun.seeds)
    of_seeds = spread.sd**2 * (1 + 1 / rerun.seeds)
    variance = of_claim + of_rerun + of_seeds
    difference, error = claim.value - rerun.mean, math.sqrt(variance)
    if error == 0:
        return "Neither episodes nor seeds differ at all, so no difference can be judged."
    parts = ((of_seeds, spread.freedom), (of_claim + of_rerun, max(1, rerun.seeds * (rerun.episodes - 1))))
    freedom = variance**2 / sum(part**2 / df for part, df in parts)
    vague = ""
    if (-float(special.stdtrit(freedom, alpha)) + Z_POWER) * error > RESOLUTION:
        vague = (
            f"Claim and rerun are known to ± {1.96 * error:.1f} points only: an inflation by {RESOLUTION:g} might not "
            "be noticed."
        )
    p_high = float(special.stdtr(freedom, -difference / error))
    return _Test(difference, error, p_high, 1 - p_high, vague)


def _claim_variance(claim: Claimed, rerun: Rerun) -> float:
    """Of the claim's own test episodes, and of its rounding; without a number of episodes from its interval.

    The number goes first, because an interval may be over seeds or be a standard deviation in truth. A report with
    neither is taken to have tested as the rerun does.
    """
    rounding = claim.step**2 / 12
    if claim.episodes is None and claim.ci95 is not None:
        return (claim.ci95 / 1.96) ** 2 + rounding
    return rerun.sd**2 / (claim.episodes or rerun.episodes) + rounding


def _judgement(claim: Claimed, rerun: Rerun, test: _Test, p_high: float, p_low: float, alpha: float) -> Judgement:
    seen = f"The report says {claim.value:g} %, the rerun reached {rerun.mean:.1f} %"
    if p_high <= alpha:
        outcome = "not reproduced"
        reason = f"{seen}: {test.difference / test.error:.1f} standard errors lower. A person looks at this."
    elif p_low <= alpha:
        outcome, reason = "under-claimed", f"{seen}: better than the report says."
    elif test.vague:
        return Judgement(claim.setting, "not testable", None, None, None, None, test.vague)
    else:
        outcome, reason = "reproduced", f"{seen}: within what seeds and episodes explain."
    return Judgement(claim.setting, outcome, test.difference, test.error, p_high, p_low, reason)
