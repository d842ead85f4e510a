"""The sandbox beside the attacks: what honest code gets, what the machine's faults are called, what doctor finds."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from utils.grading import doctor, landlock, sandbox, seccomp
from utils.grading.limits import Limits
from utils.grading.sandbox import Call, Job, RejectedError, Tail, clean, copy_submission, run
from utils.grading.wire import Caps

ROOT = Path(__file__).parents[2]
LIMITS = Limits(wall=20.0, cpu=10, processes=40)
LEVEL = 3 if shutil.which("bwrap") else 2
needs_sandbox = pytest.mark.skipif(
    LEVEL == 2 and not (sys.platform == "linux" and landlock.abi()),
    reason="neither bubblewrap (apt-get install bubblewrap libseccomp2) nor Landlock is here",
)


def lab(folder, code):
    folder.mkdir(exist_ok=True)
    (folder / "lab.py").write_text(code)
    return folder


def one(folder, code, *arguments, limits=LIMITS, level=LEVEL, **options):
    job = Job(lab(folder, code), "lab.py", (Call("f", "f", arguments),), **options)
    return run(job, limits, level, allow_weak=True)


# Honest code


@needs_sandbox
@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("x * 2", [[2.0, 4.0]]),
        ("float(x[0])", [1.0]),
        ("[[1, 2], [3, 4]]", [[[1, 2], [3, 4]]]),
        ("(x, 3)", [[1.0, 2.0], 3]),
        ("{'b': x, 'a': 1}", [1, [1.0, 2.0]]),
        ("[x, (x, x[0] > 0)]", [[1.0, 2.0], [1.0, 2.0], True]),
    ],
)
def test_results_become_plain_arrays(tmp_path, returned, expected):
    outcome = one(tmp_path / "s", f"def f(x):\n    return {returned}\n", np.array([1.0, 2.0]))
    assert outcome.verdict == "ok", outcome
    found = outcome.records["f"].arrays
    assert len(found) == len(expected)
    assert all(np.array_equal(array, value) for array, value in zip(found, expected, strict=True))


@needs_sandbox
def test_tensors_go_in_and_come_out(tmp_path):
    code = "import torch\ndef f(x, n):\n    assert isinstance(x, torch.Tensor)\n    return (x * n).requires_grad_()\n"
    outcome = one(tmp_path / "s", code, np.ones((2, 3), np.float32), 4, limits=Limits(wall=60.0), tensors=True)
    assert outcome.verdict == "ok", outcome
    (found,) = outcome.records["f"].arrays
    assert found.dtype == np.float32 and np.array_equal(found, np.full((2, 3), 4))


OPTIMISERS = """
import sys
import torch

def below():
    return sum(name.startswith("torch._dynamo.") for name in sys.modules)

def f(start):
    found = []
    for kind in (torch.optim.SGD, torch.optim.Adam):
        x = start.clone().requires_grad_()
        made = kind([x], lr=0.1)
        for _ in range(3):
            made.zero_grad()
            (x**2).sum().backward()
            made.step()
        found.append(x)
    early = below()
    compiled = torch.compile(lambda x: x + 1, backend="eager")(start)
    from torch._dynamo import config
    return *found, compiled, early, below(), config.disable
"""


@needs_sandbox
def test_optimisers_do_not_wait_for_the_compiler_and_it_is_there_all_the_same(tmp_path):
    start = np.ones(2)
    outcome = one(tmp_path / "s", OPTIMISERS, start, limits=Limits(wall=60.0), tensors=True)
    assert outcome.verdict == "ok", outcome
    sgd, adam, compiled, early, late, disabled = outcome.records["f"].arrays
    x = torch.ones(2, dtype=torch.float64).requires_grad_()
    here = torch.optim.Adam([x], lr=0.1)
    for _ in range(3):
        here.zero_grad()
        (x**2).sum().backward()
        here.step()
    assert np.array_equal(adam, x.detach().numpy()) and sgd == pytest.approx(0.8**3)
    assert np.array_equal(compiled, start + 1) and early == 0 and late > 10 and not disabled


@needs_sandbox
def test_each_call_is_judged_by_its_own(tmp_path):
    code = """
import helper
def good(x):
    x += 1
    return x
def bad(x):
    raise KeyError("what went wrong " + "x" * 9999)
def text(x):
    return "a text"
"""
    folder = lab(tmp_path / "s", code)
    (folder / "helper.py").write_text("")
    names = ("good", "bad", "text", "missing", "good")
    job = Job(folder, "lab.py", tuple(Call(f"{i}/{name}", name, (np.zeros(2),)) for i, name in enumerate(names)))
    outcome = run(job, LIMITS, LEVEL)
    assert outcome.verdict == "student_error"
    assert [record.status for record in outcome.records.values()] == ["ok", *["student_error"] * 3, "ok"]
    text = outcome.records["1/bad"].text
    assert text.startswith("KeyError: 'what went wrong") and text.endswith("(line 7)") and len(text) < 1200
    assert "numbers" in outcome.records["2/text"].text and "missing" in outcome.records["3/missing"].text
    # the input that one call changed is another's as it was
    assert np.array_equal(outcome.records["4/good"].arrays[0], [1, 1])


@needs_sandbox
def test_a_file_that_does_not_parse_fails_every_call(tmp_path):
    outcome = one(tmp_path / "s", "def f(x:\n")
    assert outcome.verdict == "student_error" and outcome.records["f"].text.startswith("SyntaxError")


@needs_sandbox
def test_jobs_at_the_same_time_do_not_meet(tmp_path):
    code = "import time\ndef f(x):\n    time.sleep(0.3)\n    return x\n"
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda n: one(tmp_path / f"s{n}", code, np.full(3, n)), range(4)))
    assert [outcome.verdict for outcome in outcomes] == ["ok"] * 4
    assert [outcome.records["f"].arrays[0][0] for outcome in outcomes] == [0, 1, 2, 3]


@needs_sandbox
def test_time_and_memory_are_measured(tmp_path):
    code = """
import time
import numpy as np
def f():
    kept = np.ones(12_000_000)
    start = time.process_time()
    while time.process_time() - start < 0.4:
        pass
    return kept[:1]
"""
    outcome = one(tmp_path / "s", code)
    assert outcome.verdict == "ok"
    assert outcome.cpu > 0.4 and outcome.wall >= 0.4
    assert 96_000_000 < outcome.memory < 400_000_000


# The machine's faults


@pytest.mark.parametrize("level", [3, 2])
def test_a_sandbox_that_cannot_start_is_the_machines_fault(tmp_path, monkeypatch, level):
    monkeypatch.setattr(sandbox, "_python", lambda: ["/bin/false"])
    outcome = one(tmp_path / "s", "def f(): return 1\n", level=level)
    assert outcome.verdict == "infra_error" and not outcome.records


def test_missing_programs_are_the_machines_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = one(tmp_path / "s", "def f(): return 1\n", level=3)
    assert outcome.verdict == "infra_error" and "bubblewrap is not installed" in outcome.reason
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    outcome = one(tmp_path / "s", "def f(): return 1\n", level=2)
    assert outcome.verdict == "infra_error" and "pyseccomp" in outcome.reason


@needs_sandbox
def test_a_limit_that_the_harness_itself_cannot_keep_is_no_fault_of_the_student(tmp_path):
    outcome = one(tmp_path / "s", "def f(): return 1\n", limits=replace(LIMITS, start=0.01))
    assert outcome.verdict == "infra_error" and "did not start" in outcome.reason


@needs_sandbox
def test_a_machine_out_of_memory_is_no_fault_of_the_student(tmp_path, monkeypatch):
    kills = iter((3, 4))
    monkeypatch.setattr(sandbox, "_kernel_kills", lambda: next(kills))
    killed = "import os\ndef f():\n    os.kill(os.getpid(), 9)\n"
    assert one(tmp_path / "s", killed, level=2).verdict == "infra_error"
    monkeypatch.setattr(sandbox, "_kernel_kills", lambda: 3)
    assert one(tmp_path / "s", killed, level=2).verdict == "student_error"


@needs_sandbox
@pytest.mark.parametrize("level", [LEVEL, 2] if LEVEL == 3 else [2])
def test_a_killed_grader_leaves_no_process(tmp_path, level):
    """Also where the student's code asks not to be killed with its parent, and starts others."""
    marker = uuid.uuid4().hex
    code = f"""
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(60)", "{marker}"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""
    grader = f"""
from pathlib import Path
from utils.grading.limits import Limits
from utils.grading.sandbox import Call, Job, run
run(Job(Path({str(lab(tmp_path / "s", code))!r}), "lab.py", (Call("f", "f", ()),)), Limits(), {level})
"""
    process = subprocess.Popen([sys.executable, "-c", grader], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        assert _until(lambda: _marked(marker), 20), "the job did not start"
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    try:
        assert _until(lambda: not _marked(marker) and not any(map(_alive, family)), 5)
    finally:
        for left in [*family, *_marked(marker)]:
            if _alive(left):
                left.kill()


def test_what_has_ended_is_not_waited_for():
    """Nobody has taken note of its end yet: of a job's processes that is the machine's first one to do, some time."""
    ended = subprocess.Popen(["/bin/true"])
    process = psutil.Process(ended.pid)
    try:
        assert _until(lambda: process.status() == psutil.STATUS_ZOMBIE, 5)
        assert process.is_running() and not sandbox._runs(process)
    finally:
        ended.wait()
    assert not sandbox._runs(process) and sandbox._runs(psutil.Process())


def _marked(marker):
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1:] == [marker]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _until(condition, seconds):
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


# What goes in


def test_a_copy_has_the_bytes_and_neither_modes_nor_times(tmp_path):
    source, target = tmp_path / "from", tmp_path / "to"
    (source / "deep").mkdir(parents=True)
    target.mkdir()
    (source / "deep" / "run.sh").write_text("echo")
    (source / "deep" / "run.sh").chmod(0o4777)
    copy_submission(source, target)
    copied = target / "deep" / "run.sh"
    assert copied.read_text() == "echo" and stat.S_IMODE(copied.stat().st_mode) == 0o644


def test_a_submission_has_bounds(tmp_path, monkeypatch):
    source = lab(tmp_path / "from", "x" * 100)
    for name, most in (("_MOST_FILES", 0), ("_MOST_BYTES", 99)):
        with monkeypatch.context() as patched, pytest.raises(RejectedError, match="more than"):
            patched.setattr(sandbox, name, most)
            (tmp_path / name).mkdir()
            copy_submission(source, tmp_path / name)
    folder = source
    for depth in range(25):
        folder = folder / str(depth)
        folder.mkdir()
    (tmp_path / "deep").mkdir()
    with pytest.raises(RejectedError, match="deep"):
        copy_submission(source, tmp_path / "deep")


def test_a_missing_file_is_named(tmp_path):
    job = Job(lab(tmp_path / "s", ""), "other.py", (Call("f", "f", ()),))
    outcome = run(job, LIMITS, LEVEL)
    assert outcome.verdict == "rejected_input" and "other.py" in outcome.reason


def test_nothing_is_left_of_what_was_staged(tmp_path, monkeypatch):
    stages = tmp_path / "stages"
    stages.mkdir()
    stages.chmod(0o755)
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(stages))
    for code in ("def f(): return 1\n", "raise ValueError\n"):
        one(tmp_path / "s", code)
    assert not list(stages.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda job: (job, LIMITS, 4), "levels of isolation"),
        (lambda job: (job, LIMITS, 0), "levels of isolation"),
        (lambda job: (job, LIMITS, 1), "allow_weak"),
        (lambda job: (job, replace(LIMITS, results=Caps(count=2)), LEVEL), "calls need 3 records"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(*arguments(Job(lab(tmp_path / "s", ""), "lab.py", (Call("f", "f", ()),))))


@pytest.mark.parametrize(
    ("module", "names", "message"),
    [
        ("lab.py", (), "a name each"),
        ("lab.py", ("a", "a"), "all different"),
        ("lab.py", ("",), "a name each"),
        ("lab.py", ("a b",), "characters"),
        ("../lab.py", ("a",), "relative"),
        ("/etc/lab.py", ("a",), "relative"),
    ],
)
def test_a_job_is_checked(tmp_path, module, names, message):
    with pytest.raises(ValueError, match=message):
        Job(tmp_path, module, tuple(Call(name, "f", ()) for name in names))


def test_inputs_and_limits_are_checked(tmp_path):
    with pytest.raises(ValueError, match="plain arrays"):
        one(tmp_path / "s", "", np.array([None]))
    with pytest.raises(ValueError, match="wall is 0"):
        Limits(wall=0)
    with pytest.raises(ValueError, match="2 processes"):
        Limits(processes=1)


# What is printed


def test_start_and_end_of_an_output_are_kept():
    tail = Tail()
    for _ in range(100):
        tail.feed(b"a" * 1000)
    tail.feed(b"end")
    text = tail.text()
    assert text.startswith("aaa") and text.endswith("end") and f"[{100_003 - 2 * 8192} bytes left out]" in text
    short = Tail()
    short.feed(b"short\xff")
    assert short.text() == "short\ufffd"


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x9b2Jcleared\x1bc", "cleared"),
        ("a\u202eb\u2066c\u200bd\ufeff", "abcd"),
        ("one\r\ntwo\rthree\tfour\x00\x08", "one\ntwo\nthree\tfour"),
        ("\x1b", ""),
    ],
)
def test_escapes_are_removed(dirty, expected):
    assert clean(dirty) == expected


# The doctor


@needs_sandbox
def test_the_doctor_takes_the_highest_level_that_holds(monkeypatch, tmp_path):
    found = {3: ("T09 network: UDP reached the grader",), 2: (), 1: ()}
    monkeypatch.setattr(doctor, "escapes", found.__getitem__)
    isolation = doctor.examine()
    assert isolation.level == 2 and isolation.executes and isolation.failing == {"3": found[3]}
    assert isolation.kernel and isolation.python and isolation.landlock == landlock.abi()
    doctor.write(isolation, tmp_path / "isolation.json")
    assert json.loads((tmp_path / "isolation.json").read_text())["level"] == 2
    assert doctor.read(tmp_path / "isolation.json") == isolation


def test_below_the_floor_nothing_is_executed(monkeypatch):
    monkeypatch.setattr(doctor, "escapes", lambda level: ("T07 files",))
    weak = doctor.examine()
    assert weak.level == 1 and not weak.executes
    monkeypatch.setattr(doctor, "escapes", lambda level: ("the sandbox did not start: x",))
    assert doctor.examine().level == 0


def test_a_record_of_something_else_is_refused(tmp_path):
    (tmp_path / "isolation.json").write_text('{"level": 3}')
    with pytest.raises(ValueError, match="course doctor"):
        doctor.read(tmp_path / "isolation.json")


def test_the_canaries_sing_where_nothing_holds_them():
    """Without isolation every quiet canary gets out: else it would prove nothing where it stays in."""
    found = doctor.escapes(1)
    for attack in ("T07", "T08", "T09"):
        assert any(line.startswith(attack) for line in found), found
    assert {"T09 network: TCP reached the grader", "T09 network: UDP reached the grader"} <= set(found)


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_an_open_door_in_bubblewrap_is_found(monkeypatch):
    """Level 3 with the network, the grader's files or its processes left open fails the canary for it."""
    closed = sandbox.bubblewrap_command

    def opened(*arguments):
        command = [part for part in closed(*arguments) if part not in ("--unshare-net", "--unshare-all")]
        at = command.index("--seccomp")
        extra = ["--unshare-user", "--unshare-pid", "--unshare-uts"] if os.geteuid() else []
        return [*command[:at], *extra, "--bind", "/tmp", "/tmp", "--setenv", "TOKEN", "secret", *command[at:]]

    monkeypatch.setattr(sandbox, "bubblewrap_command", opened)
    monkeypatch.setattr(seccomp, "program", _harmless)
    monkeypatch.setattr(doctor, "_LIMITS", replace(doctor._LIMITS, files=1 << 40))
    found = doctor.escapes(3)
    assert {"T07", "T08", "T09"} <= {line[:3] for line in found}, found


def _harmless(namespaces, signals=True):
    return bytes([6, 0, 0, 0, 0, 0, 0xFF, 0x7F])  # one instruction: allow


def test_the_filter_is_made_for_both_levels():
    programs = {seccomp.program(True), seccomp.program(False), seccomp.program(False, signals=False)}
    assert len(programs) == 3 and all(len(program) % 8 == 0 for program in programs)


@needs_sandbox
def test_the_wall_limit_begins_when_the_harness_runs(tmp_path, monkeypatch):
    python = sandbox._python()
    monkeypatch.setattr(sandbox, "_python", lambda: ["/bin/sh", "-c", 'sleep 2.5; exec "$@"', "sh", *python])
    outcome = one(tmp_path / "s", "def f(): return 1\n", limits=replace(LIMITS, wall=2.0))
    assert outcome.verdict == "ok" and outcome.wall > 2.5
