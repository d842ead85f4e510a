"""The house: imports only go down, nobody reaches into another's private parts, and light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = (
    {"kernels"},
    {"functional"},
    {"data", "backbones"},
    {"training", "figures", "claims", "records", "chapters"},
    {"fewshot", "meta", "continual", "transfer"},
    {"exercises", "reproduce", "bench", "grading"},
    {"cli"},
)
"""From the ground up. A new part of ``utils`` gets its place here."""

OUTSIDE = {"chapters", "solutions", "tests", "book"}


def sources() -> dict[str, str]:
    """Dotted name of every module of ``utils``, and its text."""
    found = {}
    for path in sorted((ROOT / "utils").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(module: str, text: str) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every import, wherever it stands; name is ``None`` for ``import module``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative
                package = module.split(".")[: -node.level] if node.level else []
                base = ".".join([*package, base]).rstrip(".")
            yield from ((base, alias.name) for alias in node.names)


def part(module: str) -> str:
    """The part of ``utils`` that a module belongs to; "" for ``utils`` itself."""
    return module.split(".")[1] if module.count(".") else ""


def targets(module: str, text: str, known: Mapping[str, str]) -> Iterator[str]:
    """Modules of ``utils`` that are imported: ``from utils.data import cache`` means ``utils.data.cache``."""
    for base, name in imports(module, text):
        if base.split(".")[0] == "utils":
            yield f"{base}.{name}" if f"{base}.{name}" in known else base


def floor(name: str) -> int:
    return next((i for i, names in enumerate(LAYERS) if name in names), -1)


def upward(modules: Mapping[str, str]) -> list[str]:
    """Imports that go up, or past ``functional`` into a kernel."""
    wrong = []
    for module, text in modules.items():
        for target in targets(module, text, modules):
            above, below = part(module), part(target)
            if above in ("", below) or not below:
                continue
            if floor(below) > floor(above) or (below == "kernels" and above != "functional"):
                wrong.append(f"{module} -> {target}")
    return wrong


def outside(modules: Mapping[str, str]) -> list[str]:
    return [
        f"{module} -> {base}"
        for module, text in modules.items()
        for base, _ in imports(module, text)
        if base.split(".")[0] in OUTSIDE
    ]


def private(modules: Mapping[str, str]) -> list[str]:
    """Underscore names taken from another module of ``utils``, by import or as an attribute of it."""
    wrong = []
    for module, text in modules.items():
        bound = {}
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "utils":
                for alias in node.names:
                    if alias.name.startswith("_") and node.module != module:
                        wrong.append(f"{module} -> {node.module}.{alias.name}")
                    if f"{node.module}.{alias.name}" in modules:
                        bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname and alias.name in modules:
                        bound[alias.asname] = alias.name
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = ast.unparse(node.value)
                if owner in bound or owner in modules:
                    wrong.append(f"{module} -> {bound.get(owner, owner)}.{node.attr}")
    return wrong


def circles(modules: Mapping[str, str]) -> set[str]:
    """Parts of ``utils`` that import each other, directly or by way of others."""
    edges: dict[str, set[str]] = {}
    for module, text in modules.items():
        edges.setdefault(part(module), set()).update(part(target) for target in targets(module, text, modules))
    for name in edges:
        edges[name] -= {name, ""}

    def reached(start: str) -> set[str]:
        seen, todo = set(), set(edges.get(start, ()))
        while todo:
            name = todo.pop()
            seen.add(name)
            todo |= edges.get(name, set()) - seen
        return seen

    return {name for name in edges if name in reached(name)}


# ------------------------------------------------------------------------------------------------------- what is true


def test_every_part_has_its_place():
    assert {part(module) for module in sources()} - {""} <= set().union(*LAYERS)


def test_imports_only_go_down():
    assert upward(sources()) == []


def test_parts_do_not_import_each_other_in_circles():
    assert circles(sources()) == set()


def test_utils_imports_nothing_from_chapters_solutions_or_tests():
    assert outside(sources()) == []


def test_nobody_uses_the_private_parts_of_another_module():
    assert private(sources()) == []


@pytest.mark.parametrize(
    "module", ["utils", "utils.claims", "utils.records", "utils.data", "utils.cli", "utils.chapters", "utils.bench"]
)
def test_light_modules_do_not_load_torch(module):
    code = f"import sys; import {module}; print(sorted({{'torch', 'matplotlib', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


# ------------------------------------------------------------------------------------------- that the checks can fail


HOUSE = {
    "utils": "",
    "utils.data": "",
    "utils.data.episodes": "import torch",
    "utils.kernels.l1": "",
    "utils.functional.distances": "from utils.kernels.l1 import l1",
    "utils.records": "",
    "utils.fewshot.a": "from utils.functional.distances import f\nfrom utils.data.episodes import Episode",
    "utils.fewshot.b": "from utils.fewshot.a import learner",
    "utils.cli": "def f():\n    from utils.fewshot import a\n    import utils.records",
}


def house(**planted: str) -> dict[str, str]:
    return HOUSE | {name.replace("__", "."): text for name, text in planted.items()}


def test_a_sound_house_passes():
    assert not upward(HOUSE) and not outside(HOUSE) and not private(HOUSE) and not circles(HOUSE)


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("utils__data__episodes", "from utils.fewshot.a import x", "utils.data.episodes -> utils.fewshot.a"),
        ("utils__data", "def f():\n    import utils.records", "utils.data -> utils.records"),
        ("utils__data", "from utils import cli", "utils.data -> utils.cli"),
        ("utils__data__episodes", "from ..fewshot.a import f", "utils.data.episodes -> utils.fewshot.a"),
        ("utils__functional", "import utils.fewshot.a as a", "utils.functional -> utils.fewshot.a"),
        ("utils__fewshot__a", "from utils.kernels import l1", "utils.fewshot.a -> utils.kernels.l1"),
        ("utils__records", "from utils.fewshot.a import x", "utils.records -> utils.fewshot.a"),
    ],
)
def test_an_import_that_goes_up_is_found(module, text, said):
    assert upward(house(**{module: text})) == [said]


@pytest.mark.parametrize(
    "text", ["import chapters", "from solutions.lab import x", "def f():\n    import tests.a as b"]
)
def test_an_import_from_outside_is_found(text):
    assert len(outside(house(utils__records=text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from utils.fewshot.a import _secret",
        "from utils.fewshot.a import _secret as known",
        "from utils.fewshot import a\na._secret()",
        "import utils.fewshot.a as other\nother._secret",
        "import utils.fewshot.a\nutils.fewshot.a._secret",
    ],
)
def test_a_private_name_of_another_module_is_found(text):
    assert private(house(utils__fewshot__b=text)) == ["utils.fewshot.b -> utils.fewshot.a._secret"]


def test_a_circle_is_found():
    planted = house(utils__training="import utils.claims.a", utils__claims__a="from utils.training import fit")
    assert circles(planted) == {"training", "claims"} and not upward(planted)
