"""The framing of the records that come out of the sandbox, and the host's parser, which trusts nothing.

A frame is a fixed header, a name, a message and some arrays in NumPy's own format. The student's code shares a
process with whatever writes the frames, so every length is checked against a cap before a byte of it is waited for,
and every array's header against the bytes that follow before anything is allocated. Nothing here can unpickle.

Standard library and NumPy only: a copy of this file goes into the sandbox beside the worker.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod

import numpy as np

MAGIC = b"CCW1"
STATUSES = ("started", "ok", "student_error", "memory", "process_limit", "output_limit", "finished")
KINDS = "biufc"  # booleans, integers, floating and complex numbers: no objects, texts, dates or records

_HEAD = struct.Struct("!4sBHHHI")  # magic, status, bytes of the name, bytes of the message, arrays, bytes of them all
_SIZE = struct.Struct("!I")
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{0,200}")
_ARRAY = re.compile(
    rb"\{'descr': '([<|])([biufc])(\d{1,2})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,18},? ?){0,32})\), \} *\n"
)
_MOST_NAME, _MOST_TEXT, _MOST_ARRAYS = 200, 4000, 4096
_ITEM_BYTES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}


class WireError(ValueError):
    """Bytes that the worker never writes by itself."""


@dataclass(frozen=True)
class Caps:
    """What a job may send back at most.

    Parameters
    ----------
    record : bytes of the arrays of one record.
    total : bytes of everything.
    count : records.
    """

    record: int = 16 << 20
    total: int = 64 << 20
    count: int = 1000

    def __post_init__(self) -> None:
        for name in ("record", "total", "count"):
            if not 0 < getattr(self, name) < 1 << 32:
                raise ValueError(f"{name} is between 1 and 2**32 - 1; got {getattr(self, name)}")


@dataclass(frozen=True)
class Record:
    """What a worker says about one call: its name, one of ``STATUSES``, a message, and plain arrays."""

    name: str
    status: str
    text: str
    arrays: tuple[np.ndarray, ...]


def pack(name: str, status: str, text: str = "", arrays: Sequence[np.ndarray] = ()) -> bytes:
    """One frame.

    Raises
    ------
    ValueError for a name, status or array that ``parse`` would refuse.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a record's name has up to {_MOST_NAME} of the characters A-Z a-z 0-9 _ . : / -; got {name!r}"
        )
    if len(arrays) > _MOST_ARRAYS:
        raise ValueError(f"a record holds at most {_MOST_ARRAYS} arrays; got {len(arrays)}")
    parts = []
    for array in arrays:
        if array.dtype.kind not in KINDS or array.dtype.itemsize not in _ITEM_BYTES[array.dtype.kind]:
            raise ValueError(f"arrays hold booleans or numbers of at most 64 bits a part; got {array.dtype}")
        file = BytesIO()
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        np.lib.format.write_array(file, little, version=(1, 0), allow_pickle=False)
        parts += [_SIZE.pack(file.tell()), file.getvalue()]
    payload = b"".join(parts)
    message = text.encode("utf-8", "replace")[:_MOST_TEXT].decode("utf-8", "ignore").encode()
    head = _HEAD.pack(MAGIC, STATUSES.index(status), len(name), len(message), len(arrays), len(payload))
    return b"".join((head, name.encode(), message, payload))


def parse_array(data: bytes | memoryview) -> np.ndarray:
    """The array in one file of NumPy's format, version 1.0; its own copy of the bytes.

    The header is matched as text, never evaluated, and must agree with the number of bytes that follow.

    Raises
    ------
    WireError for anything that ``pack`` does not write.
    """
    data = bytes(data)
    if data[:8] != b"\x93NUMPY\x01\x00" or len(data) < 10:
        raise WireError("an array starts with the mark of NumPy's format 1.0")
    start = 10 + int.from_bytes(data[8:10], "little")
    if start > 1024 or not (found := _ARRAY.fullmatch(data[10:start])):
        raise WireError("the header of an array names a plain type, an order and a shape")
    _, kind, size, fortran, dimensions = found.groups()
    kind, size = kind.decode(), int(size)
    shape = tuple(int(number) for number in re.findall(rb"\d+", dimensions))
    if size not in _ITEM_BYTES[kind] or prod(shape) * size != len(data) - start or max(shape, default=0) >= 1 << 40:
        raise WireError(f"an array of shape {shape} with {size} bytes an item cannot have {len(data) - start} bytes")
    flat = np.frombuffer(data, np.dtype(f"<{kind}{size}" if kind != "b" else "?"), offset=start)
    if kind == "b" and np.any(flat.view(np.uint8) > 1):
        raise WireError("a boolean is 0 or 1")
    return flat.reshape(shape, order="F" if fortran == b"True" else "C").copy()


class Parser:
    """Turns what arrives at the pipe into records, piece by piece, and stops at the first thing that is wrong.

    ``feed`` never raises for what it is given; it sets ``error`` (a frame that no worker writes) or ``over`` (more than
    the caps allow), after which nothing more is read. ``pending`` says that a frame was begun and not ended.
    """

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.records: list[Record] = []
        self.error = ""
        self.over = ""
        self._bytes = bytearray()
        self._total = 0

    @property
    def pending(self) -> bool:
        return bool(self._bytes)

    def feed(self, data: bytes) -> None:
        if self.error or self.over:
            return
        self._total += len(data)
        if self._total > self.caps.total:
            self.over = f"more than {self.caps.total} bytes of results"
            return
        self._bytes += data
        try:
            while not self.over and self._next():
                pass
        except WireError as error:
            self.error = str(error)

    def _next(self) -> bool:
        if len(self._bytes) < _HEAD.size:
            return False
        magic, status, name, text, arrays, payload = _HEAD.unpack_from(self._bytes)
        if magic != MAGIC or status >= len(STATUSES) or max(name / _MOST_NAME, text / _MOST_TEXT) > 1:
            raise WireError("a frame starts with the mark, a known status and short texts")
        if arrays > _MOST_ARRAYS or arrays * _SIZE.size > payload:
            raise WireError(f"{arrays} arrays cannot lie in {payload} bytes")
        if payload > self.caps.record + 2048 * arrays:  # an array's header and length take less
            self.over = f"a record of {payload} bytes, more than {self.caps.record}"
            return False
        if len(self.records) >= self.caps.count:
            self.over = f"more than {self.caps.count} records"
            return False
        end = _HEAD.size + name + text + payload
        if len(self._bytes) < end:
            return False
        frame = bytes(self._bytes[_HEAD.size : end])
        del self._bytes[:end]
        self.records.append(_record(STATUSES[status], frame, name, text, arrays))
        return True


def _record(status: str, frame: bytes, name_bytes: int, text_bytes: int, count: int) -> Record:
    name = frame[:name_bytes].decode("ascii", "replace")
    if not _NAME.fullmatch(name):
        raise WireError("the name of a record has other characters than the harness uses")
    text = frame[name_bytes : name_bytes + text_bytes].decode("utf-8", "replace")
    arrays, at = [], name_bytes + text_bytes
    for _ in range(count):
        if len(frame) - at < _SIZE.size:
            raise WireError("a record ends before its arrays do")
        (size,) = _SIZE.unpack_from(frame, at)
        at += _SIZE.size
        if size > len(frame) - at:
            raise WireError("an array reaches past its record")
        arrays.append(parse_array(memoryview(frame)[at : at + size]))
        at += size
    if at != len(frame):
        raise WireError("bytes follow the last array of a record")
    return Record(name, status, text, tuple(arrays))
