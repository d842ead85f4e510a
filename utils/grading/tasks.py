"""Pieces of work on one submission: plain values in, JSON out, the same wherever and however often they are done."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import utils
from utils.grading.archives import StoredFile, file_digest, tree_digest
from utils.grading.contents import AmbiguousError, module_folder, report_files
from utils.grading.documents import Document, read_document
from utils.grading.plain import from_json, to_json
from utils.grading.report import Report, examine
from utils.grading.results import Equivalence, Experiment

if TYPE_CHECKING:
    from utils.grading.labs import Lab

STEPS = ("extract", "equivalence", "experiment")
_LONGEST_PROSE = 1_000_000  # characters; what similarity compares


@dataclass(frozen=True)
class Extracted:
    """What was read of a submission: ``file`` is its report ("" where there is none), ``others`` might have been.

    ``prose`` is the report's text without code, for the search for similar ones.
    """

    file: str
    others: tuple[str, ...]
    report: Report | None
    prose: str = ""


@dataclass(frozen=True)
class Task:
    """What is to be done, in values that can travel to another machine.

    Parameters
    ----------
    step : one of ``STEPS``.
    files, tree : the submission's folder and the digest of what has to lie there.
    lab, lab_digest : the lab's folder and its digest.
    level, seed, budget : see ``sandbox``, ``Settings.seed`` and the lab's budgets; 0 and "" where they do not matter.
    allow_weak : the teacher's word that code is run below ``doctor.FLOOR``.
    """

    step: str
    files: str
    tree: str
    lab: str
    lab_digest: str
    level: int = 0
    seed: int = 0
    budget: str = ""
    allow_weak: bool = False


def inputs(task: Task) -> dict[str, Any]:
    """All that the result follows from, for its key: not where the files lie."""
    known = {"step": task.step, "tree": task.tree, "lab": task.lab_digest}
    known |= {"level": task.level, "seed": task.seed, "budget": task.budget}
    return known | {"grader": grader(), "environment": environment()}


def perform(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Does some tasks on one submission, in one sandbox if they can be, and returns the result of each.

    Raises where the machine or the grader is to blame; what a student's files do is in the result.
    """
    files, trees = Path(tasks[0].files), {(task.files, task.tree) for task in tasks}
    if len(trees) != 1:
        raise ValueError(f"tasks that are done together are on the same files; got {sorted(trees)}")
    _check_tree(files, tasks[0].tree)
    lab = _lab(tasks[0].lab, tasks[0].lab_digest)
    results = {task: extracted(lab, files) for task in tasks if task.step == "extract"}
    to_run = [task for task in tasks if task.step != "extract"]
    if to_run:
        try:
            with module_folder(files, lab.module) as folder:
                results |= _executed(lab, folder, to_run)
        except AmbiguousError as error:
            results |= {task: _unrun(task, "rejected_input", str(error)) for task in to_run}
    return tuple(to_json(results[task]) for task in tasks)


def extracted(lab: Lab, files: Path) -> Extracted:
    """Reads the report among a submission's files, in a process of its own."""
    names = [path.relative_to(files).as_posix() for path in sorted(files.rglob("*")) if path.is_file()]
    candidates = report_files(names)
    if not candidates:
        return Extracted("", (), None)
    document = read_document(files / candidates[0])
    return Extracted(candidates[0], tuple(candidates[1:]), examined(lab, document, names), _prose(document))


def examined(lab: Lab, document: Document, names: list[str]) -> Report:
    """The report on this lab; what the lab itself hands out or shows as a model is nobody's own text."""
    from utils.grading.labs import outline

    texts = [outline(lab), *([lab.report_file.read_text(encoding="utf-8")] if lab.report_file.exists() else [])]
    return examine(document, lab.kind, texts, handed_in=names)


def failure(task: Task, reason: str) -> str:
    """The result of a task that the machine failed in; nothing follows from it for the student."""
    if task.step == "extract":
        report = examine(Document(".md", "infra_error", reason, 0, ()))
        return to_json(Extracted("", (), report))
    return to_json(_unrun(task, "infra_error", reason))


def broken(step: str, value: str) -> str:
    """In what the machine failed, as a result says it, in whole or in a part; "" where it did not."""
    if step == "extract":
        report = from_json(Extracted, value).report
        parts = [] if report is None else [report]
    else:
        result = from_json(Equivalence if step == "equivalence" else Experiment, value)
        parts = [result, *(result.checks if isinstance(result, Equivalence) else result.settings)]
    return next((part.reason or "no reason is given" for part in parts if part.verdict == "infra_error"), "")


@cache
def grader() -> str:
    """Version of the grader: the package's, and a digest of its source, which a development version changes with."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{utils.__version__}-{found.hexdigest()[:12]}"


@cache
def environment() -> str:
    """What else the numbers depend on."""
    return ", ".join(
        [f"python {platform.python_version()}", *map(_version, ("torch", "numpy", "pypdf", "python-docx"))]
    )


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def _executed(lab: Lab, folder: Path, tasks: Sequence[Task]) -> dict[Task, Equivalence | Experiment]:
    # torch takes seconds, and most of the grader's commands need none of it
    from utils.grading.equivalence import check
    from utils.grading.experiment import rerun
    from utils.grading.together import together

    by_step = {task.step: task for task in tasks}
    functions, training = by_step.get("equivalence"), by_step.get("experiment")
    weak = any(task.allow_weak for task in tasks)
    if functions and training and functions.level == training.level:
        seeds = functions.seed, training.seed
        both = together(lab, folder, seeds, training.budget, training.level, weak)
        return dict(zip((functions, training), both, strict=True))
    found: dict[Task, Equivalence | Experiment] = {}
    if functions:
        found[functions] = check(lab, folder, functions.seed, level=functions.level, allow_weak=weak)
    if training:
        found[training] = rerun(lab, folder, training.budget, training.seed, training.level, weak)
    return found


def _unrun(task: Task, verdict: str, reason: str) -> Equivalence | Experiment:
    if task.step == "equivalence":
        return Equivalence(verdict, reason, task.level, task.seed, ())
    return Experiment(verdict, reason, task.level, task.seed, task.budget, ())


def _check_tree(files: Path, tree: str) -> None:
    """``ValueError`` unless exactly the files that were collected lie there: elsewhere a folder may be missing."""
    found = [path for path in files.rglob("*") if path.is_file()]
    stored = (StoredFile(p.relative_to(files).as_posix(), p.stat().st_size, file_digest(p)) for p in found)
    if tree_digest(tuple(stored)) != tree:
        raise ValueError(
            f"{files.parent.name}: the files are not those that were collected; collect them again, and on a cluster "
            "see that its workers have the course's folder under the same path"
        )


@lru_cache(maxsize=4)  # a worker does one lab at a time; reading it imports its inputs
def _lab(folder: str, lab_digest: str) -> Lab:
    from utils.grading.labs import read_lab

    lab = read_lab(Path(folder))
    if lab.digest() != lab_digest:
        raise ValueError(f"the lab {lab.name} is another one here; bring the same state to all machines")
    return lab


def _prose(document: Document) -> str:
    text = "\n".join(block.text for block in document.blocks if block.kind in ("heading", "text", "line"))
    return text[:_LONGEST_PROSE]
