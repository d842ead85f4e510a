"""What is known of one submission: plain values that go through JSON unchanged, so that every step can be kept and
resumed, and so that pages, marks and exports need nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failing:
    """The smallest input that was found on which a function differs from the reference.

    Parameters
    ----------
    case : name of the case.
    given : the arguments in a few lines, for the student to type in.
    got, wanted : what came back and what should be true of it (a shape, a property, at most a few numbers).
    hint : the misconception whose answer is the same, or "".
    """

    case: str
    given: str
    got: str
    wanted: str
    hint: str = ""


@dataclass(frozen=True)
class FunctionCheck:
    """A function of the student's against the reference: ``verdict`` is one of ``sandbox.VERDICTS``."""

    function: str
    verdict: str
    passed: int
    cases: int
    reason: str
    failing: Failing | None = None


@dataclass(frozen=True)
class Equivalence:
    """All functions of one submission, compared on inputs of ``seed`` in a sandbox of ``level``.

    ``verdict`` is the sandbox's, or ``wrong`` where that is ``ok`` and a function is not.
    """

    verdict: str
    reason: str
    level: int
    seed: int
    checks: tuple[FunctionCheck, ...]
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class Setting:
    """A setting of the experiment, re-run: accuracies in per cent over ``episodes`` of each of ``seeds`` trainings."""

    setting: str
    verdict: str
    reason: str
    mean: float | None = None
    sd: float | None = None
    episodes: int = 0
    seeds: int = 0


@dataclass(frozen=True)
class Experiment:
    """The experiment of one submission, re-run at ``budget``; ``level`` and ``seed`` as in ``Equivalence``."""

    verdict: str
    reason: str
    level: int
    seed: int
    budget: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Similar:
    """A pair that a person should look at. ``kind`` is ``code``, ``prose`` or ``results``; ``page`` shows both."""

    other: str
    kind: str
    score: float
    percentile: float
    page: str = ""


@dataclass(frozen=True)
class ItemMark:
    """One line of the rubric, marked.

    ``points`` is None while a person has not decided (``by == "manual"``), or where the machine failed. ``why`` is one
    sentence for the student. ``by`` is ``auto``, ``manual`` or the name of the person who overrode it.
    """

    id: str
    section: str
    text: str
    max_points: float
    points: float | None
    by: str
    why: str = ""
