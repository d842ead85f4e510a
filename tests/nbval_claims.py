"""Rerun the chapters and compare: claims by statistics, everything else exactly.

    python -m pytest -p nbval_claims --nbval --nbval-current-env chapters -n 2 --dist loadscope

A plugin for pytest on top of nbval 0.11, which by itself compares every output exactly, passes a notebook without
outputs, waits five seconds for an output and knows no timeout of a cell. With ``--sockets-blocked`` (or
``COURSE_BLOCK_SOCKETS=1``) the kernels reach no other machine.

It is called ``nbval_claims``, not ``tests.nbval_claims``: learn2learn installs a package ``tests`` of its own, which
would be found instead. ``pyproject.toml`` puts this folder on the path.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from utils.claims import CHECK_MIME, CLAIM_MIME, Claim, agreement
from utils.claims.claim import GLUE_PREFIX

CELL_SECONDS = 300
"""How long a cell may run unless its metadata say otherwise (``"timeout": seconds``)."""

OUTPUT_SECONDS = 60
"""How long to wait for an output that is on its way; nbval's 5 s are too short on a busy machine."""

NOT_COMPARED = ("stderr", "image/svg+xml", "application/pdf", "text/html", "application/vnd.jupyter.widget-view+json")
"""Progress bars and warnings; pictures, whose bytes vary with the versions of libraries; text that is there twice."""

OFFLINE = Path(__file__).resolve().parent / "offline"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("nbval").addoption(
        "--sockets-blocked", action="store_true", help="let the notebooks' kernels reach no other machine"
    )


def pytest_configure(config: pytest.Config) -> None:
    import nbval.kernel
    import nbval.plugin

    cell, file, kernel = nbval.plugin.IPyNbCell, nbval.plugin.IPyNbFile, nbval.kernel.RunningKernel
    patch = pytest.MonkeyPatch()
    # Methods are replaced, not classes: nbval's own ``super(IPyNbCell, self)`` would not find another class.
    patch.setattr(cell, "compare_outputs", with_claims(cell.compare_outputs))
    patch.setattr(kernel, "execute_cell_input", execute_as_jupyter)
    folder = tempfile.mkdtemp(prefix="ipython-")
    patch.setattr(file, "setup", with_environment(file.setup, folder))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(patch.undo)


def pytest_report_header(config: pytest.Config) -> str:
    return f"notebooks: claims by statistics, network {'blocked' if _is_blocked(config) else 'not blocked'}"


def pytest_collectstart(collector: pytest.Collector) -> None:
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED


def pytest_runtest_setup(item: pytest.Item) -> None:
    if hasattr(item, "cell"):
        item.output_timeout = OUTPUT_SECONDS
        item.config.option.nbval_cell_timeout = item.cell.metadata.get("timeout", CELL_SECONDS)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A cell that was never run has nothing to compare with, and nbval would let it pass."""
    if hasattr(item, "cell") and item.cell.source.strip() and item.cell.execution_count is None:
        item.raise_cell_error("The stored notebook was not executed: this cell has no outputs to compare with")


# The kernel


def _is_blocked(config: pytest.Config) -> bool:
    return config.getoption("--sockets-blocked") or os.environ.get("COURSE_BLOCK_SOCKETS", "0") not in ("", "0")


def kernel_environment(environment: Mapping[str, str], ipython: str, blocked: bool) -> dict[str, str]:
    """What a kernel is started with: as ``utils.chapters.execute`` does it, but comparing instead of writing.

    ``ipython`` is an empty folder: what the user lets IPython do at its start, and the user's history, stay outside.
    """
    result = {**environment, "COURSE_QUIET": "1", "OMP_NUM_THREADS": "1", "IPYTHONDIR": ipython}
    # MPLBACKEND would take the figures away; the others would make it another run than the stored one.
    for name in ("MPLBACKEND", "COURSE_WRITING", "COURSE_SEED"):
        result.pop(name, None)
    if blocked:
        result["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), result.get("PYTHONPATH")]))
    return result


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def with_environment(setup: Callable[[Any], None], ipython: str) -> Callable[[Any], None]:
    """nbval's method that starts a kernel, with the kernel's environment around it."""

    def wrapped(self: Any) -> None:
        blocked = _is_blocked(self.config)
        with _environment(kernel_environment(os.environ, ipython, blocked)):
            setup(self)
        if blocked:
            _need_blocked(self.kernel)

    return wrapped


def execute_as_jupyter(self: Any, cell_input: str, allow_stdin: bool | None = None) -> str:
    """In place of nbval's, which keeps no history: without it, IPython overlooks a ``;`` that hides a cell's value."""
    return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


def _need_blocked(kernel: Any) -> None:
    """Another ``sitecustomize`` could have been found first; then nothing would be blocked and all tests pass."""
    wanted = kernel.kc.execute("import socket; socket.BLOCKED", silent=True, store_history=False)
    while (reply := kernel.kc.get_shell_msg(timeout=OUTPUT_SECONDS))["parent_header"].get("msg_id") != wanted:
        pass
    if reply["content"]["status"] != "ok":
        raise RuntimeError("the network of the kernel is not blocked: its sitecustomize is not that of tests/offline")


# Comparing


def with_claims(exact: Callable[..., bool]) -> Callable[..., bool]:
    """nbval's method that compares outputs, for what is not a claim; claims and what belongs to them go our way."""

    def compare_outputs(self: Any, test: Iterable[Any], ref: Iterable[Any], skip_compare: Any = None) -> bool:
        new, stored = _by_kind(test), _by_kind(ref)
        same = exact(self, new["other"], stored["other"], skip_compare)
        problems = [
            *claim_problems(_payloads(stored, CLAIM_MIME), _payloads(new, CLAIM_MIME)),
            *check_problems(_payloads(stored, CHECK_MIME), _payloads(new, CHECK_MIME)),
            *glue_problems(_glue_names(stored["glue"]), _glue_names(new["glue"])),
        ]
        self.comparison_traceback.extend(problems)
        return same and not problems

    return compare_outputs


def _by_kind(outputs: Iterable[Any]) -> dict[str, list[Any]]:
    kinds: dict[str, list[Any]] = {CLAIM_MIME: [], CHECK_MIME: [], "glue": [], "other": []}
    for output in outputs:
        data = output.get("data", {})
        if CLAIM_MIME in data:
            kinds[CLAIM_MIME].append(output)
        elif CHECK_MIME in data:
            kinds[CHECK_MIME].append(output)
        elif any(kind.startswith(GLUE_PREFIX) for kind in data):
            kinds["glue"].append(output)
        else:
            kinds["other"].append(output)
    return kinds


def _payloads(kinds: Mapping[str, Sequence[Any]], mime: str) -> list[Any]:
    return [output["data"][mime] for output in kinds[mime]]


def _glue_names(outputs: Iterable[Any]) -> list[str]:
    return [output.get("metadata", {}).get("scrapbook", {}).get("name", "nothing") for output in outputs]


def claim_problems(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the claims of a rerun cell do not agree with its stored ones, by id."""
    old, now = ({str(claim.get("id")): claim for claim in claims} for claims in (stored, new))
    problems = [f"claim {id}: stored {_value(old[id])}, this run does not make it" for id in old if id not in now]
    problems += [f"claim {id}: this run {_value(now[id])}, not stored in this cell" for id in now if id not in old]
    problems += [f"claim {id}: made twice in one cell" for id in _twice(stored) | _twice(new)]
    for id in old.keys() & now.keys():
        reasons = _reasons(old[id], now[id])
        if reasons:
            values = f"stored {_value(old[id])}, this run {_value(now[id])}"
            problems.append(f"claim {id}: {values}: {'; '.join(reasons)}")
    return sorted(problems)


def _twice(claims: Sequence[Mapping[str, Any]]) -> set[str]:
    ids = [str(claim.get("id")) for claim in claims]
    return {id for id in ids if ids.count(id) > 1}


def _reasons(stored: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[str]:
    try:
        Claim(**stored)
        return agreement(stored, new).reasons
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        return [f"the stored claim is broken ({error})"]


def _value(claim: Mapping[str, Any]) -> str:
    try:
        return Claim(**claim).value()
    except (TypeError, ValueError):
        return repr(claim.get("mean"))


def check_problems(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """A chapter's own verdict on its claims must be that all agree; ``None`` is the verdict of a run that writes."""
    shows = [[check.get("shows") for check in checks] for checks in (stored, new)]
    problems = [] if shows[0] == shows[1] else [f"checks shown: stored {shows[0]}, this run {shows[1]}"]
    for check in new:
        disagree = check.get("disagree")
        if disagree is None:
            problems.append(f"the check of {check.get('chapter')!r} compared nothing: its claims are not recorded")
        elif disagree:
            problems.append(f"the chapter's own check says that these do not agree with its record: {disagree}")
    return problems


def glue_problems(stored: Sequence[str], new: Sequence[str]) -> list[str]:
    """The texts vary with the claims they repeat; which texts there are does not."""
    if sorted(stored) == sorted(new):
        return []
    lost, found = sorted(set(stored) - set(new)), sorted(set(new) - set(stored))
    return [f"texts for the prose: this run lacks {lost}, and {found} are not stored; each is glued once"]
