"""Marks by rubric: points only for what a machine can know, the rest open until a person decides.

Nothing is known of what failed to run here, of what was not handed in, or of a report that nobody can read. Such an
item has no points and says why: that is for a person, and never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from utils.grading.exports import Mark
from utils.grading.intake import Student, is_late
from utils.grading.report import Report
from utils.grading.results import Equivalence, Experiment, ItemMark

if TYPE_CHECKING:
    from utils.grading.labs import Lab, RubricItem

LATE = "late"
"""Stands for the penalty where a person overrides it; no line of a rubric is called so."""

# What follows from nothing that the student did, and what an answer of the student's was not even looked for in.
_UNKNOWN = ("infra_error", "rejected_input")
# Which verdict stands for a submission: the first that any of its parts has.
_WORST = (
    *("infra_error", "tamper_suspected", "rejected_input", "process_limit", "output_limit", "memory", "timeout"),
    *("student_error", "wrong"),
)


@dataclass(frozen=True)
class Late:
    """What lateness costs after ``grace`` minutes: ``per_day``, at most ``most``, shares of the points possible."""

    per_day: float = 0.0
    most: float = 1.0
    grace: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.per_day <= 1 and 0 <= self.most <= 1 and 0 <= self.grace < math.inf):
            raise ValueError(f"per_day and most are shares from 0 to 1, grace is in minutes from 0 on; got {self}")


@dataclass(frozen=True)
class Override:
    """A person's points for one item (or ``LATE``: points off) of one student; ``tree`` is what lay before them."""

    student: str
    item: str
    points: float
    reason: str
    by: str
    tree: str = ""


@dataclass(frozen=True)
class Row:
    """A student's line of the gradebook.

    Parameters
    ----------
    status, reason : one of ``exports.STATUSES``, and one sentence.
    uuid, tree, received, late : of the submission, see ``intake.Submission``; "" and None where there is none.
    penalty : points off for lateness, before it is cut to the points there are.
    level, budget : isolation under which the code ran (0: it did not), and of the experiment.
    receipt : digest of all that the marks were made from; the store has the receipt itself.
    notes : what a grader should see, in a fixed order.
    """

    student: str
    status: str
    reason: str
    uuid: str = ""
    tree: str = ""
    received: str = ""
    late: bool | None = None
    penalty: float = 0.0
    items: tuple[ItemMark, ...] = ()
    level: int = 0
    budget: str = ""
    receipt: str = ""
    notes: tuple[str, ...] = ()

    @property
    def raw(self) -> float | None:
        """All points; None while any item is open."""
        points = [item.points for item in self.items]
        return None if None in points or not points else sum(points)

    @property
    def earned(self) -> float:
        """Points so far."""
        return sum(item.points or 0.0 for item in self.items)

    @property
    def open(self) -> tuple[str, ...]:
        """Items without points."""
        return tuple(item.id for item in self.items if item.points is None)

    @property
    def possible(self) -> float:
        return sum(item.max_points for item in self.items)


def automatic(
    lab: Lab, report: Report | None, equivalence: Equivalence | None, experiment: Experiment | None
) -> tuple[ItemMark, ...]:
    """The rubric's lines with the points that a machine can give.

    ``None`` stands for what there is not: no report, or code that was not run. Raises ``ValueError`` for a rubric that
    asks for what nobody here knows.
    """
    return tuple(_marked(lab, item, report, equivalence, experiment) for item in lab.rubric)


def withheld(lab: Lab, why: str) -> tuple[ItemMark, ...]:
    """The rubric's lines without any points, for a submission of which nothing was looked at."""
    return tuple(_line(item, None, why) for item in lab.rubric)


def nothing_handed_in(lab: Lab) -> tuple[ItemMark, ...]:
    """The rubric's lines of a student who handed in nothing: no points, and no automatic zero either."""
    return withheld(lab, "Nothing was handed in.")


def verdict(report: Report | None, equivalence: Equivalence | None, experiment: Experiment | None) -> tuple[str, str]:
    """The verdict of a submission, the most serious of its parts', and the sentence that goes with it."""
    found: list[tuple[str, str]] = []
    for name, part in (("report", report), ("functions", equivalence), ("experiment", experiment)):
        if part is not None:
            found.append((part.verdict, f"{name}: {part.reason}"))
    for check in equivalence.checks if equivalence else ():
        found.append((check.verdict, f"{check.function}: {check.reason}"))
    for setting in experiment.settings if experiment else ():
        found.append((setting.verdict, f"{setting.setting}: {setting.reason}"))
    for worst in _WORST:
        for one, reason in found:
            if one == worst:
                return worst, reason
    return "ok", ""


def late_penalty(received: str, due: datetime | None, policy: Late, possible: float) -> float:
    """Points off for what the LMS received after ``due``: a share for each day begun. 0 where no time is known.

    Only the LMS's time counts; the times of files are the student's to choose.
    """
    if due is None or not is_late(received, due + timedelta(minutes=policy.grace)):
        return 0.0
    days = math.ceil((datetime.fromisoformat(received) - due) / timedelta(days=1))
    return round(min(policy.most, policy.per_day * days) * possible, 2)


def overridden(row: Row, overrides: Iterable[Override]) -> Row:
    """The row with a person's points in place of the machine's; what they were given for before is noted."""
    own = {override.item: override for override in overrides if override.student == row.student}
    items = tuple(_overridden(item, own.get(item.id)) for item in row.items)
    notes = [
        f"{one.item} was marked by {one.by} for an earlier submission"
        for _, one in sorted(own.items())
        if one.tree != row.tree
    ]
    penalty = own[LATE].points if LATE in own else row.penalty
    status = row.status
    if status == "infra_error" and items and all(item.points is not None for item in items):
        status = "ok"  # a person has marked what the machine could not
    return replace(row, items=items, penalty=penalty, status=status, notes=(*row.notes, *notes))


def check_override(lab: Lab, override: Override) -> None:
    """``ValueError`` unless the rubric has the item, the points are possible, and who and why are given."""
    possible = {item.id: item.points for item in lab.rubric}
    possible[LATE] = sum(possible.values())
    if override.item not in possible:
        raise ValueError(f"{lab.name} has no item {override.item!r}; it has {', '.join(possible)}")
    if not 0 <= override.points <= possible[override.item]:
        raise ValueError(f"{override.item} has 0 to {possible[override.item]:g} points; got {override.points:g}")
    if not override.reason.strip() or not override.by.strip():
        raise ValueError("a mark by hand needs a reason and the name of who gives it (--reason, --by)")


def exported(row: Row, student: Student) -> Mark:
    """The line as an export needs it: without a score while any item is open."""
    raw = None if row.status == "infra_error" else row.raw
    note = list(row.notes)
    if row.open:
        note.append(f"{row.earned:g} points so far, open: {', '.join(row.open)}")
    return Mark(
        row.student,
        row.status,
        row.possible,
        raw,
        0.0 if raw is None else min(row.penalty, raw),
        student.lms_id,
        student.name,
        student.email,
        row.received,
        "; ".join(note),
    )


# ----------------------------------------------------------------------------------------------------------- one line


def _marked(
    lab: Lab, item: RubricItem, report: Report | None, equivalence: Equivalence | None, experiment: Experiment | None
) -> ItemMark:
    what, _, name = item.auto.partition(":")
    if what == "manual":
        return _line(item, None, "A person marks this.", "manual")
    if what == "function":
        return _function(item, name, equivalence)
    if what == "experiment":
        return _experiment(lab, item, experiment)
    if report is None:
        return _line(item, None, "There is no report among the files; a person looks.")
    if not report.readable:
        return _line(item, None, f"The report could not be read ({report.reason or 'too little text'}).")
    if what == "section":
        return _section(item, name, report)
    found, present, missing = _FOUND[what](report)
    return _line(item, item.points if found else 0.0, present if found else missing)


_FOUND = {
    "ranking": lambda report: (
        any(ranking.possible for ranking in report.rankings),
        f"The ranking is given: {', '.join(f'{one.rank} of {one.of}' for one in report.rankings[:3])}.",
        "No ranking of the team is given that can be.",
    ),
    "worse": lambda report: (
        report.worse.reported,
        "Worse results stand beside the better ones.",
        "No result below the best one is reported and discussed.",
    ),
    "figures": lambda report: (bool(report.figures), "Figures are there.", "No figure was found."),
    "tables": lambda report: (bool(report.tables), "Tables are there.", "No table was found."),
    "source": lambda report: (
        not report.source.absent
        and any(section.name == "source code" and section.state == "present" for section in report.sections),
        "The source code is named and there.",
        f"Named and not handed in: {', '.join(report.source.absent[:5])}."
        if report.source.absent
        else "The report does not say where the source code is.",
    ),
}


def _section(item: RubricItem, name: str, report: Report) -> ItemMark:
    found = next((section for section in report.sections if section.name == name), None)
    if found is None:
        raise ValueError(
            f"the rubric's item {item.id} asks for the section {name!r}; a {report.kind} report has "
            f"{', '.join(section.name for section in report.sections)}"
        )
    if found.state == "unreadable":
        return _line(item, None, "The report could not be read.")
    if found.state == "present":
        return _line(item, item.points, f"Found under {found.heading!r}." if found.heading else "It is there.")
    return _line(item, 0.0, f"The section is {found.state}{f': {found.why}' if found.why else ''}.")


def _function(item: RubricItem, name: str, equivalence: Equivalence | None) -> ItemMark:
    if equivalence is None:
        return _line(item, None, "The code was not run.")
    check = next((check for check in equivalence.checks if check.function == name), None)
    verdict, reason = (check.verdict, check.reason) if check else (equivalence.verdict, equivalence.reason)
    if equivalence.verdict in _UNKNOWN:
        verdict, reason = equivalence.verdict, equivalence.reason
    if verdict in _UNKNOWN:
        return _line(item, None, _unknown(verdict, reason))
    if check is None and verdict == "ok":
        return _line(item, None, f"{name} was not looked at; a person looks.")
    if verdict == "ok" and equivalence.verdict == "tamper_suspected":
        return _line(item, None, "The code sent answers that nobody asked for; a person looks.")
    if verdict == "ok":
        return _line(item, item.points, f"Agrees with the reference on {check.passed} of {check.cases} inputs.")
    return _line(item, 0.0, reason or f"The verdict is {verdict}.")


def _experiment(lab: Lab, item: RubricItem, experiment: Experiment | None) -> ItemMark:
    """A share of the points for every setting that reached its floor."""
    if experiment is None:
        return _line(item, None, "The experiment was not run.")
    if experiment.verdict in _UNKNOWN:
        return _line(item, None, _unknown(experiment.verdict, experiment.reason))
    if any(setting.verdict in _UNKNOWN for setting in experiment.settings):
        return _line(item, None, _unknown("infra_error", "one of its settings did not run"))
    if experiment.verdict == "tamper_suspected":
        return _line(item, None, "The code sent answers that nobody asked for; a person looks.")
    floors = {setting.name: setting.floor for setting in lab.experiment.settings}
    results = {setting.setting: setting for setting in experiment.settings}
    said, reached = [], 0
    for name, floor in floors.items():
        result = results.get(name)
        mean = result.mean if result else None
        reached += mean is not None and mean >= floor
        said.append(
            f"{name}: {mean:.1f} % (at least {floor:g} % is asked for)"
            if mean is not None
            else f"{name}: {(result.reason if result else '') or experiment.reason}"
        )
    return _line(item, round(item.points * reached / len(floors), 2), "; ".join(said))


def _unknown(verdict: str, reason: str) -> str:
    if verdict == "infra_error":
        return "The grader's machine failed; this is run again."
    return f"Nothing could be run: {reason or 'the files were rejected'}."


def _line(item: RubricItem, points: float | None, why: str, by: str = "auto") -> ItemMark:
    return ItemMark(item.id, item.section, item.text, item.points, points, by, why)


def _overridden(item: ItemMark, override: Override | None) -> ItemMark:
    if override is None:
        return item
    return replace(item, points=override.points, by=override.by, why=override.reason)


def changed(old: Row | None, new: Row) -> Sequence[tuple[str, str, str]]:
    """What differs between two rows of a student, as (what, old, new): items, status, penalty; else the receipt."""
    before = {} if old is None else _values(old)
    after = _values(new)
    found = [(name, before.get(name, ""), after.get(name, "")) for name in sorted(before.keys() | after.keys())]
    found = [change for change in found if change[1] != change[2]]
    if not found and old != new:
        found = [("receipt", old.receipt if old else "", new.receipt)]
    return found


def _values(row: Row) -> dict[str, str]:
    points = {item.id: "open" if item.points is None else f"{item.points:g}" for item in row.items}
    return points | {"status": row.status, LATE: f"{row.penalty:g}"}
