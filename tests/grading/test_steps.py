"""A class from its download to its marks: killed, done twice, by others, on broken machines, and people's decisions."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import socket
import sqlite3
import time
import zipfile
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_course import (
    CODE,
    Answering,
    exported,
    graded,
    report,
    small_class,
    small_course,
    small_lab,
    with_tools,
)

from utils.grading import pages, steps
from utils.grading.engine import dask, threads
from utils.grading.marks import LATE, Override
from utils.grading.plain import from_json
from utils.grading.settings import Settings, set_due, settings
from utils.grading.steps import Course, GraderError
from utils.grading.store import opened
from utils.grading.tasks import Extracted, Task, broken, inputs, perform

CLASS = {"ann": "good", "bob": "wrong", "cid": "crash", "dan": "missing", "eva": "cheat", "fay": "good"}


def rows(course: Course) -> dict[str, dict[str, str]]:
    """The gradebook by student."""
    text = (course.exports / "gradebook.csv").read_text()
    return {row["student_id"]: row for row in csv.DictReader(io.StringIO(text))}


def asked(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def audited(course: Course) -> list:
    with opened(course.gradebook) as store:
        assert store.broken_audit() is None
        return store.audit()


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return small_course(tmp_path, Answering(tmp_path / "log"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return small_class(tmp_path, CLASS)


# -------------------------------------------------------------------------------------------- the whole, once and again


def test_everybody_has_the_marks_that_were_planned(course: Course, source: Path) -> None:
    done = graded(course, source)
    assert [one.step for one in done] == [
        *("doctor", "selftest", "collect", "extract", "run", "similarity", "mark", "feedback", "export")
    ]
    found = rows(course)
    assert {id: (row["status"], row["half"], row["learns"], row["title"]) for id, row in found.items()} == {
        "ann": ("ok", "6", "3", "1"),
        "bob": ("wrong", "0", "3", "1"),
        "cid": ("student_error", "0", "0", "1"),
        "dan": ("not_submitted", "", "", ""),
        "eva": ("tamper_suspected", "", "", "1"),
        "fay": ("ok", "6", "3", "1"),
    }
    assert {id: row["score"] for id, row in found.items()} == {
        **{"ann": "10", "bob": "4", "cid": "1", "dan": "", "eva": "", "fay": "10"}
    }
    by_step = {one.step: one for one in done}
    assert (by_step["mark"].errored, by_step["mark"].failed) == (2, 0)


def test_every_student_is_in_every_export_with_a_status(course: Course, source: Path) -> None:
    graded(course, source)
    for name in ("gradebook.csv", "status.csv", "nbgrader.csv"):
        found = list(csv.DictReader(io.StringIO((course.exports / name).read_text())))
        assert {row["student_id"] for row in found} == set(CLASS) and all(row["status"] for row in found), name
    found = json.loads((course.exports / "gradebook.json").read_text())
    assert {row["student"]: row["status"] for row in found}.keys() == CLASS.keys()
    results = [json.loads(path.read_text()) for path in (course.exports / "gradescope").iterdir()]
    assert len(results) == len(CLASS) and sum("score" not in result for result in results) == 2
    assert len(list(course.feedback.glob("*.html"))) == len(list(course.feedback.glob("*.md"))) == len(CLASS)


def test_grading_again_changes_nothing_and_runs_nothing(course: Course, source: Path, tmp_path: Path) -> None:
    graded(course, source)
    before, audit, log = exported(course), audited(course), asked(tmp_path / "log")
    assert len(log) == len(set(log)) == 15  # a report, the functions and the experiment of five students
    graded(course, source)
    assert exported(course) == before and audited(course) == audit and asked(tmp_path / "log") == log


def test_the_gradebook_holds_no_time_and_no_place(course: Course, source: Path, tmp_path: Path) -> None:
    graded(with_tools(course, perform=Answering(tmp_path / "log", healthy=False)), source)
    secret = course.settings.secret
    for name, data in exported(course).items():
        for forbidden in (str(tmp_path), "/tmp/", datetime.now(UTC).strftime("%Y-%m-%d"), socket.gethostname(), secret):
            assert forbidden.encode() not in data, (name, forbidden)


def test_the_order_of_files_and_of_the_roster_does_not_show(tmp_path: Path) -> None:
    found = []
    for number, order in enumerate((list(CLASS), list(reversed(CLASS)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        course = small_course(folder, Answering(folder / "log"))
        shared_secret(course, tmp_path)
        graded(course, small_class(folder, {name: CLASS[name] for name in order}))
        found.append(exported(course))
    assert found[0] == found[1]


def shared_secret(course: Course, tmp_path: Path) -> None:
    """Two folders draw the same inputs."""
    path = tmp_path / "grading.toml"
    settings(path)
    course.folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, course.folder / "grading.toml")


# ----------------------------------------------------------------------------------------------- T38: killed, by others


def test_t38_killed_at_ten_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    source = small_class(tmp_path, {"ann": "good", "bob": "wrong", "dan": "missing", "gus": "slow"})

    def begun(number: int | str) -> tuple[Course, Path]:
        folder = tmp_path / str(number)
        folder.mkdir()
        course = small_course(folder, Answering(folder / "log", pause=0.02))
        shared_secret(course, tmp_path)
        return course, folder / "log"

    whole, log = begun("whole")
    grader = fork.Process(target=graded, args=(whole, source))
    start = time.monotonic()
    grader.start()
    grader.join()
    seconds = time.monotonic() - start
    assert grader.exitcode == 0
    before, most = gradebook(whole), len(asked(log))
    rng = random.Random(38)
    killed = 0
    for number in range(10):
        course, log = begun(number)
        grader = fork.Process(target=graded, args=(course, source, 2))
        grader.start()
        grader.join(rng.uniform(0, seconds))
        grader.kill()
        grader.join()
        killed += grader.exitcode == -9
        graded(course, source, 2)
        assert gradebook(course) == before, number
        assert audited(course)
        # at most what was under way when it was killed is done again: two parts of two submissions
        assert most <= len(asked(log)) <= most + 4, number
        assert not list(course.folder.rglob("*.part")) or killed
    assert killed >= 5


def gradebook(course: Course) -> dict[str, bytes]:
    """All exports and pages but those of who prints the time of day."""
    found = exported(course)
    prints = [name for name, data in found.items() if b"gus" in data and name.startswith("feedback")]
    return {name: data for name, data in found.items() if name not in prints}


@pytest.mark.parametrize("engine", ["4 threads", "dask"])
def test_whoever_does_the_work_the_bytes_are_the_same(tmp_path: Path, engine: str) -> None:
    if engine == "dask" and importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed")
    source = small_class(tmp_path, CLASS)
    found = []
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        course = small_course(folder, Answering(folder / "log", pause=0.005))
        shared_secret(course, tmp_path)
        if number and engine == "dask":
            from distributed import LocalCluster

            with (
                LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as cluster,
                opened(course.gradebook) as store,
                dask(cluster.scheduler_address) as workers,
            ):
                steps.everything(course, store, workers, source, roster=source.parent / "roster.csv")
        else:
            graded(course, source, jobs=4 if number else 1)
        found.append(exported(course))
        assert len(asked(folder / "log")) == 15
    assert found[0] == found[1]


def test_steps_alone_give_what_all_together_give(course: Course, source: Path, tmp_path: Path) -> None:
    graded(course, source)
    (tmp_path / "alone").mkdir()
    other = small_course(tmp_path / "alone", Answering(tmp_path / "log"))
    other.folder.mkdir()
    shutil.copyfile(course.folder / "grading.toml", other.folder / "grading.toml")
    for step in (
        lambda store, workers: steps.collect(other, store, source, roster=source.parent / "roster.csv"),
        lambda store, workers: steps.extract(other, store, workers),
        lambda store, workers: steps.run(other, store, workers, 3),
        lambda store, workers: steps.similar(other, store),
        lambda store, workers: steps.mark(other, store),
        lambda store, workers: steps.feedback(other, store),
        lambda store, workers: steps.export(other, store),
    ):
        # each as a command of its own would do it
        with opened(other.gradebook) as store, threads(2) as workers:
            step(store, workers)
    assert exported(other) == exported(course)


def test_marking_before_anything_was_run_is_no_zero(course: Course, source: Path) -> None:
    with opened(course.gradebook) as store:
        steps.collect(course, store, source, roster=source.parent / "roster.csv")
        done = steps.mark(course, store)
        steps.export(course, store)
    assert done.failed == 5 and "of 5 the code was not run yet" in done.line
    assert {row["score"] for row in rows(course).values()} == {""}
    assert {row["status"] for row in rows(course).values()} == {"infra_error", "not_submitted"}


# ---------------------------------------------------------------------------------------------- machines that fail


def test_an_infrastructure_failure_is_no_zero_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = small_class(tmp_path, {"ann": "good", "bob": "infra"})
    ill = small_course(tmp_path, Answering(tmp_path / "log", healthy=False))
    done = {one.step: one for one in graded(ill, source)}
    assert (done["run"].failed, done["mark"].failed, done["mark"].errored) == (2, 1, 0)
    assert "no space left" in capsys.readouterr().err  # the log says why
    row = rows(ill)["bob"]
    assert (row["status"], row["score"], row["raw_score"], row["half"], row["title"]) == (
        "infra_error",
        "",
        "",
        "",
        "1",
    )
    before = len(asked(tmp_path / "log"))
    well = with_tools(ill, perform=Answering(tmp_path / "log"))
    done = {one.step: one for one in graded(well, source)}
    assert done["mark"].failed == 0
    assert rows(well)["bob"]["score"] == "10"
    assert len(asked(tmp_path / "log")) == before + 2  # and nothing of what was done


def test_a_dead_worker_takes_no_other_student_with_it(tmp_path: Path) -> None:
    class Dies:
        def results(self, function, tasks):
            for number, task in enumerate(tasks):
                yield number, RuntimeError("killed") if number == 0 else function(task)

    source = small_class(tmp_path, {"ann": "good", "bob": "good"})
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    with opened(course.gradebook) as store:
        steps.everything(course, store, Dies(), source, roster=source.parent / "roster.csv")
    assert {row["status"] for row in rows(course).values()} == {"infra_error", "ok"}
    graded(course, source)
    assert {row["score"] for row in rows(course).values()} == {"10"}


def test_a_report_that_nobody_thought_of_keeps_nobody_else_from_marks(course: Course, source: Path) -> None:
    def judge(lab, report, experiment):
        if "bob" in report.title:
            raise ValueError("a setting is claimed twice")
        return ()

    done = {one.step: one for one in graded(with_tools(course, judge=judge), source)}
    assert done["mark"].failed == 0 and rows(course)["bob"]["score"] == "4" and rows(course)["ann"]["score"] == "10"
    assert "could not be judged" in (course.exports / "status.csv").read_text()


def test_a_page_that_fails_keeps_nobody_else_from_theirs(
    course: Course, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = pages.feedback_html

    def html(page):
        if page.ids == ("bob",):
            raise RuntimeError("a template's mistake")
        return made(page)

    monkeypatch.setattr(pages, "feedback_html", html)
    done = {one.step: one for one in graded(course, source)}
    assert done["feedback"].failed == 1 and "1 could not be made" in done["feedback"].line
    assert "the page of bob could not be made" in capsys.readouterr().err
    assert len(list(course.feedback.glob("*.html"))) == len(CLASS) - 1
    assert (course.teacher / "index.html").exists() and rows(course).keys() == CLASS.keys()


def test_a_lab_that_fails_its_own_test_marks_nobody(course: Course, source: Path, tmp_path: Path) -> None:
    ill = with_tools(course, selftest=lambda lab, level, seed, allow_weak: ["the mutant sum passes"])
    with pytest.raises(GraderError, match="the mutant sum passes"):
        graded(ill, source)
    assert not asked(tmp_path / "log") and not course.exports.exists()


def test_the_selftest_is_not_repeated_until_something_changes(course: Course, source: Path, tmp_path: Path) -> None:
    calls = []
    counted = with_tools(course, selftest=lambda lab, level, seed, allow_weak: calls.append(level) or [])
    graded(counted, source)
    graded(counted, source)
    assert calls == [3]
    (course.lab.folder / "inputs.py").write_text("def cases(seed):\n    return []\n")
    graded(Course(course.folder, course.lab, counted.tools), source)
    assert calls == [3, 3]


# ----------------------------------------------------------------------------------------------------------- isolation


def test_the_level_is_stamped_on_every_mark(tmp_path: Path) -> None:
    source = small_class(tmp_path, CLASS)
    for level in (3, 2):
        course = small_course(tmp_path, Answering(tmp_path / "log"), level=level)
        graded(course, source)
        stamped = {id: row["level"] for id, row in rows(course).items()}
        assert stamped == {id: "0" if word == "missing" else str(level) for id, word in CLASS.items()}
    # another level is another result
    assert sum(line.startswith("equivalence") for line in asked(tmp_path / "log")) == 10


@pytest.mark.parametrize("level", [0, 1])
def test_below_the_floor_nothing_is_executed(tmp_path: Path, level: int) -> None:
    source = small_class(tmp_path, CLASS)
    course = small_course(tmp_path, Answering(tmp_path / "log"), level=level)
    done = {one.step: one for one in graded(course, source)}
    assert "nothing was executed" in done["run"].line
    assert {line.split()[0] for line in asked(tmp_path / "log")} == {"extract"}
    found = rows(course)
    assert {row["level"] for row in found.values()} == {"0"} and {row["score"] for row in found.values()} == {""}
    assert found["ann"]["status"] == "infra_error" and found["ann"]["title"] == "1"


def test_the_teachers_word_runs_it_all_the_same(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good"})
    course = small_course(tmp_path, Answering(tmp_path / "log"), level=1)
    graded(course, source, allow_weak=True)
    assert rows(course)["ann"]["score"] == "10" and rows(course)["ann"]["level"] == "1"
    # without the word again, the marks say so again
    graded(course, source)
    assert rows(course)["ann"]["level"] == "0" and rows(course)["ann"]["score"] == ""


def test_a_check_on_another_machine_does_not_count(course: Course) -> None:
    calls = []
    isolate = course.tools.isolate

    def counted():
        calls.append(1)
        return replace(isolate(), kernel=os.uname().release, root=os.geteuid() == 0)

    steps.doctor(course.folder, counted, fresh=False)
    steps.doctor(course.folder, counted, fresh=False)
    assert len(calls) == 1
    steps.doctor(course.folder, counted)
    assert len(calls) == 2
    path = course.folder / "isolation.json"
    path.write_text(path.read_text().replace(os.uname().release, "another kernel"))
    steps.doctor(course.folder, counted, fresh=False)
    assert len(calls) == 3


# --------------------------------------------------------------------------------------------------- what is run anew


def test_the_same_files_are_run_once(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good", "bob": "good"})
    for file in (source / "ann").iterdir():
        shutil.copyfile(file, source / "bob" / file.name)
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    graded(course, source)
    assert len(asked(tmp_path / "log")) == 3
    assert [row["score"] for row in rows(course).values()] == ["10", "10"]


def test_what_a_result_follows_from_is_its_key(tmp_path: Path) -> None:
    task = Task("experiment", "/somewhere", "tree", "/labs/x", "digest", 3, 7, "smoke")
    elsewhere = replace(task, files="/elsewhere", lab="/other", allow_weak=True)
    assert inputs(task) == inputs(elsewhere)
    changes = {"tree": "b", "lab_digest": "b", "level": 2, "seed": 8, "budget": "full", "step": "extract"}
    for name, value in changes.items():
        assert inputs(task) != inputs(replace(task, **{name: value})), name
    assert {"grader", "environment"} <= inputs(task).keys()


def test_a_new_submission_is_run_and_the_old_marks_by_hand_say_so(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "wrong", "bob": "good"})
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    graded(course, source)
    with opened(course.gradebook) as store:
        steps.override(course, store, Override("ann", "half", 2, "nearly", "Ada"))
    before = len(asked(tmp_path / "log"))
    (source / "ann" / "lab.py").write_text(f"# good ann\n{CODE}")
    graded(course, source)
    assert len(asked(tmp_path / "log")) == before + 3
    row = rows(course)["ann"]
    assert (row["half"], row["status"]) == ("2", "ok")
    assert "half was marked by Ada for an earlier submission" in (course.exports / "status.csv").read_text()


def test_all_students_get_the_same_inputs_and_no_student_knows_them(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good", "bob": "good"})
    seeds = []
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        course = small_course(folder, Answering(folder / "log"))
        graded(course, source)
        seeds.append({line.split()[3] for line in asked(folder / "log") if line.startswith("equivalence")})
        assert (course.folder / "grading.toml").stat().st_mode & 0o077 == 0
        leaked = [name for name, data in exported(course).items() if any(seed.encode() in data for seed in seeds[-1])]
        assert leaked == []
    assert len(seeds[0]) == len(seeds[1]) == 1 and seeds[0] != seeds[1]


# --------------------------------------------------------------------------------------------------- people's decisions


def test_marks_by_hand_survive_every_marking_anew(tmp_path: Path) -> None:
    source = small_class(tmp_path, CLASS)
    course = small_course(tmp_path, Answering(tmp_path / "log"), manual=True)
    graded(course, source)
    assert rows(course)["ann"]["score"] == "" and rows(course)["ann"]["open"] == "1"
    with opened(course.gradebook) as store:
        steps.override(course, store, Override("ann", "quality", 4, "clear", "Ada"))
        steps.override(course, store, Override("bob", "half", 3, "a slip of the pen", "Ada"))
    for budget in ("smoke", "full"):
        graded(course, source, budget=budget)
        found = rows(course)
        assert (found["ann"]["quality"], found["ann"]["score"], found["bob"]["half"]) == ("4", "14", "3")
    mine = [entry for entry in audited(course) if entry.who == "Ada"]
    assert [(e.student, e.what, e.new, e.why) for e in mine] == [
        ("ann", "quality", "4", "clear"),
        ("bob", "half", "3", "a slip of the pen"),
    ]
    page = next(path for path in course.feedback.glob("*.md") if "a slip of the pen" in path.read_text())
    assert "Bob" in page.read_text()
    with opened(course.gradebook) as store:
        steps.withdraw(course, store, "bob", "half", "no slip", "Bea")
        steps.export(course, store)
    assert rows(course)["bob"]["half"] == "0"


def test_a_mark_for_nobody_or_nothing_is_refused(course: Course, source: Path) -> None:
    graded(course, source)
    with opened(course.gradebook) as store:
        with pytest.raises(ValueError, match="the roster has no 'zoe'"):
            steps.override(course, store, Override("zoe", "half", 3, "why", "Ada"))
        with pytest.raises(ValueError, match="0 to 6 points"):
            steps.override(course, store, Override("ann", "half", 60, "why", "Ada"))
        assert store.overrides(course.lab.name) == []


def test_only_the_time_of_the_lms_makes_late(tmp_path: Path) -> None:
    times = {"ann": "2026-11-20T10:00:00+00:00", "bob": "2026-11-21T10:00:00+00:00"}
    source = small_class(tmp_path, {"ann": "good", "bob": "good", "cid": "good"}, times)
    for path in source.rglob("*"):
        os.utime(path, (2e9, 2e9) if "bob" not in path.parts else (1e9, 1e9))  # whatever the files say
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    path = course.folder / "grading.toml"
    settings(path)
    path.write_text(path.read_text().replace("per_day = 0.0", "per_day = 0.25"))
    set_due(path, course.lab.name, datetime.fromisoformat("2026-11-20T12:00:00+00:00"))
    graded(course, source)
    found = rows(course)
    assert [found[id]["late"] for id in ("ann", "bob", "cid")] == ["no", "yes", ""]
    assert [found[id]["late_submission_penalty"] for id in ("ann", "bob", "cid")] == ["0", "2.5", "0"]
    assert (found["bob"]["raw_score"], found["bob"]["score"]) == ("10", "7.5")  # the raw score stands apart
    with opened(course.gradebook) as store:
        steps.override(course, store, Override("bob", LATE, 0, "was ill", "Ada"))
        steps.export(course, store)
    assert rows(course)["bob"]["score"] == "10"


# -------------------------------------------------------------------------------------------------------------- appeals


def test_an_appeal_shows_everything_and_does_it_again(course: Course, source: Path, tmp_path: Path) -> None:
    graded(course, source)
    with opened(course.gradebook) as store:
        steps.override(course, store, Override("bob", "half", 3, "a slip", "Ada"))
        before = len(asked(tmp_path / "log"))
        lines, same = steps.appeal(course, store, "bob")
    text = "\n".join(lines)
    assert same and len(asked(tmp_path / "log")) == before + 3
    pieces = ("bob: wrong", "half: 3 of 6 by Ada. a slip", "because it is wrong", "lab.py", "done again: the same")
    for piece in pieces:
        assert piece in text, piece
    assert "Ada: half - -> 3 (a slip)" in text and "seed" in text and course.lab_digest in text
    assert rows(course)["bob"]["receipt"] in text


def test_what_a_program_prints_does_not_make_an_appeal_differ(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"gus": "slow"})  # prints the time of day
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    graded(course, source)
    with opened(course.gradebook) as store:
        assert steps.appeal(course, store, "gus")[1]


def test_an_appeal_that_comes_out_otherwise_says_so(course: Course, source: Path, tmp_path: Path) -> None:
    graded(course, source)

    class Otherwise(Answering):
        def __call__(self, tasks: list[Task]) -> list[str]:
            return [value.replace("because it is", "since it was") for value in super().__call__(tasks)]

    changed = with_tools(course, perform=Otherwise(tmp_path / "log"))
    with opened(course.gradebook) as store:
        lines, same = steps.appeal(changed, store, "bob")
        assert not same and "since it was" in "\n".join(lines)
        assert steps.appeal(changed, store, "bob", replay=False)[1]
    (course.lab.folder / "inputs.py").write_text("def cases(seed):\n    return []\n")
    with opened(course.gradebook) as store:
        lines, same = steps.appeal(Course(course.folder, course.lab, course.tools), store, "bob")
    assert not same and any("lab_digest is another one now" in line for line in lines)


def test_an_appeal_finds_what_was_changed_past_the_grader(course: Course, source: Path) -> None:
    graded(course, source)
    with closing(sqlite3.connect(course.gradebook)) as connection, connection:
        connection.execute("UPDATE receipts SET value = replace(value, '\"penalty\":0', '\"penalty\":1')")
    with opened(course.gradebook) as store:
        lines, same = steps.appeal(course, store, "bob", replay=False)
    assert not same and any("the receipt is not what was written" in line for line in lines)


def test_an_appeal_of_who_handed_in_nothing_or_is_not_there(course: Course, source: Path) -> None:
    graded(course, source)
    with opened(course.gradebook) as store:
        lines, same = steps.appeal(course, store, "dan")
        assert same and lines[0] == "dan: not_submitted, nothing was handed in"
        with pytest.raises(ValueError, match="the roster has no"):
            steps.appeal(course, store, "zoe")


# ------------------------------------------------------------------------------------------- submissions that are odd


def test_a_rejected_submission_is_named_and_has_no_zero(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good", "bob": "missing"})
    with zipfile.ZipFile(source / "bob.zip", "w") as archive:
        archive.writestr("../evil.py", "x")
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    graded(course, source)
    row = rows(course)["bob"]
    assert (row["status"], row["score"], row["level"]) == ("rejected_input", "", "0")
    page = next(p for p in course.feedback.glob("*.md") if "Bob" in p.read_text())
    assert "evil.py" in page.read_text()
    assert not (tmp_path / "evil.py").exists() and len(asked(tmp_path / "log")) == 3


def test_copies_are_shown_to_the_teacher_and_to_nobody_else(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good", "bob": "good", "cid": "good"})
    body = "".join(f"    y = torch.relu(x[{n}] * {n})\n    z{n} = y.sum(dim={n})\n    x = z{n} - x\n" for n in range(6))
    for name, x in (("ann", "x"), ("bob", "value")):
        text = f"# good {name}\nimport torch\n\n\ndef half({x}):\n{body.replace('x', x)}    return {x}\n"
        (source / name / "lab.py").write_text(text)
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    done = {one.step: one for one in graded(course, source)}
    assert "1 by code, 0 by prose" in done["similarity"].line
    found = rows(course)
    assert [id for id, row in found.items() if "similar" in row["flags"]] == ["ann", "bob"]
    (pair,) = (course.teacher / "pairs").iterdir()
    assert "relu" in pair.read_text()
    assert f"pairs/{pair.name}" in (course.teacher / "index.html").read_text()
    for page in course.feedback.iterdir():
        assert sum(name in page.read_text() for name in ("Ann Name", "Bob Name", "Cid Name")) == 1
        assert "pairs/" not in page.read_text()
    # an earlier year's copy is found too
    shutil.copytree(source / "ann", tmp_path / "years" / "2025-zed")
    done = {one.step: one for one in graded(course, source, years=tmp_path / "years")}
    assert "3 by code" in done["similarity"].line
    assert "earlier: 2025-zed" in (course.teacher / "index.html").read_text()


def test_pages_of_who_has_left_are_taken_away(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good", "bob": "good"})
    course = small_course(tmp_path, Answering(tmp_path / "log"))
    graded(course, source)
    (course.feedback / "mine.html").write_text("the teacher's own")
    roster = tmp_path / "roster.csv"
    roster.write_text("".join(line for line in roster.read_text().splitlines(True) if not line.startswith("bob")))
    graded(course, source)
    assert rows(course).keys() == {"ann"}
    assert len(list(course.feedback.glob("*-*.html"))) == 1 and (course.feedback / "mine.html").exists()


def test_the_lms_file_is_filled(course: Course, source: Path, tmp_path: Path) -> None:
    lines = ["Student,ID,SIS User ID,Halves (7)", "    Points Possible,,,10"]
    worksheet = tmp_path / "canvas.csv"
    worksheet.write_text("\n".join(lines + [f"{id.title()},{id},{id}," for id in CLASS]) + "\n")
    graded(course, source)
    with opened(course.gradebook) as store:
        done = steps.export(course, store, "canvas", worksheet, "Halves")
        with pytest.raises(ValueError, match="name the column"):
            steps.export(course, store, "canvas", worksheet)
    assert "4 cells filled" in done.line and "2 students without a mark" in done.line
    filled = (course.exports / "canvas.csv").read_text().splitlines()
    assert filled[2:5] == ["Ann,ann,ann,10", "Bob,bob,bob,4", "Cid,cid,cid,1"]


def test_steps_say_what_they_need(course: Course, source: Path) -> None:
    with opened(course.gradebook) as store, threads(1) as workers:
        with pytest.raises(ValueError, match="has no roster"):
            steps.collect(course, store, source)
        with pytest.raises(ValueError, match="budgets smoke, full; got 'tiny'"):
            steps.run(course, store, workers, 3, "tiny")
        steps.collect(course, store, source, roster=source.parent / "roster.csv")
        with pytest.raises(ValueError, match="run `course grade mark` first"):
            steps.export(course, store)


# --------------------------------------------------------------------------------------------------------- real tasks


def test_a_report_is_read_in_a_process_of_its_own(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good"})
    lab = small_lab(tmp_path)
    course = Course(tmp_path / "course", lab)
    with opened(course.gradebook) as store, threads(1) as workers:
        steps.collect(course, store, source, roster=tmp_path / "roster.csv")
        (record,) = store.submissions(lab.name)
        steps.extract(course, store, workers)
        found = steps.evidence(course, store, record)
    assert found.extracted.file == "report.md" and "Halves" in found.extracted.prose
    assert found.report.title == "Halves of ann" and found.equivalence is None


def test_files_that_changed_since_they_were_collected_are_not_run(tmp_path: Path) -> None:
    source = small_class(tmp_path, {"ann": "good"})
    course = Course(tmp_path / "course", small_lab(tmp_path))
    with opened(course.gradebook) as store:
        steps.collect(course, store, source, roster=tmp_path / "roster.csv")
        (record,) = store.submissions(course.lab.name)
    files = course.submitted / record["uuid"] / "files"
    task = Task("extract", str(files), record["tree"], str(course.lab.folder), course.lab_digest)
    assert from_json(Extracted, perform([task])[0]).report.readable
    with pytest.raises(ValueError, match="the lab 00_halves is another one here"):
        perform([replace(task, lab_digest="other")])
    (files / "lab.py").write_text("changed")
    with pytest.raises(ValueError, match="not those that were collected"):
        perform([task])
    with pytest.raises(ValueError, match="under the same path"):
        perform([replace(task, files=str(tmp_path / "nowhere"))])
    with pytest.raises(ValueError, match="on the same files"):
        perform([task, replace(task, tree="other")])


def test_a_failure_of_the_parser_is_the_machines() -> None:
    task = Task("extract", "", "", "", "")
    assert broken("extract", steps.failure(task, "no memory")) == "no memory"
    assert broken("equivalence", steps.failure(replace(task, step="equivalence"), "gone")) == "gone"
    assert broken("experiment", steps.failure(replace(task, step="experiment"), "gone")) == "gone"


# ----------------------------------------------------------------------------------------------------------- settings


def test_the_secret_is_made_once_and_can_be_added(tmp_path: Path) -> None:
    path = tmp_path / "course" / "grading.toml"
    first = settings(path)
    assert settings(path) == first and len(first.secret) == 64
    path.write_text('timezone = "Europe/Berlin"\n')
    added = settings(path)
    assert added.timezone == "Europe/Berlin" and added.secret != first.secret
    assert settings(path) == added


def test_a_seed_depends_on_the_secret_the_lab_and_its_purpose() -> None:
    mine = Settings("a" * 16)
    seeds = {mine.seed("x", "run"), mine.seed("y", "run"), mine.seed("x", "other"), Settings("b" * 16).seed("x", "run")}
    assert len(seeds) == 4 and all(0 <= seed < 2**31 for seed in seeds)
    assert mine.seed("x", "run") == Settings("a" * 16).seed("x", "run")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("secret = 5", "text of at least 16 characters"),
        ('secret = "short"', "text of at least 16 characters"),
        ("colour = 1", "has colour; known are secret"),
        ("[late]\nper_day = 3", "shares from 0 to 1"),
        ("[late]\nper_year = 3", "per_year"),
        ("[labs.a]\ndue = 2026-11-30T23:59:00", "no time zone"),
        ('[labs.a]\ndue = "soon"', "needs a line such as"),
        ('timezone = "Mars"', "no time zone 'Mars'"),
        ("late = [", "is no TOML"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grading.toml"
    path.write_text(("" if "secret" in text else f'secret = "{"x" * 20}"\n') + text)
    with pytest.raises(ValueError, match=re.escape(said)):
        settings(path)


def test_a_due_date_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "grading.toml"
    due = datetime.fromisoformat("2026-11-30T23:59:00+01:00")
    set_due(path, "03_prototypical", due)
    set_due(path, "03_prototypical", due)
    set_due(path, "04_maml", due)
    assert dict(settings(path).due) == {"03_prototypical": due, "04_maml": due}
    with pytest.raises(ValueError, match="change it there"):
        set_due(path, "04_maml", due.replace(hour=1))
    with pytest.raises(ValueError, match="no time zone"):
        set_due(path, "04_maml", due.replace(tzinfo=None))


def test_reports_of_the_small_class_are_read(tmp_path: Path) -> None:
    assert report("ann") != report("bob") and report("ann") == report("ann")
