"""The command line: every command explains itself, and what goes wrong is said in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from utils import cli
from utils.data import SETS, DataError
from utils.records import read_record

COMMANDS = ("run", "reproduce", "bench", "data", "doctor", "grade", "check")


def failed(capsys, *words: str) -> str:
    """Call a command that must fail the expected way; its line on stderr."""
    assert cli.main(list(words)) == 1
    out, err = capsys.readouterr()
    assert err.startswith("course: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "done in" not in out and "Traceback" not in out + err
    return err


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert [line.split()[0] for line in text.splitlines() if line[:4].isspace() and line[4:5].isalpha()] == list(
        COMMANDS
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run", ["chapters", "--spread"]),
        (
            "reproduce",
            ["pixels", "prototypical", "--dataset", "--seeds", "--steps", "--jobs", "--work", "--finished", "--out"],
        ),
        ("bench", ["sampler", "--out"]),
        ("data", ["omniglot", "mnist", "cifar100"]),
        ("doctor", []),
        ("grade", ["all", "doctor", "appeal", "exit codes"]),
        ("check", ["report", "code", "--lab", "--budget"]),
    ],
)
def test_every_command_has_help(capsys, command, words):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and text.startswith(f"usage: course {command}")
    assert all(word in text for word in words)


@pytest.mark.parametrize("words", [[], ["fly"], ["bench", "speed"], ["reproduce"], ["reproduce", "pixels", "--seeds"]])
def test_other_words_are_usage_errors(capsys, words):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and "usage: course" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys; from utils.cli import parser; parser().format_help(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_module_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "utils.cli", "run", "99"], capture_output=True, text=True, cwd=cli.Path(__file__).parent
    )
    assert done.returncode == 1 and done.stderr.startswith("course: '99' names 0 chapters") and not done.stdout


def test_the_installed_command_is_this_one():
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="course")
    assert command.load() is cli.main


# --------------------------------------------------------------------------------------------------------- commands


def test_doctor_shows_versions_device_and_data(capsys, monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert cli.main(["doctor"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert not err and lines[0].startswith(f"python {sys.version_info.major}.{sys.version_info.minor}.")
    assert any(line.startswith("torch ") for line in lines) and any(
        line.startswith("computing on cpu") for line in lines
    )
    shown = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert shown.keys() == SETS.keys() and shown["glyphs"].endswith(" available")
    assert lines[-1].startswith("done in ")


def test_doctor_says_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.version", missing)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch is not installed" in out and f"packs: {tmp_path}" in out and "run `course data omniglot`" in out


def missing(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def test_reproduce_passes_its_options_and_writes_the_record(capsys, monkeypatch, tmp_path):
    asked = []

    def method(*arguments):
        asked.append(arguments)
        return {
            "kind": "reproduction",
            "rows": [{"id": "a-5w1s", "mean": 98.754, "ci95": 0.126, "n": 5, "over": "seeds"}],
        }

    monkeypatch.setattr("utils.reproduce.METHODS", {"prototypical": method})
    words = f"reproduce prototypical --seeds 4 5 --steps 9 --jobs 2 --work {tmp_path / 'work'} --out {tmp_path / 'out'}"
    assert cli.main(words.split()) == 0
    assert asked == [("omniglot", [4, 5], tmp_path / "work", 9, 2)]
    out = capsys.readouterr().out
    assert "a-5w1s" in out and "98.75 ± 0.13 %  over 5 seeds" in out
    assert f"written to {tmp_path / 'out' / 'prototypical_omniglot.json'}" in out
    assert read_record("prototypical_omniglot", tmp_path / "out")["kind"] == "reproduction"


def test_unfinished_runs_are_kept_in_the_cache(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("utils.reproduce.METHODS", {"pixels": lambda *a: asked.append(a) or {"rows": []}})
    assert cli.main(["reproduce", "pixels", "--out", str(tmp_path)]) == 0
    assert asked == [("omniglot", [0, 1, 2, 3, 4], tmp_path / "cache" / "reproduce" / "pixels_omniglot", None, 1)]


def test_bench_prints_what_it_measured(capsys, monkeypatch, tmp_path):
    rows = [
        {"variant": "other", "median": 900.0, "unit": "us/episode"},
        {"variant": "ours", "median": 30.0, "unit": "us/episode", "speedup": 30.0, "speedup_over": "other"},
        {"variant": "compiled", "median": None, "unit": "us/episode", "status": "out of memory"},
    ]
    rows = [{"function": "sampler", "case": "5-way", **row} for row in rows]
    monkeypatch.setattr("utils.bench.run", lambda name, out: (out / f"{name}.json", rows))
    assert cli.main(["bench", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "30.0 times faster than other" in out and out.count("times faster") == 1
    assert "900 us/episode" in out and "out of memory" in out
    assert f"written to {tmp_path / 'sampler.json'}" in out


def test_data_fetches_the_sets_that_are_named(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("utils.data.load", lambda *a, **o: asked.append((a, o)) or "an ImageSet")
    assert cli.main(["data", "cifar100", "omniglot"]) == 0
    assert asked == [(("omniglot", "all"), {"download": True}), (("cifar100", "train"), {"download": True})]
    assert capsys.readouterr().out.count("an ImageSet") == 2


@pytest.fixture
def chapters(monkeypatch, tmp_path):
    """A project with two chapters, and the paths that were run."""
    ran = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chapters").mkdir()
    for name in ("01_one", "02_two"):
        (tmp_path / "chapters" / f"{name}.ipynb").touch()

    def write_chapter(path, spread):
        ran.append((path.name, spread))
        return {"claims": {"a": {}, "b": {}}, "spread": {"a": {}}, "cost": {"seconds": 61.0}}

    monkeypatch.setattr("utils.chapters.write_chapter", write_chapter)
    return ran


def test_run_takes_all_chapters_or_those_that_are_named(capsys, chapters):
    assert cli.main(["run"]) == 0
    assert chapters == [("01_one.ipynb", False), ("02_two.ipynb", False)]
    for name in ("02", "02_two", "02_two.ipynb", "chapters/02_two.ipynb"):
        chapters.clear()
        assert cli.main(["run", name, "--spread"]) == 0
        assert chapters == [("02_two.ipynb", True)]
    out = capsys.readouterr().out
    assert "2 claims, 61 s" in out and "seed-to-seed spread (add --spread): b" in out


# ----------------------------------------------------------------------------------------------------------- errors


def test_chapters_that_are_not_there(capsys, chapters, monkeypatch, tmp_path):
    assert "'03' names 0 chapters of ['01_one', '02_two']" in failed(capsys, "run", "03")
    assert "'0' names 2 chapters" in failed(capsys, "run", "0")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert f"no chapters in {tmp_path / 'empty' / 'chapters'}: call this from the project's root" in failed(
        capsys, "run"
    )
    assert not chapters


def test_what_cannot_be_reproduced(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))  # an empty folder: nothing could be trained
    work = ["--work", str(tmp_path), "--out", str(tmp_path)]
    assert "recorded on omniglot; got 'mnist'" in failed(capsys, "reproduce", "pixels", "--dataset", "mnist", *work)
    assert "all different; got [1, 1]" in failed(capsys, "reproduce", "prototypical", "--seeds", "1", "1", *work)
    assert "recorded as a whole" in failed(capsys, "reproduce", "pixels", "--finished", *work)
    assert "at least 1 step; got -5" in failed(capsys, "reproduce", "prototypical", "--steps", "-5", *work)
    assert "looked for omniglot.npz" in failed(capsys, "reproduce", "prototypical", *work)
    monkeypatch.setenv("COURSE_DEVICE", "gpu")
    assert "COURSE_DEVICE must name a device" in failed(capsys, "reproduce", "pixels", *work)
    assert not list(tmp_path.glob("*.json"))


def test_no_folder_to_work_in(capsys, monkeypatch):
    monkeypatch.setattr("utils.data.cache.cache_dir", lambda: None)
    assert "give one with --work" in failed(capsys, "reproduce", "pixels")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a wrong value"), "a wrong value"),
        (TypeError("a wrong type"), "a wrong type"),
        (DataError("damaged"), "damaged"),
        (FileNotFoundError("nothing is recorded"), "nothing is recorded"),
        (PermissionError(13, "Permission denied", "/results"), "[Errno 13] Permission denied: '/results'"),
        (FloatingPointError("the loss is not finite"), "the loss is not finite"),
        (
            ModuleNotFoundError("No module", name="learn2learn"),
            "this command needs learn2learn: pip install learn2learn",
        ),
    ],
)
def test_an_expected_error_is_one_line(capsys, monkeypatch, error, said):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("utils.bench.run", fail)
    assert failed(capsys, "bench") == f"course: {said}\n"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), KeyboardInterrupt()])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("utils.bench.run", fail)
    with pytest.raises(type(error)):
        cli.main(["bench"])


def test_every_reproduction_can_be_asked_for():
    from utils.cli import REPRODUCTIONS
    from utils.reproduce import METHODS

    assert tuple(METHODS) == REPRODUCTIONS
