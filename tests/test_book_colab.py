"""A chapter alone, as Colab opens it: an empty folder, an environment without the course package.

The chapter's first cell must install the package; here it is pointed at a copy of this checkout. The chapter is run up
to the cell where the naive and the fast version are compared, which needs the data, the claims and the recorded numbers
of the installed package. (All cells are run by nbval.)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture
def bare_python(tmp_path_factory) -> Path:
    """An interpreter that sees all installed packages but the course package; a new one, as a chapter installs it."""
    base = tmp_path_factory.mktemp("bare")
    packages = base / "packages"
    packages.mkdir()
    installed = Path(next(path for path in sys.path if path.endswith("site-packages")))
    for entry in installed.iterdir():
        if not entry.name.startswith(("course_companion", "__editable__", "_virtualenv")) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    venv.create(base / "venv", with_pip=False)
    site = next((base / "venv" / "lib").glob("python*")) / "site-packages"
    (site / "packages.pth").write_text(f"{packages}\n")
    return base / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files of this checkout that git would hand out, without building anything inside the checkout itself."""
    target = tmp_path_factory.mktemp("clone") / "course"
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        target.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    ignore = shutil.ignore_patterns("__pycache__", "*.part")
    shutil.copytree(ROOT / "utils", target / "utils", ignore=ignore)
    shutil.copytree(ROOT / "book" / "results", target / "book" / "results", ignore=ignore)
    return target


def run(python: Path, words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MPLBACKEND")}
    return subprocess.run(
        [str(python), *words], cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_alone_in_an_empty_folder(chapter, bare_python, clone, tmp_path):
    absent = run(bare_python, ["-c", "import utils"], tmp_path)
    assert "No module named 'utils'" in absent.stderr

    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    last = next(i for i, cell in enumerate(notebook["cells"]) if "equality" in cell["metadata"].get("tags", []))
    notebook["cells"] = notebook["cells"][: last + 1]
    (tmp_path / chapter.name).write_text(json.dumps(notebook), encoding="utf-8")
    done = run(
        bare_python,
        ["-c", EXECUTE, chapter.name],
        tmp_path,
        COURSE_SOURCE=str(clone),
        COURSE_QUIET="1",
        OMP_NUM_THREADS="1",
        PIP_NO_BUILD_ISOLATION="0",  # pip reads this the wrong way round: build with the setuptools that is here
        PIP_NO_INDEX="1",  # what Colab has must do: nothing but the course package may be fetched
    )
    assert done.returncode == 0, done.stderr[-3000:]
    where = run(bare_python, ["-c", "import utils.records as r; print(r.__file__, r.results_dir())"], tmp_path)
    assert str(bare_python.parent.parent) in where.stdout, "the package was not installed where the chapter runs"
    assert where.stdout.strip().endswith("_recorded"), "the recorded numbers did not travel with the package"
    executed = json.loads((tmp_path / chapter.name).read_text(encoding="utf-8"))
    assert executed["cells"][last]["outputs"], "the last cell printed nothing"

    # Run again, the first cell finds the package and leaves everything alone: a missing source does not matter.
    first = next("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    again = run(bare_python, ["-c", first], tmp_path, COURSE_SOURCE=str(tmp_path / "nowhere"))
    assert again.returncode == 0, again.stderr
