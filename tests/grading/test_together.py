"""Functions and experiment in one sandbox come out as they do in two; what does not end well is done in two."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_lab import LEVEL, REFERENCE, TOML, handed_in, needs_sandbox, tiny_lab

from utils.grading import sandbox, together
from utils.grading.archives import StoredFile, file_digest, tree_digest
from utils.grading.equivalence import check
from utils.grading.experiment import rerun
from utils.grading.plain import from_json
from utils.grading.results import Equivalence, Experiment
from utils.grading.tasks import Task, perform

GUESSES = "\n\ndef experiment(tasks, seed):\n    return [np.zeros(q.shape[:2]) for _, _, q, _ in tasks]\n"
HANGS = REFERENCE + GUESSES + "\n\ndef nearest(x, centres):\n    while True:\n        pass\n"
STOPS = REFERENCE + "\n\ndef experiment(tasks, seed):\n    raise KeyError('no')\n"


@pytest.fixture
def lab(tmp_path):
    return tiny_lab(tmp_path)


@pytest.fixture
def jobs(monkeypatch):
    """The jobs of all sandboxes, as they are run."""
    found = []

    def run(job, *rest):
        found.append(job)
        return sandbox.run(job, *rest)

    for module in ("together", "equivalence", "experiment"):
        monkeypatch.setattr(f"utils.grading.{module}.run", run)
    return found


def both(lab, folder):
    return together.together(lab, folder, (3, 4), "smoke", LEVEL)


@needs_sandbox
@pytest.mark.parametrize("text", ["", "sums"])
def test_one_sandbox_says_what_two_say(lab, tmp_path, jobs, text):
    folder = handed_in(tmp_path / "s", lab.text_of(text))
    functions, experiment = both(lab, folder)
    assert len(jobs) == 1
    assert functions == check(lab, folder, 3, level=LEVEL)
    assert experiment == rerun(lab, folder, "smoke", 4, LEVEL)
    assert functions.verdict == ("wrong" if text else "ok") and experiment.settings[0].mean > 30


@needs_sandbox
@pytest.mark.parametrize(("text", "verdicts"), [(HANGS, ("timeout", "ok")), (STOPS, ("ok", "student_error"))])
def test_one_part_that_fails_leaves_the_other_alone(tmp_path, jobs, monkeypatch, text, verdicts):
    lab = tiny_lab(tmp_path, toml=TOML.replace("cpu = 20", "cpu = 2"))
    monkeypatch.setattr("utils.grading.equivalence.Limits", lambda: replace(sandbox.Limits(), cpu=2))
    functions, experiment = both(lab, handed_in(tmp_path / "s", text))
    assert (functions.verdict, experiment.verdict) == verdicts
    assert [len(job.calls) for job in jobs] == [6, 4, 2]
    assert functions.checks[0].verdict == "ok"


@needs_sandbox
def test_tasks_of_one_submission_share_a_sandbox(lab, tmp_path, jobs):
    folder = handed_in(tmp_path / "s", lab.text_of())
    file = StoredFile("lab.py", (folder / "lab.py").stat().st_size, file_digest(folder / "lab.py"))
    functions = Task("equivalence", str(folder), tree_digest((file,)), str(lab.folder), lab.digest(), LEVEL, 3)
    training = replace(functions, step="experiment", seed=4, budget="smoke")
    results = perform([training, functions])
    assert len(jobs) == 1
    assert from_json(Experiment, results[0]).seed == 4 and from_json(Equivalence, results[1]).seed == 3
    assert perform([functions]) == results[1:] and perform([training]) == results[:1]
    assert len(jobs) == 3
