"""The gradebook on disk: results by what they were made from, marks, what people decided, and who changed what.

One SQLite file (WAL) with one writer at a time; a second grader on the same file is told so. Every change is one
transaction, so a grader that is killed leaves what it had finished. Results are found by a digest of everything that
they follow from and never change; the audit can only grow, and each of its lines holds a digest of the one before.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from utils.grading.marks import Override, Row, changed
from utils.grading.plain import digest, from_json, to_json

MIGRATIONS = (
    """
    CREATE TABLE submissions (
        lab TEXT NOT NULL, uuid TEXT NOT NULL, tree TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (lab, uuid)
    ) WITHOUT ROWID;
    CREATE TABLE results (
        key TEXT PRIMARY KEY, step TEXT NOT NULL, inputs TEXT NOT NULL, value TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE failures (
        key TEXT PRIMARY KEY, step TEXT NOT NULL, inputs TEXT NOT NULL, value TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE states (
        lab TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (lab, name)
    ) WITHOUT ROWID;
    CREATE TABLE receipts (digest TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE marks (
        lab TEXT NOT NULL, student TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (lab, student)
    ) WITHOUT ROWID;
    CREATE TABLE overrides (
        lab TEXT NOT NULL, student TEXT NOT NULL, item TEXT NOT NULL, points REAL NOT NULL, reason TEXT NOT NULL,
        author TEXT NOT NULL, tree TEXT NOT NULL, PRIMARY KEY (lab, student, item)
    ) WITHOUT ROWID;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY, time TEXT NOT NULL, who TEXT NOT NULL, lab TEXT NOT NULL, student TEXT NOT NULL,
        what TEXT NOT NULL, old TEXT NOT NULL, new TEXT NOT NULL, why TEXT NOT NULL, digest TEXT NOT NULL
    );
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit can only grow'); END;
    CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit can only grow'); END;
    -- INSERT OR REPLACE deletes without a trigger
    CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'the audit can only grow'); END;
    CREATE TRIGGER results_are_not_changed BEFORE UPDATE ON results
        BEGIN SELECT RAISE(ABORT, 'a result never changes'); END;
    """,
)
"""SQL that leads from each version of the schema to the next; a line is only ever added."""


_AUDITED = "time, who, lab, student, what, old, new, why"


class LockedError(RuntimeError):
    """Another grader works on this gradebook."""


@dataclass(frozen=True)
class Entry:
    """A line of the audit: when (ISO 8601, UTC), who changed what of whom, from what to what, and why."""

    time: str
    who: str
    lab: str
    student: str
    what: str
    old: str
    new: str
    why: str


@contextmanager
def opened(path: Path | str, migrations: Sequence[str] = MIGRATIONS) -> Iterator[Store]:
    """The gradebook in ``path``, made or brought to the newest schema first; nobody else can have it open meanwhile.

    Before an older schema is changed, a copy is put beside it (``gradebook.sqlite.version-1``).

    Raises
    ------
    LockedError : another grader has it open.
    ValueError : no gradebook, or one of a newer version.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path), closing(_connected(path)) as connection:
        _migrate(connection, path, migrations)
        yield Store(connection)


class Store:
    """See ``opened``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # Results

    def result(self, key: str) -> str | None:
        """The result of this key, as it was kept."""
        return self._value("SELECT value FROM results WHERE key = ?", key)

    def failure(self, key: str) -> str | None:
        """What came out where the machine failed; the next run tries again."""
        return self._value("SELECT value FROM failures WHERE key = ?", key)

    def keep_result(self, key: str, step: str, inputs: Mapping[str, Any], value: str) -> None:
        """Keeps a result for good. One that is there already stays as it is."""
        with self._change():
            self._do("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)", key, step, to_json(inputs), value)
            self._do("DELETE FROM failures WHERE key = ?", key)

    def keep_failure(self, key: str, step: str, inputs: Mapping[str, Any], value: str) -> None:
        """Keeps what the machine failed in, until there is a result."""
        with self._change():
            self._do("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", key, step, to_json(inputs), value)

    def remember(self, lab: str, name: str, value: Any) -> None:
        """What the last run of a step was asked for, so that the next step, started alone, goes on from there."""
        with self._change():
            self._do("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", lab, name, to_json(value))

    def remembered(self, lab: str, name: str) -> Any:
        """What was remembered last under this name; None where nothing was."""
        text = self._value("SELECT value FROM states WHERE lab = ? AND name = ?", lab, name)
        return None if text is None else json.loads(text)

    # Submissions

    def keep_submissions(self, lab: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the submissions of a lab by those of a manifest; what changed is audited."""
        new = {record["uuid"]: record for record in records}
        with self._change():
            old = {record["uuid"]: record for record in self.submissions(lab)}
            for uuid in sorted(old.keys() | new.keys()):
                before, after = old.get(uuid), new.get(uuid)
                if before == after:
                    continue
                trees = [record["tree"] if record else "" for record in (before, after)]
                for student in (after or before)["students"]:
                    self._audit("course grade", lab, student, "submission", *trees, "collected")
                if after is None:
                    self._do("DELETE FROM submissions WHERE lab = ? AND uuid = ?", lab, uuid)
                else:
                    self._do(
                        "INSERT OR REPLACE INTO submissions VALUES (?, ?, ?, ?)",
                        lab,
                        uuid,
                        after["tree"],
                        to_json(after),
                    )

    def submissions(self, lab: str) -> list[dict[str, Any]]:
        """The records of a lab's submissions, by uuid."""
        rows = self._rows("SELECT record FROM submissions WHERE lab = ? ORDER BY uuid", lab)
        return [json.loads(record) for (record,) in rows]

    # Marks

    def keep_rows(self, lab: str, rows: Sequence[Row], why: str = "marked") -> int:
        """Replaces the automatic marks of a lab by these; returns how many students' lines changed, all audited."""
        new = {row.student: row for row in rows}
        with self._change():
            old = {row.student: row for row in self.rows(lab)}
            for student in sorted(old.keys() - new.keys()):
                self._do("DELETE FROM marks WHERE lab = ? AND student = ?", lab, student)
                self._audit("course grade", lab, student, "roster", "in it", "not in it", why)
            for student, row in sorted(new.items()):
                for what, before, after in changed(old.get(student), row):
                    self._audit("course grade", lab, student, what, before, after, why)
                if old.get(student) != row:
                    self._do("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", lab, student, to_json(row))
        return sum(old.get(student) != row for student, row in new.items()) + len(old.keys() - new.keys())

    def rows(self, lab: str) -> list[Row]:
        """The automatic marks of a lab, by student."""
        rows = self._rows("SELECT value FROM marks WHERE lab = ? ORDER BY student", lab)
        return [from_json(Row, value) for (value,) in rows]

    def keep_receipt(self, receipt: Mapping[str, Any]) -> str:
        """Keeps what marks were made from, and returns its digest."""
        key = digest(receipt)
        with self._change():
            self._do("INSERT OR IGNORE INTO receipts VALUES (?, ?)", key, to_json(receipt))
        return key

    def receipt(self, key: str) -> dict[str, Any] | None:
        text = self._value("SELECT value FROM receipts WHERE digest = ?", key)
        return None if text is None else json.loads(text)

    def override(self, lab: str, given: Override) -> None:
        """A person's mark: stays through any marking anew, until a person changes or withdraws it."""
        with self._change():
            old = self._override(lab, given.student, given.item)
            if old == given:
                return
            self._do("INSERT OR REPLACE INTO overrides VALUES (?, ?, ?, ?, ?, ?, ?)", lab, *_columns(given))
            before = f"{old.points:g}" if old else ""
            self._audit(given.by, lab, given.student, given.item, before, f"{given.points:g}", given.reason)

    def withdraw(self, lab: str, student: str, item: str, by: str, reason: str) -> None:
        """Takes a person's mark back, so that the machine's stands again. ``ValueError`` where there is none."""
        with self._change():
            old = self._override(lab, student, item)
            if old is None:
                raise ValueError(f"{student} has no mark by hand for {item}; there is nothing to withdraw")
            self._do("DELETE FROM overrides WHERE lab = ? AND student = ? AND item = ?", lab, student, item)
            self._audit(by, lab, student, item, f"{old.points:g}", "", reason)

    def overrides(self, lab: str) -> list[Override]:
        """What people decided in a lab, by student and item."""
        rows = self._rows(
            "SELECT student, item, points, reason, author, tree FROM overrides WHERE lab = ? ORDER BY student, item",
            lab,
        )
        return [Override(*row) for row in rows]

    # Audit

    def audit(self, lab: str | None = None, student: str | None = None) -> list[Entry]:
        """All changes in their order, of a lab and a student where they are given."""
        rows = self._rows(f"SELECT {_AUDITED} FROM audit ORDER BY id")
        entries = [Entry(*row) for row in rows]
        return [e for e in entries if lab in (None, e.lab) and student in (None, e.student)]

    def broken_audit(self) -> int | None:
        """The number of the first line of the audit that does not follow from those before; None where all of them do.

        What was cut off at the end is not noticed.
        """
        before = ""
        rows = self._rows(f"SELECT {_AUDITED}, digest FROM audit ORDER BY id")
        for number, (*values, stored) in enumerate(rows, 1):
            before = digest([before, values])
            if stored != before:
                return number
        return None

    # ------------------------------------------------------------------------------------------------------- inside

    def _override(self, lab: str, student: str, item: str) -> Override | None:
        return next((o for o in self.overrides(lab) if (o.student, o.item) == (student, item)), None)

    def _audit(self, who: str, lab: str, student: str, what: str, old: str, new: str, why: str) -> None:
        entry = Entry(datetime.now(UTC).isoformat(timespec="seconds"), who, lab, student, what, old, new, why)
        last = self._value("SELECT digest FROM audit ORDER BY id DESC LIMIT 1") or ""
        values = list(astuple(entry))
        self._do(
            f"INSERT INTO audit ({_AUDITED}, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *values,
            digest([last, values]),
        )

    @contextmanager
    def _change(self) -> Iterator[None]:
        """All of it or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _do(self, sql: str, *values: Any) -> None:
        self._connection.execute(sql, values)

    def _rows(self, sql: str, *values: Any) -> list[tuple]:
        return self._connection.execute(sql, values).fetchall()

    def _value(self, sql: str, *values: Any) -> Any:
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None else row[0]


def _columns(given: Override) -> tuple:
    own = asdict(given)
    return tuple(own[name] for name in ("student", "item", "points", "reason", "by", "tree"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The kernel's lock on a file beside the gradebook: it goes with its holder, however that ends."""
    with open(path.with_name(f"{path.name}.lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise LockedError(
                f"another grader ({file.read().strip() or 'unknown'}) is working on {path.parent}; wait until it has "
                "finished, or end it, and start again: nothing was changed"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _connected(path: Path) -> sqlite3.Connection:
    # changes are begun and ended by _change; results may come from other threads, but only one writes
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # a mark by hand must outlive a power cut, which in WAL it does only with FULL
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ValueError(f"{path} is no gradebook: {error}") from error
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise ValueError(
            f"{path} was made by a newer grader (schema {version}, this one knows {len(migrations)}); update the course"
        )
    if 0 < version < len(migrations):
        _copied(connection, path.with_name(f"{path.name}.version-{version}"))
    for number in range(version, len(migrations)):
        # one transaction with its number: killed in the middle, the old schema is whole
        connection.executescript(f"BEGIN IMMEDIATE; {migrations[number]}; PRAGMA user_version = {number + 1}; COMMIT;")


def _copied(connection: sqlite3.Connection, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part)) as copy:
        connection.backup(copy)
    os.replace(part, path)
