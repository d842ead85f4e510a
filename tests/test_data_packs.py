"""Packs and the cache: the content check, and every way in which a file or a download can go wrong."""

from __future__ import annotations

import errno
import io
import lzma
import os
import urllib.error
import urllib.request
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from utils.data import cache, packs
from utils.data.cache import DataError, cached_array, data_dirs, write_atomically

NAMES = tuple(packs.PACKS)


# ------------------------------------------------------------------------------------------------ tiny data sets


def tiny_omniglot() -> packs.Arrays:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, names in {"background": ["Armenian/character01", "Greek/character01"], "evaluation": ["Atl/c1"]}.items():
        images = rng.integers(0, 2, (20 * len(names), 105 * 105), np.uint8)
        arrays[f"{part}_bits"] = np.packbits(images, axis=1)
        arrays[f"{part}_labels"] = np.repeat(np.arange(len(names), dtype=np.int16), 20)
        arrays[f"{part}_names"] = np.array([name.replace("c1", "character01") for name in names])
    return arrays


def tiny_mnist() -> packs.Arrays:
    rng = np.random.default_rng(1)
    return {
        "train_images": rng.integers(0, 256, (30, 28, 28), np.uint8),
        "train_labels": np.arange(30, dtype=np.uint8) % 10,
        "test_images": rng.integers(0, 256, (10, 28, 28), np.uint8),
        "test_labels": np.arange(10, dtype=np.uint8)[::-1].copy(),
    }


def tiny_cifar100() -> packs.Arrays:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (18, 32, 32, 3), np.uint8)
    labels = np.array([0] * 5 + [1] * 5 + [2] * 5 + [0, 1, 2], np.uint8)
    order = packs._canonical_order(images, labels, np.repeat([0, 1], [15, 3]))
    return {"images": images[order], "fine_labels": labels, "class_names": np.array(["apple", "bed", "worm"])}


def tiny_runs() -> packs.Arrays:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("run01/class_labels.txt", "run01/test/item01.png run01/training/class01.png\n" * 20)
    return {"file": np.frombuffer(file.getvalue(), np.uint8)}


TINY = {
    "omniglot": tiny_omniglot(),
    "omniglot_one_shot_runs": tiny_runs(),
    "mnist": tiny_mnist(),
    "cifar100": tiny_cifar100(),
}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Own, empty data and cache folders, and packs that expect the tiny content."""
    data = tmp_path / "data"
    monkeypatch.setenv("COURSE_DATA", str(data))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    for name, arrays in TINY.items():
        monkeypatch.setitem(packs.PACKS, name, replace(packs.PACKS[name], digest=packs.content_digest(arrays)))
    return data


def write_pack(name: str, folder: Path, arrays: packs.Arrays | None = None) -> tuple[Path, ...]:
    pack = packs.PACKS[name]
    paths = tuple(folder / file for file in pack.files)
    for path, write in zip(paths, pack.write(TINY[name] if arrays is None else arrays), strict=True):
        write_atomically(path, write)
    return paths


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_same(a: packs.Arrays, b: packs.Arrays) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


# ------------------------------------------------------------------------------------------------ fake originals


def as_original(name: str) -> packs.Arrays:
    """Tiny content in the order of the originals: CIFAR-100 comes shuffled."""
    arrays = TINY[name]
    if name != "cifar100":
        return arrays
    rng = np.random.default_rng(3)
    order = np.concatenate([rng.permutation(15), 15 + rng.permutation(3)])
    return {**arrays, "images": arrays["images"][order], "fine_labels": arrays["fine_labels"][order]}


class FakeMNIST:
    def __init__(self, root, train, download):
        Path(root, "MNIST-raw").write_bytes(b"original")
        part = "train" if train else "test"
        self.data = torch.from_numpy(TINY["mnist"][f"{part}_images"])
        self.targets = torch.from_numpy(TINY["mnist"][f"{part}_labels"]).long()


class FakeCIFAR100:
    def __init__(self, root, train, download):
        Path(root, "cifar-raw").write_bytes(b"original")
        rows = slice(0, 15) if train else slice(15, None)
        arrays = as_original("cifar100")
        self.data, self.targets = arrays["images"][rows], arrays["fine_labels"][rows].tolist()
        self.classes = arrays["class_names"].tolist()


class FakeOmniglot:
    def __init__(self, root, background, download):
        part = "background" if background else "evaluation"
        self.target_folder = os.path.join(root, f"images_{part}")
        arrays = TINY["omniglot"]
        images = np.unpackbits(arrays[f"{part}_bits"], axis=1, count=105 * 105).reshape(-1, 105, 105)
        for i in reversed(range(len(images))):  # whatever order the file system lists them in
            name = arrays[f"{part}_names"][arrays[f"{part}_labels"][i]]
            folder = Path(self.target_folder, name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.where(images[i], 0, 255).astype(np.uint8)).convert("1").save(
                folder / f"0001_{i % 20 + 1:02d}.png"
            )


def fake_urlopen(url, timeout=None):
    assert url == packs.ONE_SHOT_RUNS_URL
    return io.BytesIO(TINY["omniglot_one_shot_runs"]["file"].tobytes())


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", FakeMNIST)
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", FakeCIFAR100)
    monkeypatch.setattr(torchvision.datasets, "Omniglot", FakeOmniglot)
    monkeypatch.setattr(urllib.request, "urlopen", fake_urlopen)


def break_download(monkeypatch, error: BaseException) -> None:
    """Every source delivers half a file and then fails."""

    def failing(root, **_):
        Path(root, "half").write_bytes(b"half a file")
        raise error

    class Answer(io.BytesIO):
        def read(self, *_):
            raise error

    for name in ("MNIST", "CIFAR100", "Omniglot"):
        monkeypatch.setattr(torchvision.datasets, name, failing)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(b"half a file"))


# ------------------------------------------------------------------------------------------------ content digest


def test_digest_does_not_depend_on_the_writer():
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array(["x", "yy"])}
    reference = packs.content_digest(arrays)
    assert packs.content_digest(dict(reversed(arrays.items()))) == reference
    assert packs.content_digest({**arrays, "a": arrays["a"].astype(">i2")}) == reference
    assert packs.content_digest({**arrays, "a": np.asfortranarray(arrays["a"])}) == reference
    assert packs.content_digest({**arrays, "b": arrays["b"].astype("<U9")}) == reference
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        assert packs.content_digest(dict(np.load(io.BytesIO(file.getvalue()), allow_pickle=False))) == reference


def test_digest_sees_every_change():
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array(["x", "yy"])}
    changed = [
        {**arrays, "a": arrays["a"].reshape(3, 2)},
        {**arrays, "a": arrays["a"].astype(np.uint16)},
        {**arrays, "a": arrays["a"] ^ np.array([[0, 0, 0], [0, 0, 1]], np.int16)},
        {**arrays, "b": np.array(["x", "yz"])},
        {**arrays, "b": np.array(["xy", "y"])},
        {"a": arrays["a"]},
        {**arrays, "c": np.zeros(0)},
        {"A": arrays["a"], "b": arrays["b"]},
    ]
    digests = {packs.content_digest(each) for each in [arrays, *changed]}
    assert len(digests) == 1 + len(changed)


def test_cifar_rows_come_in_one_order_however_they_were_stored(folders):
    arrays = TINY["cifar100"]
    order = np.concatenate([i * 5 + np.random.default_rng(4).permutation(5) for i in range(3)] + [np.arange(15, 18)])
    assert not np.array_equal(order, np.arange(18))
    write_pack("cifar100", folders, {**arrays, "images": arrays["images"][order]})
    assert_same(packs.read_pack("cifar100"), arrays)


# ------------------------------------------------------------------------------------------------- finding, reading


@pytest.mark.parametrize("name", NAMES)
def test_read_what_was_written(name, folders):
    paths = write_pack(name, folders)
    assert packs.find_pack(name) == paths
    assert left_in(folders) == sorted(packs.PACKS[name].files)
    assert_same(packs.read_pack(name), TINY[name])


@pytest.mark.parametrize("name", NAMES)
def test_missing_says_what_to_do(name, folders):
    with pytest.raises(DataError) as caught:
        packs.read_pack(name)
    for hint in (*packs.PACKS[name].files, str(folders), "COURSE_DATA", "download=True", f"course data {name}"):
        assert hint in str(caught.value)


def test_half_a_set_is_missing(folders):
    write_pack("cifar100", folders)[1].unlink()
    assert packs.find_pack("cifar100") is None
    with pytest.raises(DataError, match=r"cifar100_labels\.npz"):
        packs.read_pack("cifar100")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated(name, keep, folders):
    path = write_pack(name, folders)[0]
    content = path.read_bytes()
    path.write_bytes(content[: min(int(keep * len(content)), len(content) - 1)])
    with pytest.raises(DataError, match=r"truncated or damaged|not the known") as caught:
        packs.read_pack(name, download=True)  # the file is the user's: it is named, not replaced
    assert str(path) in str(caught.value) and "Delete it" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_flipped_byte_is_never_used(name, folders):
    path = write_pack(name, folders)[0]
    content = path.read_bytes()
    refused = 0
    for position in np.linspace(0, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        try:
            assert_same(packs.read_pack(name), TINY[name])  # a date in the zip directory may change
        except DataError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", NAMES)
def test_other_content_names_file_and_both_digests(name, folders, monkeypatch):
    paths = write_pack(name, folders)
    actual = packs.PACKS[name].digest
    monkeypatch.setitem(packs.PACKS, name, replace(packs.PACKS[name], digest="0" * 64))
    with pytest.raises(DataError, match="expected " + "0" * 64) as caught:
        packs.read_pack(name)
    assert actual in str(caught.value) and str(paths[0]) in str(caught.value) and "Delete it" in str(caught.value)


def test_data_behind_the_array_is_refused(folders):
    path = write_pack("cifar100", folders)[0]
    path.write_bytes(lzma.compress(lzma.decompress(path.read_bytes()) + b"more"))
    with pytest.raises(DataError, match="more data"):
        packs.read_pack("cifar100")


def test_pickles_are_refused(folders):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    folders.mkdir()
    np.savez(folders / "mnist.npz", train_images=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError, match="damaged"):
        packs.read_pack("mnist")


def test_file_that_may_not_be_read(folders, monkeypatch):
    write_pack("mnist", folders)

    def read(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setitem(packs.PACKS, "mnist", replace(packs.PACKS["mnist"], read=read))
    with pytest.raises(DataError, match="permissions"):
        packs.read_pack("mnist")


# ----------------------------------------------------------------------------------------------------- downloading


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched_unasked(name, monkeypatch):
    monkeypatch.setitem(packs.PACKS, name, replace(packs.PACKS[name], fetch=lambda _: pytest.fail("fetched")))
    with pytest.raises(DataError):
        packs.read_pack(name)


@pytest.mark.parametrize("name", NAMES)
def test_download_makes_the_same_pack_once(name, folders, online, monkeypatch):
    assert_same(packs.read_pack(name, download=True), TINY[name])
    assert left_in(folders) == sorted(packs.PACKS[name].files)  # the originals are gone
    monkeypatch.setitem(packs.PACKS, name, replace(packs.PACKS[name], fetch=lambda _: pytest.fail("fetched")))
    assert packs.download_pack(name) == packs.find_pack(name)
    assert_same(packs.read_pack(name, download=True), TINY[name])


ERRORS = [
    urllib.error.URLError("no route to host"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError("timed out"),
    RuntimeError("File not found or corrupted."),
    EOFError("Compressed file ended before the end-of-stream marker was reached"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_broken_download_leaves_nothing(name, error, folders, monkeypatch):
    break_download(monkeypatch, error)
    with pytest.raises(DataError, match="network and try again") as caught:
        packs.read_pack(name, download=True)
    assert "COURSE_DATA" in str(caught.value) and caught.value.__cause__ is error
    assert left_in(folders) == []


def test_half_a_download_is_not_kept(folders, monkeypatch):
    content = TINY["omniglot_one_shot_runs"]["file"].tobytes()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content[: len(content) // 2]))
    with pytest.raises(DataError, match="incomplete"):
        packs.read_pack("omniglot_one_shot_runs", download=True)
    assert left_in(folders) == []


@pytest.mark.parametrize("name", NAMES)
def test_download_of_other_content_is_not_kept(name, folders, online, monkeypatch):
    monkeypatch.setitem(packs.PACKS, name, replace(packs.PACKS[name], digest="0" * 64))
    with pytest.raises(DataError, match="source has changed"):
        packs.read_pack(name, download=True)
    assert left_in(folders) == []


@pytest.mark.parametrize("name", NAMES)
def test_disk_full_while_fetching(name, folders, monkeypatch):
    break_download(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DataError, match="no space"):
        packs.read_pack(name, download=True)
    assert left_in(folders) == []


@pytest.mark.parametrize("name", NAMES)
def test_disk_full_while_packing(name, folders, online, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DataError, match="no space") as caught:
        packs.read_pack(name, download=True)
    assert isinstance(caught.value.__cause__, OSError)
    assert left_in(folders) == []


def test_disk_full_at_the_second_file_removes_the_first(folders, online, monkeypatch):
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match="no space"):
        packs.read_pack("cifar100", download=True)
    assert len(calls) == 2 and left_in(folders) == []


@pytest.mark.parametrize("where", ["fetching", "packing"])
def test_interrupted_by_the_user(where, folders, online, monkeypatch):
    if where == "fetching":
        break_download(monkeypatch, KeyboardInterrupt())
    else:
        monkeypatch.setattr(os, "fsync", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        packs.read_pack("mnist", download=True)
    assert left_in(folders) == []


def test_read_only_folder_is_noticed_before_fetching(folders, online, monkeypatch):
    folders.mkdir()
    monkeypatch.setattr(packs.tempfile, "TemporaryFile", raising(OSError(errno.EROFS, "Read-only file system")))
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(DataError, match="cannot be written") as caught:
        packs.read_pack("mnist", download=True)
    assert str(folders) in str(caught.value) and "COURSE_DATA" in str(caught.value)
    assert left_in(folders) == []


def test_folder_below_a_file(tmp_path, online, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(DataError, match="cannot be written"):
        packs.read_pack("mnist", download=True)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_read_only_data_folder_can_be_read(folders, monkeypatch):
    write_pack("mnist", folders)
    monkeypatch.setattr(packs.tempfile, "TemporaryFile", raising(OSError(errno.EROFS, "Read-only file system")))
    assert_same(packs.read_pack("mnist", download=True), TINY["mnist"])


# ------------------------------------------------------------------------------------------------- cache, writing


def raising(error: BaseException):
    def function(*_, **__):
        raise error

    return function


def test_folders_of_the_environment(tmp_path, monkeypatch):
    assert cache.cache_dir() == tmp_path / "cache" and (tmp_path / "cache").is_dir()
    assert data_dirs() == (tmp_path / "data",)
    monkeypatch.delenv("COURSE_DATA")
    assert data_dirs() == (tmp_path / "cache",)
    monkeypatch.delenv("COURSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "course-companion"


@pytest.mark.parametrize(("platform", "folder"), [("linux", ".cache"), ("darwin", "Library/Caches")])
def test_folders_of_the_platform(platform, folder, tmp_path, monkeypatch):
    for name in ("COURSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cache.sys, "platform", platform)
    assert cache.cache_dir() == tmp_path / folder / "course-companion"


def test_no_writable_cache_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("COURSE_DATA")
    assert cache.cache_dir() is None and data_dirs() == ()
    with pytest.raises(DataError, match="none can be read or written"):
        packs.read_pack("mnist")
    with pytest.raises(DataError, match="No folder for data sets"):
        packs.read_pack("mnist", download=True)


def test_write_replaces_whole_files_only(tmp_path):
    path = tmp_path / "new" / "file.bin"
    write_atomically(path, lambda file: file.write(b"one"))
    write_atomically(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two" and left_in(path.parent) == ["file.bin"]

    def fail_halfway(file):
        file.write(b"thr")
        raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        write_atomically(path, fail_halfway)
    assert path.read_bytes() == b"two" and left_in(path.parent) == ["file.bin"]


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.ENOSPC, "no space"), (errno.EROFS, "cannot be written"), (errno.EIO, "Check the disk")],
)
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_write_fails_clearly_and_cleanly(code, says, step, tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    error = OSError(code, os.strerror(code))
    if step != "write":
        monkeypatch.setattr(os, step, raising(error))
    with pytest.raises(DataError, match=says) as caught:
        write_atomically(path, raising(error) if step == "write" else lambda file: file.write(b"new"))
    assert caught.value.__cause__ is error and str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and left_in(tmp_path) == ["file.bin"]


def test_cached_array_is_made_once_and_mapped(tmp_path):
    made = []

    def make():
        made.append(1)
        return np.arange(12, dtype=np.uint8).reshape(3, 4)

    for _ in range(3):
        array = cached_array("numbers", make)
        np.testing.assert_array_equal(array, np.arange(12).reshape(3, 4))
        assert isinstance(array, np.memmap) and not array.flags.writeable
    assert made == [1] and left_in(tmp_path / "cache") == ["numbers.npy"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b + b"x"])
def test_damaged_cache_is_made_again(damage, tmp_path):
    path = tmp_path / "cache" / "numbers.npy"
    cached_array("numbers", lambda: np.arange(1000))
    content = path.read_bytes()
    path.write_bytes(damage(content))
    np.testing.assert_array_equal(cached_array("numbers", lambda: np.arange(1000)), np.arange(1000))
    assert path.read_bytes() == content


def test_full_disk_does_not_stop_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.warns(UserWarning, match="takes longer.*no space"):
        np.testing.assert_array_equal(cached_array("numbers", lambda: np.arange(9)), np.arange(9))
    assert left_in(tmp_path / "cache") == []


def test_badly_written_cache_is_not_used(tmp_path, monkeypatch):
    def write_other(path, _):
        path.parent.mkdir(parents=True)
        np.save(path, np.zeros(9, int))

    monkeypatch.setattr(cache, "write_atomically", write_other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(cached_array("numbers", lambda: np.arange(9)), np.arange(9))
    assert left_in(tmp_path / "cache") == []


def test_errors_of_the_disk_are_told_from_those_of_the_network():
    assert cache.is_disk_error(OSError(errno.ENOSPC, "full")) and cache.is_disk_error(PermissionError(errno.EACCES, ""))
    for error in (*ERRORS, urllib.error.URLError(OSError(errno.EACCES, "blocked")), SimpleNamespace(errno=28)):
        assert not cache.is_disk_error(error)
