"""Labs: read strictly, and what students get of them is what the reference leaves when its solutions are gone."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from tiny_lab import REFERENCE, TOML, tiny_lab

from utils.grading.labs import AUTO, find_labs, notebook, outline, read_lab, starter, student_files
from utils.grading.report import LAB, sections_of_heading

SOLUTIONS = Path(__file__).parents[2] / "solutions"
LABS = find_labs(SOLUTIONS)
each_lab = pytest.mark.parametrize("lab", LABS.values(), ids=LABS)


@pytest.fixture
def lab(tmp_path):
    return tiny_lab(tmp_path)


# Reading


def test_a_lab_is_what_its_folder_says(lab):
    assert (lab.name, lab.title, lab.module, lab.tensors, lab.points) == (
        "00_means", "Lab: class means", "lab.py", False, 10,
    )  # fmt: skip
    assert [function.name for function in lab.functions] == ["means", "nearest"]
    assert lab.function("nearest").wanted == "the number of the nearest centre"
    smoke = lab.experiment.budgets["smoke"]
    assert dict(smoke.numbers) == {"episodes": 120, "noise": 1.2}
    assert (smoke.limits.wall, smoke.limits.cpu, smoke.limits.memory) == (30.0, 20, 500 << 20)
    assert [(target.name, target.k_shot, target.floor) for target in lab.experiment.settings] == [
        ("4-way 1-shot", 1, 35), ("4-way 5-shot", 5, 45),
    ]  # fmt: skip
    assert list(lab.mutants) == ["farthest", "sums"] and list(lab.variants) == ["loops", "shrunk"]
    assert lab.misconception("sums") == "Sums where means belong."
    with pytest.raises(ValueError, match="there is no 'median'"):
        lab.function("median")


def test_mutants_replace_what_the_reference_defines(lab):
    x, y = [[1.0], [3.0]], [0, 0]
    asked = "import numpy as np; np.array({}), np.array({}), 1"
    arguments = eval(asked.split("; ")[1].format(x, y), {"np": lab.reference.np})
    assert lab.reference.means(*arguments).tolist() == [[2.0]]
    assert lab.variant("sums").means(*arguments).tolist() == [[4.0]]
    assert lab.reference.means(*arguments).tolist() == [[2.0]]
    with pytest.raises(ValueError, match="no mutant or variant 'other'"):
        lab.variant("other")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "lab"', 'kind = "exam"', "kind is 'lab' or 'project'; got 'exam'"),
        ('chapter = "03_prototypical"', "", "lab.toml has no chapter"),
        ("tensors = false", "tensors = 0", "tensors is of type bool; got 0"),
        ('module = "lab.py"', 'module = "../lab.py"', "the file that students hand in"),
        ('text = "The nearest centre."', "", r"functions\[1\] has no text"),
        ('text = "The nearest centre."', 'text = "a"\nhelp = "b"', r"functions\[1\] has help; it may have"),
        ("tolerance = 1e-4", "tolerance = 1", "between 0 and 0.1"),
        ('name = "nearest"', 'name = "means"', "names are all different"),
        ('name = "nearest"', 'name = "median"', "asks for median, which reference.py does not define"),
        ("floor = 35", "floor = 20", "floor lies above chance"),
        ("floor = 35", "floor = true", "floor is of type int or float; got True"),
        ("cpu = 20", "cpu = 0", "a limit is more than 0"),
        ("noise = 1.2", 'noise = "much"', "noise is of type int or float"),
        ('auto = "function:means"', 'auto = "function:mean"', "function:NAME with NAME of"),
        ('auto = "function:means"', 'auto = "section:results"', "section:NAME with NAME of"),
        ('auto = "experiment"', 'auto = "guess"', "got 'guess'"),
        ('section = "experiments"', 'section = "results"', "section is one of"),
        ("points = 5", "points = 0", "points are more than 0"),
        ('title = "Lab: class means"', "title =", "lab.toml: Invalid value"),
    ],
)
def test_a_lab_that_is_wrong_says_where(tmp_path, old, new, said):
    assert old in TOML
    with pytest.raises(ValueError, match=said):
        tiny_lab(tmp_path, toml=TOML.replace(old, new, 1))


def test_a_folder_without_a_lab_says_so(tmp_path, lab):
    with pytest.raises(FileNotFoundError, match=r"no lab\.toml"):
        read_lab(tmp_path)
    assert list(find_labs(tmp_path)) == ["00_means"]
    (lab.folder / "inputs.py").unlink()
    with pytest.raises(ValueError, match=r"has no inputs\.py"):
        read_lab(lab.folder)


def test_the_digest_is_of_what_a_mark_depends_on(tmp_path, lab):
    before, experiment = lab.digest(), lab.experiment_digest()
    shutil.copytree(lab.folder, tmp_path / "elsewhere" / "00_means")
    assert read_lab(tmp_path / "elsewhere" / "00_means").digest() == before
    (lab.folder / "student" / "lab.py").write_text("")
    assert (lab.digest(), lab.experiment_digest()) == (before, experiment)
    lab.expected_file.write_text("{}")
    assert lab.digest() != before and lab.experiment_digest() == experiment
    before = lab.digest()
    (lab.folder / "mutants" / "sums.py").write_text('"""Other."""\n')
    assert lab.digest() != before and lab.experiment_digest() == experiment
    (lab.folder / "lab.toml").write_text(TOML.replace("Write class means.", "Do."))
    assert read_lab(lab.folder).experiment_digest() == experiment  # of another wording it is no other experiment
    (lab.folder / "lab.toml").write_text(TOML.replace("episodes = 120", "episodes = 121"))
    assert read_lab(lab.folder).experiment_digest() != experiment
    (lab.folder / "lab.toml").write_text(TOML)
    (lab.folder / "inputs.py").write_text("")
    assert read_lab(lab.folder).experiment_digest() != experiment


# What students get


def cells_of(lab):
    return ["".join(cell["source"]) for cell in notebook(lab)["cells"] if cell["cell_type"] == "code"]


def test_the_starter_is_the_reference_without_its_solutions():
    text = starter(REFERENCE)
    assert text.count('    raise NotImplementedError("your code here")\n') == 3
    assert "SHRINK" not in text and "SOLUTION" not in text and "np.stack" not in text
    assert [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)] == [
        "means", "nearest", "experiment",
    ]  # fmt: skip
    assert "\n\n\n\n" not in text and text.endswith(")\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "no solution to take out"),
        ("### BEGIN SOLUTION\nx = 1\n", "the solution of line 1 does not end"),
        ("x = 1\n### END SOLUTION\n", "line 2: a solution ends"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n", "line 2: a solution begins inside the one of line 1"),
    ],
)
def test_markers_come_in_pairs(text, said):
    with pytest.raises(ValueError, match=said):
        starter(text)


def test_the_notebook_writes_the_file_to_hand_in(lab, tmp_path, monkeypatch):
    """Its cells, run in order, define everything; the last one writes the module from those that belong to it."""
    nbformat.validate(nbformat.from_dict(notebook(lab)))
    code = cells_of(lab)
    solved = REFERENCE.replace("### BEGIN SOLUTION", "").replace("### END SOLUTION", "")
    nodes = [node for node in ast.parse(solved).body if isinstance(node, ast.FunctionDef)]
    mine = [f"# lab.py: {node.name}\n{ast.get_source_segment(solved, node)}" for node in nodes]
    executed = [*code[:4], "# lab.py: shrink\nSHRINK = 1.0", *mine, *code[4:-1]]
    spoken: dict = {}
    for cell in executed:
        exec(cell, spoken)
    monkeypatch.chdir(tmp_path)
    shell = type("Shell", (), {"user_ns": {"In": ["", *executed]}})
    exec(code[-1], {"get_ipython": lambda: shell})
    written = Path("lab.py").read_text()
    assert "raise NotImplementedError" not in written and "SHRINK = 1.0" in written and "rng" not in written
    told: dict = {}
    exec(written, told)
    assert told["means"](*lab.inputs.cases(0)[0].arguments).shape == (2, 2)


def test_the_notebook_says_how_well_the_experiment_does(lab, capsys):
    code, spoken = cells_of(lab), {"experiment": lab.reference.experiment}
    for cell in (code[0], *code[-3:-1]):
        exec(cell, spoken)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["4-way 1-shot", "4-way 5-shot"]
    assert all(line.endswith("over 120 episodes") and "±" in line for line in lines)


def test_the_outline_has_the_sections_of_the_lecture(lab):
    headings = [line.removeprefix("## ") for line in outline(lab).splitlines() if line.startswith("## ")]
    names = [name for heading in headings for name in sections_of_heading(heading)]
    assert names == [*LAB, "source code"]


# The labs of the course


@each_lab
def test_what_students_get_is_made_from_the_lab(lab):
    for name, text in student_files(lab).items():
        assert (lab.folder / "student" / name).read_text(encoding="utf-8") == text, f"write {name} anew"
    nbformat.validate(nbformat.from_dict(json.loads(student_files(lab)["lab.ipynb"])))


@each_lab
def test_the_sheet_runs_the_experiment_that_the_grader_runs(lab, capsys):
    """With the reference as the student's, and hardly any training."""
    spoken: dict = {}
    exec(lab.text_of(), spoken)
    *_, data, run, _ = cells_of(lab)
    exec(data, spoken)
    numbers = dict(lab.experiment.budgets["smoke"].numbers)
    assert repr(numbers) in run
    few = {name: min(value, 4) if name in ("steps", "episodes") else value for name, value in numbers.items()}
    exec(run.replace(repr(numbers), repr(few)), spoken)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [target.name for target in lab.experiment.settings]


@each_lab
def test_students_get_nothing_of_the_solution(lab):
    """No line of a solution that is longer than a word or two stands in what students get."""
    reference = lab.reference_file.read_text(encoding="utf-8")
    given = "\n".join(student_files(lab).values())
    kept = {line.strip() for line in starter(reference).splitlines()}
    solution = [line.strip() for line in reference.splitlines() if line.strip() not in kept and "###" not in line]
    assert len(solution) > 10
    assert [line for line in solution if len(line) > 20 and line in given] == []


@each_lab
def test_a_lab_marks_all_that_it_asks_for(lab):
    autos = [item.auto for item in lab.rubric]
    assert {f"function:{function.name}" for function in lab.functions} <= set(autos)
    assert {f"section:{name}" for name in LAB} <= set(autos) and set(AUTO) <= set(autos)
    assert lab.points == 100 and len(lab.mutants) >= 10
    assert all(lab.misconception(name).endswith((".", ":")) for name in lab.mutants)
    assert (SOLUTIONS.parent / "chapters" / f"{lab.chapter}.ipynb").is_file()
