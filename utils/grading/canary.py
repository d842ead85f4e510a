"""What ``doctor`` lets loose in a sandbox: a submission that tries to get out. It runs inside, never in the grader.

Every function returns how many of its attempts succeeded; 0 is what a sandbox that holds gives. Standalone.
"""

import ctypes
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ALLOWED = {"PATH", "HOME", "LANG", "OMP_NUM_THREADS", "PWD", "LC_CTYPE"}


def _succeeds(attempt, *arguments):
    try:
        attempt(*arguments)
    except BaseException:
        return 0
    return 1


def read_files(secret, folder):
    """T07: a file of the grader's, by its path, through other processes' roots, and by listing its folder."""
    paths = [secret, *(f"/proc/{name}/root{secret}" for name in ("1", "self", str(os.getppid())))]
    found = sum(_succeeds(Path(path).read_bytes) for path in paths)
    found += _succeeds(os.listdir, folder)
    found += _succeeds(Path(folder, "written").write_text, "x")
    found += _succeeds(open, f"/proc/{os.getppid() or 1}/mem", "rb") if os.getppid() else 0
    return found


def read_environments():
    """T08: variables of the grader, in any process that can be seen, and the user's own files."""
    found = len(set(os.environ) - ALLOWED)
    for entry in Path("/proc").glob("[0-9]*") if _succeeds(os.listdir, "/proc") else ():
        try:
            content = (entry / "environ").read_bytes()
        except OSError:
            continue
        names = {part.split(b"=")[0].decode("utf-8", "replace") for part in content.split(b"\0") if part}
        found += len(names - ALLOWED)
    return found + sum(_succeeds(os.listdir, folder) for folder in ("/root/.ssh", "/home", "/etc/ssh"))


def reach_network(tcp, udp, name):
    """T09: the grader's own machine by TCP, UDP and an abstract UNIX address."""
    found = 0
    for family, kind, address in (
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", tcp)),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", udp)),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + name),
    ):
        try:
            with socket.socket(family, kind) as link:
                link.settimeout(0.5)
                link.connect(address)
                link.send(b"out")
                found += 1
        except OSError:
            continue
    return found


def signal_grader(grader):
    """T13: the grader's process, by signal 0 and by tracing (PTRACE_SEIZE, which does not stop it)."""
    libc = ctypes.CDLL(None, use_errno=True)
    return _succeeds(os.kill, grader, 0) + int(libc.ptrace(0x4206, grader, 0, 0) == 0)


def fork_many():
    """T11: processes until the system says no, and then some more; caught by nothing that they raise."""
    for _ in range(400):
        try:
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
        except OSError:
            time.sleep(0.02)
    return 0


def leave_daemon(marker):
    """T12: a process in a session of its own, with no parent, that stays."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            subprocess.run([sys.executable, "-I", "-c", "import time; time.sleep(60)", marker], check=False)
        os._exit(0)
    time.sleep(0.3)
    return 0


def fill_memory():
    """T14: more than there is, in one piece."""
    return np.ones((100_000, 100_000))


def fill_memory_slowly():
    """T14: more than the limit, in pieces that the kernel grants."""
    kept = []
    while True:
        kept.append(np.ones(1 << 20))
