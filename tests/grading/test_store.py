"""The gradebook: one writer, nothing lost, nothing overwritten, every change on record."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from utils.grading.marks import Override, Row
from utils.grading.results import ItemMark
from utils.grading.store import MIGRATIONS, LockedError, Store, opened

LAB = "00_halves"


def row(student: str, points: float | None = 3.0, status: str = "ok", tree: str = "t1") -> Row:
    item = ItemMark("half", "source code", "half", 5.0, points, "auto", "why")
    return Row(student, status, "", "uuid", tree, items=(item,), level=3, budget="smoke", receipt=f"r{points}")


def record(uuid: str, tree: str, *students: str) -> dict:
    return {"uuid": uuid, "tree": tree, "students": list(students), "verdict": "ok"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gradebook.sqlite"


def edited(path: Path, sql: str) -> None:
    """A change past the grader."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


def test_what_is_kept_is_there_after_reopening(path: Path) -> None:
    with opened(path) as store:
        store.keep_result("k", "run", {"tree": "t"}, "value")
        store.keep_failure("f", "run", {}, "broken")
        store.keep_submissions(LAB, [record("u", "t", "ann")])
        store.keep_rows(LAB, [row("ann"), row("bob", None)])
        store.override(LAB, Override("bob", "half", 4, "fine", "Ada", "t1"))
        store.remember(LAB, "run", {"level": 3})
        receipt = store.keep_receipt({"tree": "t"})
    with opened(path) as store:
        assert (store.result("k"), store.failure("f"), store.result("f")) == ("value", "broken", None)
        assert store.submissions(LAB) == [record("u", "t", "ann")]
        assert store.rows(LAB) == [row("ann"), row("bob", None)]
        assert store.overrides(LAB) == [Override("bob", "half", 4, "fine", "Ada", "t1")]
        assert store.remembered(LAB, "run") == {"level": 3} and store.remembered(LAB, "mark") is None
        assert store.receipt(receipt) == {"tree": "t"}
        assert store.rows("another lab") == []


def test_a_result_never_changes_and_takes_its_failure_away(path: Path) -> None:
    with opened(path) as store:
        store.keep_failure("k", "run", {}, "broken")
        store.keep_result("k", "run", {}, "first")
        store.keep_result("k", "run", {}, "second")
        assert store.result("k") == "first" and store.failure("k") is None
    with pytest.raises(sqlite3.IntegrityError, match="never changes"):
        edited(path, "UPDATE results SET value = 'better'")


def test_a_second_grader_is_told_who_is_there(path: Path) -> None:
    with (
        opened(path),
        pytest.raises(LockedError, match=r"another grader \(process \d+ on .+\) is working on .*nothing was changed"),
        opened(path),
    ):
        pass
    with opened(path):
        pass  # the first has gone, and its lock with it


def add_one(path: str, name: str, times: int) -> None:
    for n in range(times):
        while True:
            try:
                with opened(path) as store:
                    rows = store.rows(LAB)
                    store.keep_rows(LAB, [*rows, row(f"{name}{n}")])
                break
            except LockedError:
                continue


def test_t39_two_graders_lose_no_update(path: Path) -> None:
    """Each reads all lines and writes them with one more: without the lock, one would write over the other's."""
    fork = multiprocessing.get_context("fork")
    graders = [fork.Process(target=add_one, args=(str(path), name, 8)) for name in ("a", "b")]
    for grader in graders:
        grader.start()
    for grader in graders:
        grader.join(60)
    with opened(path) as store:
        assert [r.student for r in store.rows(LAB)] == sorted(f"{name}{n}" for name in "ab" for n in range(8))
        assert store.broken_audit() is None


def test_the_lock_of_a_killed_grader_is_gone(path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    with fork.Manager() as manager:
        ready = manager.Event()
        grader = fork.Process(target=hold, args=(path, ready))
        grader.start()
        assert ready.wait(30)
        with pytest.raises(LockedError, match=f"process {grader.pid}"), opened(path):
            pass
        grader.kill()
        grader.join()
    with opened(path) as store:
        assert store.rows(LAB) == [row("ann")]


def hold(path: Path, ready) -> None:
    with opened(path) as store:
        store.keep_rows(LAB, [row("ann")])
        ready.set()
        ready._manager = None
        import time

        time.sleep(60)


# ------------------------------------------------------------------------------------------------------------- audit


def test_every_change_is_audited_and_nothing_else(path: Path) -> None:
    with opened(path) as store:
        assert store.keep_rows(LAB, [row("ann", 3), row("bob", None)]) == 2
        before = len(store.audit())
        assert store.keep_rows(LAB, [row("ann", 3), row("bob", None)]) == 0
        assert len(store.audit()) == before
        assert store.keep_rows(LAB, [row("ann", 5, "wrong"), row("bob", None)], why="the rubric changed") == 1
        found = [(e.who, e.student, e.what, e.old, e.new, e.why) for e in store.audit(LAB)[before:]]
        why = "the rubric changed"
        assert found == [
            ("course grade", "ann", "half", "3", "5", why),
            ("course grade", "ann", "status", "ok", "wrong", why),
        ]
        assert [e.student for e in store.audit(LAB, "bob")] == ["bob"] * 3
        assert store.audit("another lab") == []


def test_who_leaves_the_roster_leaves_a_trace(path: Path) -> None:
    with opened(path) as store:
        store.keep_rows(LAB, [row("ann"), row("bob")])
        store.keep_rows(LAB, [row("ann")])
        assert [r.student for r in store.rows(LAB)] == ["ann"]
        assert store.audit(LAB, "bob")[-1].new == "not in it"


def test_a_mark_by_hand_survives_marking_anew_and_its_withdrawal_is_audited(path: Path) -> None:
    given = Override("ann", "half", 4.5, "good idea", "Ada", "t1")
    with opened(path) as store:
        store.override(LAB, given)
        store.override(LAB, given)  # the same again is no change
        store.keep_rows(LAB, [row("ann", 1)])
        store.override(LAB, Override("ann", "half", 2, "seen again", "Bea", "t1"))
        assert [(o.points, o.by) for o in store.overrides(LAB)] == [(2, "Bea")]
        store.withdraw(LAB, "ann", "half", "Bea", "a mistake")
        assert store.overrides(LAB) == []
        with pytest.raises(ValueError, match="nothing to withdraw"):
            store.withdraw(LAB, "ann", "half", "Bea", "again")
        found = [(e.who, e.old, e.new, e.why) for e in store.audit(LAB, "ann") if e.what == "half"]
    by_hand = [change for change in found if change[0] != "course grade"]
    assert by_hand == [
        ("Ada", "", "4.5", "good idea"),
        ("Bea", "4.5", "2", "seen again"),
        ("Bea", "2", "", "a mistake"),
    ]


def test_a_submission_that_is_replaced_is_audited(path: Path) -> None:
    with opened(path) as store:
        store.keep_submissions(LAB, [record("u", "t1", "ann", "bob")])
        store.keep_submissions(LAB, [record("u", "t2", "ann", "bob")])
        store.keep_submissions(LAB, [])
        assert [(e.old, e.new) for e in store.audit(LAB, "bob")] == [("", "t1"), ("t1", "t2"), ("t2", "")]
        assert store.submissions(LAB) == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET who = 'nobody'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT id, time, 'nobody', lab, student, what, old, new, why, digest FROM audit",
    ],
)
def test_the_audit_can_only_grow(path: Path, sql: str) -> None:
    with opened(path) as store:
        store.keep_rows(LAB, [row("ann")])
        before = store.audit()
    with pytest.raises(sqlite3.IntegrityError, match="can only grow"):
        edited(path, sql)
    with opened(path) as store:
        assert store.audit() == before


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("UPDATE audit SET new = '5' WHERE id = 2", 2),
        ("DELETE FROM audit WHERE id = 1", 1),
        ("UPDATE audit SET id = id + 10 WHERE id = 3", 3),
    ],
)
def test_whoever_takes_the_triggers_away_is_found_out(path: Path, sql: str, line: int) -> None:
    with opened(path) as store:
        store.keep_rows(LAB, [row("ann"), row("bob")])
        assert store.broken_audit() is None
    for trigger in ("audit_is_not_changed", "audit_is_not_cut"):
        edited(path, f"DROP TRIGGER {trigger}")
    edited(path, sql)
    with opened(path) as store:
        assert store.broken_audit() == line


def test_a_change_is_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        store.keep_rows(LAB, [row("ann", 1), row("bob", 1)])
        audited, audit = len(store.audit()), Store._audit

        def fails(self: Store, who: str, lab: str, student: str, *values: str) -> None:
            if student == "bob":
                raise OSError("no space left")
            audit(self, who, lab, student, *values)

        monkeypatch.setattr(Store, "_audit", fails)
        with pytest.raises(OSError):
            store.keep_rows(LAB, [row("ann", 2), row("bob", 2)])
        assert store.rows(LAB) == [row("ann", 1), row("bob", 1)] and len(store.audit()) == audited


# ------------------------------------------------------------------------------------------------------- the schema


NEWER = (*MIGRATIONS, "ALTER TABLE submissions ADD COLUMN comment TEXT NOT NULL DEFAULT ''")


def test_an_older_gradebook_is_copied_before_it_is_changed(path: Path) -> None:
    with opened(path) as store:
        store.keep_rows(LAB, [row("ann")])
    with opened(path, NEWER) as store:
        assert store.rows(LAB) == [row("ann")]
    copy = path.with_name("gradebook.sqlite.version-1")
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM marks").fetchone() == (1,)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT comment FROM submissions").fetchall() == []
    with pytest.raises(ValueError, match="newer grader"), opened(path):
        pass


def test_a_change_of_schema_that_fails_leaves_the_old_one(path: Path) -> None:
    with opened(path) as store:
        store.keep_rows(LAB, [row("ann")])
    with pytest.raises(sqlite3.Error), opened(path, (*MIGRATIONS, "DROP TABLE marks; SELECT nonsense FROM nowhere")):
        pass
    with opened(path) as store:
        assert store.rows(LAB) == [row("ann")]


def test_a_new_gradebook_is_not_copied(path: Path) -> None:
    with opened(path):
        pass
    assert [p.name for p in path.parent.glob("*.version-*")] == []


def test_another_file_is_no_gradebook(path: Path) -> None:
    path.write_text("student,points\n" * 100)
    with pytest.raises(ValueError, match="no gradebook"), opened(path):
        pass
