"""The list of attacks on graders has forty entries, and each is the subject of a test that names it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
NUMBERS = range(1, 41)


def named(text: str) -> dict[str, set[int]]:
    """Test -> numbers of the attacks that it, or the comment over it, names: ``T07``, or ``test_t25_t26_...``."""
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            while first and lines[first - 1].startswith("#"):
                first -= 1
            own = "\n".join(lines[first : node.end_lineno])
            found[node.name] = {int(number) for number in re.findall(r"(?:\bT|_t)(\d\d)(?!\d)", own)}
    return found


FILES = [path for path in sorted(FOLDER.glob("test_*.py")) if path != Path(__file__)]
TESTS = {path.name: named(path.read_text(encoding="utf-8")) for path in FILES}


@pytest.mark.parametrize("number", NUMBERS)
def test_each_attack_has_a_test(number):
    assert [f"{file}::{test}" for file, tests in TESTS.items() for test, names in tests.items() if number in names]


def test_a_test_is_found_by_its_name_its_text_or_the_comment_over_it():
    text = "def test_t01_t02_x(): pass\n\n# T03: y\n@mark\ndef test_y(): pass\n\n"
    text += "def test_z():\n    'T04'\n\ndef f(): 'T05'\n"
    assert named(text) == {"test_t01_t02_x": {1, 2}, "test_y": {3}, "test_z": {4}}
