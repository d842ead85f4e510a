"""``course grade`` and ``course check`` on the command line.

Exit codes: 0 all done, 1 some students' work stopped with an error (or something is missing in what is checked),
2 wrong usage, 3 the machine or the grader failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.grading.labs import Lab
    from utils.grading.steps import Course, Done
    from utils.grading.store import Store

OK, ERRORED, USAGE, BROKEN = 0, 1, 2, 3
# Named here too, because a help text should not wait for what the intake imports.
_LMS = ("plain", "moodle", "canvas", "gradescope")
_FILLED = ("moodle", "canvas", "blackboard")
_BUDGETS = ("smoke", "full")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds ``grade`` and ``check`` to the commands of ``course``."""
    _add_grade(
        commands.add_parser("grade", help="grade a class's lab reports, with evidence, feedback and a gradebook")
    )
    _add_check(commands.add_parser("check", help="look at your report and code as the grader will, before handing in"))


# ------------------------------------------------------------------------------------------------------------ options


def _add_grade(grade: argparse.ArgumentParser) -> None:
    grade.description = (
        "Grade a class's lab reports. FOLDER keeps all that belongs to the class; what is done stays done."
    )
    grade.epilog = (
        "exit codes: 0 all done, 1 some students' work stopped with an error, 2 wrong usage, 3 the machine or the "
        "grader failed (run it again)"
    )
    steps = grade.add_subparsers(required=True, metavar="step")

    def step(
        name: str, help: str, call: Callable[[argparse.Namespace], int], lab: bool = True
    ) -> argparse.ArgumentParser:
        added = steps.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        added.add_argument("folder", type=Path, metavar="FOLDER", help="the class's folder (made where it is missing)")
        if lab:
            _lab_options(added)
        added.set_defaults(call=_guarded(call))
        return added

    everything = step("all", "do all steps, one line each", _all)
    _intake_options(everything)
    _work_options(everything)
    _run_options(everything)
    _year_options(everything)
    _fill_options(everything)

    step("doctor", "find out by attacks how well this machine keeps student code in", _doctor, lab=False)
    _weak_option(step("selftest", "see that the reference passes and every wrong answer fails", _selftest))
    _intake_options(step("collect", "take in the submissions of a download", _collect))
    _work_options(step("extract", "read the reports", _extract))
    run = step("run", "run the students' functions and experiments in the sandbox", _run)
    _work_options(run)
    _run_options(run)
    _year_options(step("similarity", "look for pairs that a person should see", _similarity))
    _mark_options(step("mark", "mark by rubric, or set one mark by hand", _mark))
    step("feedback", "write the students' pages and the teacher's", _feedback)
    _fill_options(step("export", "write the gradebook, and fill the LMS's own file", _export))
    appeal = step("appeal", "show all evidence for a student's marks and do the work again", _appeal)
    appeal.add_argument("--student", required=True, metavar="ID", help="as in the roster")
    appeal.add_argument("--no-replay", action="store_true", help="show what is kept, run nothing")


def _add_check(check: argparse.ArgumentParser) -> None:
    check.description = (
        "Look at a report and its code as the grader will: what is missing, which claims are found, whether the "
        "functions agree with the reference on fresh inputs."
    )
    check.add_argument("report", type=Path, help="your report: .md, .ipynb, .pdf or .docx")
    check.add_argument("code", type=Path, help="your code: a folder or a file")
    _lab_options(check)
    check.add_argument("--budget", choices=_BUDGETS, help="run the experiment too, and compare it with your claims")
    check.set_defaults(call=_guarded(_check))


def _lab_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lab", required=True, metavar="NAME", help="the lab, such as 03_prototypical or 03")
    parser.add_argument(
        "--solutions", type=Path, default=Path("solutions"), help="folder of the labs (default: solutions)"
    )


def _intake_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--submissions", type=Path, required=True, metavar="PATH", help="the download: folder, zip or tar"
    )
    parser.add_argument(
        "--lms", choices=_LMS, default="plain", help="where it comes from (default: plain, a folder each)"
    )
    parser.add_argument("--roster", type=Path, metavar="CSV", help="the class list (default: the one given before)")
    parser.add_argument("--due", metavar="TIME", help="written into grading.toml, such as 2026-11-30T23:59:00+01:00")


def _work_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=2, help="sandboxes at a time on this machine (default: 2)")
    parser.add_argument("--engine", metavar="ADDRESS", help="dask://host:port of a cluster (default: this machine)")


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", choices=_BUDGETS, default="smoke", help="of the experiment (default: smoke)")
    _weak_option(parser)


def _weak_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-weak", action="store_true", help="run code even where the machine does not keep it in")


def _year_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--years", type=Path, metavar="FOLDER", help="earlier submissions, a folder each, to compare with"
    )


def _mark_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", metavar="ID", help="whose mark is set by hand")
    parser.add_argument("--item", help="which line of the rubric; late for the points off for lateness")
    parser.add_argument("--points", type=float, help="the points; they stay through every marking anew")
    parser.add_argument("--reason", metavar="TEXT", help="why; the student and the audit see it")
    parser.add_argument("--by", metavar="NAME", help="who decides")
    parser.add_argument("--withdraw", action="store_true", help="take a mark by hand back")


def _fill_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fill", type=Path, metavar="FILE", help="the LMS's own export, to be filled with the marks")
    parser.add_argument("--to", choices=_FILLED, help="which LMS it is of (default: as --lms, else moodle)")
    parser.add_argument("--column", help="the column to fill (default: Moodle's grade)")
    parser.add_argument("--overwrite", action="store_true", help="replace other marks that stand there")
    parser.add_argument(
        "--decimal", choices=[".", ","], metavar="SIGN", default=".", help="of the file: . or , (default: .)"
    )


# -------------------------------------------------------------------------------------------------------------- steps


def _guarded(call: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Errors as one line and an exit code."""

    def guarded(args: argparse.Namespace) -> int:
        try:
            return call(args)
        except (ValueError, TypeError, FileNotFoundError, NotADirectoryError) as error:
            print(f"course: {error}", file=sys.stderr)
            return USAGE
        except ModuleNotFoundError as error:
            print(f"course: this command needs {error.name}: pip install {error.name}", file=sys.stderr)
            return BROKEN
        except _failures() as error:
            print(f"course: {error}", file=sys.stderr)
            return BROKEN

    return guarded


def _failures() -> tuple[type[Exception], ...]:
    """What goes wrong without anybody's wrong usage."""
    import sqlite3

    from utils.data.cache import DataError
    from utils.grading.steps import GraderError
    from utils.grading.store import LockedError

    return GraderError, LockedError, DataError, OSError, sqlite3.Error


def _lab(args: argparse.Namespace) -> Lab:
    from utils.grading.labs import read_lab

    known = sorted(path.parent for path in args.solutions.glob("*/lab.toml"))
    found = [path for path in known if path.name == args.lab] or [p for p in known if p.name.startswith(args.lab)]
    if len(found) != 1:
        names = ", ".join(path.name for path in known) or "none"
        raise ValueError(f"{args.lab!r} names {len(found)} labs of those in {args.solutions}: {names}")
    return read_lab(found[0])


def _course(args: argparse.Namespace) -> Course:
    from utils.grading.steps import Course

    return Course(args.folder, _lab(args))


def _code(done: list[Done]) -> int:
    """Of several steps the worst; what the machine failed in comes before what students did."""
    last = {one.step: one for one in done}
    if any(one.failed for one in last.values()):
        return BROKEN
    return ERRORED if any(one.errored for one in last.values()) else OK


def _tell(done: Done) -> None:
    print(f"{done.step:10s} {done.line}", flush=True)


def _one(args: argparse.Namespace, step: Callable[[Course, Store], Done]) -> int:
    from utils.grading.store import opened

    course = _course(args)
    with opened(course.gradebook) as store:
        done = step(course, store)
    _tell(done)
    return _code([done])


def _all(args: argparse.Namespace) -> int:
    from utils.grading import steps
    from utils.grading.engine import engine
    from utils.grading.store import opened

    course = _course(args)
    _set_due(args, course)
    with opened(course.gradebook) as store, engine(args.engine, args.jobs) as workers:
        done = steps.everything(
            course,
            store,
            workers,
            args.submissions,
            args.lms,
            args.roster,
            args.budget,
            args.allow_weak,
            args.years,
            _filling(args),
            _tell,
        )
    return _code(done)


def _set_due(args: argparse.Namespace, course: Course) -> None:
    from datetime import datetime

    from utils.grading.settings import set_due

    if args.due is not None:
        set_due(args.folder / "grading.toml", course.lab.name, datetime.fromisoformat(args.due))


def _filling(args: argparse.Namespace) -> dict:
    if args.fill is None:
        return {}
    lms = getattr(args, "lms", "")
    to = args.to or (lms if lms in _FILLED else "moodle")
    own = {"to": to, "file": args.fill, "column": args.column, "overwrite": args.overwrite, "decimal": args.decimal}
    return own


def _doctor(args: argparse.Namespace) -> int:
    from utils.grading.steps import doctor

    isolation, done = doctor(args.folder)
    _tell(done)
    for level, failures in isolation.failing.items():
        for failure in failures:
            print(f"  level {level}: {failure}")
    return OK if isolation.executes else BROKEN


def _selftest(args: argparse.Namespace) -> int:
    from utils.grading.steps import doctor, selftest

    isolation, _ = doctor(args.folder, fresh=False)
    return _one(args, lambda course, store: selftest(course, store, isolation.level, args.allow_weak))


def _collect(args: argparse.Namespace) -> int:
    from utils.grading.steps import collect

    def step(course: Course, store: Store) -> Done:
        _set_due(args, course)
        return collect(course, store, args.submissions, args.lms, args.roster)

    return _one(args, step)


def _extract(args: argparse.Namespace) -> int:
    from utils.grading.engine import engine
    from utils.grading.steps import extract

    with engine(args.engine, args.jobs) as workers:
        return _one(args, lambda course, store: extract(course, store, workers))


def _run(args: argparse.Namespace) -> int:
    from utils.grading.engine import engine
    from utils.grading.steps import doctor, run

    isolation, _ = doctor(args.folder, fresh=False)
    with engine(args.engine, args.jobs) as workers:
        return _one(
            args, lambda course, store: run(course, store, workers, isolation.level, args.budget, args.allow_weak)
        )


def _similarity(args: argparse.Namespace) -> int:
    from utils.grading.steps import similar

    return _one(args, lambda course, store: similar(course, store, args.years))


def _mark(args: argparse.Namespace) -> int:
    from utils.grading.marks import Override
    from utils.grading.steps import mark, override, withdraw

    given = [args.student, args.item, args.points, args.reason, args.by]
    if args.withdraw:
        given = [args.student, args.item, args.reason, args.by]
        if None in given:
            raise ValueError("a mark is withdrawn with --student, --item, --reason and --by")
        return _one(args, lambda course, store: withdraw(course, store, *given))
    if not any(value is not None for value in given):
        return _one(args, mark)
    if None in given:
        raise ValueError("a mark by hand is set with --student, --item, --points, --reason and --by, all of them")
    decided = Override(args.student, args.item, args.points, args.reason, args.by)
    return _one(args, lambda course, store: override(course, store, decided))


def _feedback(args: argparse.Namespace) -> int:
    from utils.grading.steps import feedback

    return _one(args, feedback)


def _export(args: argparse.Namespace) -> int:
    from utils.grading.steps import export

    return _one(args, lambda course, store: export(course, store, **_filling(args)))


def _appeal(args: argparse.Namespace) -> int:
    from utils.grading.steps import appeal
    from utils.grading.store import opened

    course = _course(args)
    with opened(course.gradebook) as store:
        lines, same = appeal(course, store, args.student, replay=not args.no_replay)
    print("\n".join(lines))
    print("the marks stand as they were given" if same else "the marks do not come out as they were given: see above")
    return OK if same else ERRORED


def _check(args: argparse.Namespace) -> int:
    from utils.grading.precheck import check

    lines, complete = check(_lab(args), args.report, args.code, args.budget)
    print("\n".join(lines))
    return OK if complete else ERRORED
