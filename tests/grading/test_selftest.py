"""The self-test: a lab that keeps its promises passes, and each promise that is broken on purpose is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_lab import LEVEL, REFERENCE, needs_sandbox, run_here, tiny_lab

from utils.grading.labs import find_labs, read_lab, write_student_files
from utils.grading.selftest import killers, selftest, starter_problems, submitted, variant_problems

LABS = find_labs(Path(__file__).parents[2] / "solutions")
each_lab = pytest.mark.parametrize("lab", LABS.values(), ids=LABS)


@pytest.fixture
def lab(tmp_path):
    return tiny_lab(tmp_path)


def problems_of(lab, **options):
    """What is found, but for the two things that the tiny lab lacks by design."""
    found = selftest(lab, LEVEL, **options)
    expected = {
        "there are 2 mutants; a lab has at least 10",
        "expected.json has no accuracies for 4-way 1-shot, 4-way 5-shot; record them",
    }
    assert expected <= set(found.problems) and not found.passed
    return [problem for problem in found.problems if problem not in expected], found


@needs_sandbox
def test_a_sound_lab_has_no_problems(lab):
    problems, found = problems_of(lab)
    assert problems == []
    assert found.killed == {"farthest": ("nearest",), "sums": ("means",)}
    assert found.reference.verdict == "ok" and found.experiment.verdict == "ok" and found.level == LEVEL


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("mutants/sums.py", '"""The same."""\n', "mutant sums is not noticed with every seed"),
        (
            "variants/loops.py",
            '"""Off."""\n\n\ndef nearest(x, c):\n    return 0\n',
            "variant loops fails nearest",
        ),
        ("student/lab.py", "x = 1\n", "student/lab.py is not what is made from the lab"),
        ("report.md", None, "there is no model report"),
        ("reference.py", REFERENCE.replace("SHRINK *", "0 *"), "the reference reaches .* in 4-way 1-shot, less than"),
        (
            "reference.py",
            REFERENCE.replace("    answers = []", "    answers = {}"),
            "the reference's experiment gets student_error",
        ),
        (
            "reference.py",
            REFERENCE.replace("    ### BEGIN SOLUTION\n    return np.stack", "    return np.stack").replace(
                "in range(n_way)])\n    ### END SOLUTION", "in range(n_way)])"
            ),
            "the starter's means is not left to the student: it answers",
        ),
        (
            "reference.py",
            REFERENCE.replace("import numpy as np", "### BEGIN SOLUTION\nimport numpy as np\n### END SOLUTION").replace(
                "def means", "LIMIT = np.inf\n\n\ndef means"
            ),
            "the starter's means is not left to the student: NameError",
        ),
    ],
)
def test_a_broken_promise_is_named(lab, file, text, said, monkeypatch):
    for part in ("equivalence", "experiment", "selftest"):
        monkeypatch.setattr(f"utils.grading.{part}.run", run_here)
    path = lab.folder / file
    path.unlink() if text is None else path.write_text(text)
    broken = read_lab(lab.folder)
    if file == "reference.py":
        write_student_files(broken)
    problems, _ = problems_of(broken, seeds=(0,))
    assert [problem for problem in problems if re.search(said, problem)], problems


def test_a_submission_has_one_file_and_leaves_nothing():
    with submitted("x = 1\n", "lab.py") as folder:
        assert [path.name for path in folder.iterdir()] == ["lab.py"]
    assert not folder.exists()


# The labs of the course


@each_lab
def test_every_mutant_is_noticed_by_a_function(lab):
    """With every seed, and those that change a function's answer by the function itself."""
    for name in lab.mutants:
        assert killers(lab, name, (0, 1)), name


@each_lab
def test_honest_variants_pass(lab):
    assert len(lab.variants) >= 3
    assert [problem for name in lab.variants for problem in variant_problems(lab, name, range(3))] == []


@needs_sandbox
@each_lab
def test_the_starter_leaves_everything_to_the_student(lab):
    assert list(starter_problems(lab, LEVEL)) == []
