"""Runs a student's code in a sandbox and says what came of it; the answers are arrays that nobody has compared yet.

Three levels, of which ``doctor`` finds the highest that holds on a machine:

3. bubblewrap: mount, process, network and user namespaces of its own, a filter of system calls, limits, no writable
   folder but a temporary one in memory, an empty environment. Started by root, the job runs as a user of its own.
2. Landlock, the filter and the limits, under a supervisor that leaves no process behind; nothing can be written.
1. the limits alone: refused unless the caller asks for it in so many words.

Sources: bubblewrap(1), https://docs.kernel.org/userspace-api/landlock.html, seccomp(2).
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import psutil

from utils.grading import landlock, seccomp
from utils.grading.limits import Limits
from utils.grading.wire import Parser, Record, pack

LEVELS = (1, 2, 3)
VERDICTS = (
    "ok",
    "wrong",
    "student_error",
    "timeout",
    "memory",
    "output_limit",
    "process_limit",
    "rejected_input",
    "tamper_suspected",
    "infra_error",
)

_HERE = Path(__file__).parent
_ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
_POLL = 0.1  # seconds between two looks at the job's processes
_GRACE = 2.0  # seconds that a job is given to disappear
_KEEP = 8192  # bytes of the start and of the end of an output
_FIRST_SLOT, _SLOTS = 60001, 500
_MOST_FILES, _MOST_BYTES = 2000, 256 << 20

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]", re.S
)
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class RejectedError(ValueError):
    """The submission holds something that is never run: a link, a device, too much."""


class SandboxError(RuntimeError):
    """The machine cannot give this sandbox."""


Argument: TypeAlias = "np.ndarray | bool | int | float | str | tuple[Argument, ...] | None"


@dataclass(frozen=True)
class Call:
    """One call of a student's function.

    Parameters
    ----------
    name : of the record that answers it.
    function : name in the student's module.
    arguments : arrays (passed as arrays or tensors, see ``Job``), numbers, texts or None, and tuples of such.
    cotangent : where given, the gradients of ``sum(result * cotangent)`` with respect to every floating argument follow
        the result, zeros where nothing flows. Only for tensors, and for functions that return one.
    """

    name: str
    function: str
    arguments: tuple[Argument, ...]
    cotangent: np.ndarray | None = None


@dataclass(frozen=True)
class Weights:
    """A checkpoint of the submission, read inside the sandbox with ``weights_only``; its tensors are the answer."""

    name: str
    file: str


@dataclass(frozen=True)
class Job:
    """What one sandbox is to do.

    Parameters
    ----------
    submission : folder of one student; a copy goes in.
    module : the student's file in it, or "" where nothing is imported.
    calls : what is asked, in order.
    tensors : whether functions take PyTorch's tensors instead of arrays.
    """

    submission: Path
    module: str
    calls: tuple[Call | Weights, ...]
    tensors: bool = False

    def __post_init__(self) -> None:
        names = [call.name for call in self.calls]
        if not names or len(set(names)) < len(names) or not all(names):
            raise ValueError(f"a job has calls with a name each, all different; got {names}")
        for name in names:
            pack(name, "ok")  # says what a record's name may be
        if not self.tensors and any(isinstance(call, Call) and call.cotangent is not None for call in self.calls):
            raise ValueError("gradients are asked of functions that take tensors; set tensors=True")
        for path in [self.module, *(call.file for call in self.calls if isinstance(call, Weights))]:
            if path and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
                raise ValueError(f"files are named relative to the submission; got {path!r}")

    @property
    def torch(self) -> bool:
        return self.tensors or any(isinstance(call, Weights) for call in self.calls)


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Parameters
    ----------
    verdict : one of ``VERDICTS``, never ``wrong``: nothing was compared.
    reason : one sentence.
    records : by the name of their call; a call without one was not answered.
    stdout, stderr : start and end of what was printed, without escapes and invisible characters.
    wall, cpu : seconds.
    memory : bytes, the most that was seen in use.
    bad_records : records that the harness does not write.
    level : of the sandbox.
    """

    verdict: str
    reason: str
    level: int
    records: Mapping[str, Record] = field(default_factory=lambda: MappingProxyType({}))
    stdout: str = ""
    stderr: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    bad_records: int = 0


def run(job: Job, limits: Limits, level: int, allow_weak: bool = False) -> Outcome:
    """Runs ``job`` in a sandbox of this level.

    A verdict other than ``ok`` does not void the records that arrived: each call is judged by its own. What the machine
    did wrong is ``infra_error``, whatever the student's code did.

    Raises
    ------
    ValueError for a level that there is not, for level 1 without ``allow_weak``, for more calls than records.
    """
    if level not in LEVELS:
        raise ValueError(f"the levels of isolation are {LEVELS}; got {level}")
    if level < 2 and not allow_weak:
        raise ValueError("level 1 keeps student code from nothing but resources; allow_weak=True runs it all the same")
    if len(job.calls) + 2 > limits.results.count:
        raise ValueError(
            f"{len(job.calls)} calls need {len(job.calls) + 2} records; at most {limits.results.count} may come"
        )
    start = time.monotonic()
    try:
        with _slot() as uid, _staged(job, limits, level, uid) as stage, _filter(level) as filter_fd:
            return _watched(job, limits, level, stage, uid, filter_fd, start)
    except RejectedError as error:
        return Outcome("rejected_input", str(error), level)
    except (OSError, SandboxError, seccomp.SeccompError, psutil.Error) as error:
        return Outcome("infra_error", f"{type(error).__name__}: {error}", level, wall=time.monotonic() - start)


def clean(text: str) -> str:
    """A text of the student's for people to read: no terminal escapes, control, zero-width or direction characters."""
    return _UNSEEN.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


class Tail:
    """Start and end of a stream, and how long it was."""

    def __init__(self) -> None:
        self.total = 0
        self._head = bytearray()
        self._tail = bytearray()

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = _KEEP - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-_KEEP:]

    def text(self) -> str:
        """What was kept, cleaned, with a line that says how much is missing between the two."""
        missing = self.total - len(self._head) - len(self._tail)
        gap = f"\n[{missing} bytes left out]\n".encode() if missing else b""
        return clean(bytes(self._head + gap + self._tail).decode("utf-8", "replace"))


# What goes in


@contextmanager
def _slot() -> Iterator[int | None]:
    """A user id that no other job has now; None where the grader is not root and jobs run as its user.

    Held by an address in the kernel's abstract names, which disappears with its holder, however that ends.
    """
    if os.name != "posix" or os.geteuid() != 0:
        yield None
        return
    for uid in range(_FIRST_SLOT, _FIRST_SLOT + _SLOTS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
            try:
                holder.bind(f"\0course-grading-slot-{uid}")
            except OSError:
                continue
            yield uid
            return
    raise SandboxError(f"all {_SLOTS} users for jobs are taken")


@contextmanager
def _filter(level: int) -> Iterator[int | None]:
    """Descriptor of a file with the filter of system calls; None at level 1."""
    if level < 2:
        yield None
        return
    with tempfile.TemporaryFile() as file:
        file.write(seccomp.program(level == 3, level == 3 or landlock.signals_are_scoped()))
        file.seek(0)
        yield file.fileno()


@contextmanager
def _staged(job: Job, limits: Limits, level: int, uid: int | None) -> Iterator[Path]:
    """A new folder with ``job`` (the harness, its inputs) and ``sub`` (a copy of the submission), for one user."""
    stage = Path(tempfile.mkdtemp())  # of a name that says nothing, because it can be seen inside
    try:
        os.mkdir(stage / "job", 0o755)
        os.mkdir(stage / "sub", 0o755)
        copy_submission(job.submission, stage / "sub")
        if job.module and not (stage / "sub" / job.module).is_file():
            raise RejectedError(f"{job.module} is not in the submission")
        for name in ("worker.py", "wire.py"):
            shutil.copyfile(_HERE / name, stage / "job" / name)
        calls, inputs = _described(job)
        plan = {
            "module": job.module,
            "torch": job.torch,
            "tensors": job.tensors,
            "most": limits.results.record,
            "rlimits": sorted(limits.rlimits(0 if level == 3 or uid is not None else _own_tasks()).items()),
            "calls": calls,
        }
        (stage / "job" / "job.json").write_text(json.dumps(plan))
        np.savez(stage / "job" / "inputs.npz", **inputs)
        for path in (stage / "job").iterdir():
            path.chmod(0o644)
        if uid is not None:
            os.chown(stage, uid, uid)
            stage.chmod(0o500)
        yield stage
    finally:
        shutil.rmtree(stage)


def _described(job: Job) -> tuple[list[dict], dict[str, np.ndarray]]:
    calls, inputs = [], {}
    for call in job.calls:
        if isinstance(call, Weights):
            calls.append({"name": call.name, "weights": call.file})
            continue
        arguments = [_as_json(argument, call.name, inputs) for argument in call.arguments]
        cotangent = None if call.cotangent is None else _as_json(call.cotangent, call.name, inputs)
        calls.append({"name": call.name, "function": call.function, "arguments": arguments, "cotangent": cotangent})
    return calls, inputs


def _as_json(argument: Argument, call: str, inputs: dict[str, np.ndarray]) -> dict:
    """An argument for ``job.json``; arrays are put into ``inputs`` under a name of their own."""
    if isinstance(argument, tuple):
        return {"tuple": [_as_json(part, call, inputs) for part in argument]}
    if not isinstance(argument, np.ndarray):
        return {"constant": argument}
    if argument.dtype.hasobject:
        raise ValueError(f"inputs are plain arrays; an argument of {call} has dtype {argument.dtype}")
    key = f"a{len(inputs)}"
    inputs[key] = argument
    return {"input": key}


def copy_submission(source: Path, target: Path) -> None:
    """Copies the plain files of a folder, which may change while it is read; modes and times stay behind.

    Raises
    ------
    RejectedError for a link, a device, a pipe or a socket, and for more than 2000 files or 256 MB.
    """
    files = size = 0

    def copy(folder: int, into: Path, where: str) -> None:
        nonlocal files, size
        for name in sorted(os.listdir(folder)):
            files += 1
            if files > _MOST_FILES:
                raise RejectedError(f"the submission has more than {_MOST_FILES} files")
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            except OSError as error:
                raise RejectedError(f"{where}{name} cannot be read as a plain file: {error.strerror}") from None
            try:
                mode = os.fstat(fd).st_mode
                if stat.S_ISDIR(mode):
                    if where.count("/") >= 20:
                        raise RejectedError(f"{where}{name} lies more than 20 folders deep")
                    (into / name).mkdir(0o755)
                    copy(fd, into / name, f"{where}{name}/")
                elif stat.S_ISREG(mode):
                    with open(into / name, "xb") as file:
                        while block := os.read(fd, 1 << 20):
                            size += len(block)
                            if size > _MOST_BYTES:
                                raise RejectedError(f"the submission has more than {_MOST_BYTES} bytes")
                            file.write(block)
                    (into / name).chmod(0o644)
                else:
                    raise RejectedError(f"{where}{name} is neither a file nor a folder")
            finally:
                os.close(fd)

    root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        copy(root, target, "")
    finally:
        os.close(root)


# The command


def _python() -> list[str]:
    """The interpreter of this environment by its path in it, which decides what it can import."""
    return [sys.executable, "-I", "-B"]


def _interpreter_paths() -> list[str]:
    return sorted({sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)} - {"/usr", "/"})


def _identity(uid: int, keep: str = "") -> list[str]:
    """From root to a user of its own, with no capability but the one to keep."""
    kept = f"-all,+{keep}" if keep else "-all"
    command = ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    ambient = [f"--ambient-caps={kept}"] if keep else []
    return [*command, f"--inh-caps={kept}", *ambient, f"--bounding-set={kept}", "--pdeathsig", "KILL", "--"]


def bubblewrap_command(stage: Path, limits: Limits, uid: int | None, filter_fd: int, result_fd: int) -> list[str]:
    """The command line of level 3."""
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError("bubblewrap is not installed")
    scratch = str(limits.scratch)
    command = [found, "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    if uid is None:
        # As process 1, the job dies with bubblewrap. As root it could not: bubblewrap gives up the right to end a
        # process of another user, so there its own process 1 stays, whose environment and memory the job cannot read.
        command += ["--as-pid-1", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"]
        command += ["--cap-drop", "ALL", "--disable-userns"]
    else:
        # Root needs no user namespace, and without one the kernel counts the processes of the job's own user.
        command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"]
    for name in ("lib", "lib64"):
        if Path("/", name).exists():
            command += ["--symlink", f"usr/{name}", f"/{name}"]
    command += ["--perms", "0755", "--dir", "/etc", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):
        command += ["--perms", "1777", "--size", scratch, "--tmpfs", folder]
    # After the temporary folder, because the environment may lie in it.
    parents = _ancestors(_interpreter_paths()) - {Path("/"), Path("/tmp")} - set(map(Path, _interpreter_paths()))
    for parent in sorted(parents):  # else made for the owner alone
        command += ["--perms", "0755", "--dir", str(parent)]
    for path in _interpreter_paths():
        command += ["--ro-bind", path, path]
    command += ["--ro-bind", str(stage / "job"), "/job", "--ro-bind", str(stage / "sub"), "/sub"]
    # What bubblewrap builds the root and /dev from is writable memory without a limit, until it is closed.
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--clearenv"]
    for name, value in _ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--seccomp", str(filter_fd)]
    return [*command, *([] if uid is None else _identity(uid)), *_python(), "/job/worker.py", str(result_fd)]


def supervised_command(stage: Path, level: int, uid: int | None, filter_fd: int | None, result_fd: int) -> list[str]:
    """The command line of levels 2 and 1."""
    worker = [*_python(), str(stage / "job" / "worker.py"), str(result_fd), str(stage / "job"), str(stage / "sub")]
    if uid is not None:
        closed = any(not path.stat().st_mode & stat.S_IXOTH for path in _ancestors(_interpreter_paths()))
        # An interpreter in root's home is out of reach of other users; Landlock keeps this reading to the paths below.
        worker = [*_identity(uid, "dac_read_search" if closed else ""), *worker]
    readable = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/urandom", "/dev/random", "/dev/zero"]
    readable += ["/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", *_interpreter_paths()]
    plan = {
        "grader": os.getpid(),
        "command": worker,
        "readable": [*readable, str(stage)] if level == 2 else None,
        "writable": ["/dev/null"],
        "filter": filter_fd,
        "close": [result_fd] if filter_fd is None else [result_fd, filter_fd],
    }
    return [*_python(), str(_HERE / "supervisor.py"), json.dumps(plan)]


def _ancestors(paths: list[str]) -> set[Path]:
    return {ancestor for path in map(Path, paths) for ancestor in (path, *path.parents)}


# The watch


def _watched(
    job: Job, limits: Limits, level: int, stage: Path, uid: int | None, filter_fd: int | None, start: float
) -> Outcome:
    read_fd, write_fd = os.pipe()
    try:
        if level == 3:
            command = bubblewrap_command(stage, limits, uid, filter_fd, write_fd)
        else:
            command = supervised_command(stage, level, uid, filter_fd, write_fd)
        passed = (write_fd,) if filter_fd is None else (write_fd, filter_fd)
        ooms = _kernel_kills()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={} if level == 3 else _ENVIRONMENT,  # bubblewrap itself can be seen inside
            cwd="/",
            pass_fds=passed,
            start_new_session=True,
        )
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    watch = _Watch(process, read_fd, limits, level, start)
    try:
        watch.until_end()
    finally:
        watch.close()
    return _judged(job, limits, level, watch, _kernel_kills() > ooms)


class _Watch:
    """Reads what a job sends and prints, looks at what it uses, and ends all of it at a limit."""

    def __init__(self, process: subprocess.Popen, results: int, limits: Limits, level: int, start: float) -> None:
        self.process, self.limits, self.level, self.start = process, limits, level, start
        self.parser = Parser(limits.results)
        self.stdout, self.stderr = Tail(), Tail()
        self.verdict = self.reason = ""
        self.cpu, self.memory, self.wall = 0.0, 0, 0.0
        self.tasks = 0  # processes and threads, the most that were seen
        self._ready = 0.0  # seconds after which the harness ran
        self._seen: set[psutil.Process] = set()
        self._readers = selectors.DefaultSelector()
        self._results = results
        for fd, feed in (
            (results, self.parser.feed),
            (process.stdout.fileno(), self.stdout.feed),
            (process.stderr.fileno(), self.stderr.feed),
        ):
            os.set_blocking(fd, False)
            self._readers.register(fd, selectors.EVENT_READ, feed)

    def until_end(self) -> None:
        looked = 0.0
        while not self._ended():
            self._read(_POLL)
            now = time.monotonic()
            if now - looked >= _POLL:
                looked = now
                self._look(now - self.start)
            if self.verdict:
                self._kill()
                break
        self.wall = time.monotonic() - self.start
        while self._read(0):  # what still lies in the pipes
            if self._too_much():
                break
        self._wait_for_the_rest()

    def _wait_for_the_rest(self) -> None:
        """Until nothing of the job runs: bubblewrap may end a moment before the namespace that it made."""
        self._wait()
        for process in filter(_runs, self._seen):
            with suppress(psutil.Error):
                process.kill()
        self._wait()

    def _wait(self) -> None:
        limit = time.monotonic() + _GRACE
        while any(map(_runs, self._seen)) and time.monotonic() < limit:
            time.sleep(0.01)

    def close(self) -> None:
        if self.process.returncode is None:
            self._kill()
        self._readers.close()
        os.close(self._results)
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self, seconds: float) -> bool:
        if not self._readers.get_map():
            time.sleep(seconds)
            return False
        ready = self._readers.select(seconds)
        for key, _ in ready:
            data = os.read(key.fd, 1 << 16)
            if data:
                key.data(data)
            else:
                self._readers.unregister(key.fd)
        self._too_much()
        return bool(ready)

    def _too_much(self) -> bool:
        printed = self.stdout.total + self.stderr.total
        if not self.verdict and printed > self.limits.output:
            self._stop("output_limit", f"printed more than {self.limits.output} bytes")
        if not self.verdict and self.parser.over:
            self._stop("output_limit", self.parser.over)
        return bool(self.verdict)

    def _look(self, wall: float) -> None:
        if not self.parser.records:
            if wall > self.limits.start:
                self._stop("infra_error", f"the harness did not start within {self.limits.start:g} s")
                return
        elif not self._ready:
            self._ready = wall
        elif wall - self._ready > self.limits.wall:
            self._stop("timeout", f"not finished after {self.limits.wall:g} s")
            return
        tasks, resident, cpu, processes = 0, 0, 0.0, _tree(self.process.pid)
        self._seen.update(processes)
        for process in processes:
            with suppress(psutil.Error), process.oneshot():
                tasks += process.num_threads()
                resident += process.memory_info().rss
                cpu += sum(process.cpu_times()[:4])
        self.cpu, self.tasks = max(self.cpu, cpu), max(self.tasks, tasks)
        if resident > self.limits.memory:  # shared pages are counted more than once here
            resident = sum(map(_proportional, processes))
        self.memory = max(self.memory, resident)
        if resident > self.limits.memory:
            self._stop("memory", f"used more than {self.limits.memory} bytes")
        elif cpu > self.limits.cpu:
            self._stop("timeout", f"used more than {self.limits.cpu} s of processor time")
        elif tasks >= self.limits.processes:
            self._stop("process_limit", f"started {self.limits.processes} processes and threads or more")
        elif self.level == 3 and self.parser.records and processes and _entries(processes[-1].pid) > self.limits.files:
            # not before the harness runs: until bubblewrap has changed its root, that folder is the machine's own
            self._stop("output_limit", f"made more than {self.limits.files} files")

    def _stop(self, verdict: str, reason: str) -> None:
        self.verdict, self.reason = verdict, reason

    def _ended(self) -> bool:
        if self.process.returncode is None:
            pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu = max(self.cpu, used.ru_utime + used.ru_stime)
        return self.process.returncode is not None

    def _kill(self) -> None:
        """Ends the job's first process inside, with which its namespace ends, or tells the supervisor to end all."""
        if self.level == 3:
            for process in _tree(self.process.pid):
                with suppress(psutil.Error):
                    process.kill()
        else:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
        limit = time.monotonic() + _GRACE
        while not self._ended() and time.monotonic() < limit:
            self._read(0.01)
        if not self._ended():
            for process in [*_tree(self.process.pid), psutil.Process(self.process.pid)]:
                with suppress(psutil.Error):
                    process.kill()
            while not self._ended():
                time.sleep(0.01)


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _runs(process: psutil.Process) -> bool:
    """Whether a process has not ended; that the machine's first process has yet to note its end does not matter."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _own_tasks() -> int:
    """Processes and threads of this user."""
    tasks = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == os.getuid():
                tasks += process.num_threads()
    return tasks


def _proportional(process: psutil.Process) -> int:
    with suppress(psutil.Error, AttributeError):
        return process.memory_full_info().pss
    with suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _entries(pid: int) -> int:
    """Files and folders in the temporary folder that a job sees; the mount cannot be moved or replaced from inside."""
    with suppress(OSError):
        found = os.statvfs(f"/proc/{pid}/root/tmp")
        return found.f_files - found.f_ffree
    return 0


def _kernel_kills() -> int:
    """How often this machine ran out of memory."""
    with suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.M)
        return int(found[1]) if found else 0
    return 0


# The verdict


def _judged(job: Job, limits: Limits, level: int, watch: _Watch, out_of_memory: bool) -> Outcome:
    code = watch.process.returncode
    sent = watch.parser.records
    expected = {call.name for call in job.calls}
    started = bool(sent) and (sent[0].name, sent[0].status) == ("", "started")
    records: dict[str, Record] = {}
    bad, finished = int(bool(watch.parser.error)), False
    for record in sent[1:]:
        if (record.name, record.status) == ("", "finished") and not finished:
            finished = True
        elif finished or record.name not in expected or record.name in records:
            bad += 1
        else:
            records[record.name] = record

    if not started:
        verdict = "infra_error"
        reason = f"the harness did not start (exit status {code}): {watch.reason or watch.stderr.text()[-500:]}"
    elif watch.verdict:
        verdict, reason = watch.verdict, watch.reason
    elif not finished and out_of_memory and code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        verdict, reason = "infra_error", "the machine ran out of memory"
    elif not finished and watch.cpu > limits.cpu:
        verdict, reason = "timeout", f"used more than {limits.cpu} s of processor time"
    elif bad and watch.tasks > limits.processes // 2:
        # children of a fork bomb that could not grow any more, each of which goes on to answer
        verdict, reason = "process_limit", f"started {watch.tasks} processes and threads, which answered in turn"
    elif bad:
        verdict, reason = "tamper_suspected", watch.parser.error or "answers that were not asked for, or given twice"
    else:
        verdict, reason = _of_records(records, expected, code)
    return Outcome(
        verdict=verdict,
        reason=clean(reason),
        level=level,
        records=MappingProxyType(records),
        stdout=watch.stdout.text(),
        stderr=watch.stderr.text(),
        wall=watch.wall,
        cpu=watch.cpu,
        memory=watch.memory,
        bad_records=bad,
    )


def _of_records(records: dict[str, Record], expected: set[str], code: int) -> tuple[str, str]:
    for status in ("memory", "process_limit", "output_limit", "student_error"):
        for record in records.values():
            if record.status == status:
                return status, f"{record.name}: {record.text}"
    if any(record.status != "ok" for record in records.values()):
        return "tamper_suspected", "a status that no call has"
    if missing := sorted(expected - records.keys()):
        return "student_error", f"ended (exit status {code}) before it answered {', '.join(missing[:5])}"
    return "ok", "every call was answered"
