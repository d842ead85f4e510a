"""Archives of strangers: a zip, a tar or a folder becomes plain files below one folder, and nothing else anywhere.

Entries are taken in the order of their names, not of the archive, so the same files give the same result however they
were packed. What is not a plain file with a harmless name is left out and named. A reject is ``hostile`` where no
honest tool would have written the entry (a path that leads outside, a link, a device); then the caller should keep
nothing of that submission.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
NESTED_ENDINGS = (*ARCHIVE_ENDINGS, ".gz", ".xz", ".bz2", ".7z", ".rar", ".jar", ".whl", ".egg")
# Left behind by systems and tools; nothing that a student wrote.
CLUTTER = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__", ".ipynb_checkpoints", ".git", ".svn"}
CLUTTER |= {".venv", "venv", "node_modules", ".idea", ".vscode", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # names of devices on Windows
_CHUNK = 1 << 16
_XZ_MEMORY = 128 << 20  # an .xz header may ask for a dictionary of 4 GB
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, ValueError)
# but no other OSError, which is about our own disk and never the archive's fault
_BROKEN += (NotImplementedError, RuntimeError, struct.error, OverflowError)


@dataclass(frozen=True)
class Limits:
    """What one archive or folder may hold; sizes in bytes after unpacking.

    ``ratio`` (unpacked to packed) is asked only of what unpacks to more than ``ratio_from`` bytes: short files of
    zeros are no bombs.
    """

    total: int = 256 << 20
    file: int = 64 << 20
    entries: int = 5000
    ratio: float = 200.0
    ratio_from: int = 4 << 20
    depth: int = 16
    name: int = 200

    def __post_init__(self) -> None:
        if min(self.total, self.file, self.entries, self.ratio, self.ratio_from, self.depth, self.name) <= 0:
            raise ValueError(f"every limit must be above 0; got {self}")


@dataclass(frozen=True)
class StoredFile:
    """A file as it was stored: ``name`` with ``/`` below the folder, size in bytes, sha256 in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Reject:
    """An entry that was left out, and why. ``name`` is printable whatever the entry was called."""

    name: str
    reason: str
    hostile: bool = False


@dataclass(frozen=True)
class Unpacked:
    """What came out, both by name."""

    files: tuple[StoredFile, ...]
    rejects: tuple[Reject, ...]

    @property
    def hostile(self) -> bool:
        """Whether something was there that no honest tool writes, or a limit was passed."""
        return any(reject.hostile for reject in self.rejects)


class LimitPassedError(ValueError):
    """An archive that is larger, in one of the ways of ``Limits``, than is allowed."""


@dataclass(frozen=True)
class _Entry:
    raw: str
    size: int
    packed: int  # 0: unknown
    trouble: str  # why it is no plain file; "" for a plain file
    open: Callable[[], BinaryIO]


def unpack(source: Path, target: Path, limits: Limits | None = None, open_nested: bool = False) -> Unpacked:
    """Copy the plain files of a zip, a tar (plain, gz, xz, bz2) or a folder into ``target``, a folder without files.

    Links are never followed, neither in an archive nor in a folder.

    Parameters
    ----------
    limits : sizes; ``Limits()`` where none are given.
    open_nested : keep archives within the archive (as files) rather than leaving them out. An LMS download is an
        archive of archives; a submission should not be one.

    Returns
    -------
    What was stored and what was left out. Where a limit was passed or nothing could be read: no files and one hostile
    reject; what ``target`` holds then is unfinished and should be removed.

    Raises
    ------
    OSError : ``target`` cannot be written: never the submission's fault.
    """
    limits = limits or Limits()
    source, target = Path(source), Path(target)
    try:
        with _entries(source, limits) as entries:
            return _store(entries, target, limits, open_nested)
    except LimitPassedError as error:
        return Unpacked((), (Reject(printable(source.name), str(error), hostile=True),))
    except _BROKEN as error:
        reason = f"cannot be read as an archive: {printable(str(error))[:200]}"
        return Unpacked((), (Reject(printable(source.name), reason, hostile=True),))


def keep_file(source: Path, target: Path, name: str, limits: Limits | None = None) -> Unpacked:
    """Copy one plain file into ``target`` under ``name``, with the checks that it would meet in an archive.

    Raises
    ------
    OSError : ``target`` cannot be written, or ``source`` cannot be read.
    """
    limits = limits or Limits()
    entry = _Entry(name, os.lstat(source).st_size, 0, "", _opener(os.fspath(source)))
    try:
        return _store([entry], target, limits, False)
    except LimitPassedError as error:
        return Unpacked((), (Reject(printable(name), str(error), hostile=True),))


def safe_name(raw: str, limits: Limits | None = None) -> tuple[str, str, bool]:
    """A harmless relative path for an entry's name: ``(name, "", False)`` or ``("", reason, hostile)``.

    Characters that change how a name is shown (control, direction, surrogates of undecodable bytes) or that some
    system forbids are written ``%XX``, byte for byte, so the same name gives the same file everywhere.
    """
    limits = limits or Limits()
    name = unicodedata.normalize("NFC", raw.replace("\\", "/"))
    if name.startswith("/"):
        return "", "is an absolute path", True
    if re.match(r"[A-Za-z]:", name):
        return "", "names a drive", True
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        return "", "leads outside its folder", True
    if not parts:
        return "", "has no name", False
    if len(parts) > limits.depth:
        return "", f"lies {len(parts)} folders deep; at most {limits.depth} are allowed", False
    parts = [_escaped(part) for part in parts]
    longest = max(len(part.encode()) for part in parts)
    if longest > limits.name:
        return "", f"has a name of {longest} bytes; at most {limits.name} are allowed", False
    return "/".join(parts), "", False


def printable(text: str) -> str:
    """The text without characters that a terminal or an editor would act upon: they become ``%XX``."""
    return "".join(_escape(character) if _invisible(character) else character for character in text)


def file_digest(path: Path) -> str:
    """sha256 (hexadecimal) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(files: tuple[StoredFile, ...]) -> str:
    """sha256 (hexadecimal) over names and contents, whatever the order of ``files``."""
    lines = sorted(f"{file.sha256} {file.size} {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _escape(character: str) -> str:
    return "".join(
        f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape" if _byte(character) else "surrogatepass")
    )


def _byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def _escaped(part: str) -> str:
    shown = "".join(_escape(c) if _invisible(c) or c in '<>:"|?*' else c for c in part)
    if shown[-1] in ". ":  # Windows drops them
        shown = shown[:-1] + _escape(shown[-1])
    if _RESERVED.fullmatch(shown):
        shown = _escape(shown[0]) + shown[1:]
    return shown


def _store(entries: list[_Entry], target: Path, limits: Limits, open_nested: bool) -> Unpacked:
    files: dict[str, StoredFile] = {}
    folded: dict[str, str] = {}  # name without case -> name: two of them are one file on some systems
    rejects, total = [], 0
    named = sorted(((*safe_name(entry.raw, limits), entry) for entry in entries), key=lambda n: (n[0], n[3].raw))
    for name, reason, hostile, entry in named:
        shown = name or printable(entry.raw)
        if CLUTTER.intersection(name.split("/")):
            continue
        if reason or entry.trouble:
            rejects.append(Reject(shown, reason or entry.trouble, hostile or bool(entry.trouble)))
            continue
        if not open_nested and name.lower().endswith(NESTED_ENDINGS):
            rejects.append(Reject(shown, "is an archive within the archive; it is not opened"))
            continue
        if entry.size > limits.file:
            reason = f"holds {entry.size:,} bytes; at most {limits.file:,} are allowed"
            rejects.append(Reject(shown, reason, hostile=True))
            continue
        if entry.size > limits.ratio_from and entry.packed and entry.size / entry.packed > limits.ratio:
            reason = f"unpacks to {entry.size / entry.packed:,.0f} times its size, like a bomb"
            rejects.append(Reject(shown, reason, hostile=True))
            continue
        key = name.casefold()
        above = [folded[p] for p in _parents(key) if p in folded and folded[p] in files]
        if above:
            rejects.append(Reject(shown, f"lies below {above[0]}, which is a file", hostile=True))
            continue
        try:
            if key in folded and _digest(entry, limits) == files[folded[key]].sha256:
                continue
            if key in folded:
                same = name == folded[key]
                reason = "is there twice with different contents" if same else f"is {folded[key]} but for its case"
                rejects.append(Reject(shown, reason, hostile=same))
                continue
            files[name] = _copy(entry, target / name, name, limits, total)
        except LimitPassedError:
            raise
        except _BROKEN as error:
            (target / name).unlink(missing_ok=True)
            rejects.append(Reject(shown, f"is damaged: {printable(str(error))[:200]}", hostile=True))
            continue
        folded[key] = name
        total += files[name].size
    order = sorted(rejects, key=lambda reject: (reject.name, reject.reason))
    return Unpacked(tuple(files[name] for name in sorted(files)), tuple(order))


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _chunks(entry: _Entry, most: int) -> Iterator[bytes]:
    """The content of an entry; the size that an archive declares is not believed."""
    seen = 0
    with entry.open() as file:
        while chunk := file.read(_CHUNK):
            seen += len(chunk)
            if seen > most:
                raise LimitPassedError(
                    f"{printable(entry.raw)} goes on after {most:,} bytes, which is all that is allowed"
                )
            yield chunk


def _digest(entry: _Entry, limits: Limits) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(entry, limits.file):
        digest.update(chunk)
    return digest.hexdigest()


def _copy(entry: _Entry, path: Path, name: str, limits: Limits, before: int) -> StoredFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:  # x: never through a link, never over another file
        for chunk in _chunks(entry, min(limits.file, limits.total - before)):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return StoredFile(name, size, digest.hexdigest())


@contextmanager
def _entries(source: Path, limits: Limits) -> Iterator[list[_Entry]]:
    kind = os.lstat(source).st_mode
    with ExitStack() as stack:
        if stat.S_ISDIR(kind):
            yield list(_of_folder(source, limits))
        elif not stat.S_ISREG(kind):
            raise LimitPassedError("is a link or a device; only a folder or a plain file is read")
        elif zipfile.is_zipfile(source):
            yield _of_zip(source, limits, stack)
        else:
            yield stack.enter_context(_of_tar(source, limits))


def _counted(number: int, limits: Limits) -> None:
    if number > limits.entries:
        raise LimitPassedError(f"holds more than {limits.entries:,} entries")


def _of_folder(source: Path, limits: Limits) -> Iterator[_Entry]:
    number, folders = 0, [source]
    while folders:
        with os.scandir(folders.pop()) as found:
            for item in found:
                if item.name in CLUTTER:
                    continue
                number += 1
                _counted(number, limits)
                status = item.stat(follow_symlinks=False)
                raw = Path(item.path).relative_to(source).as_posix()
                if stat.S_ISDIR(status.st_mode):
                    # no deeper than one level past the limit, where the entries are named as too deep
                    if raw.count("/") > limits.depth:
                        yield _Entry(raw, 0, 0, "lies too deep", _nothing)
                    else:
                        folders.append(Path(item.path))
                    continue
                trouble = "" if stat.S_ISREG(status.st_mode) else "is a link or a device"
                if not trouble and status.st_nlink > 1:
                    trouble = "is a hard link to another file; hand in a copy"
                yield _Entry(raw, status.st_size, 0, trouble, _opener(item.path))


def _opener(path: str) -> Callable[[], BinaryIO]:
    def opened() -> BinaryIO:
        # no link, in case it was put there since; non-blocking, in case it is a pipe
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")

    return opened


def _nothing() -> BinaryIO:
    raise ValueError("this entry is not a file")


def _of_zip(source: Path, limits: Limits, stack: ExitStack) -> list[_Entry]:
    # zipfile makes an object of every entry before anybody can count them; each has at least 46 bytes here
    if _directory_bytes(source) > limits.entries * 600:
        raise LimitPassedError(f"holds more than {limits.entries:,} entries")
    archive = stack.enter_context(zipfile.ZipFile(source))
    infos = archive.infolist()
    _counted(len(infos), limits)
    packed = max(source.stat().st_size, 1)
    unpacked = sum(info.file_size for info in infos)
    if unpacked > limits.total:
        raise LimitPassedError(f"unpacks to {unpacked:,} bytes; at most {limits.total:,} are allowed")
    if unpacked > limits.ratio_from and unpacked / packed > limits.ratio:
        raise LimitPassedError(f"unpacks to {unpacked / packed:,.0f} times its size, like a bomb")
    return [
        _Entry(_zip_name(info), info.file_size, info.compress_size, _zip_trouble(info), _zip_opener(archive, info))
        for info in infos
        if not info.is_dir() or safe_name(info.filename, limits)[2]
    ]


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    return lambda: archive.open(info)


def _zip_name(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 0x800:  # declared UTF-8, decoded by zipfile
        return info.filename
    # zipfile takes the rest for the alphabet of DOS; many tools write UTF-8 without saying so
    raw = info.filename.encode("cp437", "replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return info.filename


def _zip_trouble(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in a way that is not read here; use an ordinary zip"
    return ""


def _directory_bytes(source: Path) -> int:
    """Length of a zip's directory as ``zipfile`` will read it; 0 where there is none."""
    size = source.stat().st_size
    with open(source, "rb") as file:
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        return 0
    if end >= 76 and tail[end - 20 : end - 16] == b"PK\6\7" and tail[end - 76 : end - 72] == b"PK\6\6":
        return struct.unpack_from("<Q", tail, end - 76 + 40)[0]
    return struct.unpack_from("<L", tail, end + 12)[0]


@contextmanager
def _of_tar(source: Path, limits: Limits) -> Iterator[list[_Entry]]:
    with tempfile.TemporaryFile() as plain:
        # tarfile reads long names and attributes whole, so the length is bounded before it sees anything
        most = limits.total + limits.entries * 2048
        with open(source, "rb") as packed:
            for chunk in _decompressed(packed):
                plain.write(chunk)
                if plain.tell() > most:
                    raise LimitPassedError(f"unpacks to more than {limits.total:,} bytes")
                if plain.tell() > limits.ratio_from and plain.tell() / max(packed.tell(), 1) > limits.ratio:
                    raise LimitPassedError(f"unpacks to more than {limits.ratio:,.0f} times its size, like a bomb")
        plain.seek(0)
        with tarfile.open(fileobj=plain, mode="r:", errors="surrogateescape") as archive:
            yield _of_members(archive, limits)


def _of_members(archive: tarfile.TarFile, limits: Limits) -> list[_Entry]:
    entries: list[_Entry] = []
    for number, member in enumerate(archive, 1):
        _counted(number, limits)
        if member.isdir() and not safe_name(member.name, limits)[2]:
            continue
        trouble = ""
        if member.issym() or member.islnk():
            trouble = f"is a link to {printable(member.linkname)[:100]}"
        elif not member.isreg() or member.sparse:
            trouble = "is neither a plain file nor a folder"
        entries.append(_Entry(member.name, member.size, 0, trouble, _tar_opener(archive, member)))
    if sum(entry.size for entry in entries) > limits.total:
        raise LimitPassedError(f"unpacks to more than {limits.total:,} bytes")
    return entries


def _tar_opener(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], BinaryIO]:
    return lambda: archive.extractfile(member) or _nothing()


def _decompressed(packed: BinaryIO) -> Iterator[bytes]:
    head = packed.read(6)
    packed.seek(0)
    if head.startswith(b"\x1f\x8b"):
        with gzip.open(packed) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    elif head.startswith(b"BZh"):
        with bz2.open(packed) as file:
            while chunk := _bz2_chunk(file):
                yield chunk
    elif head == b"\xfd7zXZ\0":
        xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not xz.eof:
            fresh = packed.read(_CHUNK) if xz.needs_input else b""
            if xz.needs_input and not fresh:
                raise EOFError("the archive ends too early")
            yield xz.decompress(fresh, _CHUNK)
    else:
        while chunk := packed.read(_CHUNK):
            yield chunk


def _bz2_chunk(file: BinaryIO) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as error:  # how bz2 says that the data are damaged
        raise EOFError(str(error)) from error
