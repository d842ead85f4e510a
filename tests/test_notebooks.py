"""Every stored chapter is executed, checkable and says what its claims say; and each check can find what it is for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import notebook_checks as checks
import pytest
from notebook_checks import Page
from small_book import cell

from utils.claims import CHECK_MIME, CLAIM_MIME, Claim
from utils.claims.claim import GLUE_PREFIX

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "results"
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
NAMES = {"ids": lambda value: getattr(value, "stem", getattr(value, "__name__", None))}


def stored(path: Path) -> Page:
    return checks.page(path, REPOSITORY["url"], REPOSITORY["branch"], RESULTS)


# The chapters


def test_there_are_chapters():
    assert CHAPTERS, "chapters/ holds no notebook, so nothing of the book is checked"


@pytest.mark.parametrize("check", checks.CHECKS, **NAMES)
@pytest.mark.parametrize("path", CHAPTERS, **NAMES)
def test_chapter(path, check):
    problems = check(stored(path))
    assert not problems, f"{path.name}:\n" + "\n".join(problems)


def test_claim_ids_are_unique_in_the_book():
    assert not checks.ids_are_unique([stored(path) for path in CHAPTERS])


def test_every_record_has_its_chapter():
    assert {path.stem for path in (RESULTS / "claims").glob("*.json")} == {path.stem for path in CHAPTERS}


# The checks: a page without a fault, and a fault for each check


def made_claim(**changes: Any) -> Claim:
    fields = {
        "id": "small-first", "title": "First", "kind": "accuracy", "unit": "%", "mean": 80.0, "ci95": 0.6, "sd": 9.5,
        "n": 1000, "over": "episodes", "chance": 20.0, "dataset": "made up", "scale": "lecture", "statistics": None,
        "seed": 0, "device": "cpu", "torch": "2.0.0", "seconds": 0.1, "resolution": 5.0,
        "spread": {"sd": 0.2, "seeds": [1, 2, 3, 4, 5], "means": [80.0, 80.1, 79.9, 80.2, 79.8]},
    }  # fmt: skip
    return Claim(**{**fields, **changes})


def display(data: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def shown(claim: Claim) -> list[dict[str, Any]]:
    """The outputs of a claim, as ``Chapter`` displays them."""
    glued = [
        display({f"{GLUE_PREFIX}text/plain": repr(text)}, scrapbook={"name": key, "mime_prefix": GLUE_PREFIX})
        for key, text in claim.glue().items()
    ]
    return [display(claim.bundle()), *glued]


URL, TAG = "https://host/org/name", "v1"


def good_page() -> Page:
    first = made_claim()
    second = made_claim(id="small-second", kind="difference", mean=3.0, chance=0.0)
    closing = {"shows": "claims", "chapter": "01_small", "disagree": None}
    described = {"figure": {"caption": "A dot.", "name": "fig-dot"}, "image": {"alt": "A dot."}}
    picture = {"text/plain": "<Figure size 1x1>", "image/png": "/tmp/in+base64/is+no/path=="}
    printed = {"output_type": "stream", "name": "stdout", "text": ["both\n", "agree\n"]}
    cells = [
        cell(f'SOURCE = "git+{URL}@{TAG}"', 1),
        cell("# Small\n\nWith {cite}`a2017`, `x = 0.5`, $0.5$, [a link](https://host/1.5) and 95 % intervals."),
        cell("print('both')\nprint('agree')", 2, [printed], tags=["equality"]),
        cell("draw()", 3, [display(picture)], mystnb=described),
        cell("It reaches {glue:text}`small-first`, or {glue:text}`small-first-mean`.\n\n```python\nx = 0.25\n```"),
        cell("book.claim(...);", 4, [*shown(first), *shown(second)]),
        cell("The end."),
        cell("book.check()", 5, [display({"text/plain": "fine", CHECK_MIME: closing})]),
    ]
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": copy.deepcopy(checks.METADATA), "cells": cells}
    for i, one in enumerate(cells):
        one["id"] = f"cell-{i}"
    claims = {claim.id: json.loads(json.dumps(asdict(claim))) for claim in (first, second)}
    record = {"chapter": "01_small", "claims": claims, "spread": {id: c["spread"] for id, c in claims.items()}}
    return Page("01_small", json.loads(json.dumps(book)), record, URL, TAG)


@pytest.mark.parametrize("check", checks.CHECKS, **NAMES)
def test_a_good_page_passes(check):
    assert check(good_page()) == []


def edit(i: int, **fields: Any) -> Callable[[Page], Any]:
    """The fault of a cell that differs in some fields."""
    return lambda page: page.notebook["cells"][i].update(fields)


def add_output(i: int, output: dict[str, Any]) -> Callable[[Page], Any]:
    return lambda page: page.notebook["cells"][i]["outputs"].append(output)


def add_prose(text: str) -> Callable[[Page], Any]:
    return edit(6, source=text)


def change_claim(**fields: Any) -> Callable[[Page], Any]:
    """The fault of a stored claim that differs, in the notebook alone."""
    return lambda page: page.notebook["cells"][5]["outputs"][0]["data"][CLAIM_MIME].update(fields)


def strip(page: Page) -> None:
    for _, one in page.code():
        one.update(execution_count=None, outputs=[])


def describe(**about: Any) -> Callable[[Page], Any]:
    return lambda page: page.notebook["cells"][3]["metadata"]["mystnb"].update(about)


def drop_record(page: Page) -> Page:
    return replace(page, record=None)


def widget() -> dict[str, Any]:
    return display({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}})


FAULTS: list[tuple[Callable[[Page], list[str]], str, Callable[[Page], Any]]] = [
    (checks.was_executed, "execution count None", strip),
    (checks.was_executed, "not 3", edit(3, execution_count=7)),
    (checks.was_executed, "no code", edit(3, source=" \n")),
    (checks.was_executed, "raises ZeroDivisionError", add_output(2, {"output_type": "error",
                                                                    "ename": "ZeroDivisionError"})),
    (checks.outputs_are_clean, "stderr", add_output(2, {"output_type": "stream", "name": "stderr", "text": "slow"})),
    (checks.outputs_are_clean, "widget", add_output(2, widget())),
    (checks.outputs_are_clean, "widget", lambda page: page.notebook["metadata"].update(widgets={})),
    (checks.names_no_machine, "/tmp/x", add_output(2, display({"text/plain": ["in\n", "'/tmp/x'"]}))),
    (checks.names_no_machine, "/home/me", add_output(2, display({"text/html": "<a href=/home/me>"}))),
    (checks.names_no_machine, "/work/main", edit(2, source="open('/work/main/x')")),
    (checks.names_no_machine, "/root", add_prose("see /root for more")),
    (checks.names_no_machine, "file:///x", add_prose("see file:///x")),
    (checks.names_no_machine, r"C:\Users", add_output(2, display({"text/plain": r"C:\Users\me"}))),
    (checks.outputs_are_small, "pictures", add_output(2, display({"image/png": "x" * 900_001}))),
    (checks.outputs_are_small, "other outputs", add_output(2, display({"text/plain": "x" * 300_000}))),
    (checks.makes_claims, "no claim", edit(5, outputs=[])),
    (checks.makes_claims, "made twice", add_output(2, shown(made_claim())[0])),
    (checks.claims_are_shown_as_stored, "something else", change_claim(mean=86.0)),
    (checks.claims_are_shown_as_stored, "should be glued", change_claim(mean=86.0)),
    (checks.claims_are_shown_as_stored, "glued twice", add_output(2, shown(made_claim())[1])),
    (checks.claims_are_shown_as_stored, "no claim's", add_output(2, shown(made_claim(id="other"))[1])),
    (checks.claims_are_recorded, "no record", drop_record),
    (checks.claims_are_recorded, "differ in mean, title", change_claim(mean=86.0, title="Better")),
    (checks.claims_are_recorded, "not in the chapter", edit(5, outputs=[])),
    (checks.claims_are_recorded, "not in the record", lambda page: page.record["claims"].pop("small-first")),
    (checks.claims_are_recorded, "spread is not that", lambda page: page.record["spread"].pop("small-first")),
    (checks.claims_are_recorded, "that of 02", lambda page: page.record.update(chapter="02")),
    (checks.claims_have_a_spread, "no seed-to-seed spread", change_claim(spread=None)),
    (checks.claims_have_a_spread, "at least 5", change_claim(spread={"sd": 1.0, "seeds": [1] * 5, "means": [1.0] * 5})),
    (checks.claims_have_a_spread, "at least 5", change_claim(spread={"sd": 1.0, "seeds": [1, 2, 3, 4, 5],
                                                                     "means": [1.0]})),
    (checks.claims_agree_with_themselves, "too imprecise", change_claim(n=100)),
    (checks.claims_agree_with_themselves, "does not lie above", change_claim(mean=20.3)),
    (checks.nothing_escapes_the_rerun, "nbval-ignore-output", edit(5, metadata={"tags": ["nbval-ignore-output"]})),
    (checks.nothing_escapes_the_rerun, "nbval-ignore-output", edit(5, source="# NBVAL_IGNORE_OUTPUT\nbook.claim()")),
    (checks.nothing_escapes_the_rerun, "nbval-skip", edit(2, metadata={"tags": ["nbval-skip"]})),
    (checks.nothing_escapes_the_rerun, "raises-exception", edit(2, metadata={"tags": ["raises-exception"]})),
    (checks.cells_are_short, "26 lines", edit(2, source="x\n" * 26)),
    (checks.prose_stands_between_code, "3th code cell", lambda page: page.notebook["cells"].pop(1)),
    (checks.installs_first, "not git+https://host/org/name@v1", edit(0, source='"git+https://host/org/name@v2"')),
    (checks.installs_first, "installs nothing", edit(0, source="import utils")),
    (checks.installs_first, "does not install", lambda page: page.notebook["cells"].pop(0)),
    (checks.checks_last, "does not compare", lambda page: page.notebook["cells"].pop()),
    (checks.checks_last, "does not show", edit(7, outputs=[])),
    (checks.checks_last, "'02'", lambda page: page.notebook["cells"][7]["outputs"][0]["data"][CHECK_MIME].update(
        chapter="02")),
    (checks.checks_last, "disagree", lambda page: page.notebook["cells"][7]["outputs"][0]["data"][CHECK_MIME].update(
        disagree=["small-first"])),
    (checks.imports_nothing_of_the_book, "myst_nb", edit(2, source="from myst_nb import glue")),
    (checks.metadata_is_plain, "the notebook's metadata", lambda page: page.notebook["metadata"].update(colab={})),
    (checks.metadata_is_plain, "format 4.4", lambda page: page.notebook.update(nbformat_minor=4)),
    (checks.metadata_is_plain, "collapsed", edit(2, metadata={"collapsed": True})),
    (checks.metadata_is_plain, "attachment", edit(6, attachments={"a.png": {}})),
    (checks.metadata_is_plain, "the id cell-2", edit(3, id="cell-2")),
    (checks.figures_are_described, "without caption", describe(figure={"name": "fig-dot"})),
    (checks.figures_are_described, "without name", describe(figure={"caption": "A dot."})),
    (checks.figures_are_described, "without alt", describe(image={"alt": " "})),
    (checks.figures_are_described, "without alt", edit(3, metadata={})),
    (checks.figures_are_described, "claim beside", add_output(3, shown(made_claim())[0])),
    (checks.figures_are_described, "claim beside", add_output(3, shown(made_claim())[1])),
    (checks.figures_are_described, "without a description", add_prose("![](https://host/x.png)")),
    (checks.numbers_are_glued, "91.2", add_prose("It reaches 91.2 on test scripts.")),
    (checks.numbers_are_glued, "91 %", add_prose("It reaches 91 % on test scripts.")),
    (checks.numbers_are_glued, "91 %", add_prose("It reaches 91 per cent.")),
    (checks.numbers_are_glued, "91.2", add_prose("```{admonition} Reaches 91.2\n:class: note\nYes.\n```")),
    (checks.numbers_are_glued, "91.2", add_prose("```{admonition} Title\n:class: note\nIt reaches 91.2.\n```")),
    (checks.numbers_are_glued, "91.2", describe(figure={"caption": "A dot at 91.2.", "name": "fig-dot"})),
    (checks.numbers_are_glued, "91 %", describe(image={"alt": "A dot at 91 percent."})),
    (checks.glue_exists, "'small-third'", add_prose("It reaches {glue:text}`small-third`.")),
    (checks.glue_exists, "'small-third'", add_prose("```{glue:figure} small-third\n```")),
    (checks.glue_exists, "'small-first'", edit(5, outputs=[])),
]  # fmt: skip


@pytest.mark.parametrize(("check", "complaint", "fault"), FAULTS, ids=[f"{c.__name__}-{text}" for c, text, _ in FAULTS])
def test_a_fault_is_found(check, complaint, fault):
    page = good_page()
    changed = fault(page)
    problems = check(changed if isinstance(changed, Page) else page)
    assert any(complaint in problem for problem in problems), problems


def test_every_check_has_a_fault():
    assert {check for check, _, _ in FAULTS} == set(checks.CHECKS)


def test_an_id_used_by_two_chapters_is_found():
    assert checks.ids_are_unique([good_page(), good_page()]) == [
        "claim small-first: made more than once",
        "claim small-second: made more than once",
    ]
    assert checks.ids_are_unique([good_page()]) == []


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("reaches 91.2 and, at 20-way, 97.25; see 3.1.4 and v0.1", ["91.2", "97.25"]),
        ("$0.5$, $$0.6\n0.7$$, \\begin{align} 0.8 \\end{align}", []),
        ("costs \\$5 and 0.5 and \\$6", ["0.5"]),
        ("`0.5` and ``0.6 ` 0.7`` and 0.8", ["0.8"]),
        ("{glue:text}`a-0.5` {cite:p}`b` {ref}`0.6 <sec>` 0.7", ["0.7"]),
        ("[0.5](https://host/0.6) <https://host/0.7> https://host/0.8", ["0.5"]),
        ("<!-- 0.5 --> 0.6", ["0.6"]),
        ("```python\nx = 0.5\n```\n0.6\n```{math}\n0.7\n```", ["0.6"]),
        ("````{note}\n:name: a0.4\n0.5\n```python\n0.6\n```\n````\n0.7", ["0.5", "0.7"]),
        (":::{warning}\n0.5\n:::", ["0.5"]),
    ],
)
def test_prose_is_what_a_reader_reads_as_text(text, typed):
    assert checks.typed_decimals(checks.prose(text)) == typed


def test_typed_percentages_are_found():
    text = r"91 %, 92%, 93\%, 94 per cent, between 85 and 99 percent, 5 points, 1.5 %"
    assert checks.typed_percentages(text) == ["91", "92", "93", "94", "99"]
