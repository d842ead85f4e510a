"""Starts a job without bubblewrap, confined as far as the plan says, and lets no process of it outlive it.

``python -I supervisor.py PLAN``: PLAN is JSON with the command, the paths for Landlock (or null), the descriptor of the
filter of system calls (or null) and the grader's process id. Whatever the job leaves behind is adopted by this process
(a "child subreaper") and killed, at the job's end, when it is told to stop (SIGTERM), or when the grader dies.

Standalone: the standard library and ``landlock.py`` beside it. The student's code never runs in this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import landlock

sys.path.pop()

REFUSED = 70  # exit status: the confinement could not be set up, and nothing was started

_PDEATHSIG, _SECCOMP, _NO_NEW_PRIVS, _SUBREAPER = 1, 22, 38, 36
_FILTER_MODE = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def descendants(root: int) -> list[int]:
    """Process ids of all children of ``root`` and theirs."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, open_ends = [], [root]
    while open_ends:
        below = children.get(open_ends.pop(), [])
        found += below
        open_ends += below
    return found


def end_all() -> None:
    """Kills all descendants until none is left. A process with a kill pending cannot fork, so each round ends some."""
    while alive := descendants(os.getpid()):
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


def confine(plan: dict) -> None:
    """What the job's first process gives up before it starts."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    os.setsid()
    if plan["readable"] is not None:
        landlock.restrict(plan["readable"], plan["writable"])
    if plan["filter"] is not None:
        code = os.pread(plan["filter"], 1 << 20, 0)
        os.close(plan["filter"])
        program = _Program(len(code) // 8, code)
        if prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_SECCOMP, _FILTER_MODE, ctypes.byref(program)):
            raise OSError(ctypes.get_errno(), "the filter of system calls was refused")


def main() -> None:
    plan = json.loads(sys.argv[1])
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_SUBREAPER, 1, 0, 0, 0)
        prctl(_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != plan["grader"]:
        return  # the grader died before it could be watched
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            if sys.platform == "linux":
                prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            confine(plan)
            os.execv(plan["command"][0], plan["command"])
        except BaseException as error:
            os.write(2, f"supervisor: {type(error).__name__}: {error}\n".encode())
        os._exit(REFUSED)
    for descriptor in plan["close"]:
        os.close(descriptor)
    status = 0
    try:
        while (ended := os.wait())[0] != child:
            pass
        status = ended[1]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all()
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
