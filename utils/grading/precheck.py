"""A student's look at report and code before handing in: the grader's own steps, on a class of one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from utils.grading import steps
from utils.grading.contents import report_files
from utils.grading.documents import FORMATS
from utils.grading.engine import threads
from utils.grading.labs import Lab
from utils.grading.report import Report
from utils.grading.results import Equivalence, Experiment
from utils.grading.steps import Course, Evidence, Tools
from utils.grading.store import opened


def check(
    lab: Lab, report: Path, code: Path, budget: str | None = None, tools: Tools | None = None
) -> tuple[list[str], bool]:
    """What the grader will find, in plain words, and whether nothing is missing.

    Parameters
    ----------
    code : a folder, or one file.
    budget : of the experiment; None does not run it.

    Raises
    ------
    ValueError : there is no such file, or the report is in no format that is read.
    """
    if report.suffix.lower() not in FORMATS:
        raise ValueError(f"a report is one of {', '.join(FORMATS)}; got {report.name!r}")
    for path in (report, code):
        if not path.exists():
            raise ValueError(f"there is no {path}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _laid_out(folder / "class" / "you", report, code)
        (folder / "roster.csv").write_text("id\nyou\n")
        course = Course(folder / "course", lab, tools or Tools())
        with opened(course.gradebook) as store, threads(1) as engine:
            steps.collect(course, store, folder / "class", "plain", folder / "roster.csv")
            (record,) = store.submissions(lab.name)
            if record["verdict"] != "ok":
                return [
                    "Your files would be rejected:",
                    *(f"  {r['name']} {r['reason']}" for r in record["rejects"]),
                ], False
            isolation, _ = steps.doctor(course.folder, course.tools.isolate)
            steps.extract(course, store, engine)
            # the code is the student's own, on a machine of their own
            done = ("equivalence",) if budget is None else ("equivalence", "experiment")
            steps.run(course, store, engine, isolation.level, budget or "smoke", allow_weak=True, parts=done)
            return described(lab, steps.evidence(course, store, record), record["rejects"])


def _laid_out(target: Path, report: Path, code: Path) -> None:
    """As it would be handed in: the code's folder with the report in it. Links stay links, which the intake refuses."""
    if code.is_dir():
        shutil.copytree(code, target, symlinks=True)
    else:
        target.mkdir(parents=True)
        shutil.copyfile(code, target / code.name)
    shutil.copyfile(report, target / report.name)
    # the file that was named is the report, whatever else lies there
    names = [path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()]
    for likelier in report_files(names)[: report_files(names).index(report.name)]:
        (target / likelier).unlink()


def described(lab: Lab, found: Evidence, rejects: list[dict] | tuple = ()) -> tuple[list[str], bool]:
    """The evidence in plain words, and whether all of it is as asked."""
    report, sound = _report(lab, found.report)
    functions, agree = _functions(found.equivalence) if lab.experiment is not None else ([], True)
    lines = [*report, *functions, *_experiment(found.experiment)]
    lines += [
        f"Claim on {judgement.setting}: {judgement.outcome}. {judgement.reason}" for judgement in found.judgements
    ]
    lines += [f"Left out: {reject['name']} {reject['reason']}" for reject in rejects]
    complete = sound and agree and not any(j.outcome == "not reproduced" for j in found.judgements)
    lines.append("Nothing that a machine can see is missing." if complete else "There is something to do; see above.")
    return lines, complete


def _report(lab: Lab, report: Report | None) -> tuple[list[str], bool]:
    if report is None:
        return ["No report was found."], False
    if not report.readable:
        return [f"The report could not be read: {report.reason or 'there is too little text in it'}"], False
    lines = [f"Report: {report.title or 'without a title'}"]
    for section in report.sections:
        words = f", {section.own} words of your own" if section.own else ""
        state = "is there" if section.state == "present" else f"is {section.state}"
        lines.append(f"  {section.name} {state}{words}{f': {section.why}' if section.why else ''}")
    wanted = {
        "figures": (bool(report.figures), f"figures: {len(report.figures)}"),
        "tables": (bool(report.tables), f"tables that can be read: {len(report.tables)}"),
        "ranking": (any(ranking.possible for ranking in report.rankings), "the team's ranking" if report.rankings else
                    "no ranking of the team"),
        "worse": (report.worse.reported, "worse results beside the better ones" if report.worse.reported else
                  "no worse results beside the better ones"),
    }  # fmt: skip
    asked = {item.auto for item in lab.rubric}
    lines += [f"  {text}" for name, (_, text) in wanted.items() if name in asked]
    own = [claim for claim in report.claims if not claim.cited]
    lines.append(f"  claims found: {len(own) or 'none; write accuracies with their settings, as in a table'}")
    lines += [f"    {claim.value:g} % {claim.label or claim.text[:60]} ({claim.where})" for claim in own[:20]]
    lines += [f"  {note}" for note in report.notes]
    lines += [f"  the file {name} is named and not there" for name in report.source.absent]
    sound = all(section.state == "present" for section in report.sections if f"section:{section.name}" in asked)
    return lines, sound and all(there for name, (there, _) in wanted.items() if name in asked)


def _functions(equivalence: Equivalence | None) -> tuple[list[str], bool]:
    if equivalence is None:
        return ["Your functions could not be run on this machine."], False
    lines = [] if equivalence.verdict == "ok" else [f"Your code: {equivalence.verdict}. {equivalence.reason}"]
    for check in equivalence.checks:
        if check.verdict == "ok":
            lines.append(f"{check.function} agrees with the reference on {check.passed} of {check.cases} inputs")
            continue
        lines.append(f"{check.function} ({check.verdict}): {check.reason}")
        if check.failing:
            lines += [f"  input: {check.failing.case}", *(f"    {line}" for line in check.failing.given.splitlines())]
            lines += [f"  got {check.failing.got}", f"  should be {check.failing.wanted}"]
            lines += [f"  {check.failing.hint}"] if check.failing.hint else []
    return lines, equivalence.verdict == "ok" and all(check.verdict == "ok" for check in equivalence.checks)


def _experiment(experiment: Experiment | None) -> list[str]:
    lines = []
    for setting in experiment.settings if experiment else ():
        reached = f"{setting.mean:.1f} %" if setting.mean is not None else f"{setting.verdict}, {setting.reason}"
        lines.append(f"{setting.setting}: {reached}")
    return lines
