"""A submission's functions and its experiment in one sandbox: to import PyTorch takes longer than to try the functions.

What does not end well there is done again in two, each with its own limits, so that neither is judged by the other.
"""

from __future__ import annotations

from pathlib import Path

from utils.grading import equivalence, experiment
from utils.grading.labs import Lab
from utils.grading.results import Equivalence, Experiment
from utils.grading.sandbox import Job, run


def together(
    lab: Lab, submission: Path, seeds: tuple[int, int], budget: str, level: int = 3, allow_weak: bool = False
) -> tuple[Equivalence, Experiment]:
    """``equivalence.check`` with the first seed and ``experiment.rerun`` with the second.

    The limits of both are those of the experiment. Raises as those two do.
    """
    cases = lab.inputs.cases(seeds[0])
    trials = experiment.trials_of(lab, budget, experiment.seeds_of(seeds[1], experiment.TRAININGS))
    calls = equivalence.calls(cases) + experiment.calls(lab, trials)
    limits = lab.experiment.budgets[budget].limits
    outcome = run(Job(submission, lab.module, calls, lab.tensors), limits, level, allow_weak)
    if outcome.verdict != "ok":
        return (
            equivalence.check(lab, submission, seeds[0], level=level, allow_weak=allow_weak),
            experiment.rerun(lab, submission, budget, seeds[1], level, allow_weak),
        )
    functions = equivalence.judged(lab, cases, seeds[0], outcome)
    return functions, experiment.summary(lab, experiment.scored(lab, outcome, trials), seeds[1], budget)
