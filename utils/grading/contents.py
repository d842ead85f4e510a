"""What of a submission is the report and what the code, by names and endings; a notebook's code as a module.

Nothing is run: a notebook is taken apart as JSON and its cells as syntax trees.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

_REPORT = re.compile(r"report|bericht|ausarbeitung|protokoll|paper|abgabe|write-?up|报告", re.IGNORECASE)
_NEVER = re.compile(r"(readme|licen[cs]e|changelog|contributing)\b.*", re.IGNORECASE)
# The most reliably read first; a notebook is a report only where there is no other.
_FORMATS = (".md", ".docx", ".pdf", ".ipynb")
_MOST_BYTES = 32 << 20


class AmbiguousError(ValueError):
    """Several files could be what is meant."""


def report_files(names: Sequence[str]) -> list[str]:
    """The files that may be the report, the likeliest first: called so, then by format, then the least deep."""
    found = [name for name in names if _ending(name) in _FORMATS and not _NEVER.fullmatch(_file(name))]
    return sorted(found, key=lambda n: (not _REPORT.search(_file(n)), _FORMATS.index(_ending(n)), n.count("/"), n))


def code_files(names: Sequence[str]) -> list[str]:
    """The files that hold code in Python, by name."""
    return sorted(name for name in names if _ending(name) in (".py", ".ipynb"))


@contextmanager
def module_folder(folder: Path, module: str) -> Iterator[Path]:
    """A folder with the student's ``module`` at its top, as the sandbox needs it.

    That is where the file lies: at the top, or in the one subfolder that has it. Where there is none, it is made from a
    notebook (of the same stem, or the only one) in a folder that is gone afterwards. Where there is no notebook either,
    the folder comes back as it is, and the sandbox says that the module is missing.

    Raises ``AmbiguousError`` where several subfolders have one.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [name for name in names if _file(name) == module]
    if module in found or not found:
        notebook = None if found else _notebook(names, module)
        if notebook is None:
            yield folder
            return
        with tempfile.TemporaryDirectory() as made:
            (Path(made) / module).write_bytes(notebook_code(folder / notebook).encode(errors="replace"))
            yield Path(made)
    elif len(found) == 1:
        yield (folder / found[0]).parent
    else:
        raise AmbiguousError(f"{module} is there more than once ({', '.join(found)}); which of them counts is not said")


def notebook_code(path: Path) -> str:
    """The imports, functions, classes and constants of a notebook's cells, in their order, as the text of a module.

    What a cell does beyond that (training, plots, magics) is left out, so that importing it takes no time. An import
    that fails there leaves the rest usable. A cell that does not parse becomes a comment that says so.
    """
    if path.stat().st_size > _MOST_BYTES:
        return f"# {path.name} has more than {_MOST_BYTES:,} bytes and was not read\n"
    try:
        cells = json.loads(path.read_bytes())["cells"]
        sources = [(number, cell["source"]) for number, cell in enumerate(cells, 1) if cell["cell_type"] == "code"]
        texts = [(number, source if isinstance(source, str) else "".join(source)) for number, source in sources]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"# {path.name} is no notebook: {type(error).__name__}\n"
    return "\n\n".join(_cell(number, text) for number, text in texts) + "\n"


def _cell(number: int, text: str) -> str:
    # commands to the notebook and the shell are no Python
    text = "" if text.lstrip().startswith("%%") else re.sub(r"(?m)^\s*[%!].*$", "", text)
    try:
        kept = [_kept(node) for node in ast.parse(text).body if _defines(node)]
        return "\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in kept)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"# cell {number} is left out: {type(error).__name__}"


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(isinstance(target, ast.Name) for target in targets) and not any(
            isinstance(part, ast.Call | ast.Await | ast.ListComp) for part in ast.walk(node)
        )
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _kept(node: ast.stmt) -> ast.stmt:
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return ast.Pass()  # has to stand at the top of a file
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return node
    caught = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
    return ast.Try([node], [caught], [], [])


def _notebook(names: Sequence[str], module: str) -> str | None:
    notebooks = [name for name in names if _ending(name) == ".ipynb"]
    named = [name for name in notebooks if PurePosixPath(name).stem == PurePosixPath(module).stem]
    found = named or notebooks
    return found[0] if len(found) == 1 else None


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
