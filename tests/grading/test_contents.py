"""Which file is the report and which the code, and a notebook as a module: taken apart, never run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from utils.grading.contents import AmbiguousError, code_files, module_folder, notebook_code, report_files


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["lab.py", "report.md"], "report.md"),
        (["essay.pdf", "my_Report.pdf"], "my_Report.pdf"),
        (["report.pdf", "report.docx", "report.md"], "report.md"),
        (["lab.ipynb", "essay.pdf"], "essay.pdf"),
        (["lab.ipynb"], "lab.ipynb"),
        (["README.md", "thesis.docx"], "thesis.docx"),
        (["a/b/report.md", "a/report.md"], "a/report.md"),
        (["Bericht.PDF", "notes.md"], "Bericht.PDF"),
        (["实验报告.docx", "notes.md"], "实验报告.docx"),
    ],
)
def test_the_likeliest_report_comes_first(names: list[str], first: str) -> None:
    assert report_files(names)[0] == report_files(list(reversed(names)))[0] == first


def test_what_is_no_report_and_what_is_code() -> None:
    assert report_files(["lab.py", "data.csv", "README.md", "LICENSE.md"]) == []
    assert code_files(["b.py", "a/x.ipynb", "report.md", "a.PY"]) == ["a.PY", "a/x.ipynb", "b.py"]


def a_notebook(path: Path, *cells: str | list[str]) -> Path:
    made = [{"cell_type": "markdown", "source": "def half(x): ..."}]
    made += [{"cell_type": "code", "source": cell} for cell in cells]
    path.write_text(json.dumps({"nbformat": 4, "cells": made}))
    return path


def executed(text: str) -> dict:
    names: dict = {}
    exec(compile(text, "lab.py", "exec"), names)
    return names


def test_a_notebook_gives_its_definitions_and_runs_nothing(tmp_path: Path) -> None:
    path = a_notebook(
        tmp_path / "lab.ipynb",
        ["%matplotlib inline\n", "import math\n", "from nowhere import nothing\n", "SCALE = 2\n"],
        "!pip install evil\ndef half(x):\n    return x / SCALE\nprint(half(3))\n",
        "%%bash\nrm -rf /\n",
        "class Net:\n    width = 3\nmodel = train(Net())\nopen('evil', 'w')",
        "def broken(:\n",
        "from __future__ import annotations\nx: int = 5",
        "get_ipython().ast_transformers.append(None)\nimport builtins\nbuiltins.print = None",
    )
    text = notebook_code(path)
    names = executed(text)
    assert names["half"](8) == 4 and names["SCALE"] == 2 and names["Net"].width == 3 and names["x"] == 5
    assert "model" not in names and "nothing" not in names and not (tmp_path / "evil").exists()
    for never in ("pip", "rm -rf", "open(", "train(", "get_ipython", "print"):
        assert never not in text
    assert "# cell 6 is left out: SyntaxError" in text


def test_t06_tricks_on_the_notebook_do_not_reach_the_grader(tmp_path: Path) -> None:
    before = set(sys.modules), print
    notebook_code(a_notebook(tmp_path / "lab.ipynb", "import sys\nsys.modules.clear()\nprint = None"))
    assert (set(sys.modules), print) == before


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"cells": 5}', b'{"cells": [5]}', b"[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_notebook_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lab.ipynb"
    path.write_bytes(content)
    assert "is no notebook" in notebook_code(path)


@pytest.mark.parametrize("cell", ["(" * 10_000, "-" * 200_000 + "1", "x = " + "+".join("1" * 50_000)])
def test_a_cell_that_is_a_bomb_for_the_parser_is_left_out(tmp_path: Path, cell: str) -> None:
    text = notebook_code(a_notebook(tmp_path / "lab.ipynb", cell, "def half(x):\n    return x / 2"))
    assert executed(text)["half"](2) == 1 and "# cell 2 is left out" in text


def found(folder: Path) -> str:
    with module_folder(folder, "lab.py") as place:
        return (place / "lab.py").read_text() if (place / "lab.py").exists() else "none"


def test_the_module_is_found_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert found(tmp_path) == "none"
    a_notebook(tmp_path / "other.ipynb", "def half(x):\n    return 1")
    assert "return 1" in found(tmp_path)
    a_notebook(tmp_path / "deep" / "lab.ipynb", "def half(x):\n    return 2")
    assert "return 2" in found(tmp_path)
    (tmp_path / "deep" / "er" / "lab.py").write_text("deep")
    assert found(tmp_path) == "deep"
    (tmp_path / "deep" / "lab.py").write_text("less deep")
    with pytest.raises(AmbiguousError, match=r"more than once \(deep/er/lab.py, deep/lab.py\)"):
        found(tmp_path)
    (tmp_path / "lab.py").write_text("top")
    assert found(tmp_path) == "top"


def test_half_a_character_is_no_failure(tmp_path: Path) -> None:
    code = 'def half(x):\n    """Half \\ud800."""\n    return 3'
    a_notebook(tmp_path / "lab.ipynb", 'NAME = "\ud800"', code)
    assert "return 3" in found(tmp_path)


def test_which_of_two_notebooks_is_not_guessed(tmp_path: Path) -> None:
    for name in ("a.ipynb", "b.ipynb"):
        a_notebook(tmp_path / name, "def half(x):\n    return 1")
    assert found(tmp_path) == "none"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ipynb", "b.ipynb"]
