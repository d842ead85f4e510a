"""A whole lab in miniature, without PyTorch: class means of points, and an experiment that takes milliseconds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from utils.grading import landlock, worker
from utils.grading.labs import Lab, read_lab, write_student_files
from utils.grading.sandbox import Job, Outcome
from utils.grading.wire import Record

LEVEL = 3 if shutil.which("bwrap") else 2
needs_sandbox = pytest.mark.skipif(
    LEVEL == 2 and not (sys.platform == "linux" and landlock.abi()),
    reason="neither bubblewrap (apt-get install bubblewrap libseccomp2) nor Landlock is here",
)

TOML = """
title = "Lab: class means"
chapter = "03_prototypical"
kind = "lab"
module = "lab.py"
tensors = false
text = "Write class means."

[[functions]]
name = "means"
signature = "means(x [S, D], y [S], n_way) -> [n_way, D]"
text = "The mean of each class."
wanted = "row k is the mean of the rows with label k"
tolerance = 1e-4

[[functions]]
name = "nearest"
signature = "nearest(x [Q, D], centres [n_way, D]) -> [Q]"
text = "The nearest centre."
wanted = "the number of the nearest centre"
tolerance = 1e-4

[experiment]
function = "experiment"
signature = "experiment(tasks, seed) -> [predictions of each task]"
text = "Classify the queries."

[experiment.budgets.smoke]
wall = 30
cpu = 20
memory_mb = 500
numbers = { episodes = 120, noise = 1.2 }

[experiment.budgets.full]
wall = 60
cpu = 40
memory_mb = 500
numbers = { episodes = 240, noise = 0.9 }

[[experiment.settings]]
name = "4-way 1-shot"
n_way = 4
k_shot = 1
chance = 25
floor = 35

[[experiment.settings]]
name = "4-way 5-shot"
n_way = 4
k_shot = 5
chance = 25
floor = 45

[[rubric]]
id = "means"
section = "source code"
text = "means does what is asked"
points = 5
auto = "function:means"

[[rubric]]
id = "experiment"
section = "experiments"
text = "The experiment learns"
points = 5
auto = "experiment"
"""

REFERENCE = '''"""Lab: class means."""

import numpy as np


def means(x, y, n_way):
    """The mean of each class."""
    ### BEGIN SOLUTION
    return np.stack([x[y == k].mean(0) for k in range(n_way)])
    ### END SOLUTION


def nearest(x, centres):
    """The nearest centre."""
    ### BEGIN SOLUTION
    return ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
    ### END SOLUTION


### BEGIN SOLUTION
SHRINK = 1.0


### END SOLUTION


def experiment(tasks, seed):
    """Classify the queries of every episode."""
    ### BEGIN SOLUTION
    answers = []
    for support_x, support_y, query_x, n_way in tasks:
        episodes = zip(support_x, support_y, query_x)
        answers.append(np.stack([nearest(q, SHRINK * means(x, y, n_way)) for x, y, q in episodes]))
    return answers
    ### END SOLUTION
'''

INPUTS = '''"""Inputs for the lab on class means."""

### BEGIN STUDENT
import numpy as np


def data(episodes, noise, seed):
    """Points around the centres of classes."""
    rng = np.random.default_rng(seed)
    tasks, labels = [], {}
    for k_shot in (1, 5):
        y = np.stack([rng.permutation(np.repeat(np.arange(4), k_shot)) for _ in range(episodes)])
        q = np.stack([rng.permutation(np.repeat(np.arange(4), 5)) for _ in range(episodes)])
        centres = rng.normal(0, 1, (episodes, 4, 3))
        x, queries = (
            np.take_along_axis(centres, each[..., None], 1) + rng.normal(0, noise, (*each.shape, 3)) for each in (y, q)
        )
        tasks.append((x, y, queries, 4))
        labels[f"4-way {k_shot}-shot"] = q
    return (tuple(tasks), seed), labels


### END STUDENT

from utils.grading.labs import Case, Trial


def trials(numbers, seed):
    arguments, labels = data(**numbers, seed=seed)
    return (Trial((arguments[0], seed % 1000), labels),)


def cases(seed):
    rng = np.random.default_rng(seed)
    made = []
    for n_way, width in ((2, 2), (5, 20)):
        y = np.concatenate([[n_way - 1], rng.permutation(np.repeat(np.arange(n_way), 3))])
        x = rng.normal(0, 1, (len(y), width)).round(2).astype(np.float32)
        made.append(Case(f"{n_way} classes", "means", (x, y, n_way)))
    for n_way, width in ((2, 2), (5, 20)):
        centres = rng.normal(0, 1, (n_way, width)).round(2)
        order = np.concatenate([np.arange(n_way), rng.permutation(np.repeat(np.arange(n_way), 3))])[::-1]
        x = centres[order] + rng.normal(0, 0.1, (len(order), width)).round(2)
        made.append(Case(f"{n_way} centres", "nearest", (x, centres)))
    return tuple(made)
'''

MUTANTS = {
    "sums": '"""Sums where means\n    belong."""\n\n\ndef means(x, y, n_way):\n'
    "    return np.stack([x[y == k].sum(0) for k in range(n_way)])\n",
    "farthest": '"""The farthest centre."""\n\n\ndef nearest(x, centres):\n'
    "    return ((x[:, None] - centres) ** 2).sum(-1).argmax(1)\n",
}
VARIANTS = {
    "shrunk": '"""Centres drawn together."""\n\nSHRINK = 0.7\n',
    "loops": '"""Loops."""\n\n\ndef nearest(x, centres):\n'
    "    return np.array([min(range(len(centres)), key=lambda k: ((q - centres[k]) ** 2).sum()) for q in x])\n",
}


def tiny_lab(folder: Path, **changed: str) -> Lab:
    """The lab's folder, written and read; ``changed`` replaces a text: ``reference``, ``inputs`` or ``toml``."""
    folder = folder / "00_means"
    texts = {"lab.toml": changed.get("toml", TOML), "reference.py": changed.get("reference", REFERENCE)}
    texts |= {"inputs.py": changed.get("inputs", INPUTS), "report.md": "# Means\n"}
    texts |= {f"mutants/{name}.py": text for name, text in MUTANTS.items()}
    texts |= {f"variants/{name}.py": text for name, text in VARIANTS.items()}
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    lab = read_lab(folder)
    write_student_files(lab)
    return lab


def handed_in(folder: Path, text: str) -> Path:
    """A student's folder with this ``lab.py``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lab.py").write_text(text)
    return folder


def run_here(job: Job, limits: object, level: int, allow_weak: bool = False) -> Outcome:
    """A stand-in for the sandbox, for code that is ours: the same calls, in this process, in no time."""
    module, records, failed = ModuleType("submission"), {}, ""
    try:
        exec((job.submission / job.module).read_text(), module.__dict__)
    except Exception as error:
        failed = worker.described(error)
    for call in job.calls:
        try:
            result = worker.called(getattr(module, call.function), list(call.arguments), job.tensors, call.cotangent)
            records[call.name] = Record(call.name, "ok", "", tuple(worker.plain(result, 1 << 24)))
        except Exception as error:
            records[call.name] = Record(call.name, "student_error", failed or worker.described(error), ())
    wrong = next((record for record in records.values() if record.status != "ok"), None)
    verdict, reason = (wrong.status, wrong.text) if wrong else ("ok", "every call was answered")
    return Outcome(verdict, reason, level, records)
