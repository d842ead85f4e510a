"""Records: what is written is what is read, whole or not at all, and what cannot be a number is refused."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import subprocess

import pytest
import torch

from utils import records
from utils.data import DataError
from utils.records import SCHEMA, commit, now, provenance, read_record, results_dir, write_record

ROW = {"id": "a-1", "mean": 98.75, "ci95": 0.1, "n": 5, "nothing": None, "text": "± µ 文", "list": [1, 2.5, True]}


def test_what_is_written_is_read(tmp_path):
    path = write_record("run", {"kind": "bench", "rows": [ROW]}, tmp_path)
    assert path == tmp_path / "run.json"
    assert read_record("run", tmp_path) == {"schema": SCHEMA, "kind": "bench", "rows": [ROW]}


def test_numbers_keep_every_digit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 1e-300, 2**60, -0.0]
    write_record("run", {"values": values}, tmp_path)
    assert read_record("run", tmp_path)["values"] == values


def test_a_name_may_hold_folders(tmp_path):
    write_record("claims/03_prototypical", {"kind": "claims"}, tmp_path)
    assert (tmp_path / "claims" / "03_prototypical.json").is_file()
    assert read_record("claims/03_prototypical", tmp_path)["kind"] == "claims"


def test_files_are_text_that_anyone_can_read(tmp_path):
    path = write_record("run", {"text": ROW["text"]}, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert ROW["text"] in text and text.endswith("}\n") and len(text.splitlines()) > 2
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_record_that_was_read_can_be_written_again(tmp_path):
    write_record("run", {"a": 1}, tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    write_record("run", read_record("run", tmp_path), tmp_path)
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(tmp_path, value):
    write_record("run", {"mean": 1.0}, tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record("run", {"rows": [{"mean": value}]}, tmp_path)
    assert read_record("run", tmp_path)["mean"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_what_is_no_json_is_refused(tmp_path):
    with pytest.raises(TypeError, match="Tensor is not JSON serializable"):
        write_record("run", {"mean": torch.ones(1)}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    write_record("run", {"mean": 1.0}, tmp_path)

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(records.os, failing, fail)
    with pytest.raises(DataError, match="No space"):
        write_record("run", {"mean": 2.0}, tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert read_record("run", tmp_path)["mean"] == 1.0


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path, monkeypatch):
    write_record("run", {"mean": 1.0}, tmp_path)
    seen = []
    replace = os.replace

    def watch(source, target):
        seen.append((read_record("run", tmp_path)["mean"], json.loads(open(source).read())["mean"]))  # noqa: SIM115
        replace(source, target)

    monkeypatch.setattr(records.os, "replace", watch)
    write_record("run", {"mean": 2.0}, tmp_path)
    assert seen == [(1.0, 2.0)] and read_record("run", tmp_path)["mean"] == 2.0


def test_nothing_recorded_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"recorded under 'claims/99' \(99\.json is not in claims/\)"):
        read_record("claims/99", tmp_path)


@pytest.mark.parametrize("content", ['{"schema": 1', "", "{'schema': 1}", '{"schema": 1} x'])
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is no valid JSON"):
        read_record("run", tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema": 2}', '{"schema": "1"}', "null"])
def test_other_schemas_are_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is no record of schema 1"):
        read_record("run", tmp_path)


def test_records_live_with_the_book_or_in_the_package(tmp_path, monkeypatch):
    assert results_dir().parts[-2:] == ("book", "results") and (results_dir() / "published.json").is_file()
    monkeypatch.setattr(records, "_PACKAGE", tmp_path / "site-packages" / "utils")
    assert results_dir() == tmp_path / "site-packages" / "utils" / "_recorded"


def git(folder, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_commit_says_whether_the_code_differs_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_PACKAGE", tmp_path / "utils")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("COURSE_COMMIT", "abc")
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "a.py").write_text("1")
    assert commit() == "abc"  # no repository: what the environment says
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    assert re.fullmatch(r"[0-9a-f]{40}", commit())
    (tmp_path / "notes.md").write_text("not code")
    assert not commit().endswith("+")
    (tmp_path / "utils" / "a.py").write_text("2")
    assert re.fullmatch(r"[0-9a-f]{40}\+", commit())
    monkeypatch.setenv("PATH", "")
    assert commit() == "abc"
    monkeypatch.delenv("COURSE_COMMIT")
    assert commit() is None


def test_provenance_holds_what_a_number_depends_on():
    found = provenance()
    assert found.keys() == {"commit", "date", "python", "torch", "device", "cpu_count", "threads", "system"}
    assert found["torch"] == torch.__version__ and found["threads"] == 1 and found["device"].startswith("CPU (")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", now()) and found["date"] <= now()
    json.dumps(found, allow_nan=False)
