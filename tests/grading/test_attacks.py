"""The attacks T01 to T18, T25 to T27, T33 and T34 of the threat matrix, at every level of isolation of this machine.

Each is a submission to a small lab of two functions. What must hold for all of them: no more points than the arrays
earn, the verdict of the matrix, nothing written outside, no process left, and an honest neighbour with the same bytes.
"""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from utils.grading import doctor, landlock, wire
from utils.grading.limits import Limits
from utils.grading.sandbox import VERDICTS, Call, Job, Weights, run

LIMITS = Limits(wall=20.0, cpu=10, memory=512 << 20, processes=40, file_size=1 << 20, files=500, output=1 << 18)

HONEST = """
import numpy as np

def class_means(x, y, n):
    return np.stack([x[y == c].mean(0) for c in range(n)])

def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
"""
WRONG = """
import numpy as np

def class_means(x, y, n):
    return x[:n]

def softmax(x):
    return x
"""


def _level(number):
    missing = {
        3: "" if shutil.which("bwrap") else "bubblewrap is not installed (apt-get install bubblewrap libseccomp2)",
        2: "" if sys.platform == "linux" and landlock.abi() else "this kernel has no Landlock",
    }[number]
    return pytest.param(number, id=f"level{number}", marks=pytest.mark.skipif(bool(missing), reason=missing))


@pytest.fixture(scope="module", params=[_level(3), _level(2)])
def level(request):
    return request.param


def lab_calls(seed, episodes=3):
    """Calls of the lab on fresh inputs, with the right answers: shuffled labels, several examples of each class."""
    random = np.random.default_rng(seed)
    calls, answers = [], {}
    for episode in range(episodes):
        x, y = random.normal(size=(12, 4)), random.permutation(np.repeat(np.arange(4), 3))
        calls.append(Call(f"class_means/{episode}", "class_means", (x, y, 4)))
        answers[f"class_means/{episode}"] = np.stack([x[y == c].mean(0) for c in range(4)])
        calls.append(Call(f"softmax/{episode}", "softmax", (x,)))
        answers[f"softmax/{episode}"] = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    return tuple(calls), answers


def score(outcome, answers):
    """Points, given by the host alone: answers that are close to the right ones."""
    return sum(
        len(found.arrays) == 1
        and found.arrays[0].shape == answers[name].shape
        and bool(np.allclose(found.arrays[0], answers[name]))
        for name, found in outcome.records.items()
        if found.status == "ok"
    )


def result_bytes(outcome):
    return {name: [array.tobytes() for array in record.arrays] for name, record in outcome.records.items()}


@pytest.fixture(scope="module", autouse=True)
def neighbour(level, tmp_path_factory):
    """An honest submission, run before and after all attacks of a level: the same bytes, full points."""
    folder = tmp_path_factory.mktemp("neighbour")
    (folder / "lab.py").write_text(HONEST)
    calls, answers = lab_calls(7)
    before = run(Job(folder, "lab.py", calls), LIMITS, level)
    assert before.verdict == "ok" and score(before, answers) == len(answers), before
    yield
    after = run(Job(folder, "lab.py", calls), LIMITS, level)
    assert result_bytes(after) == result_bytes(before)
    assert (folder / "lab.py").read_text() == HONEST and [path.name for path in folder.iterdir()] == ["lab.py"]


@pytest.fixture
def attack(level, tmp_path):
    """Runs a submission, checks what must hold for all, and gives the outcome and its points."""

    def attacked(code, limits=LIMITS, files=None, calls=None):
        folder = tmp_path / "submission"
        folder.mkdir(exist_ok=True)
        (folder / "lab.py").write_text(textwrap.dedent(code))
        for name, content in (files or {}).items():
            (folder / name).write_text(content)
        asked, answers = calls or lab_calls(seed=len(code))
        before, children = snapshot(tmp_path), {child.pid for child in psutil.Process().children(recursive=True)}
        outcome = run(Job(folder, "lab.py", asked), limits, level)
        assert outcome.verdict in VERDICTS
        assert snapshot(tmp_path) == before, "a file was changed outside"
        left = [child for child in psutil.Process().children(recursive=True) if child.pid not in children]
        assert not left, f"processes are left: {left}"
        return outcome, score(outcome, answers)

    return attacked


def snapshot(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.fixture(scope="module")
def escapes(level):
    return doctor.escapes(level)


@pytest.mark.parametrize("attack_id", ["T07", "T08", "T09", "T11", "T12", "T13", "T14", "the sandbox"])
def test_canaries_stay_inside(escapes, attack_id):
    assert not [line for line in escapes if line.startswith(attack_id)]


def test_t01_scores_that_a_submission_writes_are_not_read(attack):
    outcome, points = attack(
        WRONG
        + """
import json
print(json.dumps({"score": 100}))
for path in ("results.json", "/job/results.json", "/sub/results.json", "/tmp/results.json"):
    try:
        open(path, "w").write(json.dumps({"score": 100}))
    except OSError:
        pass
"""
    )
    assert outcome.verdict == "ok" and points == 0
    assert '{"score": 100}' in outcome.stdout


FORGE = """
import os, sys, stat
import numpy as np

def pipes():
    for fd in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            pass
"""


@pytest.mark.parametrize(
    "forged",
    [
        "b'{\"score\": 100}' * 10",
        "wire.pack('class_means/0', 'ok', '', [np.zeros((4, 4))])",
        "wire.pack('score', 'ok', '', [np.full(1, 100.0)])",
        "wire.pack('', 'finished')",
    ],
    ids=["text", "record", "unasked", "end"],
)
def test_t02_forged_records_earn_nothing(attack, forged):
    outcome, points = attack(
        WRONG + FORGE + f"wire = sys.modules['wire']\nfor fd in pipes():\n    os.write(fd, {forged})\n"
    )
    assert outcome.verdict == "tamper_suspected" and points == 0
    assert outcome.bad_records >= 1


def test_t03_patches_and_shadowing_files_change_nothing(attack):
    patches = """
import builtins, json, unittest
np.allclose = np.array_equal = np.testing.assert_allclose = lambda *a, **k: True
builtins.all = builtins.any = lambda *a: True
unittest.TestCase.assertEqual = lambda *a: None
"""
    shadow = "raise SystemExit('shadowed')\n"
    names = ("numpy.py", "json.py", "wire.py", "torch.py", "sitecustomize.py", "usercustomize.py", "conftest.py")
    outcome, points = attack(WRONG + patches, files=dict.fromkeys(names, shadow))
    assert outcome.verdict == "ok" and points == 0
    outcome, points = attack(HONEST, files=dict.fromkeys(names, shadow))
    assert outcome.verdict == "ok" and points == 6


def test_t04_objects_that_claim_to_be_equal_are_refused(attack):
    outcome, points = attack("""
        import numpy as np

        class Same:
            def __eq__(self, other):
                return True
            __hash__ = None

        class Array(np.ndarray):
            def __eq__(self, other):
                return True

        def class_means(x, y, n):
            return Same() if x[0, 0] > 0 else np.array([Same()], dtype=object)

        def softmax(x):
            return x.view(Array)
    """)
    assert outcome.verdict == "student_error" and points == 0
    assert {record.status for name, record in outcome.records.items() if name[0] == "c"} == {"student_error"}
    assert {type(record.arrays[0]) for name, record in outcome.records.items() if name[0] == "s"} == {np.ndarray}


@pytest.mark.parametrize(
    "leave",
    ["os._exit(0)", "sys.exit(0)", "os.closerange(0, 256)", "atexit.register(print); os.abort()"],
)
def test_t05_leaving_early_is_no_answer(attack, leave):
    outcome, points = attack(f"""
        import atexit, os, sys

        def class_means(x, y, n):
            {leave}

        softmax = class_means
    """)
    assert outcome.verdict == "student_error" and points == 0


@pytest.mark.parametrize("trick", ["get_ipython().ast_transformers.append(print)", "%%javascript"])
def test_t06_there_is_no_notebook_to_patch(attack, trick):
    outcome, points = attack(f"{trick}\n{HONEST}")
    assert outcome.verdict == "student_error" and points == 0


@pytest.mark.parametrize(
    ("endless", "limits"),
    [
        ("while True: pass", {"wall": 3.0}),
        ("time.sleep(1e9)", {"wall": 3.0}),
        ("while True: pass", {"cpu": 1}),
    ],
    ids=["loop", "sleep", "cpu"],
)
def test_t10_endless_code_is_ended_at_the_limit(attack, endless, limits):
    start = time.monotonic()
    outcome, points = attack(
        f"""
        import signal, time
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        {endless}
        """,
        replace(LIMITS, **limits),
    )
    assert outcome.verdict == "timeout" and points == 0
    assert time.monotonic() - start < LIMITS.wall  # ended by the limit of this run, not by the general one


def test_t11_threads_are_counted_too(attack):
    outcome, points = attack("""
        import threading, time
        while True:
            try:
                threading.Thread(target=time.sleep, args=(30,)).start()
            except RuntimeError:
                time.sleep(0.1)
    """)
    assert outcome.verdict == "process_limit" and points == 0


def test_t11_an_error_at_the_limit_is_named(attack):
    outcome, _ = attack("""
        import os, time
        def class_means(x, y, n):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        softmax = class_means
    """)
    assert outcome.verdict == "process_limit"


def test_t13_signals_reach_nobody_else(attack):
    bystander = subprocess.Popen(["/bin/sleep", "60"])
    try:
        attack(
            WRONG
            + """
import os, signal
for pid in (-1, os.getppid(), 0):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""
        )
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    "flood",
    ["while True: print('x' * 1000)", "sys.stderr.write('x' * (1 << 25))", "os.system('yes')"],
    ids=["lines", "one-line", "child"],
)
def test_t15_floods_are_cut(attack, flood):
    outcome, points = attack(f"import os, sys\n{flood}\n{WRONG}")
    assert outcome.verdict == "output_limit" and points == 0
    assert len(outcome.stdout) + len(outcome.stderr) < 40_000


def test_t15_escapes_are_removed(attack):
    outcome, _ = attack(WRONG + r"print('\x1b[31mred\x1b[0m \x00nul \u202ebidi \x1b]0;title\x07end')")
    assert outcome.stdout == "red nul bidi end\n"


def test_t16_results_that_are_too_large(attack):
    outcome, points = attack("""
        import numpy as np
        def class_means(x, y, n):
            return np.zeros(9_000_000)
        softmax = class_means
    """)
    assert outcome.verdict == "output_limit" and points == 0
    flood = "block = sys.modules['wire'].pack('x', 'ok', '', [np.zeros(1 << 17)])\n"
    outcome, points = attack(
        WRONG + FORGE + flood + "for fd in pipes():\n    for _ in range(200):\n        os.write(fd, block)\n"
    )
    assert outcome.verdict == "output_limit" and points == 0


@pytest.mark.parametrize(
    "fill",
    [
        "open('/tmp/large', 'wb').write(bytes(2 << 20))",
        "[open(f'/tmp/{i}', 'wb').write(bytes(1 << 20)) for i in range(100)]",
        "[(open(f'/tmp/{i}', 'w').close(), time.sleep(1e-3)) for i in range(10 ** 6)]",
        "[(os.makedirs('/tmp/' + '/'.join(f'{i}_{j}' for j in range(50))), time.sleep(1e-3)) for i in range(10 ** 6)]",
    ],
    ids=["one-file", "full", "many-files", "folders"],
)
def test_t17_the_disk_cannot_be_filled(attack, level, fill):
    outcome, points = attack(f"import os, time\n{fill}\n")
    # at level 2 nothing at all can be written
    assert outcome.verdict == ("output_limit" if level == 3 else "student_error") and points == 0


def test_t17_no_memory_without_a_limit_can_be_written(attack):
    """The root of the sandbox and its /dev are made of memory; so is what the harness comes in."""
    outcome, points = attack(
        """
        import numpy as np
        def places():
            found = 0
            for folder in ("/", "/dev", "/job", "/sub", "/etc", "/usr", "/root", "/run", "/dev/mqueue", "/dev/pts"):
                try:
                    open(folder + "/file", "w").close()
                    found += 1
                except OSError:
                    pass
            return found
        """,
        calls=((Call("places", "places", ()),), {"places": np.ones(())}),
    )
    assert outcome.records["places"].arrays[0] == 0 and points == 0


@pytest.mark.parametrize("kind", ["symlink", "folder", "fifo", "socket"])
def test_t18_links_and_devices_in_a_submission_are_refused(attack, tmp_path, kind):
    folder = tmp_path / "submission"
    folder.mkdir()
    if kind == "symlink":
        (folder / "data.txt").symlink_to("/etc/shadow")
    elif kind == "folder":
        (folder / "data.txt").symlink_to("/etc", target_is_directory=True)
    elif kind == "fifo":
        os.mkfifo(folder / "data.txt")
    else:
        os.mknod(folder / "data.txt", 0o140644)
    outcome, points = attack(HONEST)
    assert outcome.verdict == "rejected_input" and "data.txt" in outcome.reason and points == 0


def test_t18_what_is_left_inside_harms_nobody(attack):
    outcome, points = attack(
        HONEST
        + """
import os
for make in (lambda: os.symlink("/etc/shadow", "/tmp/results"), lambda: os.mkfifo("/tmp/fifo")):
    try:
        make()
    except OSError:
        pass
"""
    )
    assert outcome.verdict == "ok" and points == 6


class _Runs:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_t25_t26_checkpoints_are_data(level, tmp_path):
    """A checkpoint runs no code, and one of 1.5 kB that claims 10**11 numbers is not expanded; a good one is read."""
    import torch

    folder, witness = tmp_path / "submission", tmp_path / "witness"
    folder.mkdir()
    torch.save({"w": _Runs(f"touch {witness}; touch /tmp/witness; echo executed")}, folder / "evil.pt")
    torch.save({"w": torch.zeros(1).expand(10**11)}, folder / "huge.pt")
    torch.save({"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, folder / "good.pt")
    calls = tuple(Weights(name, f"{name}.pt") for name in ("evil", "huge", "good"))
    outcome = run(Job(folder, "", calls), Limits(wall=60.0), level)
    assert {name: record.status for name, record in outcome.records.items()} == {
        "evil": "student_error",
        "huge": "output_limit",
        "good": "ok",
    }, outcome
    assert not witness.exists() and "executed" not in outcome.stdout
    assert [array.shape for array in outcome.records["good"].arrays] == [(2,), (2, 3)]


def test_t27_arrays_with_lying_headers(attack):
    lies = """
good = sys.modules["wire"].pack("softmax/0", "ok", "", [np.zeros((4, 4))])
for fd in pipes():
    os.write(fd, good.replace(b"(4, 4)", b"(4,-4)"))
"""
    outcome, points = attack(WRONG + FORGE + lies)
    assert outcome.verdict == "tamper_suspected" and points == 0 and "header" in outcome.reason


def test_t33_a_run_looks_like_any_other(level, tmp_path):
    """A check of functions and a rerun of the experiment show the same surroundings, and no name speaks of grading."""
    code = """
import os, resource, socket, sys
import numpy as np

def surroundings(x=None):
    seen = [sorted(os.environ.items()), socket.gethostname() if os.getpid() == 1 else "", os.getcwd(), sys.argv[1:],
            sys.flags, sorted(sys.modules), [resource.getrlimit(n) for n in range(16)]]
    return np.frombuffer(repr(seen).encode(), np.uint8)
"""
    (tmp_path / "lab.py").write_text(code)
    check, rerun = (
        run(Job(tmp_path, "lab.py", (Call(name, "surroundings", arguments),)), LIMITS, level)
        for name, arguments in (("softmax/0", (np.ones(2),)), ("experiment", (np.zeros((1000, 8)),)))
    )
    seen = check.records["softmax/0"].arrays[0].tobytes()
    assert seen == rerun.records["experiment"].arrays[0].tobytes()
    assert not [word for word in (b"GRAD", b"grad", b"LAB", b"check", b"rerun") if word in seen.split(b"sys.flags")[0]]


def test_t34_doing_nothing_earns_nothing(attack):
    outcome, points = attack(
        "def class_means(x, y, n):\n    return x\n\ndef softmax(x):\n    return x\n",
        calls=lab_calls(34, episodes=20),
    )
    assert outcome.verdict == "ok" and len(outcome.records) == 40 and points == 0


def test_the_parser_and_the_worker_write_the_same_format():
    parser = wire.Parser(wire.Caps())
    parser.feed(wire.pack("a", "ok", "text", [np.zeros((2, 0)), np.ones(3, ">f4"), np.asfortranarray(np.eye(3))[:2]]))
    (record,) = parser.records
    assert [array.shape for array in record.arrays] == [(2, 0), (3,), (2, 3)]
