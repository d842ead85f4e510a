"""Pack files: each benchmark data set as one or two compact files, checked by their content, fetched on request.

A pack is checked by a digest of its arrays and not of its bytes, because two writers of the same arrays seldom write
the same bytes: so a pack that came with the course and one made here from the originals pass the same check.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.data.cache import DataError, data_dirs, disk_error, is_disk_error, write_atomically

Arrays = dict[str, np.ndarray]

ONE_SHOT_RUNS_URL = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/one-shot-classification/all_runs.zip"
)
_MOST_BYTES = 16 << 20  # of the one-shot runs (0.35 MB): no server can fill the memory


@dataclass(frozen=True)
class Pack:
    """How one data set is stored.

    Parameters
    ----------
    files : names of its files, all in one folder.
    digest : ``content_digest`` of its arrays.
    read : paths of the files -> arrays.
    write : arrays -> one function a file that writes it.
    fetch : an empty folder for the originals -> arrays; needs the network.
    """

    files: tuple[str, ...]
    digest: str
    read: Callable[..., Arrays]
    write: Callable[[Arrays], Sequence[Callable[[BinaryIO], None]]]
    fetch: Callable[[Path], Arrays]


def content_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 (hexadecimal) over name, dtype, shape and bytes of each array, sorted by name.

    Texts count as UTF-8 lines, because the dtype of a text array depends on its longest text.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.kind == "U":
            kind, content = "text", "\n".join(array.ravel().tolist()).encode()
        else:
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            kind, content = array.dtype.str, array.reshape(-1).view(np.uint8).data
        digest.update(f"{name} {kind} {list(array.shape)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def find_pack(name: str) -> tuple[Path, ...] | None:
    """Paths of the files of a pack; None if one of them is nowhere. Nothing is read or checked."""
    files = PACKS[name].files
    for folder in data_dirs():
        paths = tuple(folder / file for file in files)
        if all(map(os.path.isfile, paths)):  # unlike Path.is_file false, not an error, in a folder that is closed to us
            return paths
    return None


def require_pack(name: str, download: bool = False) -> tuple[Path, ...]:
    """Paths of the files of a pack, fetched first if they are missing and ``download`` allows it.

    Raises
    ------
    DataError : missing, and ``download`` is False or failed; the message says how to get it.
    """
    paths = find_pack(name)
    if paths is None and download:
        return download_pack(name)
    if paths is None:
        files = " and ".join(PACKS[name].files)
        looked = ", ".join(map(str, data_dirs())) or "no folder, because none can be read or written"
        raise DataError(
            f"The data set {name} is not on this machine (looked for {files} in {looked}). Either set the environment "
            f"variable COURSE_DATA to a folder that holds {files}, or fetch it once: call again with download=True, or "
            f"run `course data {name}`."
        )
    return paths


def read_pack(name: str, download: bool = False) -> Arrays:
    """The arrays of a pack, checked.

    Raises
    ------
    DataError : missing, unreadable, truncated, or other content than known; the message says what to do.
    """
    paths = require_pack(name, download)
    pack, shown = PACKS[name], " and ".join(map(str, paths))
    again = f"Delete it and fetch it again: call with download=True, or run `course data {name}`."
    try:
        arrays = pack.read(*paths)
    except PermissionError as error:
        raise DataError(f"{shown} may not be read: {error}. Change its permissions or its owner.") from error
    except Exception as error:  # damaged zip, xz and npy files raise a dozen different types
        raise DataError(f"{shown} is truncated or damaged ({type(error).__name__}: {error}). {again}") from error
    found = content_digest(arrays)
    if found != pack.digest:
        raise DataError(
            f"{shown} is not the known {name} data: its content has sha256 {found}, expected {pack.digest}. {again}"
        )
    return arrays


def download_pack(name: str) -> tuple[Path, ...]:
    """Fetch the originals of a data set, check them, and pack them into the data folder; returns the files.

    A pack that is there already is only checked. The originals are deleted. Either the whole pack is there
    afterwards, or nothing of it.

    Raises
    ------
    DataError : no network, other content than known, a folder that is full or cannot be written.
    """
    if (paths := find_pack(name)) is not None:
        read_pack(name)
        return paths
    pack, folder = PACKS[name], _writable_dir()
    arrays = _fetch(name, folder)
    found = content_digest(arrays)
    if found != pack.digest:
        raise DataError(
            f"The download of {name} is incomplete, or its source has changed: its content has sha256 {found}, "
            f"expected {pack.digest}. Nothing was kept; try again."
        )
    paths = tuple(folder / file for file in pack.files)
    fresh = [path for path in paths if not path.exists()]
    try:
        for path, write in zip(paths, pack.write(arrays), strict=True):
            write_atomically(path, write)
    except BaseException:
        for path in fresh:  # half a set would be taken for a whole one that lost a file
            path.unlink(missing_ok=True)
        raise
    return paths


def check_split(name: str, split: str, allowed: Sequence[str]) -> None:
    """Raise a ``ValueError`` that lists what exists, unless ``split`` is one of the allowed."""
    if split not in allowed:
        raise ValueError(f"{name} has no split {split!r}; there are: {', '.join(allowed)}")


def _writable_dir() -> Path:
    folders = data_dirs()
    if not folders:
        raise DataError(
            "No folder for data sets: the cache folder cannot be written. Set the environment variable COURSE_DATA to "
            "a folder with some space (CIFAR-100 needs about 0.6 GB while it is fetched)."
        )
    try:
        folders[0].mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folders[0]):  # find out before 170 MB are fetched, not after
            return folders[0]
    except OSError as error:
        raise disk_error(folders[0], error) from error


def _fetch(name: str, folder: Path) -> Arrays:
    try:
        # in the data folder, because the system's temporary folder is often a small one in memory
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as originals:
            return PACKS[name].fetch(Path(originals))
    except Exception as error:  # torchvision, urllib, zip and tar each have their own
        if is_disk_error(error):
            raise disk_error(folder, error) from error
        files = " and ".join(PACKS[name].files)
        raise DataError(
            f"Fetching {name} failed ({type(error).__name__}: {error}). Nothing half-written was left. Check the "
            f"network and try again; or copy {files} from a machine that has them into a folder, and set the "
            "environment variable COURSE_DATA to that folder."
        ) from error


# ---------------------------------------------------------------------------------------------------- npz files


def _read_npz(path: Path) -> Arrays:
    # opened here, because numpy leaves a damaged file open, which on Windows then cannot be deleted
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write_npz(arrays: Arrays) -> list[Callable[[BinaryIO], None]]:
    return [lambda file: np.savez_compressed(file, **arrays)]


# ----------------------------------------------------------------------------------------------------- Omniglot


def _fetch_omniglot(folder: Path) -> Arrays:
    from torchvision import datasets

    arrays: Arrays = {}
    for part in ("background", "evaluation"):
        original = datasets.Omniglot(folder, background=part == "background", download=True)
        arrays |= _pack_characters(Path(original.target_folder), part)
    return arrays


def _pack_characters(folder: Path, part: str) -> Arrays:
    """Read ``Alphabet/characterNN/*.png`` (black ink): images of a character sorted by file name, that is by drawer."""
    from PIL import Image

    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/character*") if path.is_dir())
    bits, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).glob("*.png")):
            with Image.open(path) as image:
                bits.append(np.packbits(np.asarray(image.convert("L")) < 128))
            labels.append(label)
    return {
        f"{part}_bits": np.stack(bits),
        f"{part}_labels": np.array(labels, np.int16),
        f"{part}_names": np.array(names),
    }


def _read_bytes(path: Path) -> Arrays:
    return {"file": np.frombuffer(path.read_bytes(), np.uint8)}


def _write_bytes(arrays: Arrays) -> list[Callable[[BinaryIO], None]]:
    return [lambda file: file.write(arrays["file"].tobytes())]


def _fetch_one_shot_runs(folder: Path) -> Arrays:
    with urllib.request.urlopen(ONE_SHOT_RUNS_URL, timeout=60) as answer:
        return {"file": np.frombuffer(answer.read(_MOST_BYTES), np.uint8)}


# -------------------------------------------------------------------------------------------------------- MNIST


def _fetch_mnist(folder: Path) -> Arrays:
    from torchvision import datasets

    arrays: Arrays = {}
    for part in ("train", "test"):
        original = datasets.MNIST(folder, train=part == "train", download=True)
        arrays[f"{part}_images"] = original.data.numpy().astype(np.uint8)
        arrays[f"{part}_labels"] = original.targets.numpy().astype(np.uint8)
    return arrays


# ---------------------------------------------------------------------------------------------------- CIFAR-100


def _read_cifar100(images_path: Path, labels_path: Path) -> Arrays:
    with lzma.open(images_path) as file:
        images = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # reading on to the end is also what makes xz verify its checksum
            raise ValueError("more data than one array")
    labels = _read_npz(labels_path)
    fine = labels["fine_labels"].astype(np.int64)
    part = np.concatenate([[0], np.cumsum(np.diff(fine) < 0)])  # sorted by class: the test part starts where it drops
    order = _canonical_order(images, fine, part)
    return {**labels, "images": images[order]}


def _write_cifar100(arrays: Arrays) -> list[Callable[[BinaryIO], None]]:
    def write_images(file: BinaryIO) -> None:
        # photographs hardly compress: the highest level saves 10 % and takes ten times as long
        with lzma.open(file, "wb", preset=1) as packed:
            np.lib.format.write_array(packed, np.ascontiguousarray(arrays["images"]), allow_pickle=False)

    labels = {name: arrays[name] for name in ("fine_labels", "class_names")}
    return [write_images, *_write_npz(labels)]


def _fetch_cifar100(folder: Path) -> Arrays:
    from torchvision import datasets

    train = datasets.CIFAR100(folder, train=True, download=True)
    test = datasets.CIFAR100(folder, train=False, download=True)
    images = np.concatenate([train.data, test.data])
    labels = np.concatenate([train.targets, test.targets]).astype(np.uint8)
    part = np.repeat([0, 1], [len(train.data), len(test.data)])
    order = _canonical_order(images, labels, part)
    return {"images": images[order], "fine_labels": labels[order], "class_names": np.array(train.classes)}


def _canonical_order(images: np.ndarray, labels: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Rows by part, class, and then by the sha256 of the image.

    Copies of CIFAR-100 differ in the order of the images of a class; this order depends on the images alone, so that
    the same seed draws the same images on every machine.
    """
    keys = np.array([hashlib.sha256(row.data).hexdigest() for row in np.ascontiguousarray(images)])
    return np.lexsort((keys, labels, part))


PACKS: dict[str, Pack] = {
    "omniglot": Pack(
        files=("omniglot.npz",),
        digest="7501c23f77b4a376f88bd9bf4164ddf301ac43c0da37fad500e158b2528d579c",
        read=_read_npz,
        write=_write_npz,
        fetch=_fetch_omniglot,
    ),
    "omniglot_one_shot_runs": Pack(
        files=("omniglot_one_shot_runs.zip",),
        digest="16282bd9b3c8caca1ca95ff48d9810f7dc4ccdd932868b021292e422c9a29d86",
        read=_read_bytes,
        write=_write_bytes,
        fetch=_fetch_one_shot_runs,
    ),
    "mnist": Pack(
        files=("mnist.npz",),
        digest="f6da4406d24f8af21f470a756196d3f2b2b15296545e20ee3401744f70771f71",
        read=_read_npz,
        write=_write_npz,
        fetch=_fetch_mnist,
    ),
    "cifar100": Pack(
        files=("cifar100_images.npy.xz", "cifar100_labels.npz"),
        digest="484696f0e1b091d614fb4627427baa1ec90c574a4e8d9a4b6747c96c1fc7f5d9",
        read=_read_cifar100,
        write=_write_cifar100,
        fetch=_fetch_cifar100,
    ),
}
