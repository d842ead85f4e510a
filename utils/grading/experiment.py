"""The experiment of a submission, run again: its predictions are compared here with labels that never left.

Two trainings with a seed each run in one sandbox. What a report claims of the budget ``full`` is held against a rerun
of the budget ``smoke`` by what the reference gained between the two: in log-odds, where the gain of networks that learn
at different speeds is about the same, and no accuracy comes out above 100 %.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from utils.claims.statistics import interval
from utils.data.episodes import mix_seed
from utils.grading.claims import Claimed, Judgement, Rerun, Spread, judge
from utils.grading.labs import BUDGETS, Lab, Target, Trial
from utils.grading.report import ClaimedResult, Report
from utils.grading.results import Experiment, Setting
from utils.grading.sandbox import Call, Job, Outcome, clean, run
from utils.grading.wire import Record
from utils.records import read_record

TRAININGS = 2
"""With one, 87 % of students whose claims are all 5 points too high are noticed; with two, 97 %."""

_STEPS = re.compile(r"(\d+)(?:\s+training)?\s*(?:steps|schritte|步)", re.I)
_EDGE = 0.1  # per cent: accuracies are kept this far from 0 and 100, where log-odds are infinite


@dataclass(frozen=True)
class Accuracies:
    """Per cent, ``[training][episode]`` of every setting, or the verdict and reason why there are none.

    ``verdict`` and ``reason`` are the job's; ``missing`` has those of the settings without accuracies.
    """

    verdict: str
    reason: str
    level: int
    of: Mapping[str, tuple[tuple[float, ...], ...]]
    missing: Mapping[str, tuple[str, str]]


def rerun(
    lab: Lab,
    submission: Path,
    budget: str = "smoke",
    seed: int = 0,
    level: int = 3,
    allow_weak: bool = False,
) -> Experiment:
    """The experiment of one submission, ``TRAININGS`` times, each on data and with a seed of its own.

    Raises ``ValueError`` for another budget than the lab has, and as ``sandbox.run`` does.
    """
    return summary(lab, accuracies(lab, submission, budget, seeds_of(seed, TRAININGS), level, allow_weak), seed, budget)


def summary(lab: Lab, found: Accuracies, seed: int, budget: str) -> Experiment:
    """Means and spreads of every setting, or why there are none."""
    settings = []
    for target in lab.experiment.settings:
        if runs := found.of.get(target.name):
            again = Rerun.of(runs)
            said = f"{again.mean:.1f} % in {again.seeds} trainings of {again.episodes} episodes"
            settings.append(Setting(target.name, "ok", said, again.mean, again.sd, again.episodes, again.seeds))
        else:
            settings.append(Setting(target.name, *found.missing[target.name]))
    return Experiment(found.verdict, found.reason, found.level, seed, budget, tuple(settings))


def seeds_of(seed: int, count: int) -> tuple[int, ...]:
    """Seeds of trainings, all different, that follow from one."""
    return tuple(mix_seed(seed, number) for number in range(count))


def accuracies(
    lab: Lab, submission: Path, budget: str, seeds: Sequence[int], level: int = 3, allow_weak: bool = False
) -> Accuracies:
    """What the experiment of a submission reaches with these seeds, in one sandbox.

    Its limits are those of the budget, which holds ``TRAININGS``, in proportion to the number of seeds.
    """
    trials, share = trials_of(lab, budget, seeds), max(1.0, len(seeds) / TRAININGS)
    limits = lab.experiment.budgets[budget].limits
    limits = replace(limits, wall=limits.wall * share, cpu=math.ceil(limits.cpu * share))
    job = Job(submission, lab.module, calls(lab, trials), lab.tensors)
    return scored(lab, run(job, limits, level, allow_weak), trials)


def trials_of(lab: Lab, budget: str, seeds: Sequence[int]) -> dict[str, Trial]:
    """The trials of these seeds by the names of their records. Raises ``ValueError`` for a budget that there is not."""
    if budget not in lab.experiment.budgets:
        raise ValueError(f"lab {lab.name} has the budgets {list(BUDGETS)}; got {budget!r}")
    numbers = tuple(lab.experiment.budgets[budget].numbers.items())
    return {
        f"{lab.experiment.function}/{i}/{j}": trial
        for i, seed in enumerate(seeds)
        for j, trial in enumerate(_trials(lab.inputs, numbers, seed))
    }


@lru_cache(
    maxsize=2 * TRAININGS
)  # a class has the same seeds, and to make the images takes as long as to check functions
def _trials(inputs: ModuleType, numbers: tuple[tuple[str, float], ...], seed: int) -> tuple[Trial, ...]:
    return inputs.trials(dict(numbers), seed)


def calls(lab: Lab, trials: Mapping[str, Trial]) -> tuple[Call, ...]:
    """What a sandbox is asked for these trials."""
    return tuple(Call(name, lab.experiment.function, trial.arguments) for name, trial in trials.items())


def scored(lab: Lab, outcome: Outcome, trials: Mapping[str, Trial]) -> Accuracies:
    """The accuracies of every episode, from the predictions that came back and the labels that stayed."""
    found: dict[str, list[tuple[float, ...]]] = {target.name: [] for target in lab.experiment.settings}
    missing: dict[str, tuple[str, str]] = {}
    for name, trial in trials.items():
        record = outcome.records.get(name)
        for number, (setting, labels) in enumerate(trial.labels.items()):
            if record is None or outcome.verdict == "infra_error":
                missing.setdefault(setting, (outcome.verdict, outcome.reason))
            elif record.status != "ok":
                missing.setdefault(setting, (record.status, clean(record.text)))
            elif trouble := _unfit(record, number, setting, labels, len(trial.labels)):
                missing.setdefault(setting, ("student_error", trouble))
            else:
                right = record.arrays[number] == labels
                found[setting].append(tuple(100 * right.mean(1)))
    kept = {setting: tuple(runs) for setting, runs in found.items() if setting not in missing}
    verdict, reason = outcome.verdict, outcome.reason
    if verdict == "ok" and missing:
        setting, (verdict, why) = next(iter(missing.items()))
        reason = f"{setting}: {why}"
    return Accuracies(verdict, reason, outcome.level, kept, missing)


def _unfit(record: Record, number: int, setting: str, labels: np.ndarray, settings: int) -> str:
    """What is wrong with the form of the predictions for a setting, in one sentence; "" where they can be compared."""
    if len(record.arrays) != settings:
        return f"the experiment returns {settings} arrays of predictions, one a setting; these are {len(record.arrays)}"
    got, classes = record.arrays[number], int(labels.max()) + 1
    if got.shape != labels.shape:
        return f"predictions for {setting} have shape {list(labels.shape)}; these have {list(got.shape)}"
    if got.dtype.kind == "c" or not np.isfinite(got).all():
        return f"predictions for {setting} are labels 0 .. {classes - 1}; these are complex, infinite or not a number"
    if (got != np.round(got)).any() or got.min() < 0 or got.max() >= classes:
        return (
            f"predictions for {setting} are labels 0 .. {classes - 1}; these go from {got.min():g} to {got.max():g}"
            + (", not all whole" if (got != np.round(got)).any() else "")
        )
    return ""


# The reference's own accuracies


@dataclass(frozen=True)
class Anchor:
    """What the reference reaches in a setting.

    Parameters
    ----------
    means : budget -> accuracy in per cent with each seed.
    episode_sd, episodes : budget -> standard deviation of single episodes, and how many of them a mean is of.
    gains : ``full`` minus ``smoke`` in log-odds, of the reference and of every honest variant.
    """

    means: Mapping[str, tuple[float, ...]]
    episode_sd: Mapping[str, float]
    episodes: Mapping[str, int]
    gains: tuple[float, ...]

    def spread(self, budget: str) -> Spread:
        """How much trainings differ by their seeds."""
        return Spread.of(self.means[budget], self.episode_sd[budget] / math.sqrt(self.episodes[budget]))


def expected(lab: Lab) -> dict[str, Anchor]:
    """The recorded accuracies of the reference by setting; none where none were recorded.

    Raises ``ValueError`` for a record of another reference, other inputs or other numbers.
    """
    if not lab.expected_file.is_file():
        return {}
    record = read_record(lab.expected_file.stem, lab.folder)
    if record["digest"] != lab.experiment_digest():
        raise ValueError(
            f"expected.json of lab {lab.name} was recorded for another reference; record it anew with "
            "utils.grading.selftest.record_expected"
        )
    return {name: anchor_of(entry) for name, entry in record["settings"].items()}


def anchor_of(entry: Mapping[str, Any]) -> Anchor:
    """An anchor from its part of ``expected.json``."""
    budgets = entry["budgets"]
    return Anchor(
        {name: tuple(budget["means"]) for name, budget in budgets.items()},
        {name: budget["episode_sd"] for name, budget in budgets.items()},
        {name: budget["episodes"] for name, budget in budgets.items()},
        tuple(entry["gains"].values()),
    )


# Claims


def judge_claims(lab: Lab, report: Report, experiment: Experiment) -> tuple[Judgement, ...]:
    """Every setting that the report claims an accuracy of, against the rerun.

    A claim is of the budget ``full``. Where several numbers are given for a setting, the highest counts.
    """
    claims = claims_of(lab, report)
    reruns = {s.setting: Rerun(s.mean, s.sd, s.episodes, s.seeds) for s in experiment.settings if s.mean is not None}
    anchors, spreads = expected(lab), {}
    for setting, again in list(reruns.items()):
        if anchor := anchors.get(setting):
            reruns[setting], spreads[setting] = shifted(again, anchor, experiment.budget)
    why = {s.setting: s.reason for s in experiment.settings if s.mean is None}
    return tuple(
        replace(each, reason=f"{each.reason} ({why[each.setting]})") if each.setting in why else each
        for each in judge(claims, reruns, spreads)
    )


def claims_of(lab: Lab, report: Report) -> list[Claimed]:
    """The accuracies that a report claims as its own, one a setting at most: the highest, in the lab's order.

    Of several that are equal, the one that says of how many episodes it is. Left out: what is cited, values outside
    0 .. 100, other metrics, settings that the lab does not ask for, and the budget ``smoke`` beside ``full``.
    """
    claims = []
    for target in lab.experiment.settings:
        own = [c for c in report.claims if is_about(c, target) and not c.cited and 0 <= c.value <= 100]
        if own:
            longer = [claim for claim in own if not _is_short(lab, claim)] or own
            best = max(longer, key=lambda claim: (claim.value, claim.over == "episodes", claim.interval is not None))
            episodes = best.n if best.over == "episodes" else None
            ci95 = best.interval if best.interval is not None and 0 <= best.interval <= 100 else None
            claims.append(Claimed(target.name, best.value, episodes or None, ci95, min(best.step, 100)))
    return claims


def _is_short(lab: Lab, claim: ClaimedResult) -> bool:
    """Whether the words around a number say that it is of the budget ``smoke``: by its name or its number of steps."""
    said = claim.label or claim.text
    smoke, full = (lab.experiment.budgets[name].numbers.get("steps") for name in BUDGETS)
    steps = {int(number) for number in _STEPS.findall(said)}
    named = (smoke in steps and full not in steps) if smoke != full else False
    return named or bool(re.search(r"\bsmoke\b", said, re.I) and not re.search(r"\bfull\b", said, re.I))


def is_about(claim: ClaimedResult, target: Target) -> bool:
    """Whether a number of a report is an accuracy in this setting."""
    return claim.metric == "accuracy" and all(
        (
            target.n_way in (None, claim.n_way),
            target.k_shot in (None, claim.k_shot),
            target.scenario in ("", claim.scenario),
            target.dataset in ("", claim.dataset),
            target.method.casefold() in ("", claim.method.casefold()),
        )
    )


def shifted(again: Rerun, anchor: Anchor, budget: str) -> tuple[Rerun, Spread]:
    """What the budget ``full`` would have given, and the spread with which ``claims.judge`` takes it into account.

    With x the log-odds of the rerun and g the mean of the gains, p' = logistic(x + g). Episodes are as they are at
    ``full``, as many of them as know p' no better than the rerun's know p. The variance that ``judge`` gives to seeds,
    s^2 (1 + 1 / R), becomes: that of a training at ``full``, that of R trainings at ``smoke`` times the slope dp'/dp
    squared, and that of the gain of one more network, sd(g)^2 (1 + 1 / V), times the slope dp'/dg squared. Degrees of
    freedom are Welch and Satterthwaite's.
    """
    full, smoke = anchor.spread("full"), anchor.spread("smoke")
    if budget == "full":
        return again, full
    gain, _, gain_sd = interval(anchor.gains)
    mean = accuracy_of(log_odds(again.mean) + gain)
    by_gain = mean * (100 - mean) / 100
    by_rerun = by_gain / (_inside(again.mean) * (100 - _inside(again.mean)) / 100)
    parts = (
        (full.sd**2, full.freedom),
        ((by_rerun * smoke.sd) ** 2 / again.seeds, smoke.freedom),
        ((by_gain * gain_sd) ** 2 * (1 + 1 / len(anchor.gains)), len(anchor.gains) - 1),
    )
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance else full.freedom
    sd, episodes = anchor.episode_sd["full"], again.episodes
    if again.sd:
        episodes = max(2, round(episodes * (sd / (by_rerun * again.sd)) ** 2))
    return (
        Rerun(mean, sd, episodes, again.seeds),
        Spread(math.sqrt(variance / (1 + 1 / again.seeds)), max(1.0, freedom)),
    )


def log_odds(accuracy: float) -> float:
    """Of an accuracy in per cent."""
    share = _inside(accuracy) / 100
    return math.log(share / (1 - share))


def accuracy_of(odds: float) -> float:
    """Per cent; the inverse of ``log_odds``."""
    return 100 / (1 + math.exp(-odds))


def _inside(accuracy: float) -> float:
    return min(100 - _EDGE, max(_EDGE, accuracy))
