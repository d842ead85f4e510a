"""A lab: what is asked, the reference, inputs, wrong mutants, honest variants, and what students get, made from them.

A lab is a folder, ``solutions/<name>/``. A course project is one too, of a report alone: its code is the students' own
choice, so nothing of it is compared or run. What is executed of it here is the teacher's own: ``reference.py``,
``inputs.py``, the mutants and the variants. What a student wrote is executed in the sandbox and nowhere else.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from utils.data.cache import write_atomically
from utils.grading.limits import Limits
from utils.grading.report import LAB, PROJECT
from utils.grading.sandbox import Argument

BUDGETS = ("smoke", "full")
AUTO = ("experiment", "worse", "figures", "tables", "source", "manual")
"""What a rubric's item is marked by, beside ``function:NAME`` and ``section:NAME``."""

AUTO_PROJECT = ("ranking", *AUTO[1:])
SECTIONS = ("title", "authors", *LAB, "source code")
SECTIONS_PROJECT = ("title", "team", *PROJECT, "source code")

_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"
_BEGIN_DATA, _END_DATA = "### BEGIN STUDENT", "### END STUDENT"
_TODO = 'raise NotImplementedError("your code here")'
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Function:
    """A function that students write.

    Parameters
    ----------
    name : in their module.
    signature : as the lab sheet shows it, with shapes.
    text : what it should do.
    wanted : what is true of a right answer, in words, for feedback.
    tolerance : largest difference, relative to the largest number of the answer, for single precision; a thousandth of
        it where an argument is in double precision.
    """

    name: str
    signature: str
    text: str
    wanted: str
    tolerance: float


@dataclass(frozen=True)
class Budget:
    """What an experiment may use. ``numbers`` go to ``inputs.trials``; ``limits`` are those of two trainings."""

    numbers: Mapping[str, int | float]
    limits: Limits


@dataclass(frozen=True)
class Target:
    """A setting of the experiment.

    Parameters
    ----------
    name : as a report writes it ("5-way 1-shot").
    floor : accuracy in per cent below which this setting earns nothing.
    chance : accuracy in per cent of a guess.
    n_way, k_shot, scenario, dataset, method : how a claim of a report is known to be about it; None or "" asks nothing.
    """

    name: str
    floor: float
    chance: float
    n_way: int | None = None
    k_shot: int | None = None
    scenario: str = ""
    dataset: str = ""
    method: str = ""


@dataclass(frozen=True)
class ExperimentTask:
    """The experiment that students write: one function, tried in several settings, within a budget."""

    function: str
    signature: str
    text: str
    budgets: Mapping[str, Budget]
    settings: tuple[Target, ...]


@dataclass(frozen=True)
class RubricItem:
    """One line of the rubric: ``section`` of the report it belongs to, ``auto`` what it is marked by (see ``AUTO``)."""

    id: str
    section: str
    text: str
    points: float
    auto: str


@dataclass(frozen=True)
class Case:
    """One call that is compared with the reference's.

    Parameters
    ----------
    name : says what is special about it ("2-way 1-shot, 2-D").
    function : of the lab.
    arguments, cotangent : see ``sandbox.Call``.
    """

    name: str
    function: str
    arguments: tuple[Argument, ...]
    cotangent: np.ndarray | None = None


@dataclass(frozen=True)
class Trial:
    """One call of the experiment.

    Parameters
    ----------
    arguments : what enters the sandbox.
    labels : setting -> the right classes, int64 ``[episodes, queries]``; they stay here. The answer has one array of
        predictions for each, in this order.
    """

    arguments: tuple[Argument, ...]
    labels: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Lab:
    """All of a lab. ``inputs`` has ``cases(seed) -> Case, ...`` and ``trials(numbers, seed) -> Trial, ...``.

    A course project (``kind`` is "project") has no chapter, module, functions and experiment.
    """

    folder: Path
    kind: str
    title: str
    chapter: str
    module: str
    tensors: bool
    text: str
    functions: tuple[Function, ...]
    experiment: ExperimentTask | None
    rubric: tuple[RubricItem, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def reference(self) -> ModuleType:
        return self.variant("")

    @cached_property
    def inputs(self) -> ModuleType:
        return _executed(self.inputs_file.read_text(encoding="utf-8"), self.inputs_file)

    @property
    def reference_file(self) -> Path:
        return self.folder / "reference.py"

    @property
    def inputs_file(self) -> Path:
        return self.folder / "inputs.py"

    @property
    def expected_file(self) -> Path:
        return self.folder / "expected.json"

    @property
    def report_file(self) -> Path:
        return self.folder / "report.md"

    @property
    def mutants(self) -> Mapping[str, Path]:
        """Misconception -> its file."""
        return _python_files(self.folder / "mutants")

    @property
    def variants(self) -> Mapping[str, Path]:
        """Other honest ways of doing it -> their files."""
        return _python_files(self.folder / "variants")

    @property
    def points(self) -> float:
        return sum(item.points for item in self.rubric)

    def function(self, name: str) -> Function:
        """The function of this name. Raises ``ValueError`` where the lab has none."""
        for function in self.functions:
            if function.name == name:
                return function
        raise ValueError(f"lab {self.name} asks for {[f.name for f in self.functions]}; there is no {name!r}")

    def text_of(self, name: str = "") -> str:
        """What a student would hand in: the reference's text, with a mutant's or variant's definitions behind it."""
        text = self.reference_file.read_text(encoding="utf-8")
        if name:
            # where ``from __future__`` cannot stand any more
            more = self._addition(name).read_text(encoding="utf-8").replace("from __future__ import annotations\n", "")
            text = f"{text}\n\n{more}"
        return text

    def variant(self, name: str = "") -> ModuleType:
        """The reference as a module, or with a mutant's or variant's definitions in place of its own."""
        return _executed(self.text_of(name), self._addition(name) if name else self.reference_file)

    def misconception(self, mutant: str) -> str:
        """What a mutant gets wrong, in its own words."""
        return " ".join(
            (ast.get_docstring(ast.parse(self._addition(mutant).read_text(encoding="utf-8"))) or "").split()
        )

    def _addition(self, name: str) -> Path:
        found = self.mutants.get(name) or self.variants.get(name)
        if found is None:
            raise ValueError(f"lab {self.name} has no mutant or variant {name!r}")
        return found

    def digest(self) -> str:
        """SHA-256 over everything that a mark can depend on: all files but those made for students."""
        named = {"lab.toml", "reference.py", "inputs.py", "expected.json", "report.md"}
        paths = [self.folder / name for name in named] + [*self.mutants.values(), *self.variants.values()]
        return _digest(self.folder, [path for path in paths if path.is_file()])

    def experiment_digest(self) -> str:
        """SHA-256 over what the accuracies in ``expected.json`` depend on."""
        files = _digest(self.folder, [self.reference_file, self.inputs_file, *self.variants.values()])
        numbers = {name: dict(budget.numbers) for name, budget in self.experiment.budgets.items()}
        settings = [target.name for target in self.experiment.settings]
        asked = json.dumps([self.experiment.function, numbers, settings], sort_keys=True)
        return hashlib.sha256(f"{files} {asked}".encode()).hexdigest()


def find_labs(solutions: Path | str, kind: str = "lab") -> dict[str, Lab]:
    """The labs of a folder by name, in order, or its projects: its folders with a ``lab.toml`` of this kind."""
    found = (read_lab(path.parent) for path in sorted(Path(solutions).glob("*/lab.toml")))
    return {lab.name: lab for lab in found if lab.kind == kind}


def read_lab(folder: Path | str) -> Lab:
    """The lab in a folder.

    Raises
    ------
    FileNotFoundError for a folder that is no lab, ValueError for one that is not as it should be; both say what to do.
    """
    folder = Path(folder).resolve()
    path = folder / "lab.toml"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no lab: it has no lab.toml")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        lab = _lab(folder, table)
    except (tomllib.TOMLDecodeError, _WrongError) as error:
        raise ValueError(f"{path.parent.name}/lab.toml: {error}") from error
    if lab.experiment is None:
        return lab
    for needed in (lab.reference_file, lab.inputs_file):
        if not needed.is_file():
            raise ValueError(f"lab {lab.name} has no {needed.name}")
    defined = _definitions(lab.reference_file.read_text(encoding="utf-8"))
    for name in [*(function.name for function in lab.functions), lab.experiment.function]:
        if name not in defined:
            raise ValueError(f"lab {lab.name} asks for {name}, which reference.py does not define")
    return lab


# lab.toml


class _WrongError(ValueError):
    """Something in lab.toml is not as it should be."""


def _lab(folder: Path, table: dict[str, Any]) -> Lab:
    if table.get("kind") == "project":
        _check(table, "lab.toml", _TOP_PROJECT)
        rubric = tuple(_item(entry, f"rubric[{i}]", (), "project") for i, entry in enumerate(table["rubric"]))
        _different("rubric", [item.id for item in rubric])
        return Lab(folder, "project", table["title"], "", "", False, table["text"].strip(), (), None, rubric)
    _check(table, "lab.toml", _TOP)
    if table["kind"] != "lab":
        raise _WrongError(f"kind is 'lab' or 'project'; got {table['kind']!r}")
    if not re.fullmatch(r"\w+\.py", table["module"]):
        raise _WrongError(f"module is the name of the file that students hand in; got {table['module']!r}")
    functions = tuple(_function(entry, f"functions[{i}]") for i, entry in enumerate(table["functions"]))
    experiment = _experiment(table["experiment"])
    rubric = tuple(_item(entry, f"rubric[{i}]", functions, "lab") for i, entry in enumerate(table["rubric"]))
    _different("functions", [function.name for function in functions])
    _different("rubric", [item.id for item in rubric])
    return Lab(
        folder, "lab", table["title"], table["chapter"], table["module"], table["tensors"], table["text"].strip(),
        functions, experiment, rubric,
    )  # fmt: skip


_TEXT, _NUMBER = (str,), (int, float)
_TOP_PROJECT = {"title": _TEXT, "kind": _TEXT, "text": _TEXT, "rubric": (list,)}
_TOP = {
    "title": _TEXT, "chapter": _TEXT, "kind": _TEXT, "module": _TEXT, "tensors": (bool,), "text": _TEXT,
    "functions": (list,), "experiment": (dict,), "rubric": (list,),
}  # fmt: skip


def _function(entry: Any, where: str) -> Function:
    _check(entry, where, dict.fromkeys(("name", "signature", "text", "wanted"), _TEXT) | {"tolerance": _NUMBER})
    if not 0 < entry["tolerance"] < 0.1:
        raise _WrongError(f"{where}: tolerance is relative, between 0 and 0.1; got {entry['tolerance']}")
    return Function(**{key: value.strip() if isinstance(value, str) else value for key, value in entry.items()})


def _experiment(entry: dict[str, Any]) -> ExperimentTask:
    where = "experiment"
    texts = dict.fromkeys(("function", "signature", "text"), _TEXT)
    _check(entry, where, texts | {"budgets": (dict,), "settings": (list,)})
    _check(entry["budgets"], f"{where}.budgets", dict.fromkeys(BUDGETS, (dict,)))
    budgets = {name: _budget(entry["budgets"][name], f"{where}.budgets.{name}") for name in BUDGETS}
    settings = tuple(_target(each, f"{where}.settings[{i}]") for i, each in enumerate(entry["settings"]))
    _different(f"{where}.settings", [target.name for target in settings])
    return ExperimentTask(
        entry["function"], entry["signature"].strip(), entry["text"].strip(), MappingProxyType(budgets), settings
    )


def _budget(entry: dict[str, Any], where: str) -> Budget:
    _check(entry, where, {"wall": _NUMBER, "cpu": (int,), "memory_mb": (int,), "numbers": (dict,)})
    _check(entry["numbers"], f"{where}.numbers", dict.fromkeys(entry["numbers"], _NUMBER))
    limits = Limits(wall=float(entry["wall"]), cpu=entry["cpu"], memory=entry["memory_mb"] * _MEGABYTE)
    return Budget(MappingProxyType(entry["numbers"]), limits)


def _target(entry: Any, where: str) -> Target:
    optional = {"n_way": (int,), "k_shot": (int,), "scenario": _TEXT, "dataset": _TEXT, "method": _TEXT}
    _check(entry, where, {"name": _TEXT, "floor": _NUMBER, "chance": _NUMBER}, optional)
    if not 0 <= entry["chance"] < entry["floor"] <= 100:
        raise _WrongError(
            f"{where}: floor lies above chance, both in per cent; got {entry['floor']}, {entry['chance']}"
        )
    return Target(**entry)


def _item(entry: Any, where: str, functions: tuple[Function, ...], what: str) -> RubricItem:
    sections, autos = (SECTIONS_PROJECT, AUTO_PROJECT) if what == "project" else (SECTIONS, AUTO)
    _check(entry, where, dict.fromkeys(("id", "section", "text", "auto"), _TEXT) | {"points": _NUMBER})
    kind, _, name = entry["auto"].partition(":")
    allowed = {"function": [f.name for f in functions], "section": list(sections)}.get(kind)
    if name not in allowed if allowed else entry["auto"] not in autos:
        raise _WrongError(
            f"{where}: auto is function:NAME with NAME of {[f.name for f in functions]}, section:NAME with NAME of "
            f"{list(sections)}, or one of {list(autos)}; got {entry['auto']!r}"
        )
    if entry["section"] not in sections:
        raise _WrongError(f"{where}: section is one of {list(sections)}; got {entry['section']!r}")
    if not entry["points"] > 0:
        raise _WrongError(f"{where}: points are more than 0; got {entry['points']}")
    return RubricItem(**entry)


def _check(entry: Any, where: str, needed: Mapping[str, tuple], optional: Mapping[str, tuple] | None = None) -> None:
    """Every key that is needed is there, none that is unknown, each of its type."""
    allowed = {**needed, **(optional or {})}
    if not isinstance(entry, dict):
        raise _WrongError(f"{where} is a table with {sorted(allowed)}; got {type(entry).__name__}")
    if missing := sorted(needed.keys() - entry.keys()):
        raise _WrongError(f"{where} has no {', '.join(missing)}")
    if unknown := sorted(entry.keys() - allowed.keys()):
        raise _WrongError(f"{where} has {', '.join(unknown)}; it may have {', '.join(sorted(allowed))}")
    for key, value in entry.items():
        if not isinstance(value, allowed[key]) or (isinstance(value, bool) and bool not in allowed[key]):
            names = " or ".join(kind.__name__ for kind in allowed[key])
            raise _WrongError(f"{where}: {key} is of type {names}; got {value!r}")
        if isinstance(value, (str, list)) and not value:
            raise _WrongError(f"{where}: {key} is empty")


def _different(where: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise _WrongError(f"{where}: names are all different; got {names}")


# The teacher's own code


def _executed(text: str, path: Path) -> ModuleType:
    module = ModuleType(f"lab_{path.parent.name}_{path.stem}")
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def _python_files(folder: Path) -> Mapping[str, Path]:
    return MappingProxyType({path.stem: path for path in sorted(folder.glob("*.py"))})


def _definitions(text: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def _digest(folder: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(
            f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()


# What students get


def starter(text: str) -> str:
    """A reference's text with its solutions taken out.

    What stands between the markers of nbgrader inside a function becomes ``raise NotImplementedError``; outside, it
    goes without a trace.

    Raises ``ValueError`` for markers that are not in pairs, and for a text without any.
    """
    kept: list[str] = []
    begun = 0
    for number, line in enumerate(text.splitlines(), 1):
        mark = line.strip()
        if mark == _BEGIN:
            if begun:
                raise ValueError(f"line {number}: a solution begins inside the one of line {begun}")
            begun = number
            if indent := line[: -len(mark)]:
                kept.append(f"{indent}{_TODO}")
        elif mark == _END:
            if not begun:
                raise ValueError(f"line {number}: a solution ends that did not begin")
            begun = 0
        elif not begun:
            kept.append(line)
    if begun:
        raise ValueError(f"the solution of line {begun} does not end; write {_END!r} behind it")
    if len(kept) == len(text.splitlines()):
        raise ValueError(f"there is no solution to take out; put it between {_BEGIN!r} and {_END!r}")
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept)).rstrip("\n") + "\n"


def notebook(lab: Lab) -> dict[str, Any]:
    """The lab sheet as a notebook (format 4.5): the task, a cell a function, the experiment, the file to hand in."""
    text = starter(lab.reference_file.read_text(encoding="utf-8"))
    pieces = _definitions(text)
    head = text.splitlines()[
        : min(node.lineno for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)) - 1
    ]
    imports = "\n".join(_without_docstring(head)).strip()
    cells = [_markdown(f"# {lab.title}\n\n{lab.text}\n\n{_links(lab)}"), *_installation(lab)]
    cells.append(_code(f"# {lab.module}: imports\n{imports}"))
    for function in lab.functions:
        cells.append(_markdown(f"## `{function.signature}`\n\n{function.text}"))
        cells.append(_code(f"# {lab.module}: {function.name}\n{_source(text, pieces[function.name])}"))
    task = lab.experiment
    cells.append(_markdown(f"## The experiment: `{task.signature}`\n\n{task.text}\n\n{_tables(lab)}"))
    cells.append(_code(f"# {lab.module}: {task.function}\n{_source(text, pieces[task.function])}"))
    cells.append(_markdown(_DATA_TEXT))
    had = [line for line in imports.splitlines() if line.startswith("import ")]
    cells.append(_code("\n".join(line for line in data_source(lab).splitlines() if line not in had)))
    numbers, given = dict(task.budgets[BUDGETS[0]].numbers), "as_tensors(arguments)" if lab.tensors else "arguments"
    run = _RUN.format(numbers=numbers, function=task.function, arguments=given)
    cells.append(_code(_AS_TENSORS * lab.tensors + run))
    cells.append(_markdown(_HAND_IN_TEXT.format(module=lab.module)))
    cells.append(_code(_HAND_IN.format(module=lab.module)))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _installation(lab: Lab) -> list[dict[str, Any]]:
    """The cell by which the lab's chapter installs the package in Colab, where there is such a chapter."""
    chapter = lab.folder.parent.parent / "chapters" / f"{lab.chapter}.ipynb"
    if not chapter.is_file():
        return []
    return [_code("".join(json.loads(chapter.read_text(encoding="utf-8"))["cells"][0]["source"]))]


def outline(lab: Lab) -> str:
    """The report's headings with what belongs below each, as comments that no reader of the report sees."""
    people, outlined = ("Team", _OUTLINE_PROJECT) if lab.kind == "project" else ("Authors", _OUTLINE)
    parts = [f"# {lab.title}\n\n{people}: <!-- your names -->\n"]
    parts += [f"## {heading}\n\n<!-- {_wrapped(text, 108)} -->\n" for heading, text in outlined]
    return "\n".join(parts)


def student_files(lab: Lab) -> dict[str, str]:
    """Name below ``student/`` -> the text that belongs there."""
    if lab.kind == "project":
        return {"report.md": outline(lab)}
    sheet = json.dumps(notebook(lab), indent=1, ensure_ascii=False) + "\n"
    text = starter(lab.reference_file.read_text(encoding="utf-8"))
    return {lab.module: text, "lab.ipynb": sheet, "report.md": outline(lab)}


def write_student_files(lab: Lab) -> tuple[Path, ...]:
    """Write what students get into the lab's ``student/``."""
    paths = []
    for name, text in student_files(lab).items():
        path = lab.folder / "student" / name
        write_atomically(path, lambda file, text=text: file.write(text.encode()))
        paths.append(path)
    return tuple(paths)


def data_source(lab: Lab) -> str:
    """The part of ``inputs.py`` that students may see: how the experiment's data is made."""
    text = lab.inputs_file.read_text(encoding="utf-8")
    found = re.search(rf"^{_BEGIN_DATA}\n(.*?)^{_END_DATA}$", text, re.M | re.S)
    if found is None:
        raise ValueError(f"inputs.py of lab {lab.name} marks what students see by {_BEGIN_DATA!r} and {_END_DATA!r}")
    return found[1].strip()


_DATA_TEXT = """\
## The data

This makes what `experiment` gets, and the labels that it never sees. The grader makes it in the same way from a seed of
its own. Below, your experiment is run with the numbers of the budget `smoke`; report what it reaches with those of
`full`, in the table above."""

_AS_TENSORS = """\
def as_tensors(value):
    \"\"\"Arrays as the tensors that the grader hands to your functions, also those in tuples.\"\"\"
    if isinstance(value, tuple):
        return tuple(as_tensors(part) for part in value)
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


"""

_RUN = """\
arguments, labels = data(**{numbers}, seed=0)
for (setting, right), predicted in zip(labels.items(), {function}(*{arguments})):
    accuracy = 100 * (np.asarray(predicted) == right).mean(1)
    half = 1.96 * accuracy.std(ddof=1) / len(accuracy) ** 0.5
    print(f"{{setting}}: {{accuracy.mean():.1f}} % ± {{half:.1f}} over {{len(accuracy)}} episodes")"""

_HAND_IN_TEXT = """\
## Hand in

Run this last. It writes all cells that begin with `# {module}:` into `{module}`; hand that file in together with your
report. Cells of your own (a network, a helper) belong to it if they begin in the same way, each with a word of its own
behind the colon."""

_HAND_IN = """\
from pathlib import Path

# the latest text of each such cell, in the order in which they were first run
executed = get_ipython().user_ns["In"]
cells = {{cell.splitlines()[0]: cell for cell in executed if cell.startswith("# {module}:")}}
Path("{module}").write_text("\\n\\n\\n".join(cells.values()) + "\\n")"""

_OUTLINE = (
    ("Abstract", "The problem, why it is difficult, the idea, the key result with its number."),
    (
        "Introduction",
        "Background and application, the research problem, related methods, the paper's idea, the key results.",
    ),
    ("Problem formulation", "What is given, what is to be found, in symbols."),
    ("Method", "The basic idea, the structure of the model, the loss."),
    ("Implementation", "What you did yourself, which difficulties you met and how you solved them."),
    (
        "Experiments",
        "All tests with their settings, numbers of episodes and intervals, the worse results as well as the better "
        "ones, and why. Tables and at least one figure.",
    ),
    ("Conclusion", "What was found, and what it does not show."),
    ("Source code", "The names of the files that you hand in."),
)
_OUTLINE_PROJECT = (
    ("Abstract", "The problem, why it is difficult, the method's idea, the key result with its number."),
    (
        "Introduction",
        "Background and application, the research problem, related methods, the methods that you implemented, the main "
        "results with your team's ranking (such as: 5th of 120).",
    ),
    ("Problem formulation", "What is given, what is to be found, with mathematics."),
    ("Method", "The basic idea, the structure of the model, the loss."),
    (
        "Experiments",
        "All tests with their settings, numbers of runs and intervals; the worse results as well as the better ones, "
        "and why they are so. Tables and at least one figure.",
    ),
    ("Conclusion", "A short summary, what it does not show, future work."),
    ("Source code", "The names of the files that you hand in."),
)


def _links(lab: Lab) -> str:
    report = "The report follows `report.md` beside this notebook."
    return f"Chapter: [{lab.chapter}](../../../chapters/{lab.chapter}.ipynb). {report}"


def _tables(lab: Lab) -> str:
    """What each budget allows, and what has to be reached within the first."""
    budgets = lab.experiment.budgets
    rows = [
        [name, *(f"{budget.numbers[name]:g}" for budget in budgets.values())]
        for name in next(iter(budgets.values())).numbers
    ]
    rows.append(["seconds of one core, two trainings", *(str(budget.limits.cpu) for budget in budgets.values())])
    floors = [[target.name, f"{target.floor:g} %"] for target in lab.experiment.settings]
    return "\n\n".join(
        (_table(["budget", *budgets], rows), _table(["setting", f"at least, with {BUDGETS[0]}"], floors))
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _without_docstring(lines: list[str]) -> list[str]:
    node = ast.parse("\n".join(lines)).body[0]
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return lines[node.end_lineno :] if is_text else lines


def _source(text: str, node: ast.FunctionDef) -> str:
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": "", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    source = text.splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "id": "", "metadata": {}, "outputs": [], "source": source}
