"""Where the course keeps its files, and how it writes them: whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

APP = "course-companion"
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


class DataError(RuntimeError):
    """Data could not be found, read, checked, fetched or written; the message says what to do."""


def cache_dir() -> Path | None:
    """The folder for files that can be made again, created if needed; None if it cannot be written.

    ``$COURSE_CACHE``, else ``course-companion`` in the user's cache folder: ``$XDG_CACHE_HOME``, else ``~/.cache``
    (Linux), ``~/Library/Caches`` (macOS), ``%LOCALAPPDATA%`` (Windows).
    """
    folder = _cache_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # only a real write tells: permission bits say nothing about read-only mounts, quotas or root
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def data_dirs() -> tuple[Path, ...]:
    """The folders in which packs are looked for: ``$COURSE_DATA`` (may be read-only), else the cache folder, if any."""
    chosen = os.environ.get("COURSE_DATA")
    if chosen:
        return (Path(chosen).expanduser().resolve(),)
    folder = cache_dir()
    # a cache folder on a disk that has filled up since can still be read
    return (folder,) if folder else tuple(path for path in [_cache_path()] if path.is_dir())


def write_atomically(path: Path | str, write: Callable[[BinaryIO], None]) -> None:
    """Create or replace ``path`` by what ``write(file)`` writes: afterwards it is complete, or as it was before.

    Parameters
    ----------
    path : the file; its folder is created if needed.
    write : gets a binary file open for writing (seekable).

    Raises
    ------
    DataError : the file system refused (no space, read-only, ...); the ``OSError`` is its ``__cause__``.
    """
    path = Path(path)
    # next to the target, because a rename is atomic only within one file system; random, because two processes may
    # make the same file at the same time (the last one wins, both are complete)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # else a crash may keep the rename and lose the content
        os.replace(part, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        _remove(part)


def disk_error(path: Path | str, error: OSError) -> DataError:
    """The error to raise (``from error``) when ``path`` could not be written: what happened and what to do."""
    if error.errno in _FULL:
        why = "no space is left there. Free some"
    elif error.errno in _NOT_WRITABLE:
        why = "the folder cannot be written. Make it writable"
    else:
        why = f"{error.strerror or error}. Check the disk"
    return DataError(
        f"Cannot write {path}: {why}, or name another folder in the environment variables COURSE_DATA (data sets) "
        "or COURSE_CACHE (files that can be made again). Nothing half-written was left."
    )


def is_disk_error(error: BaseException) -> bool:
    """Whether an error says that a folder is full or cannot be written (and not, say, that the network is down)."""
    return isinstance(error, OSError) and error.errno in _FULL | _NOT_WRITABLE


def cached_array(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that ``make()`` returns, from the cache folder if it is there, else made and put there.

    The cache only saves time: a truncated file is made again, and without a writable folder the array is simply
    made each time (with a warning).

    Parameters
    ----------
    key : file name without ending; must change whenever the content would (hold a digest of the source, a version).

    Returns
    -------
    Any dtype and shape; memory-mapped and READ-ONLY when it comes from a file: copy what you take.
    """
    path = _cache_path() / f"{key}.npy"
    array = _open_npy(path)
    if array is not None:
        return array
    made = np.ascontiguousarray(make())
    try:
        write_atomically(path, lambda file: np.lib.format.write_array(file, made, allow_pickle=False))
    except DataError as error:
        warnings.warn(f"Prepared data is not kept, so every start takes longer. {error}", stacklevel=2)
        return made
    array = _open_npy(path)
    if array is None or not np.array_equal(array, made):  # checked once, here; later only the size is
        _remove(path)
        return made
    return array


def _open_npy(path: Path) -> np.ndarray | None:
    """A ``.npy`` file mapped into memory; None if there is none or it is not complete."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # a missing, truncated or overwritten file: numpy promises no particular error
        return None
    return array if path.stat().st_size == array.offset + array.nbytes else None


def _cache_path() -> Path:
    if chosen := os.environ.get("COURSE_CACHE"):
        return Path(chosen).expanduser().resolve()
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen).expanduser().resolve() / APP
    home = Path(os.path.expanduser("~"))  # unlike Path.home() never raises, if there is no home
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / APP
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / APP
    return home / ".cache" / APP


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # never hide the error that led here; a path below a file, say, cannot exist anyway
        return
