"""The command line: it explains itself, says in one line what is wrong, and its exit code says who has to act."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_course import Answering, report, small_class, small_course, small_lab, with_tools

from utils import cli
from utils.grading import commands, precheck, steps
from utils.grading.commands import BROKEN, ERRORED, OK, USAGE
from utils.grading.precheck import check
from utils.grading.store import opened

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("all", "doctor", "selftest", "collect", "extract", "run", "similarity", "mark", "feedback", "export", "appeal")


class Place:
    """A class's folder with the stand-ins put behind the command line."""

    def __init__(self, folder: Path, students: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.source = folder, small_class(folder, students)
        self.answering = Answering(folder / "log")
        self.level = 3
        monkeypatch.setattr(commands, "_course", lambda args: self.course)
        monkeypatch.setattr(
            steps, "doctor", lambda folder, isolate=None, fresh=True: _doctor(folder, self.course.tools.isolate, fresh)
        )

    @property
    def course(self) -> steps.Course:
        return small_course(self.folder, self.answering, self.level)

    def grade(self, step: str, *words: str) -> int:
        folder = str(self.folder / "course")
        lab = () if step == "doctor" else ("--lab", "00", "--solutions", str(self.folder / "solutions"))
        return cli.main(["grade", step, folder, *lab, *words])

    def all(self, *words: str) -> int:
        roster = str(self.folder / "roster.csv")
        return self.grade("all", "--submissions", str(self.source), "--roster", roster, "--jobs", "2", *words)


_doctor = steps.doctor


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, {"ann": "good", "bob": "wrong", "cid": "missing"}, monkeypatch)


# --------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("step", ["", *STEPS])
def test_every_step_explains_itself(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["grade", *([step] if step else []), "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(one in shown for one in STEPS) if not step else "FOLDER" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_the_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from utils import cli\n"
        "try:\n    cli.main(['grade', 'all', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'jinja2', 'psutil', 'sqlite3', 'distributed'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr


# ---------------------------------------------------------------------------------------------------------- one class


def test_all_prints_a_line_a_step(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.all() == OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("doctor", "selftest", "collect", "extract", "run", "similarity", "mark", "feedback", "export", "done")
    ]
    assert "1 ok, 1 wrong, 1 not_submitted" in lines[6]


def test_each_step_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    roster = str(place.folder / "roster.csv")
    words = {"collect": ("--submissions", str(place.source), "--roster", roster), "appeal": ("--student", "bob")}
    for step in STEPS[1:]:
        assert place.grade(step, *words.get(step, ())) == OK, step
        assert capsys.readouterr().out.splitlines()[0].startswith(step if step != "appeal" else "bob: wrong"), step
    assert (place.course.exports / "gradebook.csv").exists()


def test_a_mark_by_hand(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.all()
    given = ("--student", "bob", "--item", "half", "--points", "4", "--reason", "a slip", "--by", "Ada")
    assert place.grade("mark", *given) == OK
    assert "bob: half has 4 points by Ada" in capsys.readouterr().out
    assert place.all() == OK  # and it stays
    with opened(place.course.gradebook) as store:
        assert [(o.student, o.points) for o in store.overrides("00_halves")] == [("bob", 4.0)]
    assert (
        place.grade("mark", "--withdraw", "--student", "bob", "--item", "half", "--reason", "no", "--by", "Ada") == OK
    )
    with opened(place.course.gradebook) as store:
        assert store.overrides("00_halves") == []


def test_an_lms_file_by_option(place: Place) -> None:
    worksheet = place.folder / "moodle.csv"
    worksheet.write_text(
        "Identifier,Full name,Grade,Maximum Grade\nParticipant 1,Ann,,10.00\nParticipant 2,Bob,,10.00\n"
        "Participant 3,Cid,,10.00\n"
    )
    roster = (place.folder / "roster.csv").read_text().splitlines()
    ids = ["lms id", "1", "2", "3"]
    (place.folder / "roster.csv").write_text("".join(f"{line},{id}\n" for line, id in zip(roster, ids, strict=True)))
    assert place.all("--fill", str(worksheet)) == OK
    assert "Participant 1,Ann,10,10.00" in (place.course.exports / "moodle.csv").read_text()


# --------------------------------------------------------------------------------------------------------- exit codes


def test_students_whose_work_stopped_give_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place(tmp_path, {"ann": "good", "bob": "crash"}, monkeypatch).all() == ERRORED


def test_a_machine_that_fails_gives_3_until_it_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, {"ann": "crash", "bob": "infra"}, monkeypatch)
    place.answering = Answering(tmp_path / "log", healthy=False)
    assert place.all() == BROKEN
    place.answering = Answering(tmp_path / "log")
    assert place.all() == ERRORED


def test_below_the_floor_is_3_unless_allowed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.level = 1
    assert place.all() == BROKEN
    assert "--allow-weak" in capsys.readouterr().out
    assert place.grade("doctor") == BROKEN
    assert place.all("--allow-weak") == OK


def test_a_grader_that_fails_its_own_test_gives_3(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ill = with_tools(place.course, selftest=lambda lab, level, seed, allow_weak: ["the mutant sum passes"])
    monkeypatch.setattr(commands, "_course", lambda args: ill)
    assert place.all() == BROKEN
    assert "the mutant sum passes" in capsys.readouterr().err


def test_a_library_that_is_missing_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert place.grade("extract", "--engine", "dask://127.0.0.1:1") == BROKEN
    assert "course: this command needs distributed: pip install distributed" in capsys.readouterr().err


def test_t39_a_second_grader_gives_3_and_a_clear_message(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(place.course.gradebook):
        assert place.all() == BROKEN
    assert "another grader (process" in capsys.readouterr().err
    assert place.all() == OK


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mark", "--student", "bob"), "--student, --item, --points, --reason and --by, all of them"),
        (("mark", "--withdraw", "--student", "bob"), "a mark is withdrawn with"),
        (("mark", "--student", "zoe", "--item", "half", "--points", "1", "--reason", "x", "--by", "A"), "no 'zoe'"),
        (("mark", "--student", "bob", "--item", "z", "--points", "1", "--reason", "x", "--by", "A"), "no item 'z'"),
        (("appeal", "--student", "zoe"), "no 'zoe'"),
        (("collect", "--submissions", "/nowhere"), "there is no /nowhere"),
        (("collect", "--submissions", "/nowhere", "--roster", "/nowhere.csv"), "/nowhere.csv"),
        (("collect", "--submissions", "/nowhere", "--due", "2026-11-30T23:59:00"), "has no time zone"),
        (("collect", "--submissions", "/nowhere", "--due", "soon"), "soon"),
        (("extract", "--jobs", "0"), "at least one job"),
        (("run", "--engine", "ray://there"), "dask://host:port"),
        (("export", "--fill", "/nowhere.csv"), "/nowhere.csv"),
    ],
)
def test_wrong_usage_gives_2_and_one_line(
    place: Place, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place.all()
    capsys.readouterr()
    assert place.grade(*words) == USAGE
    error = capsys.readouterr().err
    assert said in error and error.startswith("course: ") and error.count("\n") == 1


def test_options_that_there_are_not_give_2() -> None:
    for words in (["grade"], ["grade", "dance"], ["grade", "all", "x"], ["check"], ["grade", "run", "x", "--lab"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == USAGE


def test_a_lab_is_found_by_its_beginning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = small_lab(tmp_path)
    (lab.folder.parent / "notes").mkdir()
    args = cli.parser().parse_args(["grade", "mark", "x", "--lab", "00", "--solutions", str(lab.folder.parent)])
    assert commands._lab(args).name == "00_halves"
    assert cli.main(["grade", "mark", "x", "--lab", "zero", "--solutions", str(lab.folder.parent)]) == USAGE
    assert "'zero' names 0 labs of those in" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- check


def mine(tmp_path: Path, word: str = "good", text: str | None = None) -> tuple[Path, Path]:
    code = small_class(tmp_path, {"me": word}) / "me"
    (tmp_path / "essay.md").write_text(report("me") if text is None else text)
    (code / "report.md").unlink()
    return tmp_path / "essay.md", code


def checked(tmp_path: Path, *given, **options) -> tuple[list[str], bool]:
    course = small_course(tmp_path, _Essay(tmp_path / "log"))
    return check(course.lab, *given, tools=course.tools, **options)


class _Essay(Answering):
    """Reads whichever Markdown file the student named."""

    def __call__(self, tasks):
        for name in Path(tasks[0].files).glob("*.md"):
            name.rename(name.with_name("report.md"))
        return super().__call__(tasks)


def test_a_student_sees_what_is_missing(tmp_path: Path) -> None:
    lines, complete = checked(tmp_path, *mine(tmp_path))
    text = "\n".join(lines)
    assert complete and "title is there" in text and "introduction is missing" in text
    assert "half agrees with the reference on 3 of 3 inputs" in text and "claims found: none" in text
    assert "experiment" not in (tmp_path / "log").read_text()


def test_a_student_sees_the_smallest_failing_input(tmp_path: Path) -> None:
    lines, complete = checked(tmp_path, *mine(tmp_path, "wrong"), budget="smoke")
    text = "\n".join(lines)
    assert not complete and "half (wrong): because it is wrong" in text
    assert "input: x = 2" in text and "half(2)" in text and "should be 1" in text
    assert "5-way 1-shot: 6" in text and "There is something to do" in text


def test_a_file_alone_is_enough_code(tmp_path: Path) -> None:
    essay, code = mine(tmp_path)
    assert checked(tmp_path, essay, code / "lab.py")[1]


def test_the_report_that_is_named_is_the_one_that_is_read(tmp_path: Path) -> None:
    essay, code = mine(tmp_path)
    (code / "report.md").write_text("# Another\n")
    (code / "report.pdf").write_bytes(b"%PDF")
    precheck._laid_out(tmp_path / "laid", essay, code)
    assert sorted(path.name for path in (tmp_path / "laid").iterdir()) == ["essay.md", "lab.py"]
    assert (code / "report.md").exists()


def test_what_would_be_rejected_is_said(tmp_path: Path) -> None:
    essay, code = mine(tmp_path)
    (code / "door").symlink_to("/etc")
    lines, complete = checked(tmp_path, essay, code)
    assert not complete and "Your files would be rejected:" in lines[0] and "door" in lines[1]


def test_check_needs_files_that_there_are(tmp_path: Path) -> None:
    _, code = mine(tmp_path)
    with pytest.raises(ValueError, match="a report is one of"):
        check(small_lab(tmp_path), tmp_path / "essay.txt", code)
    with pytest.raises(ValueError, match="there is no"):
        check(small_lab(tmp_path), tmp_path / "other.md", code)
    words = ["check", str(tmp_path / "none.md"), str(code), "--lab", "00", "--solutions", str(tmp_path / "solutions")]
    assert cli.main(words) == USAGE
