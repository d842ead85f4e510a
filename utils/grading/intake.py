"""Intake: what was handed in becomes ``submitted/<uuid>/`` and a manifest that names every student of the roster.

A submission's folder is called by a number made from the lab and the roster's ids, never by anything that a student
wrote. Whether it was late is asked of the LMS alone: the times inside an archive are the student's to choose.

Collecting can be killed at any moment and started again: finished submissions stay as they are, the half-done one is
done again, and the manifest is the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from utils.data.cache import write_atomically
from utils.grading.archives import (
    ARCHIVE_ENDINGS,
    CLUTTER,
    Limits,
    Reject,
    StoredFile,
    file_digest,
    keep_file,
    printable,
    safe_name,
    tree_digest,
    unpack,
)

LMS = ("plain", "moodle", "canvas", "gradescope")
# A whole class: a bomb in one submission is found when that submission is opened.
COHORT = Limits(total=32 << 30, file=2 << 30, entries=100_000, ratio=5000.0, name=200)
# Kept as text for the grader to read. The environment is fixed: nothing of these is ever run or installed.
NEVER_RUN = {"setup.py", "setup.cfg", "pyproject.toml", "requirements.txt", "environment.yml", "makefile"}
NEVER_RUN |= {"conftest.py", "sitecustomize.py", "usercustomize.py", "dockerfile", "noxfile.py", "tox.ini"}
_ID_COLUMNS = ("id", "student id", "username", "sis user id", "sid", "matrikelnummer")
_IDS = uuid.UUID("6f0d1f5e-6d0c-5d1c-9a53-0f4e2a7f7c11")
_MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_(?P<plugin>[a-z]+)_?")
_CANVAS = re.compile(r"(?P<name>[^_/]+)_(?P<late>LATE_)?(?P<id>\d+)_(?P<number>\d+)_(?P<file>.+)")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True)
class Student:
    """A line of the roster.

    ``lms_id`` is how the LMS calls the student in a download, ``received`` its time; ``team`` hands in together.
    """

    id: str
    name: str = ""
    email: str = ""
    lms_id: str = ""
    received: str = ""
    team: str = ""


@dataclass(frozen=True)
class Submission:
    """A submission as it was collected.

    Parameters
    ----------
    uuid : name of its folder; the files lie in ``<uuid>/files``.
    students : ids of the roster; several for a team.
    verdict : ``"ok"`` or ``"rejected_input"``; then there are no files, and ``rejects`` says why.
    received : the LMS's time (ISO 8601) or ``""`` where it gave none.
    late : whether the LMS's time is past the due date; None where that is not known.
    source, tree : sha256 of what came in and of what was stored.
    notes : what a grader should know and no verdict follows from.
    """

    uuid: str
    students: tuple[str, ...]
    verdict: str
    received: str
    late: bool | None
    source: str
    tree: str
    files: tuple[StoredFile, ...]
    rejects: tuple[Reject, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """A submission in a download: its parts (a path below the download, as a name for its content) and who it is of."""

    key: str
    parts: tuple[tuple[str, Path], ...]
    ids: tuple[str, ...]  # as the LMS names them
    received: str = ""
    late: bool | None = None


def read_roster(path: Path | str, timezone: str = "UTC") -> tuple[Student, ...]:
    """The students of a class, by id, from a CSV: Moodle's grading worksheet, Canvas's gradebook, or a plain one.

    A plain roster has a column ``id`` (or ``student_id``, ``username``, ``SIS User ID``), and may have ``name``,
    ``email``, ``received`` and ``team``.

    Parameters
    ----------
    timezone : IANA name of the zone in which the LMS writes its times (Moodle's carry none).

    Raises
    ------
    ValueError : no column of ids, an id twice or empty, text that is not UTF-8, or an unknown time zone.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the roster {path} is not UTF-8; export it again as CSV (UTF-8)") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    rows = [{_folded(key): (value or "").strip() for key, value in row.items() if key} for row in rows]
    columns = [_folded(name) for name in next(csv.reader([first.strip()], delimiter=delimiter), [])]
    students = [_student(row, columns, path) for row in rows if any(row.values()) and not _no_student(row)]
    students = [replace(s, received=lms_time(s.received, timezone) or "") for s in students]
    ids = [student.id for student in students]
    twice = sorted({student for student in ids if ids.count(student) > 1})
    if not students or "" in ids or twice:
        trouble = f"these ids twice: {', '.join(twice)}" if twice else "no student or a student without an id"
        raise ValueError(f"the roster {path} has {trouble}; every student needs one line and an id of their own")
    if both := sorted({student.team for student in students} & set(ids)):
        raise ValueError(f"the roster {path} has students and teams of the same name: {', '.join(both)}")
    return tuple(sorted(students, key=lambda student: student.id))


def lms_time(text: str, timezone: str = "UTC") -> str | None:
    """An LMS's time as ISO 8601 with its offset; None where there is none or it cannot be read.

    ISO 8601 and Moodle's English ("Sunday, 22 November 2026, 10:15 AM") are known.

    Raises
    ------
    ValueError : no such time zone.
    """
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {timezone!r}; give an IANA name such as Europe/Berlin") from error
    text = text.strip()
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        found = re.search(r"(\d{1,2}) ([A-Za-z]{3})[a-z]* (\d{4}),? (\d{1,2}):(\d\d)(?::(\d\d))?\s*([AP]M)?", text)
        if not found or found[2].lower() not in _MONTHS:
            return None
        hour = int(found[4]) if not found[7] else int(found[4]) % 12 + 12 * (found[7] == "PM")
        try:
            month = _MONTHS.index(found[2].lower()) + 1
            time = datetime(int(found[3]), month, int(found[1]), hour, int(found[5]), int(found[6] or 0))
        except ValueError:
            return None
    return (time if time.tzinfo else time.replace(tzinfo=zone)).isoformat()


def is_late(received: str, due: datetime | None) -> bool | None:
    """Whether the LMS's time is after ``due``; None where either is not known.

    Raises
    ------
    ValueError : ``due`` without a time zone.
    """
    if due is not None and due.tzinfo is None:
        raise ValueError(f"the due date {due.isoformat()} has no time zone; write it with an offset such as +01:00")
    return datetime.fromisoformat(received) > due if received and due else None


def submission_uuid(lab: str, students: Sequence[str]) -> str:
    """The folder's name of a submission: the same for the same lab and ids, and nothing that a student can choose."""
    return str(uuid.uuid5(_IDS, json.dumps([lab, *sorted(students)])))


def collect(
    source: Path | str,
    target: Path | str,
    roster: Sequence[Student],
    lab: str,
    lms: str = "plain",
    due: datetime | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Collect a class into ``target`` and write ``target/manifest.json``, which is returned.

    Parameters
    ----------
    source : the download, as a folder or an archive. Below it, by ``lms``: ``plain`` one folder or archive a student,
        called by the id of the roster, or by the name of a team for all of its members; ``moodle``
        ``Name_NNN_assignsubmission_file_/``; ``canvas`` flat files ``name_[LATE_]ID_NUMBER_file``; ``gradescope`` a
        folder a submission with ``submission_metadata.json`` beside ``submission/``.
    roster : see ``read_roster``.
    due : with a time zone; late is what the LMS received after it.
    limits : of one submission.

    Returns
    -------
    ``{"lab", "submissions", "missing", "unassigned"}``: submissions (see ``Submission``) by their students, the ids
    of the roster without one, and what belongs to nobody, with the reason.

    Raises
    ------
    ValueError : an unknown LMS, a due date without a zone, or a source that is no folder and no readable archive.
    DataError, OSError : the disk; never a submission's fault.
    """
    source, target, limits = Path(source), Path(target), limits or Limits()
    if lms not in LMS:
        raise ValueError(f"lms must be one of {', '.join(LMS)}; got {lms!r}")
    is_late("", due)
    if not source.exists():
        raise ValueError(f"there is no {source}; give the folder or the archive that was downloaded from the LMS")
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob(".part-*"):  # of a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target) as scratch:
        folder, unassigned = _opened(source, Path(scratch) / "download")
        found, strangers = _assigned(_FIND[lms](folder), roster, lms)
        children = _children(folder)
        if not found and len(children) == 1 and children[0].is_dir() and not children[0].is_symlink():
            folder = children[0]  # many tools pack the folder and not its contents
            found, strangers = _assigned(_FIND[lms](folder), roster, lms)
        submissions = []
        for students, item in found:
            lost = [r for r in unassigned if _belongs(r["name"], item, folder)]
            unassigned = [r for r in unassigned if r not in lost]
            submissions.append(_collect_one(students, item, target, lab, due, limits, lost))
    handed_in = {student for submission in submissions for student in submission["students"]}
    manifest = {
        "lab": lab,
        "submissions": sorted(submissions, key=lambda submission: submission["students"]),
        "missing": sorted(student.id for student in roster if student.id not in handed_in),
        "unassigned": sorted(unassigned + strangers, key=lambda item: (item["name"], item["reason"])),
    }
    write_atomically(target / "manifest.json", lambda file: file.write(_json(manifest)))
    return manifest


# ------------------------------------------------------------------------------------------------------- the roster


def _folded(text: str) -> str:
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def _no_student(row: Mapping[str, str]) -> bool:
    # Canvas's second line holds the points possible, its last the account that tests the course
    return _folded(row.get("student", "")).rstrip() in ("points possible", "student, test")


def _student(row: Mapping[str, str], columns: Sequence[str], path: Path) -> Student:
    def first(*names: str) -> str:
        return next((row[name] for name in names if row.get(name)), "")

    name = first("full name", "name", "student") or f"{first('first name')} {first('last name')}"
    email = first("email address", "email", "e-mail", "e-mail-adresse")
    moodle = re.fullmatch(r"\D{3,30}\s(\d+)", row.get(columns[0], ""))
    if moodle and columns[0] not in _ID_COLUMNS:  # "Participant 17", in the language of the teacher
        own = first("id number", "id-nummer", "matrikelnummer") or moodle[1]
        received = first("last modified (submission)", "zuletzt geändert (abgabe)")
        return Student(own, row.get(columns[1], ""), email, moodle[1], received)
    if "student" in columns and "id" in columns:
        return Student(first("sis user id", "sis login id", "id"), name.strip(), email, row["id"])
    if not any(column in columns for column in _ID_COLUMNS):
        raise ValueError(f"the roster {path} has the columns {', '.join(columns)}; one of them must be called id")
    own = first(*_ID_COLUMNS)
    times = first("received", "submitted at")
    return Student(own, name.strip(), email, first("lms id") or own, times, first("team", "group"))


# ---------------------------------------------------------------------------------------------------- the downloads


def _opened(source: Path, scratch: Path) -> tuple[Path, list[dict[str, str]]]:
    if source.is_dir():
        return source, []
    unpacked = unpack(source, scratch, COHORT, open_nested=True)
    if not unpacked.files:
        reasons = "; ".join(f"{reject.name} {reject.reason}" for reject in unpacked.rejects[:5]) or "it is empty"
        raise ValueError(f"nothing can be collected from {source}: {reasons}")
    return scratch, [{"name": r.name, "reason": r.reason} for r in unpacked.rejects]


def _children(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.name not in CLUTTER), key=lambda path: os.fsencode(path.name))


def _stem(name: str) -> str:
    ending = max((e for e in ARCHIVE_ENDINGS if name.lower().endswith(e)), key=len, default="")
    return name[: len(name) - len(ending)]


def _find_plain(folder: Path) -> list[_Found]:
    return [_Found(p.name, (("", p),), (p.name if p.is_dir() else _stem(p.name),)) for p in _children(folder)]


def _find_moodle(folder: Path) -> list[_Found]:
    parts: dict[str, list[tuple[str, Path]]] = {}
    found = []
    for path in _children(folder):
        match = _MOODLE.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            # what was typed into a text field comes in a folder of its own
            prefix = "" if match["plugin"] == "file" else match["plugin"]
            parts.setdefault(match["id"], []).append((prefix, path))
        else:
            found.append(_Found(path.name, (("", path),), ()))
    return found + [_Found(own[0][1].name, tuple(own), (id_,)) for id_, own in parts.items()]


def _find_canvas(folder: Path) -> list[_Found]:
    parts: dict[str, list[tuple[str, Path]]] = {}
    late: dict[str, bool] = {}
    found = []
    for path in _children(folder):
        match = _CANVAS.fullmatch(path.name)
        if match and not path.is_dir():
            parts.setdefault(match["id"], []).append((match["file"], path))
            late[match["id"]] = late.get(match["id"], False) or bool(match["late"])
        else:
            found.append(_Found(path.name, (("", path),), ()))
    # Canvas marks what is late and gives no time
    return found + [_Found(own[0][1].name, tuple(own), (id_,), "", late[id_]) for id_, own in parts.items()]


def _find_gradescope(folder: Path) -> list[_Found]:
    found = []
    for path in _children(folder):
        metadata = path / "submission_metadata.json"
        ids: tuple[str, ...] = ()
        received = ""
        # only beside the student's own folder is the file Gradescope's
        if path.is_dir() and not path.is_symlink() and metadata.is_file() and not metadata.is_symlink():
            try:
                content = json.loads(metadata.read_bytes())
                users = [user for user in content["users"] if isinstance(user, dict)]
                ids = tuple(str(user.get("sid") or user.get("email") or user.get("id")) for user in users)
                received = lms_time(str(content.get("created_at", ""))) or ""
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                ids = ()
        found.append(_Found(path.name, (("", path / "submission"),) if ids else (("", path),), ids, received))
    return found


_FIND = {
    "plain": _find_plain,
    "moodle": _find_moodle,
    "canvas": _find_canvas,
    "gradescope": _find_gradescope,
}


def _assigned(
    found: Sequence[_Found], roster: Sequence[Student], lms: str
) -> tuple[list[tuple[tuple[Student, ...], _Found]], list[dict[str, str]]]:
    # only what this LMS names students by, else the id of one could be the LMS's number of another
    known = {key: student for student in roster for key in _names(student, lms) if key}
    members = {s.team: [other for other in roster if other.team == s.team] for s in roster if s.team}
    matched: dict[tuple[str, ...], list[tuple[tuple[Student, ...], _Found]]] = {}
    strangers = []
    for item in found:
        team = members.get(item.ids[0], []) if lms == "plain" and item.ids[0] not in known else []
        students = team or [known.get(id_) or known.get(id_.casefold() if "@" in id_ else id_) for id_ in item.ids]
        if not students or None in students:
            strangers.append({"name": printable(item.key), "reason": _stranger(item)})
            continue
        students.sort(key=lambda student: student.id)
        key = tuple(student.id for student in students)
        matched.setdefault(key, []).append((tuple(students), item))
    owners: dict[str, list[_Found]] = {}
    for key, items in matched.items():
        for student in key:
            owners.setdefault(student, []).extend(item for _, item in items)
    result = []
    for key, items in matched.items():
        others = {item.key: item for student in key for item in owners[student]}
        # which of two is meant is not ours to guess: both stay out, and the grader is told
        if len(others) > 1:
            names = ", ".join(sorted(printable(name) for name in others))
            result.append((items[0][0], _Found(names, (), (), items[0][1].received)))
        else:
            result.append(items[0])
    return result, strangers


def _names(student: Student, lms: str) -> tuple[str, ...]:
    if lms == "gradescope":
        return student.id, student.email.casefold()
    return (student.id,) if lms == "plain" else (student.lms_id,)


def _stranger(item: _Found) -> str:
    if not item.ids:
        return "does not look like a submission in a download of this LMS"
    odd = sorted({unicodedata.name(c, "an unnamed sign") for id_ in item.ids for c in id_ if not c.isascii()})
    hint = f"; it is written with {', '.join(odd[:3])}" if odd else ""
    return f"the roster has no {', '.join(printable(id_) for id_ in item.ids)}{hint}"


def _belongs(name: str, item: _Found, folder: Path) -> bool:
    tops = {path.relative_to(folder).parts[0] for _, path in item.parts if path.is_relative_to(folder)}
    return name.split("/")[0] in tops


# ------------------------------------------------------------------------------------------------------ submissions


def _collect_one(
    students: tuple[Student, ...],
    item: _Found,
    target: Path,
    lab: str,
    due: datetime | None,
    limits: Limits,
    lost: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    ids = tuple(student.id for student in students)
    name = submission_uuid(lab, ids)
    received = item.received or _latest(students)
    late = is_late(received, due) if received else item.late
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target))
    try:
        rejects = [Reject(reject["name"], reject["reason"], hostile=True) for reject in lost]
        if not item.parts:
            rejects.append(Reject(item.key, f"all belong to {', '.join(ids)}; keep the one that counts", hostile=True))
        files, out = _brought(item.parts, part / "files", limits)
        rejects += out
        if sum(file.size for file in files) > limits.total or len(files) > limits.entries:
            rejects.append(Reject(item.key, "is larger in all than is allowed", hostile=True))
        if not files and not rejects:
            rejects.append(Reject(printable(item.key), "holds no file", hostile=True))
        verdict = "rejected_input" if not files or any(reject.hostile for reject in rejects) else "ok"
        if verdict != "ok":
            files = []
        submission = Submission(
            name,
            ids,
            verdict,
            received,
            late,
            _source_digest(item, limits),
            tree_digest(tuple(files)),
            tuple(sorted(files, key=lambda file: file.name)),
            tuple(sorted(rejects, key=lambda reject: (reject.name, reject.reason))),
            _notes(files, received, late),
        )
        record = json.loads(_json(asdict(submission)))
        if _as_collected(target / name, record):
            return record
        if verdict != "ok":
            shutil.rmtree(part / "files", ignore_errors=True)
        write_atomically(part / "record.json", lambda file: file.write(_json(record)))
        part.chmod(0o755)
        if (target / name).exists():
            shutil.rmtree(target / name)  # killed here, the next run finds nothing and brings it again
        os.rename(part, target / name)
        return record
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _brought(parts: Sequence[tuple[str, Path]], target: Path, limits: Limits) -> tuple[list[StoredFile], list[Reject]]:
    """Folders first, then plain files, then archives: each of these in a folder called as the archive was.

    A submission that is one archive and nothing else lies at the top, as if it had been handed in as a folder.
    """
    files: list[StoredFile] = []
    rejects: list[Reject] = []
    singles: list[tuple[str, Path]] = []
    for prefix, path in parts:
        if path.is_symlink() or not path.exists():
            rejects.append(Reject(printable(prefix or path.name), "is a link or is missing", hostile=True))
        elif path.is_dir():
            where = _free(prefix, files) if prefix else ""
            archives = [p for p in _children(path) if p.name.lower().endswith(ARCHIVE_ENDINGS) and p.is_file()]
            archives = [p for p in archives if not p.is_symlink()]
            singles += [(f"{where}/{archive.name}" if where else archive.name, archive) for archive in archives]
            out = unpack(path, target / where, limits)
            files += _below(where, out.files)
            # these are opened below
            opened = {safe_name(archive.name, limits)[0] for archive in archives}
            rejects += [reject for reject in out.rejects if reject.hostile or reject.name not in opened]
        else:
            singles.append((prefix or path.name, path))
    singles.sort(key=lambda single: (single[1].name.lower().endswith(ARCHIVE_ENDINGS), single[0]))
    alone = not files and len(singles) == 1
    for raw, path in singles:
        name, reason, hostile = safe_name(raw, limits)
        if reason:
            rejects.append(Reject(printable(raw), reason, hostile))
        elif path.name.lower().endswith(ARCHIVE_ENDINGS):
            where = "" if alone else _free(name, files)
            out = unpack(path, target / where, limits)
            files += _below(where, out.files)
            rejects += [reject if alone else replace(reject, name=f"{where}: {reject.name}") for reject in out.rejects]
        else:
            out = keep_file(path, target, _free(name, files), limits)
            files, rejects = files + list(out.files), rejects + list(out.rejects)
    return files, rejects


def _free(name: str, files: Sequence[StoredFile]) -> str:
    """The name, numbered if a file or a folder is called so already."""
    taken = {above for file in files for above in _and_above(file.name.casefold())}
    number, free = 2, name
    while free.casefold() in taken:
        free, number = f"{number}-{name}", number + 1
    return free


def _and_above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _latest(students: Sequence[Student]) -> str:
    return max((s.received for s in students if s.received), key=datetime.fromisoformat, default="")


def _below(prefix: str, files: Sequence[StoredFile]) -> list[StoredFile]:
    return [replace(file, name=f"{prefix}/{file.name}") if prefix else file for file in files]


def _source_digest(item: _Found, limits: Limits) -> str:
    """sha256 over what came in, links by their names only."""
    found = []
    for prefix, path in item.parts:
        inside = [path] if path.is_symlink() or not path.is_dir() else sorted(path.rglob("*"))
        for file in inside[: limits.entries + 1]:
            name = f"{prefix}/{file.relative_to(path).as_posix()}".encode("utf-8", "surrogateescape").hex()
            plain = file.is_file() and not file.is_symlink()
            found.append(StoredFile(name, file.stat().st_size if plain else 0, file_digest(file) if plain else "-"))
    return tree_digest(tuple(found))


def _as_collected(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the folder holds exactly this record and these files."""
    try:
        if json.loads((folder / "record.json").read_bytes()) != record:
            return False
        stored = {p.relative_to(folder / "files").as_posix() for p in (folder / "files").rglob("*") if p.is_file()}
        return stored == {file["name"] for file in record["files"]} and all(
            file_digest(folder / "files" / file["name"]) == file["sha256"] for file in record["files"]
        )
    except (OSError, ValueError):
        return False


def _notes(files: Sequence[StoredFile], received: str, late: bool | None) -> tuple[str, ...]:
    notes = [f"{f.name} is never run or installed" for f in files if f.name.rpartition("/")[2].lower() in NEVER_RUN]
    if not received and late is None:
        notes.append("the LMS gave no time, so whether it was late is not known")
    return tuple(sorted(notes))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()
