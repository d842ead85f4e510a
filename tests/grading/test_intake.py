"""Intake: no archive writes outside its folder, and the same class gives the same manifest, however it was packed."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.grading import intake
from utils.grading.archives import Limits, Unpacked, printable, safe_name, tree_digest, unpack
from utils.grading.intake import Student, collect, is_late, lms_time, read_roster, submission_uuid

SMALL = Limits(total=1 << 20, file=1 << 19, entries=50, ratio=50, ratio_from=1 << 12, depth=6, name=100)
CLASS = tuple(
    Student(name, name.title(), f"{name}@uni.example", str(n), "") for n, name in enumerate(["ann", "bob"], 7)
)


def a_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


def a_tar(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode, encoding="utf-8", errors="surrogateescape") as archive:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                archive.addfile(member)
    return path


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every plain file below the folder; a link anywhere is an error."""
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reasons(unpacked: Unpacked) -> str:
    return "; ".join(f"{reject.name} {reject.reason}" for reject in unpacked.rejects)


# ---------------------------------------------------------------------------------------------- hostile archives


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.py", "leads outside"),
        ("a/../../evil.py", "leads outside"),
        ("..\\evil.py", "leads outside"),
        ("/etc/evil.py", "absolute"),
        ("\\\\server\\share\\evil.py", "absolute"),
        ("C:\\evil.py", "drive"),
        ("c:evil.py", "drive"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_t19_names_that_lead_outside_are_refused_and_named(tmp_path: Path, name: str, reason: str, kind: str) -> None:
    files = {name: b"x", "fine.py": b"y"}
    packed = tmp_path / f"in.{kind}"
    source = a_zip(packed, files) if kind == "zip" else a_tar(packed, list(files.items()))
    result = unpack(source, tmp_path / "out", SMALL)
    assert result.hostile
    assert reason in reasons(result)
    assert "evil.py" in reasons(result)
    assert set(on_disk(tmp_path)) == {packed.name, "out/fine.py"}


def test_t20_a_link_in_a_tar_and_a_file_through_it(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    members = [link("door", str(tmp_path / "outside")), ("door/evil.py", b"x"), link("hard", "door/evil.py", b"1")]
    pipe = tarfile.TarInfo("pipe")
    pipe.type = tarfile.FIFOTYPE
    device = tarfile.TarInfo("device")
    device.type = tarfile.CHRTYPE
    result = unpack(a_tar(tmp_path / "in.tar.gz", [*members, pipe, device], "w:gz"), tmp_path / "out", SMALL)
    assert {reject.name for reject in result.rejects if reject.hostile} == {"door", "hard", "pipe", "device"}
    assert not list((tmp_path / "outside").iterdir())
    assert f"door is a link to {printable(str(tmp_path / 'outside'))[:100]}" in reasons(result)


def test_a_link_in_a_zip_is_not_made(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("door")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr(info, "/etc")
    result = unpack(tmp_path / "in.zip", tmp_path / "out", SMALL)
    assert result.hostile and not result.files
    assert not (tmp_path / "out").exists()


def test_t22_links_in_a_folder_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("labels")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "soft").symlink_to(secret)
    (folder / "door").symlink_to(tmp_path)
    os.link(secret, folder / "hard")
    os.mkfifo(folder / "pipe")
    result = unpack(folder, tmp_path / "out", SMALL)
    assert not result.files
    assert {reject.name for reject in result.rejects if reject.hostile} == {"soft", "door", "hard", "pipe"}
    assert (tmp_path / "out").exists() is False


# ------------------------------------------------------------------------------------------------------- limits


def test_t21_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = a_zip(tmp_path / "in.zip", {"zeros": bytes(400_000)})
    result = unpack(bomb, tmp_path / "out", SMALL)
    assert result.hostile and "bomb" in reasons(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_t21_a_tar_bomb_is_not_unpacked(tmp_path: Path, mode: str) -> None:
    bomb = a_tar(tmp_path / "in.tar", [("zeros", bytes(400_000))], mode)
    result = unpack(bomb, tmp_path / "out", SMALL)
    assert result.hostile and "bomb" in reasons(result)


def test_t21_a_short_file_of_zeros_is_no_bomb(tmp_path: Path) -> None:
    result = unpack(a_zip(tmp_path / "in.zip", {"weights": bytes(4000)}), tmp_path / "out", SMALL)
    assert not result.rejects and result.files[0].size == 4000


def test_t21_too_many_entries(tmp_path: Path) -> None:
    files = {f"{n}.py": b"" for n in range(51)}
    for source in (a_zip(tmp_path / "in.zip", files), a_tar(tmp_path / "in.tar", list(files.items()))):
        assert "more than 50 entries" in reasons(unpack(source, tmp_path / source.suffix, SMALL))


def test_t21_a_long_directory_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = a_zip(tmp_path / "in.zip", {f"{n:04d}": b"" for n in range(800)})
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("its directory was read"))
    assert "more than 50 entries" in reasons(unpack(source, tmp_path / "out", SMALL))


def test_t21_all_the_bytes_and_one_file_too_large(tmp_path: Path) -> None:
    noise = os.urandom(300_000)
    many = unpack(a_zip(tmp_path / "1.zip", {f"{n}": noise for n in range(4)}), tmp_path / "1", SMALL)
    assert not many.files and "at most 1,048,576" in reasons(many)
    large = unpack(a_zip(tmp_path / "2.zip", {"large": noise * 2, "fine": b"x"}), tmp_path / "2", SMALL)
    assert large.hostile and [file.name for file in large.files] == ["fine"]


def test_a_size_that_is_declared_too_small_does_not_help(tmp_path: Path) -> None:
    source = a_zip(tmp_path / "in.zip", {"a": b"x" * 1000}, zipfile.ZIP_STORED)
    content = bytearray(source.read_bytes())
    at = content.rfind(b"PK\1\2")
    struct.pack_into("<L", content, at + 24, 10)
    source.write_bytes(content)
    result = unpack(source, tmp_path / "out", SMALL)
    assert not result.files and "damaged" in reasons(result)
    assert on_disk(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4 no zip", b"\x1f\x8b no gzip", b"\xfd7zXZ\0 no xz", b"BZh9 no", b"text"]
)
def test_broken_archives_are_rejected_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.zip").write_bytes(content)
    result = unpack(tmp_path / "in.zip", tmp_path / "out", SMALL)
    assert not result.files
    assert result.hostile and "in.zip" in reasons(result)


def test_an_encrypted_file_is_named(tmp_path: Path) -> None:
    source = a_zip(tmp_path / "in.zip", {"a.py": b"x"})
    content = bytearray(source.read_bytes())
    struct.pack_into("<H", content, content.rfind(b"PK\1\2") + 8, 1)
    source.write_bytes(content)
    assert "encrypted" in reasons(unpack(source, tmp_path / "out", SMALL))


# -------------------------------------------------------------------------------------------------------- names


def test_t21_nested_archives_long_names_and_deep_folders_are_left_out(tmp_path: Path) -> None:
    inner = a_zip(tmp_path / "inner.zip", {"a": b"x"}).read_bytes()
    files = {"inner.zip": inner, "x" * 101: b"", "/".join("abcdefg"): b"", "fine.py": b"y"}
    result = unpack(a_zip(tmp_path / "in.zip", files), tmp_path / "out", SMALL)
    assert on_disk(tmp_path / "out") == {"fine.py": b"y"}
    assert not result.hostile
    assert all(word in reasons(result) for word in ("archive within", "101 bytes", "7 folders deep"))


def test_t21_names_that_differ_in_case_give_the_same_file_in_any_order(tmp_path: Path) -> None:
    names = {"A.py": b"1", "a.py": b"2", "B.py": b"3", "b.py": b"3"}
    for n, order in enumerate((list(names.items()), list(names.items())[::-1])):
        result = unpack(a_tar(tmp_path / f"{n}.tar", order), tmp_path / str(n), SMALL)
        assert on_disk(tmp_path / str(n)) == {"A.py": b"1", "B.py": b"3"}
        assert reasons(result) == "a.py is A.py but for its case" and not result.hostile


def test_t21_the_same_name_twice_is_refused_unless_the_contents_are_equal(tmp_path: Path) -> None:
    twice = unpack(a_tar(tmp_path / "1.tar", [("a.py", b"1"), ("a.py", b"2")]), tmp_path / "1", SMALL)
    assert twice.hostile and "twice" in reasons(twice)
    equal = unpack(a_tar(tmp_path / "2.tar", [("a.py", b"1"), ("a.py", b"1")]), tmp_path / "2", SMALL)
    assert not equal.rejects and len(equal.files) == 1


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    result = unpack(a_tar(tmp_path / "in.tar", [("a/b.py", b"1"), ("a", b"2")]), tmp_path / "out", SMALL)
    assert result.hostile and "lies below a, which is a file" in reasons(result)


def test_t21_names_that_lie_about_themselves_are_written_out(tmp_path: Path) -> None:
    backwards, bytes_, newline = "report\u202efdp.py", b"caf\xe9.py".decode("utf-8", "surrogateescape"), "a\nb.py"
    source = a_tar(tmp_path / "in.tar", [(backwards, b"1"), (bytes_, b"2"), (newline, b"3"), ("con.txt", b"4")])
    unpack(source, tmp_path / "out", SMALL)
    assert set(on_disk(tmp_path / "out")) == {"report%E2%80%AEfdp.py", "caf%E9.py", "a%0Ab.py", "%63on.txt"}


def test_utf8_names_in_a_zip_that_does_not_say_so(tmp_path: Path) -> None:
    source = a_zip(tmp_path / "in.zip", {"büro.py": b"x"})
    content = source.read_bytes().replace(b"\x14\0\0\x08", b"\x14\0\0\0")  # the flags follow the version
    source.write_bytes(content)
    assert [file.name for file in unpack(source, tmp_path / "out", SMALL).files] == ["büro.py"]


def test_clutter_of_systems_and_tools_is_passed_over(tmp_path: Path) -> None:
    members = [
        ("__MACOSX/._a.py", b""),
        (".DS_Store", b""),
        link(".venv/bin/python", "/usr/bin/python"),
        ("a.py", b"x"),
    ]
    result = unpack(a_tar(tmp_path / "in.tar", members), tmp_path / "out", SMALL)
    assert on_disk(tmp_path / "out") == {"a.py": b"x"} and not result.rejects


NAMES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30),
        st.lists(
            st.sampled_from(["..", ".", "", "a", "A", "b.py", "C:", "~", "\u202e", "nul"]), min_size=1, max_size=8
        ).map("/".join),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(names=NAMES, data=st.data())
def test_whatever_the_names_nothing_is_written_outside_and_order_does_not_matter(
    names: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("names")
    members = [(name or "x", f"{n}".encode()) for n, name in enumerate(names)]
    results = []
    for n, order in enumerate((members, data.draw(st.permutations(members)))):
        a_tar(root / f"{n}.tar", order)
        results.append(unpack(root / f"{n}.tar", root / f"{n}" / "out", SMALL))
        assert set(on_disk(root / f"{n}")) == {f"out/{file.name}" for file in results[-1].files}
    assert results[0].rejects == results[1].rejects
    assert {file.name for file in results[0].files} == {file.name for file in results[1].files}
    assert {path.name for path in root.iterdir()} <= {"0", "1", "0.tar", "1.tar"}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_a_safe_name_stays_below_its_folder_and_is_safe_again(raw: str) -> None:
    name, reason, _ = safe_name(raw, SMALL)
    assert bool(name) != bool(reason)
    if name:
        assert not Path(name).is_absolute() and ".." not in Path(name).parts and printable(name) == name
        assert safe_name(name, SMALL)[0] == name
        name.encode("utf-8")


# ---------------------------------------------------------------------------------------------------- the roster


def test_rosters_of_the_lms(tmp_path: Path) -> None:
    moodle = (
        "Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,"
        "Last modified (submission)\n"
        'Participant 17,"Ann, Dr",ann@x.example,Submitted,,10,Yes,"Sunday, 22 November 2026, 10:15 PM"\n'
        "Participant 18,Bob,bob@x.example,No submission,,10,Yes,-\n"
    )
    canvas = (
        "Student,ID,SIS User ID,SIS Login ID,Section,Lab 1 (5)\n    Points Possible,,,,,10\n"
        '"Ann, A",901,s1,ann,A,\n"Student, Test",902,,,A,\n'
    )
    (tmp_path / "moodle.csv").write_text("\ufeff" + moodle)
    (tmp_path / "canvas.csv").write_text(canvas)
    (tmp_path / "plain.csv").write_text("Student_ID;Name;Email\ns2;Bob;b@x\ns1;Ann;a@x\n")
    ann, bob = read_roster(tmp_path / "moodle.csv", "Europe/Berlin")
    assert (ann.id, ann.name, ann.lms_id, ann.received) == ("17", "Ann, Dr", "17", "2026-11-22T22:15:00+01:00")
    assert bob.received == ""
    assert read_roster(tmp_path / "canvas.csv") == (Student("s1", "Ann, A", "", "901"),)
    assert [s.id for s in read_roster(tmp_path / "plain.csv")] == ["s1", "s2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\na,A\na,B\n", "twice: a"),
        ("id,name\n,A\n", "without an id"),
        ("id\n", "no student"),
        ("surname\nA\n", "must be called id"),
    ],
)
def test_rosters_that_name_nobody_or_somebody_twice(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_roster(tmp_path / "r.csv")


def test_times_and_lateness_need_a_zone() -> None:
    assert lms_time("2026-11-22 10:15", "Asia/Shanghai") == "2026-11-22T10:15:00+08:00"
    assert lms_time("soon") is None and lms_time("31 February 2026, 10:00") is None
    due = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
    assert is_late("2026-11-22T10:15:00+08:00", due) is False and is_late("2026-11-22T10:15:00+01:00", due) is True
    assert is_late("", due) is None
    with pytest.raises(ValueError, match="no time zone"):
        is_late("", datetime(2026, 11, 22))
    with pytest.raises(ValueError, match="Europe/Berlin"):
        lms_time("2026-11-22", "Berlin")


# ----------------------------------------------------------------------------------------------------- collecting


def a_class(folder: Path) -> Path:
    (folder / "ann" / "code").mkdir(parents=True)
    (folder / "ann" / "report.md").write_text("# Report")
    (folder / "ann" / "code" / "setup.py").write_text("open('/tmp/never', 'w')")
    a_zip(folder / "bob.zip", {"report.md": b"# Bob", "proto.py": b"pass"})
    return folder


def by_student(manifest: dict) -> dict[str, dict]:
    return {submission["students"][0]: submission for submission in manifest["submissions"]}


def test_a_folder_and_a_zip_are_collected_and_the_manifest_tells_the_truth(tmp_path: Path) -> None:
    roster = (*CLASS, Student("cleo"))
    manifest = collect(a_class(tmp_path / "in"), tmp_path / "out", roster, "lab1")
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    found = by_student(manifest)
    assert manifest["missing"] == ["cleo"] and set(found) == {"ann", "bob"}
    for name, submission in found.items():
        assert submission["verdict"] == "ok"
        assert submission["uuid"] == submission_uuid("lab1", [name])
        stored = unpack(tmp_path / "out" / submission["uuid"] / "files", tmp_path / name)
        assert [file.name for file in stored.files] == [file["name"] for file in submission["files"]]
        assert tree_digest(stored.files) == submission["tree"]
    assert found["ann"]["notes"][0] == "code/setup.py is never run or installed"  # T36
    assert sorted(file["name"] for file in found["bob"]["files"]) == ["proto.py", "report.md"]


def test_a_hostile_submission_leaves_the_others_alone_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    folder = a_class(tmp_path / "in")
    alone = collect(folder, tmp_path / "1", CLASS, "lab1")
    a_zip(folder / "bob.zip", {"../../evil.py": b"x", "report.md": b"# Bob"})
    manifest = collect(folder, tmp_path / "2", CLASS, "lab1")
    assert by_student(manifest)["ann"] == by_student(alone)["ann"]
    bob = by_student(manifest)["bob"]
    assert bob["verdict"] == "rejected_input" and not bob["files"]
    assert [reject["name"] for reject in bob["rejects"]] == ["../../evil.py"]
    assert set(on_disk(tmp_path / "2" / bob["uuid"])) == {"record.json"}
    assert not list(tmp_path.rglob("evil.py"))


def test_t37_ids_that_are_not_on_the_roster(tmp_path: Path) -> None:
    folder = a_class(tmp_path / "in")
    for name in ("аnn", "\u202eann", "ANN"):  # the first letter of the first is Cyrillic
        (folder / name).mkdir()
        (folder / name / "a.py").write_text("x")
    a_zip(folder / "...zip", {"a.py": b"x"})
    manifest = collect(folder, tmp_path / "out", CLASS, "lab1")
    assert len(manifest["submissions"]) == 2
    assert len(manifest["unassigned"]) == 4
    assert "CYRILLIC SMALL LETTER A" in " ".join(item["reason"] for item in manifest["unassigned"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        *(submission["uuid"] for submission in manifest["submissions"]),
    }


def test_t37_the_same_student_twice_is_nobody_s_guess(tmp_path: Path) -> None:
    folder = a_class(tmp_path / "in")
    a_zip(folder / "ann.zip", {"a.py": b"x"})
    manifest = collect(folder, tmp_path / "out", CLASS, "lab1")
    ann = by_student(manifest)["ann"]
    assert ann["verdict"] == "rejected_input" and "keep the one that counts" in ann["rejects"][0]["reason"]
    assert ann["rejects"][0]["name"] == "ann, ann.zip"


def test_t40_times_inside_an_archive_change_nothing(tmp_path: Path) -> None:
    roster = (Student("ann", received="2026-11-23T10:00:00+00:00"),)
    due = datetime(2026, 11, 22, tzinfo=UTC)
    results = []
    for n, year in enumerate((1990, 2040)):
        (tmp_path / f"{n}").mkdir()
        with zipfile.ZipFile(tmp_path / f"{n}" / "ann.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo("a.py", (year, 1, 1, 0, 0, 0)), b"x")
        results.append(by_student(collect(tmp_path / f"{n}", tmp_path / f"out{n}", roster, "lab1", due=due))["ann"])
    assert results[0]["late"] is results[1]["late"] is True
    assert results[0]["tree"] == results[1]["tree"]
    unknown = by_student(collect(tmp_path / "0", tmp_path / "out3", (Student("ann"),), "lab1", due=due))["ann"]
    assert unknown["late"] is None and "not known" in unknown["notes"][0]


def test_a_moodle_download_with_a_zip_in_it(tmp_path: Path) -> None:
    inner = a_zip(tmp_path / "ann.zip", {"proto.py": b"pass"}).read_bytes()
    download = a_zip(
        tmp_path / "moodle.zip",
        {
            "Ann A_7_assignsubmission_file_/work.zip": inner,
            "Ann A_7_assignsubmission_onlinetext_/onlinetext.html": b"<p>hello</p>",
            "Bob B_8_assignsubmission_file_/report.pdf": b"%PDF",
            "Bob B_8_assignsubmission_file_/code.tar.gz": b"no archive",
            "Eve_99_assignsubmission_file_/a.py": b"x",
            "../evil": b"x",
        },
    )
    manifest = collect(download, tmp_path / "out", CLASS, "lab1", lms="moodle")
    found = by_student(manifest)
    assert [f["name"] for f in found["ann"]["files"]] == ["onlinetext/onlinetext.html", "work.zip/proto.py"]
    assert found["bob"]["verdict"] == "rejected_input" and "code.tar.gz" in found["bob"]["rejects"][0]["name"]
    assert [item["name"] for item in manifest["unassigned"]] == ["../evil", "Eve_99_assignsubmission_file_"]


def test_a_canvas_download_is_flat_and_marks_what_is_late(tmp_path: Path) -> None:
    inner = a_zip(tmp_path / "b.zip", {"proto.py": b"pass"}).read_bytes()
    files = {
        "annanna_LATE_7_51_report.md": b"# R",
        "annanna_LATE_7_52_code.zip": inner,
        "bobb_8_53_LATE_1_2_x.py": b"x",
    }
    manifest = collect(a_zip(tmp_path / "in.zip", files), tmp_path / "out", CLASS, "lab1", lms="canvas")
    found = by_student(manifest)
    assert [f["name"] for f in found["ann"]["files"]] == ["code.zip/proto.py", "report.md"]
    assert found["ann"]["late"] is True and found["bob"]["late"] is False
    assert [f["name"] for f in found["bob"]["files"]] == ["LATE_1_2_x.py"]


def test_a_gradescope_team_and_a_forged_metadata_file(tmp_path: Path) -> None:
    metadata = {"users": [{"sid": "bob"}, {"email": "ANN@uni.example"}], "created_at": "2026-11-22T10:00:00+00:00"}
    folder = tmp_path / "in" / "submission_1"
    (folder / "submission").mkdir(parents=True)
    (folder / "submission" / "a.py").write_text("x")
    (folder / "submission" / "submission_metadata.json").write_text('{"users": [], "created_at": "1990-01-01"}')
    (folder / "submission_metadata.json").write_text(json.dumps(metadata))
    due = datetime(2026, 11, 22, 9, tzinfo=UTC)
    (team,) = collect(tmp_path / "in", tmp_path / "out", CLASS, "lab1", "gradescope", due)["submissions"]
    assert team["students"] == ["ann", "bob"] and team["late"] is True
    assert len(team["files"]) == 2


@pytest.mark.parametrize("stop", [1, 2])
def test_t38_killed_between_two_submissions_it_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    folder = a_class(tmp_path / "in")
    collect(folder, tmp_path / "whole", CLASS, "lab1")
    renamed = os.rename
    calls = []

    def killed(*args: object) -> None:
        calls.append(args)
        if len(calls) == stop:
            raise KeyboardInterrupt
        renamed(*args)

    with monkeypatch.context() as patch:
        patch.setattr(intake.os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(folder, tmp_path / "resumed", CLASS, "lab1")
    assert not (tmp_path / "resumed" / "manifest.json").exists()
    (tmp_path / "resumed" / ".part-killed").mkdir()
    done = {path: path.stat().st_ino for path in (tmp_path / "resumed").glob("*-*/record.json")}
    collect(folder, tmp_path / "resumed", CLASS, "lab1")
    assert on_disk(tmp_path / "resumed") == on_disk(tmp_path / "whole")
    assert all(path.stat().st_ino == inode for path, inode in done.items() if not path.parent.name.startswith("."))
    assert not list((tmp_path / "resumed").glob(".part-*"))


def test_what_was_tampered_with_after_collecting_is_collected_again(tmp_path: Path) -> None:
    folder = a_class(tmp_path / "in")
    bob = by_student(collect(folder, tmp_path / "out", CLASS, "lab1"))["bob"]
    file = tmp_path / "out" / bob["uuid"] / "files" / "proto.py"
    file.write_text("other")
    collect(folder, tmp_path / "out", CLASS, "lab1")
    assert file.read_bytes() == b"pass"


def test_an_empty_submission_is_rejected_and_a_full_disk_is_nobody_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "ann").mkdir(parents=True)
    manifest = collect(tmp_path / "in", tmp_path / "out", CLASS, "lab1")
    assert by_student(manifest)["ann"]["rejects"][0]["reason"] == "holds no file"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "in" / "ann" / "a.py").write_text("x")
    monkeypatch.setattr("utils.grading.archives._copy", full)
    with pytest.raises(OSError, match="No space"):
        collect(tmp_path / "in", tmp_path / "out", CLASS, "lab1")


def test_what_the_teacher_got_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain, moodle, canvas, gradescope"):
        collect(tmp_path, tmp_path / "out", CLASS, "lab1", lms="ilias")
    with pytest.raises(ValueError, match="there is no"):
        collect(tmp_path / "nowhere", tmp_path / "out", CLASS, "lab1")
    (tmp_path / "class.zip").write_text("no zip")
    with pytest.raises(ValueError, match="nothing can be collected"):
        collect(tmp_path / "class.zip", tmp_path / "out", CLASS, "lab1")
