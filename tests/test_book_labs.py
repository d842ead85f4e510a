"""Labs in the book: students find what they start from, and no solution; the teacher's edition has the solutions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from book_fixtures import ROOT, SECONDS, built_book

LABS = sorted(path.parent.name for path in (ROOT / "solutions").glob("*/reference.py"))
SOLUTION = "### BEGIN SOLUTION"


def pages(html: Path) -> dict[str, str]:
    """Path -> text of every page, without tags: highlighting takes code apart."""
    found = {path.relative_to(html).as_posix(): path for path in html.rglob("*.html")}
    return {name: unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))) for name, path in found.items()}


@pytest.mark.parametrize("lab", LABS)
def test_the_page_on_labs_has_each_lab_with_its_chapter_and_files(lab):
    row = next(line for line in (ROOT / "book" / "labs.md").read_text().splitlines() if f"solutions/{lab}/" in line)
    assert f"/chapters/{lab}`" in row
    named = re.findall(rf"<\.\./(solutions/{lab}/student/[\w.]+)>", row)
    assert {Path(name).name for name in named} == {"lab.py", "lab.ipynb", "report.md"}
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("lab", LABS)
def test_each_chapter_leads_to_its_lab(lab):
    assert "[](../book/labs.md)" in (ROOT / "chapters" / f"{lab}.ipynb").read_text(encoding="utf-8")


def test_no_solution_is_in_the_students_book():
    html = built_book()
    assert not [name for name, text in pages(html).items() if SOLUTION in text and name != "book/grading.html"]
    downloads = [path for path in (html / "_downloads").rglob("*") if path.is_file()]
    assert len([path for path in downloads if path.name == "lab.py"]) == len(LABS)
    assert not [path for path in downloads if SOLUTION in path.read_text(encoding="utf-8")]


def test_the_teachers_edition_has_them_all():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    # with the packages of this process, and without setting anything up
    command = [make, "-o", ".venv/.installed", f"BIN={Path(sys.executable).parent}", "teachers-book"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    text = pages(ROOT / "_build" / "teachers" / "_build" / "html")["solutions/teachers_edition.html"]
    assert text.count(SOLUTION) >= len(LABS)
    for lab in LABS:
        reference = (ROOT / "solutions" / lab / "reference.py").read_text(encoding="utf-8")
        assert reference.splitlines()[0].strip('"') in text
