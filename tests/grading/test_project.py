"""Course projects: one report a team, with its ranking; nothing is run, and all the rest is as for labs."""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from pathlib import Path

import pytest
from small_course import isolation

from utils.grading import steps
from utils.grading.engine import threads
from utils.grading.intake import read_roster
from utils.grading.labs import SECTIONS_PROJECT, find_labs, read_lab, student_files
from utils.grading.precheck import check
from utils.grading.report import sections_of_heading
from utils.grading.steps import Course, Tools, everything
from utils.grading.store import opened

SOLUTIONS = Path(__file__).parents[2] / "solutions"
PROJECTS = find_labs(SOLUTIONS, "project")
each_project = pytest.mark.parametrize("lab", PROJECTS.values(), ids=PROJECTS)
RANKED = "Our team came 5th of 12 in the challenge."


def prose(seed: int, words: int = 80) -> str:
    """Words of the team's own."""
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=rng.randint(3, 9))) for _ in range(words)) + "."


def report(seed: int, ranking: str = RANKED, team: str = "Team: Ann Lee, Bob Ray") -> str:
    def part(heading: str, number: int, more: str = "") -> str:
        return f"## {heading}\n\n{prose(100 * seed + number)} {more}\n"

    table = "| method | accuracy |\n|---|---|\n| MAML | 88.5 ± 0.6 % |\n| prototypical network | 81.0 ± 0.7 % |\n"
    worse = (
        f"Prototypical networks are worse than MAML here, because few classes are seen.\n\n{table}\n![A plot](a.png)\n"
    )
    parts = [f"# Glyphs from few examples\n\n{team}\n", part("Abstract", 1), part("Introduction", 2, ranking)]
    parts += [part("Problem formulation", 3), part("Method", 4), part("Experiments", 5, worse), part("Conclusion", 6)]
    return "\n".join([*parts, "## Source code\n\nAll of it is in `main.py`.\n"])


@pytest.fixture
def lab():
    return read_lab(SOLUTIONS / "course_project")


def handed_in(folder: Path, reports: dict[str, str]) -> Path:
    for number, (name, text) in enumerate(reports.items()):
        (folder / "download" / name).mkdir(parents=True)
        (folder / "download" / name / "report.md").write_text(text)
        code = "".join(f"def step_{number}_{i}(x):\n    return x ** {number + i} - {i}\n\n\n" for i in range(5))
        (folder / "download" / name / "main.py").write_text(code)
    (folder / "roster.csv").write_text("id,name\n" + "".join(f"{name},{name.title()}\n" for name in [*reports, "zoe"]))
    return folder / "download"


def graded(folder: Path, lab, source: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    course = Course(folder / "course", lab, replace(Tools(), isolate=isolation))
    with opened(course.gradebook) as store, threads(1) as engine:
        done = everything(course, store, engine, source, roster=folder / "roster.csv")
        same = {name: steps.appeal(course, store, name)[1] for name in ("ann", "cat")}
    assert same == {"ann": True, "cat": True}
    with open(course.folder / "export" / lab.name / "gradebook.csv", newline="", encoding="utf-8") as file:
        return [each.line for each in done], {row["student_id"]: row for row in csv.DictReader(file)}


def test_a_class_of_teams_is_marked_by_its_reports(lab, tmp_path):
    reports = {
        "ann": report(1),
        "bob": report(2, ""),
        "cat": report(3, "We are 13th of 12."),
        "dan": report(4, team=""),
    }
    lines, book = graded(tmp_path, lab, handed_in(tmp_path, reports))
    assert sum("nothing is run" in line for line in lines) == 2
    assert {name: row["status"] for name, row in book.items()} == dict.fromkeys(reports, "ok") | {
        "zoe": "not_submitted"
    }
    automatic = [item for item in lab.rubric if item.auto != "manual"]
    lost = {name: {i.id for i in automatic if float(book[name][i.id]) < i.points} for name in reports}
    assert lost == {"ann": set(), "bob": {"ranking"}, "cat": {"ranking"}, "dan": {"team"}}
    assert all(book["ann"][item.id] == "" for item in lab.rubric if item.auto == "manual")


def test_all_members_of_a_team_get_what_its_report_gets(lab, tmp_path):
    source = handed_in(tmp_path, {"ann": report(1), "cat": report(3), "Team 7": report(5, "")})
    (tmp_path / "roster.csv").write_text("id,name,team\nann,Ann,\ncat,Cat,\ndan,Dan,Team 7\neve,Eve,Team 7\n")
    _, book = graded(tmp_path, lab, source)
    assert {name: row["ranking"] for name, row in book.items()} == {"ann": "4", "cat": "4", "dan": "0", "eve": "0"}
    (tmp_path / "roster.csv").write_text("id,team\nann,dan\ndan,\n")
    with pytest.raises(ValueError, match="students and teams of the same name: dan"):
        read_roster(tmp_path / "roster.csv")


def test_a_team_sees_what_is_missing(lab, tmp_path):
    source = handed_in(tmp_path, {"ann": report(1), "bob": report(2, "")})
    tools = replace(Tools(), isolate=isolation)
    lines, complete = check(lab, source / "ann" / "report.md", source / "ann", tools=tools)
    assert complete and "  the team's ranking" in lines
    lines, complete = check(lab, source / "bob" / "report.md", source / "bob", tools=tools)
    assert not complete and "  no ranking of the team" in lines


@each_project
def test_the_outline_is_made_from_the_project_and_has_its_sections(lab):
    (text,) = student_files(lab).values()
    assert (lab.folder / "student" / "report.md").read_text(encoding="utf-8") == text
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    names = [name for heading in headings for name in sections_of_heading(heading)]
    assert ["title", "team", *names] == list(SECTIONS_PROJECT)


@each_project
def test_the_rubric_marks_every_part_of_the_report(lab):
    autos = [item.auto for item in lab.rubric]
    assert {f"section:{name}" for name in SECTIONS_PROJECT if name != "source code"} <= set(autos)
    assert {"ranking", "worse", "figures", "tables", "source", "manual"} <= set(autos) and lab.points == 100


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('auto = "ranking"', 'auto = "experiment"', "got 'experiment'"),
        ('auto = "ranking"', 'auto = "section:implementation"', "got 'section:implementation'"),
        ('kind = "project"', 'kind = "project"\nmodule = "a.py"', "has module; it may have"),
    ],
)
def test_a_project_that_asks_for_what_there_is_not_says_so(lab, tmp_path, old, new, said):
    text = (lab.folder / "lab.toml").read_text()
    assert old in text
    (tmp_path / "lab.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        read_lab(tmp_path)
