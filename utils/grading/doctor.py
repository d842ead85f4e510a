"""Which sandbox holds on this machine: found by attacking it, not by looking for programs."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil

from utils.data.cache import write_atomically
from utils.grading import landlock
from utils.grading.limits import Limits
from utils.grading.sandbox import Call, Job, Outcome, run

FLOOR = 2  # below this level, nothing of a student's is executed unless the teacher says so
_LIMITS = Limits(wall=20.0, cpu=15, memory=256 << 20, processes=40)


@dataclass(frozen=True)
class Isolation:
    """What every mark is stamped with.

    Parameters
    ----------
    level : highest level whose canaries all failed to get out; 0 where none did.
    failing : level -> what got out, or why the sandbox did not start.
    kernel, python, bubblewrap, landlock, pyseccomp : versions; "" or 0 where missing.
    root : whether the grader runs as root; jobs then run as users of their own.
    checked : time of the check, UTC.
    """

    level: int
    failing: dict[str, tuple[str, ...]]
    kernel: str
    python: str
    bubblewrap: str
    landlock: int
    pyseccomp: str
    root: bool
    checked: str

    @property
    def executes(self) -> bool:
        """Whether students' code is run at all without the teacher's word."""
        return self.level >= FLOOR


def examine(levels: Sequence[int] = (3, 2, 1)) -> Isolation:
    """Tries the levels from the highest on until one holds."""
    failing: dict[str, tuple[str, ...]] = {}
    found = 0
    for level in sorted(levels, reverse=True):
        # Level 1 is not expected to hold anything but resources: it is the level of a machine without isolation.
        failures = escapes(level)
        if failures:
            failing[str(level)] = failures
        if not failures or (level == 1 and not any("did not start" in failure for failure in failures)):
            found = level
            break
    return Isolation(
        level=found,
        failing=failing,
        kernel=platform.release(),
        python=platform.python_version(),
        bubblewrap=_bubblewrap_version(),
        landlock=landlock.abi() if sys.platform == "linux" else 0,
        pyseccomp=_package_version("pyseccomp"),
        root=os.name == "posix" and os.geteuid() == 0,
        checked=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write(isolation: Isolation, path: Path) -> None:
    """``isolation.json``."""
    text = json.dumps(asdict(isolation), indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read(path: Path) -> Isolation:
    """What ``write`` wrote.

    Raises
    ------
    ValueError for a file that it did not write.
    """
    try:
        stored = json.loads(path.read_text())
        stored["failing"] = {level: tuple(failures) for level, failures in stored["failing"].items()}
        return Isolation(**stored)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} is no record of an isolation check ({error}); make it anew with `course doctor`"
        ) from error


def escapes(level: int) -> tuple[str, ...]:
    """What gets out of a sandbox of this level: a line for each canary; empty where it holds."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # so that the sandbox, not the modes of files, has to keep it shut
        submission = folder / "submission"
        submission.mkdir()
        shutil.copyfile(Path(__file__).with_name("canary.py"), submission / "canary.py")
        secret = folder / "secret.txt"
        secret.write_text("answer")
        marker = uuid.uuid4().hex
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        unix.bind("\0" + marker)
        quiet = (
            Call("T07 files of the grader", "read_files", (str(secret), str(folder))),
            Call("T08 environments and homes", "read_environments", ()),
            Call("T09 network", "reach_network", (tcp.getsockname()[1], udp.getsockname()[1], marker)),
            Call("T13 signals", "signal_grader", (os.getpid(),)),
        )
        outcome = _canaries(submission, level, quiet)
        if outcome.verdict == "infra_error":
            return (f"the sandbox did not start: {outcome.reason}",)
        found = [*_successes(quiet, outcome), *([] if not (folder / "written").exists() else ["T07 wrote a file"])]
        found += _heard(tcp, udp, unix)
        for call, expected in (
            # the daemon first: what a bomb leaves would keep it from starting
            (Call("T12 daemon", "leave_daemon", (marker,)), "ok"),
            (Call("T11 fork bomb", "fork_many", ()), "process_limit"),
            (Call("T14 memory", "fill_memory", ()), "memory"),
            (Call("T14 memory in pieces", "fill_memory_slowly", ()), "memory"),
        ):
            outcome = _canaries(submission, level, (call,))
            if outcome.verdict != expected:
                found.append(f"{call.name}: {outcome.verdict} instead of {expected} ({outcome.reason})")
            # at once: another job of the same user may end what is left
            found += ["T12 daemon: a process is left"] * bool(_left(marker))
    return tuple(found)


def _canaries(submission: Path, level: int, calls: tuple[Call, ...]) -> Outcome:
    # A record's name is a word; the number of the attack is the first of each of these.
    named = tuple(Call(f"{index}", call.function, call.arguments) for index, call in enumerate(calls))
    return run(Job(submission, "canary.py", named), _LIMITS, level, allow_weak=True)


def _successes(calls: tuple[Call, ...], outcome: Outcome) -> list[str]:
    """Calls that did not return 0. The code is ours, so what it says of itself can be believed."""
    found = []
    for index, call in enumerate(calls):
        record = outcome.records.get(str(index))
        if record is None or record.status != "ok":
            found.append(f"{call.name}: no answer ({record.text if record else outcome.reason})")
        elif np.any(record.arrays[0]):
            found.append(f"{call.name}: {int(record.arrays[0])} attempts succeeded")
    return found


def _heard(tcp: socket.socket, udp: socket.socket, unix: socket.socket) -> list[str]:
    """What arrived from inside, whatever the canary says."""
    found = []
    attempts: tuple[tuple[str, socket.socket, Callable[[], object]], ...] = (
        ("TCP", tcp, lambda: tcp.accept()[0].close()),
        ("UDP", udp, lambda: udp.recv(16)),
        ("UNIX", unix, lambda: unix.recv(16)),
    )
    for kind, link, receive in attempts:
        link.setblocking(False)
        try:
            receive()
        except BlockingIOError:
            continue
        found.append(f"T09 network: {kind} reached the grader")
    return found


def _left(marker: str) -> list[psutil.Process]:
    """Processes that carry the marker; ended, because they are ours."""
    found = []
    for process in psutil.process_iter():
        try:
            if marker in process.cmdline():
                process.kill()
                found.append(process)
        except psutil.Error:
            continue
    return found


def _bubblewrap_version() -> str:
    found = shutil.which("bwrap")
    if found is None:
        return ""
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    return said.removeprefix("bubblewrap").strip()


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
