"""Does a lab test what it says? Its starter fails, its reference and honest variants pass, every mutant is noticed.

The starter and the reference run in the sandbox, as a student's file does. Mutants and variants run here, through the
same code: they are the teacher's own, and twenty sandboxes that import PyTorch would take minutes.
"""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.claims.statistics import interval
from utils.grading.claims import Rerun
from utils.grading.equivalence import answers, check, compared
from utils.grading.experiment import accuracies, expected, log_odds, rerun
from utils.grading.labs import BUDGETS, Lab, student_files
from utils.grading.limits import Limits
from utils.grading.results import Equivalence, Experiment
from utils.grading.sandbox import Call, Job, run
from utils.records import provenance, write_record

FEWEST_MUTANTS = 10
FEWEST_SEEDS = 8
_PAIR = 2  # trainings that one sandbox is asked for


@dataclass(frozen=True)
class Selftest:
    """What was found of a lab.

    Parameters
    ----------
    problems : what is wrong, a sentence each; none where the lab can be used.
    killed : mutant -> the functions that gave it away, with every seed.
    reference, experiment : what the reference got, as a student.
    """

    lab: str
    level: int
    problems: tuple[str, ...]
    killed: Mapping[str, tuple[str, ...]]
    reference: Equivalence
    experiment: Experiment | None

    @property
    def passed(self) -> bool:
        return not self.problems


def selftest(
    lab: Lab,
    level: int = 3,
    seeds: Sequence[int] = (0, 1, 2),
    budget: str | None = "smoke",
    allow_weak: bool = False,
) -> Selftest:
    """Everything that a lab promises, tried with inputs of these seeds; ``budget`` None leaves the experiment out."""
    with submitted(lab.text_of(), lab.module) as folder:
        reference = check(lab, folder, seeds[0], level=level, allow_weak=allow_weak)
        experiment = rerun(lab, folder, budget, seeds[0], level, allow_weak) if budget else None
    killed = {name: killers(lab, name, seeds) for name in lab.mutants}
    problems = [
        *starter_problems(lab, level, allow_weak),
        *_equivalence_problems(reference),
        *(_experiment_problems(lab, experiment) if experiment else ()),
        *(f"mutant {name} is not noticed with every seed" for name, functions in killed.items() if not functions),
        *(problem for name in lab.variants for problem in variant_problems(lab, name, seeds)),
        *_file_problems(lab),
    ]
    if len(killed) < FEWEST_MUTANTS:
        problems.append(f"there are {len(killed)} mutants; a lab has at least {FEWEST_MUTANTS}")
    return Selftest(lab.name, level, tuple(problems), killed, reference, experiment)


def killers(lab: Lab, mutant: str, seeds: Sequence[int]) -> tuple[str, ...]:
    """The functions of the lab that a mutant fails with every one of the seeds."""
    failed = [set(_failed(lab, mutant, seed)) for seed in seeds]
    return tuple(function.name for function in lab.functions if all(function.name in names for names in failed))


def variant_problems(lab: Lab, variant: str, seeds: Sequence[int]) -> Iterator[str]:
    """What is held against an honest variant."""
    for seed in seeds:
        for name, reason in _failed(lab, variant, seed).items():
            yield f"honest variant {variant} fails {name} with seed {seed}: {reason}"


def starter_problems(lab: Lab, level: int = 3, allow_weak: bool = False) -> Iterator[str]:
    """What the starter does that it should not: it imports, and each of its functions is not implemented."""
    cases = {case.function: case for case in reversed(lab.inputs.cases(0))}
    task = lab.experiment.function
    empty = (None,) * len(inspect.signature(getattr(lab.reference, task)).parameters)
    calls = [Call(name, case.function, case.arguments) for name, case in cases.items()] + [Call(task, task, empty)]
    with submitted(student_files(lab)[lab.module], lab.module) as folder:
        outcome = run(Job(folder, lab.module, tuple(calls), lab.tensors), Limits(), level, allow_weak)
    for call in calls:
        record = outcome.records.get(call.name)
        text = record.text if record else outcome.reason
        if record is None or not text.startswith("NotImplementedError"):
            yield f"the starter's {call.name} is not left to the student: {text or 'it answers'}"


@contextmanager
def submitted(text: str, module: str) -> Iterator[Path]:
    """A folder as a student would hand it in, with one file."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / module).write_text(text, encoding="utf-8")
        yield Path(name)


def _failed(lab: Lab, name: str, seed: int) -> dict[str, str]:
    cases = lab.inputs.cases(seed)
    checks = compared(lab, cases, answers(lab.variant(name), cases, lab.tensors), hints=False)
    return {each.function: each.reason for each in checks if each.verdict != "ok"}


def _equivalence_problems(reference: Equivalence) -> Iterator[str]:
    if reference.verdict != "ok":
        yield f"the reference gets {reference.verdict}: {reference.reason}"
    for each in reference.checks:
        if each.verdict != "ok":
            yield f"the reference fails {each.function}: {each.reason}"


def _experiment_problems(lab: Lab, experiment: Experiment) -> Iterator[str]:
    floors = {target.name: target.floor for target in lab.experiment.settings}
    for setting in experiment.settings:
        if setting.mean is None:
            yield f"the reference's experiment gets {setting.verdict} in {setting.setting}: {setting.reason}"
        elif setting.mean < floors[setting.setting]:
            yield f"the reference reaches {setting.mean:.1f} % in {setting.setting}, less than the floor"


def _file_problems(lab: Lab) -> Iterator[str]:
    for name, text in student_files(lab).items():
        path = lab.folder / "student" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield f"student/{name} is not what is made from the lab; write it with labs.write_student_files"
    if not lab.report_file.is_file():
        yield "there is no model report, report.md"
    try:
        missing = {target.name for target in lab.experiment.settings} - expected(lab).keys()
    except ValueError as error:
        yield str(error)
    else:
        if missing:
            yield f"expected.json has no accuracies for {', '.join(sorted(missing))}; record them"


# The reference's accuracies


def record_expected(
    lab: Lab, seeds: Sequence[int], variant_seeds: Sequence[int], level: int = 3, allow_weak: bool = False
) -> Path:
    """Measure the reference with every seed at both budgets, its variants with some, and write ``expected.json``.

    All of it runs as a student's does. Variants are measured for what networks that learn at another speed gain from
    the larger budget. Minutes. Raises ``ValueError`` for too few seeds, and where an experiment does not succeed.
    """
    if len(set(seeds)) < FEWEST_SEEDS or len(set(variant_seeds)) < 2:
        raise ValueError(
            f"a spread over seeds takes {FEWEST_SEEDS} of them, a gain 2; got {list(seeds)} and {list(variant_seeds)}"
        )
    digest = lab.experiment_digest()  # of what is measured, should a file change meanwhile
    measured = {
        (name, budget): _measured(lab, name, budget, variant_seeds if name else seeds, level, allow_weak)
        for name in ("", *lab.variants)
        for budget in BUDGETS
    }
    settings = {}
    for target in lab.experiment.settings:
        means = {key: [sum(run) / len(run) for run in runs[target.name]] for key, runs in measured.items()}
        gains = {
            name or "reference": _rounded(
                log_odds(interval(means[name, "full"])[0]) - log_odds(interval(means[name, "smoke"])[0])
            )
            for name in ("", *lab.variants)
        }
        budgets = {budget: _summary(measured["", budget][target.name], means["", budget]) for budget in BUDGETS}
        settings[target.name] = {"budgets": budgets, "gains": gains}
    record = {
        "lab": lab.name,
        "digest": digest,
        "level": level,
        "seeds": list(seeds),
        "variant_seeds": list(variant_seeds),
        "settings": settings,
        "provenance": provenance(),
    }
    return write_record("expected", record, lab.folder)


def _measured(
    lab: Lab, name: str, budget: str, seeds: Sequence[int], level: int, allow_weak: bool
) -> dict[str, list[tuple[float, ...]]]:
    """Setting -> accuracies of every episode of every training."""
    found: dict[str, list[tuple[float, ...]]] = {target.name: [] for target in lab.experiment.settings}
    with submitted(lab.text_of(name), lab.module) as folder:
        for start in range(0, len(seeds), _PAIR):
            some = accuracies(lab, folder, budget, seeds[start : start + _PAIR], level, allow_weak)
            if some.verdict != "ok":
                raise ValueError(f"{name or 'the reference'} of lab {lab.name} gets {some.verdict}: {some.reason}")
            for setting, runs in some.of.items():
                found[setting] += runs
    return found


def _summary(runs: Sequence[Sequence[float]], means: Sequence[float]) -> dict[str, Any]:
    within = Rerun.of(runs)
    return {
        "mean": _rounded(within.mean),
        "sd": _rounded(interval(means)[2]),
        "means": [_rounded(mean) for mean in means],
        "episodes": within.episodes,
        "episode_sd": _rounded(within.sd),
    }


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"an accuracy of the reference is {value}")
    return round(value, 4)
