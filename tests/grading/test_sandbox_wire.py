"""The framing of the records: what is written is read, and nothing else is."""

import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.grading import wire
from utils.grading.wire import Caps, Parser, WireError, pack, parse_array

HEAD = struct.Struct("!4sBHHHI")


def parsed(data, caps=None, step=None):
    parser = Parser(caps or Caps())
    for at in range(0, len(data), step or max(len(data), 1)):
        parser.feed(data[at : at + (step or len(data))])
    return parser


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(()),
        np.zeros((0, 3), np.float32),
        np.arange(6, dtype=np.int8).reshape(1, 2, 3),
        np.array([True, False]),
        np.ones((2, 2), np.complex64),
        np.arange(4, dtype=">i8"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.float16([1.5]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_arrives_as_it_was_sent(array):
    (record,) = parsed(pack("f/0", "ok", "é", [array, array])).records
    assert (record.name, record.status, record.text) == ("f/0", "ok", "é")
    for found in record.arrays:
        assert found.dtype == array.dtype.newbyteorder("=") and np.array_equal(found, array)
        assert found.flags.owndata or (found.base is not None and found.flags.writeable)


@pytest.mark.parametrize("step", [1, 7, 64])
def test_frames_may_arrive_in_any_pieces(step):
    data = pack("", "started") + pack("a", "ok", "", [np.arange(9.0)]) + pack("b", "student_error", "x" * 9000)
    parser = parsed(data, step=step)
    assert [record.name for record in parser.records] == ["", "a", "b"]
    assert len(parser.records[2].text) == 4000 and not parser.pending


def test_a_cut_frame_is_pending_and_no_record():
    parser = parsed(pack("a", "ok", "", [np.arange(9.0)])[:-1])
    assert parser.pending and not parser.records and not parser.error


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_changed_bytes_never_raise_and_never_grow(noise, at):
    data = bytearray(pack("a", "ok", "text", [np.arange(4.0), np.eye(2)]))
    data[at : at + len(noise)] = noise
    parser = parsed(bytes(data))
    assert sum(array.nbytes for record in parser.records for array in record.arrays) <= len(data)


def header(text):
    padded = text.encode() + b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


@pytest.mark.parametrize(
    "data",
    [
        npy(np.array([1, "a"], dtype=object)),
        npy(np.array(["a"])),
        npy(np.zeros(2, [("a", "f8")])),
        npy(np.array(["2020-01-01"], dtype="datetime64[D]")),
        npy(np.zeros(3))[:-1],
        npy(np.zeros(3)) + b"\0",
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }") + bytes(8),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000000, 0), }"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (2.0,), }") + bytes(16),
        header("{'descr': '<f7', 'fortran_order': False, 'shape': (1,), }") + bytes(7),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + pickle.dumps([1]),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (print(1),), }") + bytes(8),
        header("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }") + b"\x07",
        b"\x93NUMPY\x02\x00" + npy(np.zeros(3))[8:],
        b"PK\x03\x04" + bytes(100),
        b"",
    ],
)
def test_t27_arrays_that_are_not_plain_are_refused(data):
    with pytest.raises(WireError):
        parse_array(data)


def test_no_pickle_is_ever_opened(monkeypatch):
    def forbidden(*_):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(pickle, "load", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    with pytest.raises(WireError):
        parse_array(npy(np.array([object], dtype=object)))


def test_a_size_over_the_cap_is_refused_by_the_header_alone():
    assert "more than 1000" in parsed(HEAD.pack(b"CCW1", 1, 0, 0, 1, 5000), Caps(record=1000)).over
    assert parsed(pack("a", "ok", "", [np.zeros(100)]), Caps(record=800)).records
    assert parsed(pack("a", "ok", "", [np.zeros(1000)]), Caps(record=800)).over


def test_count_and_total_are_capped():
    frame = pack("a", "ok")
    parser = parsed(frame * 4, Caps(count=3))
    assert len(parser.records) == 3 and "more than 3 records" in parser.over
    parser = parsed(frame * 4, Caps(total=3 * len(frame)), step=len(frame))
    assert len(parser.records) == 3 and "bytes of results" in parser.over


@pytest.mark.parametrize(
    "data",
    [
        HEAD.pack(b"CCW0", 1, 0, 0, 0, 0),
        HEAD.pack(b"CCW1", len(wire.STATUSES), 0, 0, 0, 0),
        HEAD.pack(b"CCW1", 1, 201, 0, 0, 0),
        HEAD.pack(b"CCW1", 1, 0, 4001, 0, 0),
        HEAD.pack(b"CCW1", 1, 0, 0, 2, 4),
        HEAD.pack(b"CCW1", 1, 3, 0, 0, 0) + b"a\nb",
        HEAD.pack(b"CCW1", 1, 0, 0, 1, 8) + struct.pack("!I", 5) + bytes(4),
        HEAD.pack(b"CCW1", 1, 0, 0, 0, 4) + bytes(4),
        HEAD.pack(b"CCW1", 1, 0, 0, 2, 8) + struct.pack("!I", 4) + bytes(4),
    ],
)
def test_frames_that_no_worker_writes_stop_the_reading(data):
    parser = parsed(data)
    assert parser.error and not parser.records
    parser.feed(pack("a", "ok"))
    assert not parser.records


@pytest.mark.parametrize(
    ("name", "array", "word"),
    [
        ("a b", np.zeros(1), "name"),
        ("a" * 201, np.zeros(1), "name"),
        ("a", np.array([None]), "numbers"),
        ("a", np.array(["x"]), "numbers"),
        ("a", np.zeros(1, np.clongdouble), "64 bits"),
    ],
)
def test_what_cannot_be_read_is_not_written(name, array, word):
    with pytest.raises(ValueError, match=word):
        pack(name, "ok", "", [array])


def test_caps_are_positive_and_small_enough_to_count():
    with pytest.raises(ValueError, match="total is between"):
        Caps(total=1 << 32)
    with pytest.raises(ValueError, match="count is between"):
        Caps(count=0)
