"""Intervals, and when two runs of the same experiment agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-3
"""Accepted chance that a whole rerun of the book with nothing wrong still turns some claim red."""

N_CLAIMS = 200
"""Claims that the false alarm is shared among (Bonferroni): what the finished book will hold."""

Z_AGREE = float(stats.norm.isf(FALSE_ALARM / N_CLAIMS / 2))
Z_POWER = float(stats.norm.isf(0.05))
"""A true difference of the size of the resolution is found with 95 % probability."""


def interval(samples: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean, half-width of the 95 % t-interval of the mean, and standard deviation of independent ``samples``.

    half-width = t(0.975, n - 1) * sd / sqrt(n), sd with n - 1 in the denominator.
    Raises ``ValueError`` for fewer than two samples (no interval exists) and for values that are not finite.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs a list of at least two samples; got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} samples are not finite")
    sd = float(values.std(ddof=1))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values)), sd


def training_sd(means: Sequence[float], standard_error: float) -> float:
    """Seed-to-seed standard deviation of what training reaches, from the means of several seeds.

    A mean varies because training does and because each seed draws its own test episodes; the second part,
    ``standard_error``, is known and taken off: sqrt(max(0, var(means) - standard_error^2)).
    """
    if len(means) < 2:
        raise ValueError(f"a spread needs at least two seeds; got {len(means)}")
    return math.sqrt(max(0.0, float(np.var(means, ddof=1)) - standard_error**2))


@dataclass(frozen=True)
class Agreement:
    """Whether a rerun's claim agrees with the stored one; ``reasons`` says why not, ``z`` by how many deviations."""

    ok: bool
    z: float
    reasons: tuple[str, ...]


SAME = ("kind", "unit", "dataset", "scale", "statistics", "over", "n", "chance", "resolution")
"""Fields in which two claims must be alike to be compared at all."""


def agreement(stored: Mapping[str, Any], new: Mapping[str, Any]) -> Agreement:
    """Does the claim of a rerun agree with the stored one?

    With se^2 = se_stored^2 + se_new^2 + 2 sd_training^2 and d the difference of the means it does when

    - it agrees: |d| <= Z_AGREE * se;
    - it is precise enough to mean something: (Z_AGREE + Z_POWER) * se <= resolution, so that a true difference of the
      size of the resolution would have been noticed (agreement alone would reward noise);
    - it beats chance (or, for a comparison, zero): mean - ci95 > chance.
    """
    reasons = [
        f"{name} is {new.get(name)!r}, stored {stored.get(name)!r}"
        for name in SAME
        if stored.get(name) != new.get(name)
    ]
    spread = stored.get("spread") or {}
    error = math.sqrt(stored["sd"] ** 2 / stored["n"] + new["sd"] ** 2 / new["n"] + 2 * spread.get("sd", 0.0) ** 2)
    difference = new["mean"] - stored["mean"]
    z = difference / error if error > 0 else (0.0 if difference == 0 else math.copysign(math.inf, difference))
    if not abs(z) <= Z_AGREE:  # also when z is NaN
        reasons.append(f"{new['mean']:.2f} is {abs(z):.1f} standard errors from the stored {stored['mean']:.2f}")
    if not (Z_AGREE + Z_POWER) * error <= stored["resolution"]:  # also when the error is NaN
        reasons.append(
            f"too imprecise to notice a difference of {stored['resolution']:g}: needs a standard error of at most "
            f"{stored['resolution'] / (Z_AGREE + Z_POWER):.2f}, has {error:.2f}"
        )
    if new["chance"] is not None and not new["mean"] - new["ci95"] > new["chance"]:
        reasons.append(f"its interval ({new['mean']:.2f} ± {new['ci95']:.2f}) does not lie above {new['chance']:g}")
    return Agreement(not reasons, z, tuple(reasons))
