"""A small book in a folder of its own: a copy of the package, chapters of a few cells, and nbval runs over them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120
"""Where a hanging run is stopped."""


def copy_of_package(folder: Path) -> Path:
    """Copy ``utils`` and the recorded numbers to ``folder``; what runs there writes to neither the book's nor ours."""
    shutil.copytree(ROOT / "utils", folder / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "results", folder / "book" / "results")
    return folder


def replace(path: Path, old: str, new: str) -> None:
    """Change one place of a file; fails where the text is not there exactly once, as a mutation would then be none."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} holds {text.count(old)} times: {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """The environment in which ``folder``'s copy of the package is found before the installed one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("COURSE_", "PYTEST_", "MPLBACKEND"))}
    cache = {"COURSE_CACHE": os.environ["COURSE_CACHE"]} if "COURSE_CACHE" in os.environ else {}
    path = os.pathsep.join([str(folder), str(ROOT / "tests")])
    return {**kept, **cache, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **extra}


def python(folder: Path, *words: str, **extra: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(folder, **extra), capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip


def cell(text: str, count: int | None = None, outputs: Sequence[dict] = (), **metadata: Any) -> dict[str, Any]:
    """A cell of format 4.5: code if it has a count, else prose."""
    if count is None:
        return {"cell_type": "markdown", "id": "", "metadata": metadata, "source": text}
    return {"cell_type": "code", "id": "", "metadata": metadata, "source": text, "execution_count": count,
            "outputs": list(outputs)}  # fmt: skip


def write_notebook(path: Path, cells: Sequence[Mapping[str, Any]]) -> Path:
    numbered = [{**cell, "id": f"cell-{i:02d}"} for i, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": numbered}
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Run:
    """What pytest said: for each test "<notebook or module>::<name>" the text of its failure, ``None`` if it passed."""

    failures: dict[str, str | None]
    text: str

    def red(self, where: str = "") -> list[str]:
        return [name for name, failure in self.failures.items() if failure is not None and where in name]


def run_tests(folder: Path, *words: str, **extra: str) -> Run:
    """Run pytest in ``folder`` with our plugin; ``words`` are notebooks, test files and options."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    done = python(
        folder, "-m", "pytest", "-q", "-p", "nbval_claims", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env",
        "--color=no", "--rootdir", str(folder), "-c", os.devnull, "--junitxml", str(report), *words, **extra,
    )  # fmt: skip
    assert report.is_file(), f"pytest did not run:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    failures = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error")]
        module = case.get("classname", "").removesuffix(".ipynb").rpartition(".")[2]
        failures[f"{module}::{case.get('name')}"] = "\n".join(child.text or "" for child in bad) if bad else None
    assert failures, f"nothing was tested:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return Run(failures, done.stdout + done.stderr)
