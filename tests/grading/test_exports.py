"""Exports: an LMS's file keeps every byte but the marks, nobody is lost, and no cell becomes a formula."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from utils.data.cache import DataError
from utils.grading.exports import (
    NBGRADER,
    STATUSES,
    Change,
    Item,
    Mark,
    check_complete,
    fill_lms,
    gradescope_results,
    nbgrader_table,
    safe_cell,
    save,
    status_table,
)
from utils.grading.sandbox import VERDICTS

MOODLE = (
    "\ufeffIdentifier,\"Full name\",\"Email address\",Status,Grade,\"Maximum Grade\",\"Grade can be changed\","
    "\"Last modified (submission)\",\"Online text\",\"Last modified (grade)\",\"Feedback comments\"\r\n"
    "\"Participant 101\",\"O'Hara, Zoë\",z@x.org,\"Submitted for grading\",,10.00,Yes,"
    "\"Monday, 3 June 2024, 10:11 PM\",\"<p>two\r\nlines, \"\"quoted\"\"</p>\",-,\r\n"
    "\"Participant 102\",\"=cmd|' /C calc'!A0\",y@x.org,\"No submission\",7.50,10.00,Yes,-,,-,\"kept  \"\r\n"
    "\"Participant 103\",  Spaces ,x@x.org,Draft,-,10.00,Yes,-,,-,\r\n"
).encode()  # fmt: skip
CANVAS = (
    b"Student,ID,SIS User ID,SIS Login ID,Section,Lab 1 (4711),Lab 10 (4712),Current Score\n"
    b"    Points Possible,,,,,10,20,(read only)\n"
    b'"Ada, L",11,s11,ada,"Mon, 10",,3,50.0\n'
    b'"Bo, M",12,s12,bo,"Mon, 10",4,,\n'
    b'"Student, Test",99,,t,"Mon, 10",,,\n'
)
BLACKBOARD = (
    "\ufeff\"Last Name\"\t\"First Name\"\t\"Username\"\t\"Lab 1 [Total Pts: 10 Score] |55\"\r\n"
    "\"Öz\"\t\"Al\"\t\"al1\"\t\"\"\r\n\"Li\"\t\"Wu\"\t\"wu2\"\t\"\""
).encode("utf-16-le")  # fmt: skip


def mark(id, score=None, status="ok", **more):
    return Mark(id, status, 10.0, score, **more)


def moodle_marks(**scores):
    return [mark(f"s{n}", scores.get(f"s{n}"), lms_id=str(n)) for n in (101, 102, 103)]


CLASS = [
    mark("b", 8.0, name="Bo Marley", email="b@x.org", received="2026-11-20T10:00:00Z", penalty=1.0, note="late"),
    mark("a", 0.0, "wrong", name="Lovelace, Ada"),
    mark("c", None, "infra_error", name="=HYPERLINK(1)"),
    mark("d", None, "not_submitted", name="Eve\nx,y"),
]
ROSTER = ["a", "b", "c", "d"]


def cells(data):
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


# The LMS's own file


def test_moodle_gets_the_marks_and_keeps_every_other_byte():
    filled = fill_lms(MOODLE, moodle_marks(s101=8.25, s103=0.0), "moodle")
    assert filled.data == MOODLE.replace(b'grading",,10', b'grading",8.25,10').replace(b"Draft,-,10", b"Draft,0,10")
    assert filled.changes == (Change("s101", "", "8.25"), Change("s103", "-", "0"))
    assert filled.without == (("s102", "ok"),)


def test_canvas_gets_the_marks_of_one_assignment():
    marks = [mark("x", 9.5, lms_id="11"), mark("y", 4.0, lms_id="12")]
    for column in ("Lab 1", "Lab 1 (4711)"):
        filled = fill_lms(CANVAS, marks, "canvas", column)
        assert filled.data == CANVAS.replace(b'"Ada, L",11,s11,ada,"Mon, 10",,', b'"Ada, L",11,s11,ada,"Mon, 10",9.5,')
        assert filled.changes == (Change("x", "", "9.5"),)  # 4 stood there already


def test_blackboard_in_utf_16_without_a_last_line_end():
    filled = fill_lms(BLACKBOARD, [mark("al1", 7.0), mark("wu2", 10.0)], "blackboard", "Lab 1")
    old, new = BLACKBOARD.decode("utf-16-le"), filled.data.decode("utf-16-le")
    assert new == old.replace('"al1"\t""', '"al1"\t"7"').replace('"wu2"\t""', '"wu2"\t"10"') and old != new


def test_nothing_to_fill_gives_the_same_bytes():
    marks = [mark(f"s{n}", None, "infra_error", lms_id=str(n)) for n in (101, 102, 103)]
    filled = fill_lms(MOODLE, marks, "moodle")
    assert filled.data == MOODLE and filled.changes == ()
    assert filled.without == (("s101", "infra_error"), ("s102", "infra_error"), ("s103", "infra_error"))


def test_filling_twice_changes_nothing_more():
    marks = moodle_marks(s101=8.25, s102=7.5, s103=3.0)
    once = fill_lms(MOODLE, marks, "moodle")
    again = fill_lms(once.data, marks, "moodle")
    assert again.data == once.data and again.changes == ()
    assert b",7.50,10.00," in once.data  # an equal mark keeps its own form


def test_a_mark_that_stands_is_only_replaced_when_allowed():
    marks = moodle_marks(s102=9.0)
    with pytest.raises(ValueError, match=r"marked differently.*'s102'.*allow overwriting"):
        fill_lms(MOODLE, marks, "moodle")
    assert fill_lms(MOODLE, marks, "moodle", overwrite=True).changes == (Change("s102", "7.50", "9"),)


@pytest.mark.parametrize(
    ("marks", "leave", "complaint"),
    [
        (moodle_marks()[:2], (), r"in the LMS's file but without.*'103'"),
        ([*moodle_marks(), mark("s104", 1.0, lms_id="104")], (), r"marked but not in the LMS's file: '104'"),
        ([*moodle_marks(), mark("other", 1.0, lms_id="103")], (), r"marked twice: '103'"),
    ],
)
def test_ids_that_do_not_match_are_refused(marks, leave, complaint):
    with pytest.raises(ValueError, match=complaint):
        fill_lms(MOODLE, marks, "moodle", leave=leave)


def test_students_named_to_be_left_alone_are():
    filled = fill_lms(MOODLE, moodle_marks(s101=1.0)[:2], "moodle", leave=["103"])
    assert [change.id for change in filled.changes] == ["s101"]


def test_other_points_possible_are_refused():
    for data, lms, column, ids in (
        (MOODLE, "moodle", None, ("101", "102", "103")),
        (CANVAS, "canvas", "Lab 1", ("11", "12")),
        (BLACKBOARD, "blackboard", "Lab 1", ("al1", "wu2")),
    ):
        marks = [Mark(id, "ok", 100.0, 80.0) for id in ids]
        with pytest.raises(ValueError, match="out of 10 points in the file, and the marks are out of 100"):
            fill_lms(data, marks, lms, column)


@pytest.mark.parametrize(
    ("data", "lms", "column", "complaint"),
    [
        (CANVAS, "canvas", None, "name the column"),
        (CANVAS, "canvas", "Lab 2", "0 columns of the file are for 'Lab 2'"),
        (CANVAS, "canvas", "Current", "0 columns"),
        (MOODLE.replace(b"Grade,", b"Cijfers,"), "moodle", None, "0 columns of the file are for the marks"),
        (CANVAS, "blackboard", "Lab 1", "one column 'username'"),
        (CANVAS, "sakai", None, "moodle, canvas, blackboard"),
        (MOODLE.replace(b"Participant 103", b"Participant 102"), "moodle", None, "the id of another"),
        (MOODLE.replace(b"Participant 103", b"Participant"), "moodle", None, "no id"),
        (MOODLE + b'"Participant 104', "moodle", None, "line 6 .*not closed"),
        (MOODLE + b"\xff", "moodle", None, "no utf-8 text"),
        (b"", "moodle", None, "0 columns"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(data, lms, column, complaint):
    marks = [mark("s1", lms_id="11"), mark("s2", lms_id="12")] if data is CANVAS else moodle_marks()
    with pytest.raises(ValueError, match=complaint):
        fill_lms(data, marks, lms, column)


def test_localised_worksheet_with_decimal_comma():
    data = MOODLE.replace(b"Grade,", b"Bewertung,").replace(b"Participant", b"Teilnehmer/in")
    filled = fill_lms(data, moodle_marks(s101=8.25), "moodle", decimal=",")
    assert b'grading","8,25",10.00' in filled.data
    with pytest.raises(ValueError, match="decimal sign"):
        fill_lms(data, moodle_marks(), "moodle", decimal="'")


@settings(deadline=None, max_examples=100)
@given(
    # without "\r", which the csv module writes unquoted
    some.lists(
        some.tuples(some.text('a=,;"\t\né ', max_size=6), some.text('b",\n', max_size=4)), min_size=1, max_size=6
    ),
    some.sampled_from(["\n", "\r\n"]),
    some.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)  # fmt: skip
def test_only_the_marks_of_any_file_change(rows, end, quoting):
    """What the csv module reads afterwards is what it read before, with the marks."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end, quoting=quoting)
    table = [["Student", "ID", "Lab 1 (5)", "Note"], *([name, f"id{i}", "", n] for i, (name, n) in enumerate(rows))]
    writer.writerows(table)
    marks = [mark(f"id{i}", i / 4) for i in range(len(rows))]
    filled = fill_lms(out.getvalue().encode(), marks, "canvas", "Lab 1")
    expected = [table[0], *([r[0], r[1], f"{i / 4:g}", r[3]] for i, r in enumerate(table[1:]))]
    assert cells(filled.data) == expected
    assert len(filled.data) == len(out.getvalue().encode()) + sum(len(c.new) for c in filled.changes)


# Everybody, with a status


def test_statuses_are_the_verdicts_and_not_submitted():
    assert set(STATUSES) == {*VERDICTS, "not_submitted"}


@pytest.mark.parametrize("make", [status_table, lambda marks, roster: nbgrader_table(marks, roster, "lab1")])
def test_every_student_of_the_roster_is_in_every_table(make):
    header, *rows = cells(make(CLASS, ROSTER))
    found = {row[header.index("student_id")]: row for row in rows}
    assert sorted(found) == ROSTER
    assert {id: row[header.index("status")] for id, row in found.items()} == {
        "a": "wrong", "b": "ok", "c": "infra_error", "d": "not_submitted"
    }  # fmt: skip
    assert {id: row[header.index("score")] for id, row in found.items()} == {"a": "0", "b": "7", "c": "", "d": ""}
    for marks, roster, complaint in (
        (CLASS[:3], ROSTER, "without a mark or status: 'd'"),
        (CLASS, ROSTER[:3], "not in the roster: 'd'"),
        ([*CLASS, CLASS[0]], ROSTER, "twice: 'b'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            make(marks, roster)
        with pytest.raises(ValueError, match=complaint):
            check_complete(marks, roster)


def test_nbgrader_columns():
    header, first, second, *_ = cells(nbgrader_table(CLASS, ROSTER, "lab1", "2026-11-19T00:00:00Z"))
    assert tuple(header) == (*NBGRADER, "status")
    assert second == [
        "lab1", "2026-11-19T00:00:00Z", "2026-11-20T10:00:00Z", "b", "Marley", "Bo", "b@x.org",
        "8", "1", "7", "10", "ok",
    ]  # fmt: skip
    assert first[4:6] == ["Lovelace", "Ada"]


def test_the_order_of_marks_does_not_show():
    assert status_table(CLASS, ROSTER) == status_table(CLASS[::-1], ROSTER[::-1])
    assert nbgrader_table(CLASS, ROSTER, "lab1") == nbgrader_table(CLASS[::-1], ROSTER, "lab1")


@pytest.mark.parametrize(
    "make",
    [
        lambda: mark("a", 1.0, "fine"),
        lambda: mark("a", 0.0, "infra_error"),
        lambda: mark("a", -1.0),
        lambda: mark("a", float("nan")),
        lambda: mark("a", 1.0, penalty=-1.0),
        lambda: Mark("a", "ok", 0.0, 0.0),
    ],
)
def test_marks_that_cannot_be(make):
    with pytest.raises(ValueError, match="a: "):
        make()


def test_a_penalty_takes_no_more_than_there_is():
    assert mark("a", 3.0, penalty=5.0).score == 0.0


# Formulas (T29)

FORMULAS = (
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1",
    "＝1+1", "|calc", "\u202e=1", "\0=1"
)  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_t29_formulas_in_students_texts_are_made_plain(text):
    assert safe_cell(text).startswith("'")
    marks = [mark(text, 1.0, name=text, email=text, note=text)]
    for data in (status_table(marks, [text]), nbgrader_table(marks, [text], text, text)):
        for row in cells(data):
            assert not any(cell.lstrip()[:1] in tuple("=+-@＝") for cell in row if cell), row
            assert len(row) == len(cells(data)[0])


@pytest.mark.parametrize("value", [-5, -2.5, "-5", "+5", "3,5", "Ann-Marie", "a=b", "", "O'Hara"])
def test_numbers_and_plain_text_stay(value):
    assert safe_cell(value) == str(value)


@given(some.lists(some.text(max_size=12), min_size=1, max_size=4))
def test_no_text_escapes_its_cell(texts):
    marks = [mark(str(i), 1.0, name=text, note=text) for i, text in enumerate(texts)]
    rows = cells(status_table(marks, [m.id for m in marks]))
    assert len(rows) == 1 + len(texts) and {len(row) for row in rows} == {8}


# Gradescope


def test_gradescope_results():
    items = [Item("shape", 2.0, 2.0), Item("values\x1b[31m", 1.0, 3.0, "<script>\0x\u202e", hidden=True)]
    data = gradescope_results(mark("a", 3.0, "wrong", penalty=1.0), items, "done")
    assert data == gradescope_results(mark("a", 3.0, "wrong", penalty=1.0), items, "done")
    results = json.loads(data)
    assert results["score"] == 2.0 and results["extra_data"]["status"] == "wrong"
    assert [test["status"] for test in results["tests"]] == ["passed", "failed"]
    assert [test["visibility"] for test in results["tests"]] == ["visible", "hidden"]
    second = results["tests"][1]
    assert (second["name"], second["output"], second["output_format"]) == ("values[31m", "<script>x", "text")
    assert len(gradescope_results(mark("a", 3.0), [Item("x", 0, 1, "y" * 10**7)])) < 10**6


def test_gradescope_gets_no_score_where_there_is_none():
    results = json.loads(gradescope_results(mark("a", None, "infra_error"), [Item("x", 0.0, 1.0)]))
    assert "score" not in results and "tests" not in results and results["extra_data"]["status"] == "infra_error"


# Files


def test_files_are_whole_or_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "grades.csv"
    save(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(DataError):
        save(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
