"""The steps of grading a class: each does what is not done yet, keeps it, and says in a line what came of it.

A course is a folder: ``grading.toml``, ``roster.csv``, ``submitted/``, ``gradebook.sqlite``, ``feedback/``,
``teacher/`` and ``export/``, the last four a folder a lab. All that follows from a submission is kept under a digest of
what it was made from, so a step that was killed goes on where it was, and the exports are the same bytes however often,
in whatever order and by whomever the work was done.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data.cache import write_atomically
from utils.grading import doctor as isolation_check
from utils.grading import exports, intake, marks, similarity
from utils.grading.archives import Reject
from utils.grading.contents import code_files, notebook_code
from utils.grading.doctor import FLOOR, Isolation
from utils.grading.engine import Engine
from utils.grading.intake import Student, submission_uuid
from utils.grading.marks import Override, Row
from utils.grading.plain import digest, from_json, restored, to_json
from utils.grading.report import Report
from utils.grading.results import Equivalence, Experiment, Similar
from utils.grading.settings import Settings, settings
from utils.grading.store import Store
from utils.grading.tasks import Extracted, Task, broken, environment, failure, grader, inputs, perform

if TYPE_CHECKING:
    from utils.grading.claims import Claimed, Judgement
    from utils.grading.labs import Lab
    from utils.grading.pages import Anchor, Page

    Plotted = tuple[tuple[Claimed, ...], tuple[Anchor, ...]]

ALIKE = {"code": 0.6, "prose": 0.5, "results": 0.6}
"""Pairs that score at least this are shown to a person: unrelated code scores 0.3 at most, copies 0.9."""

PARTS = ("equivalence", "experiment")
_NOT_RUN = "a course project asks for no functions: nothing is run"
"""What is executed of a submission, each in a sandbox of its own."""

SAME_RESULTS = 3
"""Numbers that two reports must share before a person is asked to look."""

_PAGE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}\.(html|md)|[0-9a-f]{16}-(code|prose)\.html|[0-9a-f-]{36}\.json")

_UNREAD = "the report was not read yet with this lab and this grader"
_UNRUN = "the code was not run yet with this lab and this grader"
_PART = re.compile(r".+\.[0-9a-f]{12}\.part")


class GraderError(RuntimeError):
    """The grader or its machine cannot be relied on for this; no student is to blame."""


@dataclass(frozen=True)
class Tools:
    """What the steps call that takes long or needs a lab's own code.

    ``judge(lab, report, experiment)`` gives the judgements of the report's claims; ``plotted(lab, report)`` what a page
    draws of them; ``selftest(lab, level, seed, allow_weak)`` what is wrong with the lab or the grader, a line each;
    ``isolate()`` finds the level of isolation.
    """

    perform: Callable[[Sequence[Task]], Sequence[str]] = perform
    judge: Callable[[Lab, Report, Experiment], Sequence[Judgement]] = field(default=lambda *given: _judged(*given))
    plotted: Callable[[Lab, Report], Plotted] = field(default=lambda *given: _plotted(*given))
    selftest: Callable[[Lab, int, int, bool], Sequence[str]] = field(default=lambda *given: _selftested(*given))
    isolate: Callable[[], Isolation] = isolation_check.examine


@dataclass(frozen=True)
class Course:
    """A class's folder and the lab that is graded in it."""

    folder: Path
    lab: Lab
    tools: Tools = field(default_factory=Tools)

    @property
    def gradebook(self) -> Path:
        return self.folder / "gradebook.sqlite"

    @property
    def submitted(self) -> Path:
        return self.folder / "submitted" / self.lab.name

    @property
    def feedback(self) -> Path:
        return self.folder / "feedback" / self.lab.name

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher" / self.lab.name

    @property
    def exports(self) -> Path:
        return self.folder / "export" / self.lab.name

    @cached_property
    def settings(self) -> Settings:
        return settings(self.folder / "grading.toml")

    @cached_property
    def lab_digest(self) -> str:
        return self.lab.digest()

    def roster(self) -> tuple[Student, ...]:
        """The class. Raises ``ValueError`` where no roster was given yet."""
        path = self.folder / "roster.csv"
        if not path.exists():
            raise ValueError(f"{self.folder} has no roster.csv; give the class list with --roster when you collect")
        return intake.read_roster(path, self.settings.timezone)


@dataclass(frozen=True)
class Done:
    """What a step did. ``errored`` counts students whose work stopped with an error, ``failed`` what broke here."""

    step: str
    line: str
    errored: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Evidence:
    """All that was found out about one submission; None for what was not, or not yet.

    ``unjudged`` says what went wrong where the report's claims could not be judged.
    """

    extracted: Extracted | None = None
    equivalence: Equivalence | None = None
    experiment: Experiment | None = None
    judgements: tuple[Judgement, ...] = ()
    unjudged: str = ""

    @property
    def report(self) -> Report | None:
        return self.extracted.report if self.extracted else None


# ------------------------------------------------------------------------------------------------ before the class


def doctor(
    folder: Path, isolate: Callable[[], Isolation] = isolation_check.examine, fresh: bool = True
) -> tuple[Isolation, Done]:
    """Attacks the sandbox and writes ``isolation.json``. Not ``fresh``: what is written counts on the same machine."""
    path = folder / "isolation.json"
    found = isolation_check.read(path) if path.exists() and not fresh else None
    if found is None or (found.kernel, found.root) != (platform.release(), os.geteuid() == 0):
        found = isolate()
        isolation_check.write(found, path)
    held = "code is run" if found.executes else f"below {FLOOR}: no code is run without --allow-weak"
    return found, Done("doctor", f"isolation level {found.level} of 3, {held}")


def selftest(course: Course, store: Store, level: int, allow_weak: bool = False) -> Done:
    """The reference passes and every wrong answer fails, here and now; kept until the lab or the grader changes.

    Raises ``GraderError`` where that does not hold: then no mark would mean anything.
    """
    if course.lab.experiment is None:
        return Done("selftest", _NOT_RUN)
    if not _runs(level, allow_weak):
        return Done("selftest", f"not run: isolation level {level} is below {FLOOR}")
    seed = course.settings.seed(course.lab.name, "equivalence")
    given = {"step": "selftest", "lab": course.lab_digest, "level": level, "seed": seed}
    given |= {"grader": grader(), "environment": environment()}
    key = digest(given)
    if store.result(key) is not None:
        return Done("selftest", "passed before, nothing has changed since")
    if wrong := list(course.tools.selftest(course.lab, level, seed, allow_weak)):
        raise GraderError(f"the lab {course.lab.name} fails its own test: {'; '.join(wrong)}")
    store.keep_result(key, "selftest", given, to_json([]))
    return Done("selftest", "the reference passes, every wrong answer is found out")


# ------------------------------------------------------------------------------------------------------- the class


def collect(course: Course, store: Store, source: Path, lms: str = "plain", roster: Path | None = None) -> Done:
    """Takes in a class's submissions; ``roster`` becomes the course's."""
    _sweep(course.folder, course.submitted)
    if roster is not None:
        intake.read_roster(roster, course.settings.timezone)  # says what is wrong before anything is replaced
        text = roster.read_bytes()
        write_atomically(course.folder / "roster.csv", lambda file: file.write(text))
    students = course.roster()
    due = course.settings.due.get(course.lab.name)
    manifest = intake.collect(source, course.submitted, students, course.lab.name, lms, due)
    found = manifest["submissions"]
    store.keep_submissions(course.lab.name, found)
    rejected = sum(record["verdict"] != "ok" for record in found)
    late = sum(record["late"] is True for record in found)
    line = (
        f"{len(found)} submissions of {len(students)} students: {rejected} rejected, {late} late, "
        f"{len(manifest['missing'])} students handed in nothing"
    )
    if manifest["unassigned"]:
        line += f"; {len(manifest['unassigned'])} files belong to nobody, see the teacher's page"
    return Done("collect", line, errored=rejected)


def extract(course: Course, store: Store, engine: Engine) -> Done:
    """Reads the reports."""
    tasks = [_task(course, record, "extract") for record in _accepted(course, store)]
    new, kept, failures = _work(course, store, engine, tasks, "reports")
    found = [evidence(course, store, record).extracted for record in _accepted(course, store)]
    without = sum(one is not None and one.report is None for one in found)
    unreadable = sum(one is not None and one.report is not None and not one.report.readable for one in found)
    line = (
        f"{new} reports read, {kept} known before: {without} submissions without one, {unreadable} for a person to read"
    )
    return Done("extract", _with_failures(line, failures), failed=failures)


def run(
    course: Course,
    store: Store,
    engine: Engine,
    level: int,
    budget: str = "smoke",
    allow_weak: bool = False,
    parts: Sequence[str] = PARTS,
) -> Done:
    """Runs the students' functions and experiments (``parts``), in a sandbox of this level.

    Below ``doctor.FLOOR`` nothing is executed unless ``allow_weak`` says so. Raises ``ValueError`` for a budget that
    the lab does not have.
    """
    if course.lab.experiment is None:
        return Done("run", _NOT_RUN)
    if budget not in course.lab.experiment.budgets:
        raise ValueError(
            f"{course.lab.name} has the budgets {', '.join(course.lab.experiment.budgets)}; got {budget!r}"
        )
    store.remember(course.lab.name, "run", {"level": level, "budget": budget, "allow_weak": allow_weak})
    if not _runs(level, allow_weak):
        return Done(
            "run",
            f"nothing was executed: isolation level {level} is below {FLOOR} (--allow-weak runs code all the same)",
        )
    records = _accepted(course, store)
    tasks = [_task(course, r, step, level, budget, allow_weak) for r in records for step in parts]
    new, kept, failures = _work(course, store, engine, tasks, "submissions")
    line = f"{new} results at level {level} (budget {budget}), {kept} known before"
    return Done("run", _with_failures(line, failures), failed=failures)


def similar(course: Course, store: Store, years: Path | None = None) -> Done:
    """Looks for pairs that a person should see: code, prose, results; also against earlier years.

    ``years`` is a folder with a folder for each earlier submission.
    """
    from utils.grading.labs import starter

    records = _accepted(course, store)
    earlier = sorted(path for path in years.iterdir() if path.is_dir()) if years else []
    codes_of = {
        r["uuid"]: _code(course.submitted / r["uuid"] / "files", [f["name"] for f in r["files"]]) for r in records
    }
    earlier_of = {f"earlier: {path.name}": _code(path, _names(path)) for path in earlier}
    given = {
        "step": "similarity",
        "trees": sorted([record["uuid"], record["tree"]] for record in records),
        "earlier": digest(earlier_of),
        # not the reports that a failure of the machine kept from being read
        "reports": sorted(key for r in records if store.result(key := _key(_task(course, r, "extract"))) is not None),
        "lab": course.lab_digest,
        "grader": grader(),
    }
    key = digest(given)
    stored = store.result(key)
    if stored is None:
        base = []
        if course.lab.experiment is not None:
            text = course.lab.reference_file.read_text(encoding="utf-8")
            given_out = (("reference", text), ("starter", starter(text)))
            base = [similarity.read_code(name, {"lab.py": text}) for name, text in given_out]
        codes = [_read_code(name, files, base) for name, files in {**codes_of, **earlier_of}.items()]
        pairs = [_pair("code", p) for p in similarity.cohort(codes) if not (p.a in earlier_of and p.b in earlier_of)]
        reports = {r["uuid"]: evidence(course, store, r).extracted for r in records}
        pairs += _alike_reports(course, reports)
        pairs = [pair for pair in pairs if pair["score"] >= ALIKE[pair["kind"]]]
        stored = to_json(sorted(pairs, key=lambda pair: (-pair["score"], pair["a"], pair["b"], pair["kind"])))
        store.keep_result(key, "similarity", given, stored)
    store.remember(course.lab.name, "similarity", {"key": key, "years": str(years) if years else ""})
    kinds = Counter(pair["kind"] for pair in json.loads(stored))
    counts = ", ".join(f"{kinds[kind]} by {kind}" for kind in ALIKE)
    return Done("similarity", f"{len(records)} submissions compared; pairs for a person to look at: {counts}")


# -------------------------------------------------------------------------------------------------- marks and pages


def mark(course: Course, store: Store) -> Done:
    """Marks by rubric what the machine can know; a person's marks stay."""
    config = course.settings
    by_student = _by_student(store.submissions(course.lab.name))
    rows = [_row(course, store, config, student, by_student.get(student.id)) for student in course.roster()]
    change = store.keep_rows(course.lab.name, rows)
    settled = _settled(course, store)
    counts = Counter(row.status for row in settled)
    shown = ", ".join(f"{counts[status]} {status}" for status in exports.STATUSES if counts[status])
    bad = sum(row.status not in ("ok", "wrong", "not_submitted", "infra_error") for row in settled)
    waiting = sum(bool(row.open) for row in settled)
    line = f"{shown}; {change} students' marks changed, {waiting} wait for a person"
    if unrun := sum(row.reason == _UNRUN for row in settled):
        line += f"; of {unrun} {_UNRUN}"
    return Done("mark", line, errored=bad, failed=counts["infra_error"])


def override(course: Course, store: Store, given: Override) -> Done:
    """A person's points for one item of one student; they stay through every step that follows.

    Raises ``ValueError`` for a student, an item or points that there are not.
    """
    marks.check_override(course.lab, given)
    _check_student(course, given.student)
    row = next((row for row in store.rows(course.lab.name) if row.student == given.student), None)
    store.override(course.lab.name, replace(given, tree=row.tree if row else ""))
    return Done("mark", f"{given.student}: {given.item} has {given.points:g} points by {given.by}")


def withdraw(course: Course, store: Store, student: str, item: str, reason: str, by: str) -> Done:
    """Takes a person's mark back. Raises ``ValueError`` where there is none."""
    store.withdraw(course.lab.name, student, item, by, reason)
    return Done("mark", f"{student}: the machine's mark for {item} stands again")


def feedback(course: Course, store: Store) -> Done:
    """Writes a page for each student, the teacher's page and the pairs side by side."""
    from utils.grading.pages import Summary, feedback_html, feedback_markdown, teacher_html

    _sweep(course.feedback, course.teacher, course.teacher / "pairs")
    _write_pairs(course, store)
    pages, failures = _pages(course, store), 0
    for page in pages:
        own = replace(page, similar=(), feedback="")  # a student's page knows nothing of others
        name = submission_uuid(course.lab.name, page.ids)
        try:
            texts = {"html": feedback_html(own), "md": feedback_markdown(own)}
        except Exception as error:  # whatever one student wrote, the others get their pages
            _log(f"the page of {', '.join(page.ids)} could not be made: {type(error).__name__}: {error}")
            failures += 1
            continue
        for ending, text in texts.items():
            exports.save(course.feedback / f"{name}.{ending}", text.encode())
    _tidy(course.feedback, {f"{submission_uuid(course.lab.name, p.ids)}.{e}" for p in pages for e in ("html", "md")})
    manifest = _manifest(course)
    level, budget = _last_run(course, store)
    summary = Summary(level, budget, tuple((item["name"], item["reason"]) for item in manifest.get("unassigned", ())))
    exports.save(course.teacher / "index.html", teacher_html(course.lab, pages, summary).encode())
    line = f"{len(pages) - failures} students' pages in {course.feedback}, the class in {course.teacher}/index.html"
    return Done("feedback", f"{line}; {failures} could not be made" if failures else line, failed=failures)


def export(
    course: Course,
    store: Store,
    to: str = "",
    file: Path | None = None,
    column: str | None = None,
    overwrite: bool = False,
    decimal: str = ".",
) -> Done:
    """Writes the gradebook, and fills an LMS's own file.

    Parameters
    ----------
    to, file, column, overwrite, decimal : the LMS and its export, see ``exports.fill_lms``; no file, no filling.
    """
    students = {student.id: student for student in course.roster()}
    rows = _settled(course, store)
    by_id = {row.student: row for row in rows}
    if missing := sorted(students.keys() - by_id.keys()):
        raise ValueError(f"{', '.join(missing[:10])} have no line in the gradebook yet; run `course grade mark` first")
    own = [marks.exported(by_id[id], student) for id, student in sorted(students.items())]
    lab, target = course.lab, course.exports
    _sweep(target, target / "gradescope")
    flags = {page.ids[0]: page for page in _pages(course, store)}
    exports.save(target / "gradebook.csv", _table(course, [by_id[id] for id in sorted(students)], students, flags))
    exports.save(target / "gradebook.json", _json([_line(by_id[id], students[id]) for id in sorted(students)]))
    exports.save(target / "status.csv", exports.status_table(own, students))
    due = course.settings.due.get(lab.name)
    exports.save(
        target / "nbgrader.csv", exports.nbgrader_table(own, students, lab.name, due.isoformat() if due else "")
    )
    names = set()
    for one in own:
        items = [
            exports.Item(i.text, i.points, i.max_points, i.why) for i in by_id[one.id].items if i.points is not None
        ]
        names.add(f"{submission_uuid(lab.name, [one.id])}.json")
        exports.save(
            target / "gradescope" / f"{submission_uuid(lab.name, [one.id])}.json",
            exports.gradescope_results(one, items),
        )
    _tidy(target / "gradescope", names)
    line = f"{len(own)} students in {target}, {sum(one.score is not None for one in own)} with a final mark"
    if file is not None:
        filled = exports.fill_lms(file.read_bytes(), own, to, column, overwrite=overwrite, decimal=decimal)
        exports.save(target / f"{to}{file.suffix}", filled.data)
        line += (
            f"; {len(filled.changes)} cells filled in {to}{file.suffix}, {len(filled.without)} students without a mark"
        )
    return Done("export", line)


def appeal(course: Course, store: Store, student: str, replay: bool = True) -> tuple[list[str], bool]:
    """All evidence for a student's marks, and the work done again from its receipt; False where it comes out otherwise.

    Raises ``ValueError`` for a student who is not in the gradebook.
    """
    _check_student(course, student)
    row = next((row for row in _settled(course, store) if row.student == student), None)
    if row is None:
        raise ValueError(f"{student} has no line in the gradebook of {course.lab.name}; run `course grade mark` first")
    record = _by_student(store.submissions(course.lab.name)).get(student)
    lines = [f"{student}: {row.status}{f', {row.reason}' if row.reason else ''}"]
    lines += _told(row)
    if record is not None:
        lines += [f"received {record['received'] or 'at a time that the LMS does not give'}, late: {record['late']}"]
        lines += [f"  {file['sha256']} {file['name']}" for file in record["files"]]
        lines += [f"  left out: {reject['name']} {reject['reason']}" for reject in record["rejects"]]
    same = True
    receipt = store.receipt(row.receipt)
    if receipt is not None and record is not None:
        lines += [
            "receipt " + row.receipt,
            *(f"  {name}: {receipt[name]}" for name in sorted(receipt) if name != "results"),
        ]
        told, same = _replayed(course, store, record, receipt, replay)
        lines += told
        if digest(receipt) != row.receipt:
            lines.append("the receipt is not what was written: somebody changed the file past the grader")
            same = False
    for entry in store.audit(course.lab.name, student):
        why = f" ({entry.why})" if entry.why else ""
        lines.append(f"{entry.time} {entry.who}: {entry.what} {entry.old or '-'} -> {entry.new or '-'}{why}")
    if (broken := store.broken_audit()) is not None:
        lines.append(f"line {broken} of the audit is not what was written: somebody changed the file past the grader")
        same = False
    return lines, same


def everything(
    course: Course,
    store: Store,
    engine: Engine,
    source: Path,
    lms: str = "plain",
    roster: Path | None = None,
    budget: str = "smoke",
    allow_weak: bool = False,
    years: Path | None = None,
    fill: Mapping[str, Any] | None = None,
    told: Callable[[Done], None] = lambda done: None,
) -> list[Done]:
    """All steps in their order; ``told`` hears of each when it is done. ``fill`` goes to ``export``."""
    found: list[Done] = []

    def tell(done: Done) -> None:
        found.append(done)
        told(done)

    isolation, done = doctor(course.folder, course.tools.isolate)
    tell(done)
    tell(selftest(course, store, isolation.level, allow_weak))
    tell(collect(course, store, source, lms, roster))
    tell(extract(course, store, engine))
    tell(run(course, store, engine, isolation.level, budget, allow_weak))
    tell(similar(course, store, years))
    tell(mark(course, store))
    tell(feedback(course, store))
    tell(export(course, store, **(fill or {})))
    return found


# ----------------------------------------------------------------------------------------------------------- the work


def _runs(level: int, allow_weak: bool) -> bool:
    return level >= FLOOR or (allow_weak and level >= 1)


def _accepted(course: Course, store: Store) -> list[dict[str, Any]]:
    return [record for record in store.submissions(course.lab.name) if record["verdict"] == "ok"]


def _by_student(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {student: record for record in records for student in record["students"]}


def _task(
    course: Course, record: Mapping[str, Any], step: str, level: int = 0, budget: str = "", allow_weak: bool = False
) -> Task:
    files = str((course.submitted / record["uuid"] / "files").resolve())
    task = Task(step, files, record["tree"], str(course.lab.folder), course.lab_digest)
    if step == "extract":
        return task
    seed = course.settings.seed(course.lab.name, step)
    budget = budget if step == "experiment" else ""
    return replace(task, level=level, seed=seed, budget=budget, allow_weak=allow_weak)


def _key(task: Task) -> str:
    return digest(inputs(task))


def _work(course: Course, store: Store, engine: Engine, tasks: Sequence[Task], what: str) -> tuple[int, int, int]:
    """Does the tasks that have no result yet; returns how many were new, known before, and broken by the machine."""
    from tqdm import tqdm

    by_key = {_key(task): task for task in tasks}  # the same files handed in twice are run once
    todo = [(key, task) for key, task in by_key.items() if store.result(key) is None]
    groups = _by_submission(todo)
    failures = 0
    done = engine.results(course.tools.perform, [tuple(task for _, task in group) for group in groups])
    for number, results in tqdm(done, what, len(groups), disable=None, file=sys.stderr):
        for place, (key, task) in enumerate(groups[number]):
            if isinstance(results, Exception):
                value = failure(task, f"{type(results).__name__}: {results}")
            else:
                value = results[place]
            if reason := broken(task.step, value):
                failures += 1
                _log(f"{task.step} of {Path(task.files).parent.name}: {reason}")
                store.keep_failure(key, task.step, inputs(task), value)
            else:
                store.keep_result(key, task.step, inputs(task), value)
    return len(todo), len(by_key) - len(todo), failures


def _by_submission(tasks: Sequence[tuple[str, Task]]) -> list[list[tuple[str, Task]]]:
    found: dict[str, list[tuple[str, Task]]] = {}
    for key, task in tasks:
        found.setdefault(task.files, []).append((key, task))
    return list(found.values())


def _log(line: str) -> None:
    """Past the bar that shows the progress."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _with_failures(line: str, failures: int) -> str:
    return f"{line}; {failures} failed on this machine and are tried again by the next run" if failures else line


def evidence(course: Course, store: Store, record: Mapping[str, Any]) -> Evidence:
    """What is known of a submission, of the last run's level and budget."""
    last = store.remembered(course.lab.name, "run")
    steps = ["extract"]
    if last and _runs(last["level"], last["allow_weak"]):
        steps += PARTS
    values = {}
    for step in steps:
        key = _key(_task(course, record, step, *((last["level"], last["budget"]) if step != "extract" else ())))
        values[step] = store.result(key) or store.failure(key)
    return _read(course, values)


def _read(course: Course, values: Mapping[str, str | None]) -> Evidence:
    kinds = {"extract": Extracted, "equivalence": Equivalence, "experiment": Experiment}
    found = {step: from_json(kinds[step], value) for step, value in values.items() if value is not None}
    extracted, experiment = found.get("extract"), found.get("experiment")
    judgements: tuple[Judgement, ...] = ()
    unjudged = ""
    if extracted and extracted.report and extracted.report.readable and experiment:
        try:
            judgements = tuple(course.tools.judge(course.lab, extracted.report, experiment))
        except Exception as error:  # one report that nobody thought of must not keep the class from its marks
            unjudged = f"{type(error).__name__}: {error}"
    return Evidence(extracted, found.get("equivalence"), experiment, judgements, unjudged)


def _judged(lab: Lab, report: Report, experiment: Experiment) -> Sequence[Judgement]:
    # the lab's side imports torch, which most commands need not wait for
    from utils.grading.experiment import judge_claims

    return judge_claims(lab, report, experiment)


def _plotted(lab: Lab, report: Report) -> Plotted:
    from utils.grading.experiment import claims_of, expected
    from utils.grading.pages import Anchor

    # claims are of the budget "full", so that is what they stand beside
    if lab.experiment is None:
        return (), ()
    anchors = (Anchor(setting, anchor.means["full"]) for setting, anchor in sorted(expected(lab).items()))
    return tuple(claims_of(lab, report)), tuple(anchors)


def _selftested(lab: Lab, level: int, seed: int, allow_weak: bool) -> Sequence[str]:
    from utils.grading.selftest import selftest as tested

    # with the class's own inputs first: on them, no wrong answer may pass
    return tested(lab, level, (seed, 0, 1), allow_weak=allow_weak).problems


# ---------------------------------------------------------------------------------------------------------- the marks


def _last_run(course: Course, store: Store) -> tuple[int, str]:
    last = store.remembered(course.lab.name, "run") or {"level": 0, "budget": "", "allow_weak": False}
    return (last["level"] if _runs(last["level"], last["allow_weak"]) else 0), last["budget"]


def _row(course: Course, store: Store, config: Settings, student: Student, record: Mapping[str, Any] | None) -> Row:
    lab = course.lab
    if record is None:
        items = marks.nothing_handed_in(lab)
        return Row(student.id, "not_submitted", "nothing was handed in", items=items)
    level, budget = _last_run(course, store)
    if record["verdict"] != "ok":
        reasons = "; ".join(f"{reject['name']} {reject['reason']}" for reject in record["rejects"][:3])
        status, reason, found = record["verdict"], reasons, Evidence()
        items, level = marks.withheld(lab, f"The files were not taken in: {reasons}."), 0
    else:
        found = evidence(course, store, record)
        if found.extracted is None:
            # not the same as a submission without a report
            found = replace(found, extracted=from_json(Extracted, failure(_task(course, record, "extract"), _UNREAD)))
        items = marks.automatic(lab, found.report, found.equivalence, found.experiment)
        status, reason = marks.verdict(found.report, found.equivalence, found.experiment)
        if lab.experiment is not None and (found.equivalence is None or found.experiment is None):
            # nothing of the student's is to blame for what was not run here
            status, reason, level = "infra_error", _UNRUN, 0
    due = config.due.get(lab.name)
    penalty = marks.late_penalty(record["received"], due, config.late, sum(item.max_points for item in items))
    notes = [*record["notes"], *_notes(found)]
    if record["late"] and not record["received"]:
        notes.append(f"late, but the LMS gave no time: the penalty is for a person (item {marks.LATE})")
    receipt = {
        "lab": lab.name,
        "lab_digest": course.lab_digest,
        "submission": record["uuid"],
        "source": record["source"],
        "tree": record["tree"],
        "received": record["received"],
        "grader": grader(),
        "environment": environment(),
        "level": level,
        "budget": budget,
        "results": _keys(course, store, record),
        "marks": digest([asdict(item) for item in items]),
        "penalty": penalty,
    }
    return Row(
        student.id,
        status,
        reason if status != "infra_error" or reason == _UNRUN else "the grader's machine failed; run it again",
        record["uuid"],
        record["tree"],
        record["received"],
        record["late"],
        penalty,
        items,
        level,
        budget,
        store.keep_receipt(receipt),
        tuple(notes),
    )


def _keys(course: Course, store: Store, record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Step -> all that its result follows from, and the key that it is kept under."""
    last = store.remembered(course.lab.name, "run")
    found = {}
    for step in ("extract", *(PARTS if course.lab.experiment is not None else ())):
        task = _task(course, record, step, *((last["level"], last["budget"]) if last and step != "extract" else ()))
        found[step] = {**inputs(task), "key": _key(task)}
    return found


def _notes(found: Evidence) -> list[str]:
    notes = []
    if found.extracted and found.extracted.others:
        notes.append(f"{found.extracted.file} was read as the report; there is also {found.extracted.others[0]}")
    notes += [f"not reproduced: {j.setting}" for j in found.judgements if j.outcome == "not reproduced"]
    notes += ["the claims could not be judged; a person looks"] if found.unjudged else []
    if found.report and found.report.hidden:
        notes.append("the report has text that a reader does not see")
    return notes


def _settled(course: Course, store: Store) -> list[Row]:
    """All rows with what people decided."""
    given = store.overrides(course.lab.name)
    return [marks.overridden(row, given) for row in store.rows(course.lab.name)]


def _check_student(course: Course, student: str) -> None:
    if student not in (known := [one.id for one in course.roster()]):
        raise ValueError(f"the roster has no {student!r}; it has {', '.join(known[:10])}{' ...' * (len(known) > 10)}")


# --------------------------------------------------------------------------------------------------------- similarity


def _names(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]


def _code(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The code below a folder as text; a notebook's as the module that it makes."""
    texts = {}
    for name in code_files(names):
        path = folder / name
        if name.endswith(".py"):
            texts[name] = path.read_bytes()[: similarity.LONGEST].decode("utf-8", "replace")
        else:
            texts[name] = notebook_code(path)
    return texts


def _read_code(name: str, files: Mapping[str, str], base: Sequence[similarity.Code]) -> similarity.Code:
    try:
        return similarity.read_code(name, files, base)
    except ValueError:  # too much to compare, which nobody types: the largest are data
        kept: dict[str, str] = {}
        for file, text in sorted(files.items(), key=lambda item: (len(item[1]), item[0])):
            if sum(map(len, kept.values())) + len(text) <= similarity.LONGEST:
                kept[file] = text
        return similarity.read_code(name, kept, base)


def _pair(kind: str, pair: similarity.Pair) -> dict[str, Any]:
    return {"kind": kind, **asdict(pair)}


def _alike_reports(course: Course, reports: Mapping[str, Extracted | None]) -> list[dict[str, Any]]:
    base = []
    if course.lab.report_file.exists():
        base = [similarity.read_prose(course.lab.report_file.read_text(encoding="utf-8"))]
    prose = {
        uuid: similarity.read_prose(found.prose, base, found.file)
        for uuid, found in reports.items()
        if found is not None
    }
    pairs = [_pair("prose", pair) for pair in similarity.prose_cohort(prose)]
    numbers = {uuid: _numbers(found.report) for uuid, found in reports.items() if found is not None and found.report}
    model = _model_numbers(course.lab)
    for a in sorted(numbers):
        for b in sorted(numbers):
            same = similarity.same_results(numbers[a], numbers[b], model) if a < b else ()
            if len(same) >= SAME_RESULTS:
                score = len(same) / min(len(numbers[a]), len(numbers[b]))
                pairs.append(_pair("results", similarity.Pair(a, b, score, True, "numbers")))
    return pairs


def _numbers(report: Report) -> set[str]:
    """The report's own results, as they are printed."""
    own = [claim for claim in report.claims if not claim.cited]
    digits = [max(0, round(-math.log10(claim.step))) if claim.step > 0 else 2 for claim in own]
    return {f"{claim.value:.{count}f}" for claim, count in zip(own, digits, strict=True)}


def _model_numbers(lab: Lab) -> set[str]:
    """What the lab itself prints: whoever cites it did not copy from another."""
    if not lab.report_file.exists():
        return set()
    return set(re.findall(r"\d+\.\d+", lab.report_file.read_text(encoding="utf-8")))


def _found_pairs(course: Course, store: Store) -> list[dict[str, Any]]:
    last = store.remembered(course.lab.name, "similarity")
    stored = store.result(last["key"]) if last else None
    return json.loads(stored) if stored else []


def _alike(course: Course, store: Store, records: Mapping[str, Any]) -> dict[str, tuple[Similar, ...]]:
    """Who is like whom: uuid -> the pairs that it is in."""
    found: dict[str, list[Similar]] = {}
    for pair in _found_pairs(course, store):
        name = _pair_page(pair)
        for mine, other in ((pair["a"], pair["b"]), (pair["b"], pair["a"])):
            one = Similar(
                _who(records, other), pair["kind"], pair["score"], pair["percentile"], name and f"pairs/{name}"
            )
            found.setdefault(mine, []).append(one)
    return {uuid: tuple(pairs) for uuid, pairs in found.items()}


def _pair_page(pair: Mapping[str, Any]) -> str:
    """The file that shows a pair side by side; "" for numbers, which stand in the reports."""
    if pair["kind"] == "results":
        return ""
    return f"{digest([pair['a'], pair['b'], pair['kind']])[:16]}-{pair['kind']}.html"


def _write_pairs(course: Course, store: Store) -> None:
    from utils.grading.pages import side_by_side_html

    records = {record["uuid"]: record for record in _accepted(course, store)}
    last = store.remembered(course.lab.name, "similarity")
    years = Path(last["years"]) if last and last["years"] else None
    written = set()
    for pair in _found_pairs(course, store):
        if not (name := _pair_page(pair)):
            continue
        texts = [_texts(course, store, records, one, pair["kind"], years) for one in (pair["a"], pair["b"])]
        known = restored(similarity.Pair, {key: value for key, value in pair.items() if key != "kind"})
        shown = replace(known, a=_who(records, pair["a"]), b=_who(records, pair["b"]))
        try:
            html = side_by_side_html(shown, _shared(known, *texts), *texts)
        except Exception as error:  # the pair is on the teacher's page all the same
            _log(f"{shown.a} and {shown.b} could not be shown side by side: {type(error).__name__}: {error}")
            html = f"<!doctype html><title>{name}</title><p>These two could not be shown side by side; see the log.</p>"
        exports.save(course.teacher / "pairs" / name, html.encode())
        written.add(name)
    _tidy(course.teacher / "pairs", written)


def _texts(
    course: Course, store: Store, records: Mapping[str, Any], one: str, kind: str, years: Path | None
) -> dict[str, str]:
    if one not in records:
        folder = years / one.removeprefix("earlier: ") if years else None
        return _code(folder, _names(folder)) if folder and folder.is_dir() else {}
    if kind == "code":
        return _code(course.submitted / one / "files", [file["name"] for file in records[one]["files"]])
    extracted = evidence(course, store, records[one]).extracted
    return {extracted.file: extracted.prose} if extracted else {}


def _shared(pair: similarity.Pair, a: Mapping[str, str], b: Mapping[str, str]) -> Sequence[similarity.Passage]:
    if pair.by == "words":
        prints = [similarity.read_prose(text, file=file) for texts in (a, b) for file, text in texts.items()]
    else:
        prints = [getattr(_read_code("", texts, ()), pair.by) for texts in (a, b)]
    return similarity.passages(*prints) if len(prints) == 2 else ()


def _who(records: Mapping[str, Any], one: str) -> str:
    return ", ".join(records[one]["students"]) if one in records else one


# -------------------------------------------------------------------------------------------------------------- pages


def _manifest(course: Course) -> dict[str, Any]:
    path = course.submitted / "manifest.json"
    return json.loads(path.read_bytes()) if path.exists() else {}


def _pages(course: Course, store: Store) -> list[Page]:
    """A page for each student of the roster, with the marks as they stand."""
    from utils.grading.pages import Page

    students = {student.id: student for student in course.roster()}
    records = store.submissions(course.lab.name)
    by_student = _by_student(records)
    alike = _alike(course, store, {record["uuid"]: record for record in records})
    pages = []
    for row in _settled(course, store):
        if row.student not in students:
            continue
        student, record = students[row.student], by_student.get(row.student)
        page = Page(
            course.lab.name,
            course.lab.title,
            (student.id,),
            (student.name or student.id,),
            row.status,
            row.reason,
            row.items,
            received=row.received,
            late=row.late,
            penalty=min(row.penalty, row.earned),
            level=row.level,
            receipt=row.receipt,
            feedback=f"../../feedback/{course.lab.name}/{submission_uuid(course.lab.name, [student.id])}.html",
        )
        if record is not None:
            found = evidence(course, store, record) if record["verdict"] == "ok" else Evidence()
            claimed, anchors = course.tools.plotted(course.lab, found.report) if found.judgements else ((), ())
            page = replace(
                page,
                claimed=claimed,
                anchors=anchors,
                report=_without_reason(found.report),
                equivalence=_without_reason(found.equivalence),
                experiment=_without_reason(found.experiment),
                judgements=found.judgements,
                rejects=restored(tuple[Reject, ...], record["rejects"]),
                notes=tuple(record["notes"]),
                similar=alike.get(record["uuid"], ()),
            )
        pages.append(page)
    return pages


def _without_reason(part: Any) -> Any:
    """What the machine failed in stands in the log: it names folders and processes, and is nothing to a student."""
    return replace(part, reason="") if part is not None and part.verdict == "infra_error" else part


def _table(course: Course, rows: Sequence[Row], students: Mapping[str, Student], pages: Mapping[str, Page]) -> bytes:
    from utils.grading.pages import flags

    items = [item.id for item in course.lab.rubric]
    header = ("student_id", "name", "status", "level", "budget", "received", "late", *items)
    header += (
        "points_so_far",
        "open",
        "raw_score",
        "late_submission_penalty",
        "score",
        "max_score",
        "flags",
        "receipt",
    )
    lines = []
    for row in rows:
        own = marks.exported(row, students[row.student])
        points = {item.id: item.points for item in row.items}
        late = "" if row.late is None else "yes" if row.late else "no"
        lines.append(
            (
                *(row.student, own.name, row.status, row.level, row.budget, row.received, late),
                *(points.get(item) for item in items),
                *(row.earned, len(row.open), own.raw_score, own.penalty, own.score, own.max_score),
                *("; ".join(flags(pages[row.student])) if row.student in pages else "", row.receipt),
            )
        )
    return exports.table(header, lines)


def _line(row: Row, student: Student) -> dict[str, Any]:
    own = marks.exported(row, student)
    return {**asdict(row), "name": student.name, "raw_score": own.raw_score, "score": own.score}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _sweep(*folders: Path) -> None:
    """Takes away what a grader was writing when it was killed; under the lock, nobody else is writing now."""
    for folder in folders:
        for path in folder.glob("*.part"):
            if _PART.fullmatch(path.name):
                path.unlink()


def _tidy(folder: Path, keep: set[str]) -> None:
    """Takes away pages of ours that belong to nobody any more."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep and _PAGE.fullmatch(path.name):
            path.unlink()


# ------------------------------------------------------------------------------------------------------------- appeals


def _told(row: Row) -> list[str]:
    lines = []
    for item in row.items:
        points = "open" if item.points is None else f"{item.points:g}"
        lines.append(f"  {item.id}: {points} of {item.max_points:g} by {item.by}. {item.why}")
    total = "open" if row.raw is None else f"{row.raw:g}"
    lines.append(f"  points: {total} of {row.possible:g} ({row.earned:g} so far), penalty {row.penalty:g}")
    return [*lines, *(f"  note: {note}" for note in row.notes)]


def _replayed(
    course: Course,
    store: Store,
    record: Mapping[str, Any],
    receipt: Mapping[str, Any],
    replay: bool,
) -> tuple[list[str], bool]:
    lines, same = [], True
    now = {"lab_digest": course.lab_digest, "grader": grader(), "environment": environment(), "tree": record["tree"]}
    for name, value in now.items():
        if receipt[name] != value:
            lines.append(f"  {name} is another one now ({value}); bring back that state to get the same marks")
            same = False
    stored = {step: store.result(given["key"]) for step, given in receipt["results"].items()}
    values = {step: value for step, value in stored.items() if value is not None}
    again = _done_again(course, record, receipt, list(values)) if replay and same else {}
    for step, value in stored.items():
        if value is None:
            lines.append(f"{step}: there is no result")
            continue
        shown = _without_output(step, value)
        lines.append(f"{step}: {json.dumps(shown, sort_keys=True, ensure_ascii=True)}")
        if step not in again:
            continue
        if (now_shown := _without_output(step, again[step])) == shown:
            lines.append(f"  {step} was done again: the same")
        else:
            same = False
            lines.append(f"  {step} was done again: {json.dumps(now_shown, sort_keys=True)}")
    found = _read(course, values)
    items = marks.automatic(course.lab, found.report, found.equivalence, found.experiment)
    if record["verdict"] == "ok" and digest([asdict(item) for item in items]) != receipt["marks"]:
        lines.append("  the rubric gives other marks for these results now")
        same = False
    for judgement in found.judgements:
        lines.append(f"claim {judgement.setting}: {judgement.outcome}. {judgement.reason}")
    return lines, same


def _done_again(
    course: Course, record: Mapping[str, Any], receipt: Mapping[str, Any], steps: Sequence[str]
) -> dict[str, str]:
    """New results of these steps, got as the old ones were: reading and running apart, what is run together."""
    found = {}
    for some in ([s for s in steps if s == "extract"], [s for s in steps if s != "extract"]):
        tasks = []
        for step in some:
            given = receipt["results"][step]
            task = _task(course, record, step, given["level"], given["budget"], allow_weak=True)
            tasks.append(replace(task, seed=given["seed"]))
        try:
            found |= dict(zip(some, course.tools.perform(tasks) if tasks else (), strict=True))
        except Exception as error:
            found |= {task.step: failure(task, f"{type(error).__name__}: {error}") for task in tasks}
    return found


def _without_output(step: str, value: str) -> dict[str, Any]:
    """What marks follow from: what a program printed may hold the time of day; a report's text is long."""
    found = json.loads(value)
    if step == "extract":
        report = found["report"] or {}
        return {
            "file": found["file"],
            "text": digest(found),
            "sections": [s["state"] for s in report.get("sections", ())],
        }
    return {key: part for key, part in found.items() if key not in ("stdout", "stderr")}
