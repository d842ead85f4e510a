"""Marks out of the house: the LMS's own file with one column filled, and tables that people and programs read.

A file for an LMS is never made from nothing: the teacher downloads it, one column of it is filled for the ids that
match, and every other byte stays. Where ids do not match nothing is written at all. Every student of the roster is in
every table with a status, and who has no mark (an infrastructure failure, say) has an empty cell and not a zero.

Names and notes come from students, so in our own tables a text that a spreadsheet would run is made plain. The same
marks give the same bytes: nothing here reads a clock.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data.cache import write_atomically
from utils.grading.sandbox import VERDICTS

STATUSES = (*VERDICTS, "not_submitted")
"""What may stand beside a student: a verdict, or that nothing was handed in."""

LMS = ("moodle", "canvas", "blackboard")

NBGRADER = (
    "assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email", "raw_score",
    "late_submission_penalty", "score", "max_score",
)  # fmt: skip
"""The columns of nbgrader's ``grades.csv``; ours has the status behind them."""

LONGEST_OUTPUT = 100_000
"""Characters of one text in ``results.json``, which Gradescope shows on a page."""

# "Grade" in the languages in which Moodle's worksheet was seen; any other is named by ``column``.
_GRADE = ("grade", "bewertung", "calificación", "note", "voto", "valutazione", "nota", "cijfer", "成绩", "評点")
_MAXIMUM = ("maximum grade", "bestwertung", "calificación máxima", "note maximale")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")


@dataclass(frozen=True)
class Mark:
    """What a student gets.

    Parameters
    ----------
    id : as in the roster.
    status : one of ``STATUSES``.
    max_score : points possible.
    raw_score : before any penalty; None where there is no mark, as always after an ``infra_error``.
    penalty : points off for lateness, at most the raw score.
    lms_id : how the LMS calls the student: Moodle's participant number, Canvas's ID, Blackboard's user name.
    received : the LMS's time, ISO 8601.
    """

    id: str
    status: str
    max_score: float
    raw_score: float | None = None
    penalty: float = 0.0
    lms_id: str = ""
    name: str = ""
    email: str = ""
    received: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.id}: the status is one of {', '.join(STATUSES)}; got {self.status!r}")
        if not 0 < self.max_score < math.inf or not 0 <= self.penalty < math.inf:
            raise ValueError(f"{self.id}: points possible are positive and a penalty is not negative; got {self}")
        if self.raw_score is not None and not 0 <= self.raw_score < math.inf:
            raise ValueError(f"{self.id}: points are a finite number from 0 on; got {self.raw_score}")
        if self.status == "infra_error" and self.raw_score is not None:
            raise ValueError(f"{self.id}: an infrastructure failure is no mark, not even 0; run the student again")

    @property
    def score(self) -> float | None:
        return None if self.raw_score is None else max(0.0, self.raw_score - self.penalty)


@dataclass(frozen=True)
class Item:
    """One line of a mark as Gradescope shows it; ``hidden`` from the student."""

    name: str
    score: float
    max_score: float
    output: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Change:
    """A cell of an LMS's file: whose, what stood there, what stands there now."""

    id: str
    old: str
    new: str


@dataclass(frozen=True)
class Filled:
    """An LMS's file with one column filled, its changes, and who has no mark, with the status that says why."""

    data: bytes
    changes: tuple[Change, ...]
    without: tuple[tuple[str, str], ...]


def check_complete(marks: Sequence[Mark], roster: Collection[str]) -> None:
    """``ValueError`` unless every student of the roster has exactly one mark, and nobody else has one."""
    ids = [mark.id for mark in marks]
    _refuse("marked twice", {id for id in ids if ids.count(id) > 1}, "Keep one mark for each.")
    _refuse("in the roster but without a mark or status", set(roster) - set(ids), "Grade them, or mark not_submitted.")
    _refuse("marked but not in the roster", set(ids) - set(roster), "Add them to the roster or leave them out.")


# ------------------------------------------------------------------------------------------------- the LMS's own file


def fill_lms(
    data: bytes,
    marks: Sequence[Mark],
    lms: str,
    column: str | None = None,
    leave: Collection[str] = (),
    overwrite: bool = False,
    decimal: str = ".",
) -> Filled:
    """The bytes of an LMS's export with the marks in their column, and nothing else changed.

    Parameters
    ----------
    data : Moodle's grading worksheet, Canvas's gradebook or Blackboard's grade centre, as downloaded.
    column : header of the column, or the assignment's name before ``(123)`` or ``[Total Pts: ...]``. Moodle's is found.
    leave : ids of the file's students who are not in the roster on purpose; their lines stay as they are.
    overwrite : whether a different mark that stands there already may be replaced.
    decimal : "." or ",", as the LMS's language has it.

    Raises
    ------
    ValueError : the file is none of that LMS; ids that do not match, on either side; other points possible than the
        marks have; a different mark there already. The message names what and whom.
    """
    if lms not in LMS:
        raise ValueError(f"there are exports to fill for {', '.join(LMS)}; got {lms!r}")
    if decimal not in (".", ","):
        raise ValueError(f'the decimal sign is "." or ","; got {decimal!r}')
    encoding, text = _decoded(data)
    delimiter = _delimiter(text)
    header, *records = _records(text, delimiter)
    names = [_folded(cell.text) for cell in header]
    key, grade = _key_column(names, lms), _grade_column(names, lms, column)
    rows = _students(records, names, key, lms)
    _check_ids(rows, marks, leave)
    _check_maximum(header, records, rows, names, grade, lms, {mark.max_score for mark in marks})
    pieces, changes, at = [], [], 0
    by_id = {mark.lms_id or mark.id: mark for mark in marks}
    for id, row in rows.items():
        if id not in by_id or (score := by_id[id].score) is None:
            continue
        if grade >= len(row):
            raise ValueError(f"the line of {id} has {len(row)} cells and none for {header[grade].text!r}")
        cell, new = row[grade], _number(score, decimal)
        if _same_number(cell.text, new):
            continue
        changes.append(Change(by_id[id].id, cell.text, new))
        quoted = text[cell.start : cell.start + 1] == '"' or delimiter in new
        pieces += [text[at : cell.start], f'"{new}"' if quoted else new]
        at = cell.end
    if not overwrite:
        stand = {change.id for change in changes if change.old.strip() not in ("", "-")}
        _refuse("marked differently in the file already", stand, "Look at them, then allow overwriting.")
    without = sorted((mark.id, mark.status) for mark in marks if mark.score is None)
    return Filled("".join([*pieces, text[at:]]).encode(encoding), tuple(changes), tuple(without))


@dataclass(frozen=True)
class _Cell:
    start: int  # in the whole text, with its quotes
    end: int
    text: str


def _decoded(data: bytes) -> tuple[str, str]:
    """Encoding and text; the byte order mark stays in the text, so that encoding again gives the same bytes."""
    # Blackboard's .xls is a UTF-16 text
    marks = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
    encoding = next((name for mark, name in marks if data.startswith(mark)), "utf-8")
    try:
        return encoding, data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the file is no {encoding} text ({error.reason} at byte {error.start}): export as CSV"
        ) from error


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",\t;", key=first.count)


def _records(text: str, delimiter: str) -> list[list[_Cell]]:
    """Cells with their places, by the rules of the csv module; it does not say where a cell stood."""
    field = re.compile(rf'"([^"]*(?:""[^"]*)*)"(?=[{delimiter}\r\n]|\Z)|([^{delimiter}\r\n]*)')
    records: list[list[_Cell]] = [[]]
    at = 1 if text.startswith("\ufeff") else 0
    while True:
        match = field.match(text, at)
        if match[1] is None and match[2].startswith('"'):
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1} of the file has a quote that is not closed")
        inside = match[2] if match[1] is None else match[1].replace('""', '"')
        records[-1].append(_Cell(at, match.end(), inside))
        at = match.end()
        if at < len(text) and text[at] == delimiter:
            at += 1
            continue
        at += 2 if text.startswith("\r\n", at) else 1
        if at >= len(text):
            return records
        records.append([])


def _key_column(names: Sequence[str], lms: str) -> int:
    if lms == "moodle":
        return 0  # "Identifier", in the teacher's language; what stands below it is checked
    wanted = {"canvas": "id", "blackboard": "username"}[lms]
    if names.count(wanted) != 1:
        raise ValueError(f"a file of {lms} has one column {wanted!r}; this one has {', '.join(names)}")
    return names.index(wanted)


def _grade_column(names: Sequence[str], lms: str, column: str | None) -> int:
    if column is None and lms == "moodle":
        found = [i for i, name in enumerate(names) if name in _GRADE]
    elif column is None:
        raise ValueError(f"name the column to fill; the file has {', '.join(names)}")
    else:
        wanted = _folded(column)
        behind = {"canvas": r" \(\d+\)", "blackboard": r" \[total pts:.*", "moodle": ""}[lms]
        whole = re.compile(re.escape(wanted) + behind)
        found = [i for i, name in enumerate(names) if name == wanted or whole.fullmatch(name)]
    if len(found) != 1:
        which = "the marks" if column is None else repr(column)
        raise ValueError(
            f"{len(found)} columns of the file are for {which}, and it must be one: name one of {', '.join(names)}"
        )
    return found[0]


def _students(
    records: Sequence[Sequence[_Cell]], names: Sequence[str], key: int, lms: str
) -> dict[str, Sequence[_Cell]]:
    """The lines of students by id; ``ValueError`` for an id twice or a line without one."""
    rows: dict[str, Sequence[_Cell]] = {}
    for record in records:
        cells = [cell.text.strip() for cell in record]
        if not any(cells) or (lms == "canvas" and _no_student(cells, names, key)):
            continue
        id = cells[key] if key < len(cells) else ""
        if lms == "moodle":
            found = re.fullmatch(r"\D*?(\d+)", id)
            id = found[1] if found else ""
        if not id or id in rows:
            raise ValueError(f"the line {' | '.join(cells)[:80]!r} has {'the id of another' if id else 'no id'}")
        rows[id] = record
    return rows


def _no_student(cells: Sequence[str], names: Sequence[str], key: int) -> bool:
    """Canvas's lines before the first student (points possible, posting), and the account that tests the course."""
    return not (cells[key] if key < len(cells) else "") or _folded(cells[0]) == "student, test"


def _check_ids(rows: Collection[str], marks: Sequence[Mark], leave: Collection[str]) -> None:
    keys = [mark.lms_id or mark.id for mark in marks]
    _refuse("marked twice", {key for key in keys if keys.count(key) > 1}, "Keep one mark for each.")
    _refuse("marked but not in the LMS's file", set(keys) - set(rows), "Download it again, or correct the roster.")
    others = set(rows) - set(keys) - set(leave)
    _refuse("in the LMS's file but without a mark or status", others, "Grade them, or name them to be left alone.")


def _check_maximum(
    header: Sequence[_Cell],
    records: Sequence[Sequence[_Cell]],
    rows: dict[str, Sequence[_Cell]],
    names: Sequence[str],
    grade: int,
    lms: str,
    possible: set[float],
) -> None:
    """``ValueError`` where the file says that other points are possible: 8 of 10 must not become 8 of 100."""
    if lms == "canvas":
        cells = [r[grade].text for r in records if _folded(r[0].text) == "points possible" and grade < len(r)]
    elif lms == "blackboard":
        cells = re.findall(r"\[total pts:\s*(?:up to\s*)?([\d.,]+)", names[grade])
    else:
        maximum = [i for i, name in enumerate(names) if name in _MAXIMUM]
        cells = [row[i].text for row in rows.values() for i in maximum if i < len(row)]
    stated = {float(cell.strip().replace(",", ".")) for cell in cells if _NUMBER.fullmatch(cell.strip())}
    if stated and not possible <= stated:
        raise ValueError(
            f"{header[grade].text!r} is out of {', '.join(map(_number, sorted(stated)))} points in the file, and the "
            f"marks are out of {', '.join(map(_number, sorted(possible)))}: change the assignment or the rubric"
        )


def _same_number(old: str, new: str) -> bool:
    old = old.strip()
    return bool(_NUMBER.fullmatch(old)) and float(old.replace(",", ".")) == float(new.replace(",", "."))


# ------------------------------------------------------------------------------------------------------ our own tables


def safe_cell(value: object) -> str:
    """A cell that no spreadsheet runs: behind an apostrophe where it would begin a formula, without control characters.

    Numbers stay numbers, negative ones as well.
    """
    if value is None:
        return ""
    if isinstance(value, int | float):
        return _number(value)
    text = plain_text(str(value))
    if _NUMBER.fullmatch(text):
        return text
    # the wide forms count too, and spreadsheets drop blanks before the sign
    first = unicodedata.normalize("NFKC", text.lstrip())[:1]
    return f"'{text}" if first in ("=", "+", "-", "@", "|") or text[:1] in ("\t", "\r", "\n") else text


def plain_text(text: str) -> str:
    """Without control characters (but tab and line ends) and without those that turn the direction of writing."""
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"
    kept = (c for c in text if c in "\t\r\n" or (unicodedata.category(c) not in ("Cc", "Cs") and c not in turning))
    return "".join(kept)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV of safe cells, UTF-8, every cell quoted: a separator of another country does not open a new one."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(map(safe_cell, header))
    writer.writerows([safe_cell(cell) for cell in row] for row in rows)
    return out.getvalue().encode()


def status_table(marks: Sequence[Mark], roster: Collection[str]) -> bytes:
    """The whole class by id: status, marks, note. Goes beside every LMS file, which has no place for a status."""
    check_complete(marks, roster)
    header = ("student_id", "name", "status", "raw_score", "late_submission_penalty", "score", "max_score", "note")
    cells: Callable[[Mark], tuple] = lambda m: (  # noqa: E731
        m.id, m.name, m.status, m.raw_score, m.penalty, m.score, m.max_score, m.note
    )  # fmt: skip
    return table(header, map(cells, sorted(marks, key=lambda mark: mark.id)))


def nbgrader_table(marks: Sequence[Mark], roster: Collection[str], assignment: str, due: str = "") -> bytes:
    """nbgrader's ``grades.csv`` with the status in a twelfth column; empty where there is no mark."""
    check_complete(marks, roster)
    rows = []
    for mark in sorted(marks, key=lambda mark: mark.id):
        last, first = _last_and_first(mark.name)
        points = (mark.raw_score, mark.penalty, mark.score, mark.max_score)
        rows.append((assignment, due, mark.received, mark.id, last, first, mark.email, *points, mark.status))
    return table((*NBGRADER, "status"), rows)


def gradescope_results(mark: Mark, items: Sequence[Item], output: str = "") -> bytes:
    """Gradescope's ``results.json`` of one submission.

    Without a mark it has no score, which Gradescope shows as a failure of the autograder and not as zero points.
    """
    tests = [
        {
            "name": plain_text(item.name),
            "score": item.score,
            "max_score": item.max_score,
            "status": "passed" if item.score >= item.max_score else "failed",
            "output": plain_text(item.output[:LONGEST_OUTPUT]),
            "output_format": "text",
            "visibility": "hidden" if item.hidden else "visible",
        }
        for item in items
    ]
    results = {
        "output": plain_text(output[:LONGEST_OUTPUT]),
        "output_format": "text",  # what a student printed is never rendered
        "stdout_visibility": "hidden",
        "extra_data": {"status": mark.status, "max_score": mark.max_score, "penalty": mark.penalty},
    }
    if mark.score is not None:
        results |= {"score": mark.score, "tests": tests}
    return (json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n").encode()


def save(path: Path | str, data: bytes) -> None:
    """Write an export: whole, or the old file stays as it was."""
    write_atomically(path, lambda file: file.write(data))


def _last_and_first(name: str) -> tuple[str, str]:
    last, comma, first = name.partition(",")
    if comma:
        return last.strip(), first.strip()
    first, _, last = name.rpartition(" ")
    return last, first


def _number(value: float, decimal: str = ".") -> str:
    """At most two decimals, none that are zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return ("0" if text == "-0" else text).replace(".", decimal)


def _folded(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def _refuse(what: str, whom: Collection[str], then: str) -> None:
    if whom:
        shown = ", ".join(map(repr, sorted(whom)[:10])) + (" ..." if len(whom) > 10 else "")
        raise ValueError(f"{len(whom)} students are {what}: {shown}. {then} Nothing was written.")
