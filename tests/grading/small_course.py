"""A class of a few students on a lab of one function, with stand-ins for what takes long: sandboxes and parsers.

The stand-in answers by what is written in the student's file and by the seed, as the real one does, and puts down in a
log what it was asked.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.grading.doctor import Isolation
from utils.grading.documents import Document, markdown_blocks
from utils.grading.engine import threads
from utils.grading.intake import Student
from utils.grading.labs import Lab, read_lab
from utils.grading.plain import to_json
from utils.grading.report import examine
from utils.grading.results import Equivalence, Experiment, Failing, FunctionCheck, Setting
from utils.grading.steps import Course, Done, Tools, everything
from utils.grading.store import opened
from utils.grading.tasks import Extracted, Task

LAB = """
title = "Lab: halves"
chapter = "03_prototypical"
kind = "lab"
module = "lab.py"
tensors = false
text = "Write half."
[[functions]]
name = "half"
signature = "half(x)"
text = "Half of x."
wanted = "half"
tolerance = 1e-4
[experiment]
function = "experiment"
signature = "experiment(x)"
text = "Try it."
[experiment.budgets.smoke]
wall = 10
cpu = 10
memory_mb = 500
numbers = { steps = 1 }
[experiment.budgets.full]
wall = 10
cpu = 10
memory_mb = 500
numbers = { steps = 2 }
[[experiment.settings]]
name = "5-way 1-shot"
chance = 20
floor = 50
[[rubric]]
id = "half"
section = "source code"
text = "half does what is asked"
points = 6
auto = "function:half"
[[rubric]]
id = "learns"
section = "experiments"
text = "The experiment learns"
points = 3
auto = "experiment"
[[rubric]]
id = "title"
section = "title"
text = "There is a title"
points = 1
auto = "section:title"
"""
MANUAL = """
[[rubric]]
id = "quality"
section = "method"
text = "The idea is right"
points = 5
auto = "manual"
"""
CODE = "def half(x):\n    return x / 2\n\n\ndef experiment(x):\n    return x\n"
WORDS = ("we", "halve", "numbers", "and", "say", "how", "well", "it", "went", "with", "every", "seed", "that", "was")


def report(name: str) -> str:
    """A report in words of the student's own."""
    rng = random.Random(name)
    text = " ".join(f"{rng.choice(WORDS)} {rng.choice(WORDS)}, {rng.choice(WORDS)} {name}." for _ in range(15))
    return f"# Halves of {name}\n\nAuthors: {name}\n\n## Abstract\n\n{text}\n"


def small_lab(folder: Path, manual: bool = False) -> Lab:
    """The lab's folder, written and read."""
    folder = folder / "solutions" / "00_halves"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lab.toml").write_text(LAB + (MANUAL if manual else ""))
    (folder / "reference.py").write_text(
        "### BEGIN SOLUTION\nSECRET = 1\n### END SOLUTION\n\n\n" + CODE.replace("x / 2", "x * 0.5")
    )
    (folder / "inputs.py").write_text("def cases(seed):\n    return ()\n")
    return read_lab(folder)


def small_class(folder: Path, students: dict[str, str], received: dict[str, str] | None = None) -> Path:
    """A download with a folder for each student whose word is not "missing"; the roster lies beside it.

    What a student's file is told to do stands in its first line: good, wrong, crash, infra, cheat or slow.
    """
    source = folder / "download"
    for name, word in students.items():
        if word == "missing":
            continue
        (source / name).mkdir(parents=True)
        (source / name / "lab.py").write_text(f"# {word} {name}\n{CODE}")
        (source / name / "report.md").write_text(report(name))
    lines = [f"{name},{name.title()} Name,{name}@uni.example,{(received or {}).get(name, '')}" for name in students]
    (folder / "roster.csv").write_text("\n".join(["id,name,email,received", *lines]) + "\n")
    return source


@dataclass(frozen=True)
class Answering:
    """The stand-in for ``tasks.perform``; ``healthy`` False fails where a file says "infra"."""

    log: Path
    healthy: bool = True
    pause: float = 0.0

    def __call__(self, tasks: Sequence[Task]) -> list[str]:
        return [self._done(task) for task in tasks]

    def _done(self, task: Task) -> str:
        text = (Path(task.files) / "lab.py").read_text()
        word, name = text.splitlines()[0].removeprefix("# ").split()
        # one write of a short line: whole, whoever else writes
        with open(self.log, "a") as file:
            file.write(f"{task.step} {task.tree} {task.level} {task.seed} {task.budget}\n")
        time.sleep(self.pause)
        if word == "infra" and not self.healthy and task.step != "extract":
            raise OSError(f"{task.files}: no space left, process {os.getpid()}")
        return to_json(self._answer(task, word, name))

    def _answer(self, task: Task, word: str, name: str) -> Extracted | Equivalence | Experiment:
        if task.step == "extract":
            text = (Path(task.files) / "report.md").read_text()
            document = Document(".md", "ok", "", 1, tuple(markdown_blocks(text)))
            return Extracted("report.md", (), examine(document), text)
        verdict = {"wrong": "wrong", "crash": "student_error", "cheat": "tamper_suspected"}.get(word, "ok")
        reason = "" if verdict == "ok" else f"because it is {word}"
        if task.step == "equivalence":
            of_function = "ok" if word == "cheat" else verdict
            failing = Failing("x = 2", "half(2)", "2", "1") if verdict == "wrong" else None
            check = FunctionCheck("half", of_function, 3 * (of_function == "ok"), 3, reason, failing)
            return Equivalence(
                verdict, reason, task.level, task.seed, (check,), stdout=f"at {time.time()}" if word == "slow" else ""
            )
        mean = 60.0 + (task.seed + len(name)) % 10
        setting = Setting("5-way 1-shot", verdict, reason, mean if verdict in ("ok", "wrong") else None, 5.0, 100, 2)
        return Experiment(
            "ok" if verdict == "wrong" else verdict, reason, task.level, task.seed, task.budget, (setting,)
        )


def isolation(level: int = 3) -> Isolation:
    return Isolation(level, {}, "kernel", "3.11", "0.8", 7, "0.1", True, "2026-11-22T00:00:00+00:00")


def small_course(folder: Path, answering: Answering, level: int = 3, manual: bool = False) -> Course:
    tools = Tools(
        perform=answering,
        judge=lambda lab, report, experiment: (),
        selftest=lambda lab, level, seed, allow_weak: (),
        isolate=lambda: isolation(level),
    )
    return Course(folder / "course", small_lab(folder, manual), tools)


def graded(course: Course, source: Path, jobs: int = 1, **options) -> list[Done]:
    with opened(course.gradebook) as store, threads(jobs) as engine:
        return everything(course, store, engine, source, roster=source.parent / "roster.csv", **options)


def exported(course: Course) -> dict[str, bytes]:
    """All that leaves the house, by name: exports, students' and teacher's pages."""
    found = {}
    for folder in ("export", "feedback", "teacher"):
        for path in sorted((course.folder / folder).rglob("*")):
            if path.is_file():
                found[path.relative_to(course.folder).as_posix()] = path.read_bytes()
    return found


def student(id: str) -> Student:
    return Student(id, f"{id.title()} Name", f"{id}@uni.example", id)


def with_tools(course: Course, **tools) -> Course:
    return replace(course, tools=replace(course.tools, **tools))
