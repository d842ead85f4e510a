"""Marks: points only for what a machine can know, never a zero for what it cannot, and people have the last word."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_course import report, small_lab, student

from utils.grading.documents import Document, markdown_blocks
from utils.grading.labs import Lab, RubricItem
from utils.grading.marks import (
    LATE,
    Late,
    Override,
    Row,
    automatic,
    changed,
    check_override,
    exported,
    late_penalty,
    nothing_handed_in,
    overridden,
    verdict,
)
from utils.grading.plain import from_json, to_json
from utils.grading.report import Report, examine
from utils.grading.results import Equivalence, Experiment, FunctionCheck, ItemMark, Setting
from utils.grading.sandbox import VERDICTS

MORE = """
## Experiments

![Accuracy by shots](a.png)

| setting | with noise | without |
|---|---|---|
| 5-way 1-shot | 58.1 % | 61.2 % |

With noise the accuracy is worse, because one example says little about its class.
We tried more steps, and it did not help, which we did not expect.

## Source code

The code is in `lab.py`.
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = small_lab(tmp_path_factory.mktemp("lab"))
    more = [RubricItem(name, "experiments", name, 2.0, name) for name in ("worse", "figures", "tables", "source")]
    return replace(lab, rubric=(*lab.rubric, *more, RubricItem("idea", "method", "idea", 5.0, "manual")))


def a_report(text: str = report("Ann") + MORE, verdict: str = "ok") -> Report:
    blocks = tuple(markdown_blocks(text)) if verdict == "ok" else ()
    return examine(Document(".md", verdict, "" if verdict == "ok" else "is damaged", 1, blocks), handed_in=["lab.py"])


def functions(check: str = "ok", whole: str | None = None) -> Equivalence:
    whole = check if whole is None else whole
    return Equivalence(whole, "the reason", 3, 1, (FunctionCheck("half", check, 3, 3, "the reason"),))


def trained(mean: float | None = 60.0, verdict: str = "ok", whole: str | None = None) -> Experiment:
    setting = Setting("5-way 1-shot", verdict, "the reason", mean, 5.0, 100, 2)
    return Experiment(whole or verdict, "the reason", 3, 1, "smoke", (setting,))


def points(lab: Lab, report: Report | None, equivalence: Equivalence | None, experiment: Experiment | None) -> dict:
    return {mark.id: mark.points for mark in automatic(lab, report, equivalence, experiment)}


ALL = {
    "half": 6.0,
    "learns": 3.0,
    "title": 1.0,
    "worse": 2.0,
    "figures": 2.0,
    "tables": 2.0,
    "source": 2.0,
    "idea": None,
}
OF_REPORT = ("title", "worse", "figures", "tables", "source")


def test_honest_work_has_all_automatic_points_and_the_rest_is_open(lab: Lab) -> None:
    assert points(lab, a_report(), functions(), trained()) == ALL
    (idea,) = (m for m in automatic(lab, a_report(), functions(), trained()) if m.id == "idea")
    assert (idea.by, idea.points) == ("manual", None)


@pytest.mark.parametrize("said", VERDICTS)
def test_only_a_right_answer_earns_and_only_the_student_can_lose(lab: Lab, said: str) -> None:
    """Of every verdict: full points, a zero, or none at all where the student is not to blame."""
    unknown = {"infra_error", "rejected_input", "tamper_suspected"}
    half = points(lab, a_report(), functions(said), trained())["half"]
    learns = points(lab, a_report(), functions(), trained(None if said != "ok" else 60.0, said))["learns"]
    if said == "ok":
        assert (half, learns) == (6.0, 3.0)
    elif said in unknown:
        assert learns is None
        assert half == (0.0 if said == "tamper_suspected" else None)  # there, its own answer was looked at and wrong
    else:
        assert (half, learns) == (0.0, 0.0)


def test_a_failure_of_the_machine_is_never_a_zero(lab: Lab) -> None:
    for equivalence in (
        functions("infra_error"),
        functions("ok", "infra_error"),
        functions("wrong", "infra_error"),
        None,
    ):
        assert points(lab, a_report(), equivalence, trained())["half"] is None
    nothing = Equivalence("infra_error", "no space left", 3, 1, ())
    assert points(lab, a_report(), nothing, trained())["half"] is None
    for experiment in (trained(None, "infra_error"), trained(None, "infra_error", "ok"), None):
        assert points(lab, a_report(), functions(), experiment)["learns"] is None
    infra = points(lab, a_report(verdict="infra_error"), functions(), trained())
    assert {infra[name] for name in OF_REPORT} == {None} and infra["half"] == 6.0


def test_the_reason_of_a_machine_is_not_told_to_students(lab: Lab) -> None:
    machine = functions("infra_error")
    (half, *_) = automatic(lab, a_report(), replace(machine, reason="/home/ada/course: full"), trained())
    assert "/home" not in half.why and "run again" in half.why


@pytest.mark.parametrize("report", [None, a_report(verdict="rejected_input"), a_report("# A\n\nwords\n"), a_report("")])
def test_a_report_that_is_missing_or_unreadable_is_for_a_person(lab: Lab, report: Report | None) -> None:
    found = points(lab, report, functions(), trained())
    assert {found[name] for name in OF_REPORT} == {None}
    assert all(mark.why for mark in automatic(lab, report, functions(), trained()))


def test_what_a_readable_report_lacks_is_a_zero_with_a_reason(lab: Lab) -> None:
    bare = (
        "# A title\n\nHalf of x is what we compute here, and that is all there is to say about it in so many words.\n"
        * 3
    )
    marks = {mark.id: mark for mark in automatic(lab, a_report(bare), functions(), trained())}
    assert {marks[name].points for name in ("worse", "figures", "tables", "source")} == {0.0}
    assert "No figure" in marks["figures"].why


def test_code_that_is_named_and_not_handed_in_is_not_there(lab: Lab) -> None:
    report = a_report()
    absent = replace(report, source=replace(report.source, absent=("train.py",)))
    marks = {mark.id: mark for mark in automatic(lab, absent, functions(), trained())}
    assert marks["source"].points == 0.0 and "train.py" in marks["source"].why


def test_a_function_that_was_not_looked_at_is_not_a_zero(lab: Lab) -> None:
    assert points(lab, a_report(), Equivalence("ok", "", 3, 1, ()), trained())["half"] is None
    # but where the program stopped before it answered, it is
    assert points(lab, a_report(), Equivalence("timeout", "too slow", 3, 1, ()), trained())["half"] == 0.0


def test_tampering_withholds_what_it_might_have_won(lab: Lab) -> None:
    assert points(lab, a_report(), functions("ok", "tamper_suspected"), trained())["half"] is None
    assert points(lab, a_report(), functions("wrong", "tamper_suspected"), trained())["half"] == 0.0
    assert points(lab, a_report(), functions(), trained(60.0, "ok", "tamper_suspected"))["learns"] is None


@pytest.mark.parametrize(("mean", "expected"), [(50.0, 3.0), (49.9, 0.0), (20.0, 0.0)])
def test_an_experiment_earns_from_its_floor_on(lab: Lab, mean: float, expected: float) -> None:
    assert points(lab, a_report(), functions(), trained(mean))["learns"] == expected


def test_a_rubric_that_asks_for_another_kind_of_report_is_refused(lab: Lab) -> None:
    odd = replace(lab, rubric=(RubricItem("team", "title", "team", 1.0, "section:team"),))
    with pytest.raises(ValueError, match="section 'team'; a lab report has title"):
        automatic(odd, a_report(), functions(), trained())


# ------------------------------------------------------------------------------------------------------------ verdict


@pytest.mark.parametrize(
    ("report", "equivalence", "experiment", "expected"),
    [
        ("ok", "ok", "ok", "ok"),
        ("ok", "wrong", "ok", "wrong"),
        ("ok", "student_error", "timeout", "timeout"),
        ("rejected_input", "wrong", "ok", "rejected_input"),
        ("ok", "tamper_suspected", "rejected_input", "tamper_suspected"),
        ("ok", "tamper_suspected", "infra_error", "infra_error"),
        ("infra_error", "ok", "ok", "infra_error"),
    ],
)
def test_the_most_serious_verdict_stands_for_a_submission(
    report: str, equivalence: str, experiment: str, expected: str
) -> None:
    assert verdict(a_report(verdict=report), functions(equivalence), trained(verdict=experiment))[0] == expected


def test_a_part_counts_where_the_whole_says_nothing_of_it() -> None:
    assert verdict(None, functions("wrong", "ok"), None) == ("wrong", "half: the reason")
    assert verdict(None, None, trained(None, "timeout", "ok")) == ("timeout", "5-way 1-shot: the reason")
    assert verdict(None, None, None) == ("ok", "")


# --------------------------------------------------------------------------------------------------------------- late

DUE = datetime.fromisoformat("2026-11-20T23:59:00+01:00")


@pytest.mark.parametrize(
    ("received", "off"),
    [
        ("", 0.0),  # the LMS gave no time
        ("2026-11-20T23:59:00+01:00", 0.0),
        ("2026-11-20T23:08:00+00:00", 0.0),  # nine minutes late, forgiven
        ("2026-11-20T23:10:00+00:00", 2.0),
        ("2026-11-21T23:59:00+01:00", 2.0),
        ("2026-11-21T23:59:01+01:00", 4.0),
        ("2026-12-24T00:00:00+01:00", 10.0),
    ],
)
def test_lateness_costs_a_share_for_each_day_begun(received: str, off: float) -> None:
    assert late_penalty(received, DUE, Late(0.1, 0.5, 10), 20.0) == off
    assert late_penalty(received, None, Late(0.1, 0.5, 10), 20.0) == 0.0


@pytest.mark.parametrize("odd", [{"per_day": -0.1}, {"per_day": 2}, {"most": 1.5}, {"grace": -1}])
def test_an_odd_price_of_lateness_is_refused(odd: dict) -> None:
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        Late(**odd)


# ---------------------------------------------------------------------------------------------------------- overrides


def a_row(*given: float | None, status: str = "ok", penalty: float = 0.0) -> Row:
    items = tuple(ItemMark(f"i{n}", "method", "text", 5.0, p, "auto", "why") for n, p in enumerate(given))
    return Row("ann", status, "", "u", "t1", penalty=penalty, items=items)


def test_a_person_has_the_last_word() -> None:
    row = overridden(
        a_row(1.0, None, penalty=3.0),
        [Override("ann", "i1", 4, "good", "Ada", "t1"), Override("bob", "i0", 5, "x", "Ada")],
    )
    assert [(m.points, m.by, m.why) for m in row.items] == [(1.0, "auto", "why"), (4, "Ada", "good")]
    assert row.raw == 5.0 and row.open == () and row.penalty == 3.0
    extended = overridden(a_row(1.0, penalty=3.0), [Override("ann", LATE, 0, "was ill", "Ada", "t1")])
    assert extended.penalty == 0.0


def test_a_mark_for_an_earlier_submission_stays_and_says_so() -> None:
    row = overridden(a_row(None), [Override("ann", "i0", 4, "good", "Ada", "older")])
    assert row.items[0].points == 4 and row.notes == ("i0 was marked by Ada for an earlier submission",)


def test_a_person_can_mark_what_the_machine_could_not() -> None:
    broken = a_row(None, None, status="infra_error")
    some = overridden(broken, [Override("ann", "i0", 4, "seen", "Ada", "t1")])
    assert some.status == "infra_error" and exported(some, student("ann")).score is None
    every = overridden(broken, [Override("ann", f"i{n}", 4, "seen", "Ada", "t1") for n in (0, 1)])
    assert every.status == "ok" and exported(every, student("ann")).score == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item": "nothing"}, "has no item 'nothing'; it has half"),
        ({"points": 7}, "half has 0 to 6 points; got 7"),
        ({"points": -1}, "got -1"),
        ({"points": float("nan")}, "got nan"),
        ({"item": LATE, "points": 999}, "late has 0 to"),
        ({"reason": " "}, "--reason"),
        ({"by": ""}, "--by"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(lab: Lab, change: dict, said: str) -> None:
    good = Override("ann", "half", 3, "seen", "Ada")
    check_override(lab, good)
    with pytest.raises(ValueError, match=said):
        check_override(lab, replace(good, **change))


# ------------------------------------------------------------------------------------------------------------ exports


def test_no_score_while_anything_is_open() -> None:
    mark = exported(a_row(3.0, None), student("ann"))
    assert mark.score is None and "3 points so far, open: i1" in mark.note
    assert exported(a_row(3.0, 2.0, penalty=1.0), student("ann")).score == 4.0
    assert exported(a_row(3.0, penalty=9.0), student("ann")).score == 0.0
    assert exported(a_row(3.0, penalty=9.0), student("ann")).penalty == 3.0
    assert exported(a_row(3.0, status="infra_error"), student("ann")).score is None


def test_who_handed_in_nothing_has_a_line_without_points(lab: Lab) -> None:
    items = nothing_handed_in(lab)
    assert [item.id for item in items] == [item.id for item in lab.rubric]
    assert {item.points for item in items} == {None}


def test_changes_name_items_status_and_penalty() -> None:
    old = a_row(3.0, None)
    assert list(changed(old, old)) == []
    assert changed(old, replace(a_row(3.0, 2.0, penalty=1.0), status="wrong")) == [
        ("i1", "open", "2"),
        ("late", "0", "1"),
        ("status", "ok", "wrong"),
    ]
    assert changed(old, replace(old, receipt="new")) == [("receipt", "", "new")]
    assert ("i0", "", "3") in changed(None, old)


# ---------------------------------------------------------------------------------------------------------- as stored


@given(st.text(), st.one_of(st.none(), st.floats(0, 100)), st.one_of(st.none(), st.booleans()))
def test_rows_come_back_from_json(text: str, value: float | None, late: bool | None) -> None:
    row = replace(a_row(value, 1.0), reason=text, late=late, notes=(text,))
    assert from_json(Row, to_json(row)) == row
    assert to_json(from_json(Row, to_json(row))) == to_json(row)


def test_results_come_back_from_json() -> None:
    for thing in (a_report(), functions("wrong"), trained(None, "timeout")):
        assert from_json(type(thing), to_json(thing)) == thing
    with pytest.raises(ValueError, match="no Equivalence"):
        from_json(Equivalence, '{"verdict": "ok"}')
    with pytest.raises(ValueError):
        to_json({"mean": float("nan")})
