"""The plugin that compares reruns, without a kernel; ``test_book_planted_errors.py`` runs it for real."""

from __future__ import annotations

import os
import subprocess
import sys

import nbval_claims as plugin
import pytest
from test_notebooks import made_claim, shown

from utils.claims import CHECK_MIME, CLAIM_MIME
from utils.claims.claim import GLUE_PREFIX


def payload(**changes):
    return shown(made_claim(**changes))[0]["data"][CLAIM_MIME]


def test_claims_that_agree():
    assert plugin.claim_problems([], []) == []
    second = {"id": "small-second", "mean": 70.0}
    assert plugin.claim_problems([payload(), payload(**second)], [payload(**second), payload(mean=80.4)]) == []


@pytest.mark.parametrize(
    ("stored", "new", "problem"),
    [
        ([{}], [{"mean": 86.0}], "claim small-first: stored 80.0 ± 0.6 %, this run 86.0 ± 0.6 %: 86.00 is "),
        ([{}], [], "claim small-first: stored 80.0 ± 0.6 %, this run does not make it"),
        ([], [{}], "claim small-first: this run 80.0 ± 0.6 %, not stored in this cell"),
        ([{}, {}], [{}], "claim small-first: made twice in one cell"),
        ([{}], [{}, {}], "claim small-first: made twice in one cell"),
        ([{"n": 100}], [{"n": 100}], "too imprecise"),
        ([{"mean": 20.2}], [{"mean": 20.2}], "does not lie above 20"),
        ([{}], [{"dataset": "other"}], "dataset is 'other', stored 'made up'"),
    ],
)
def test_claims_that_do_not(stored, new, problem):
    [found] = plugin.claim_problems([payload(**c) for c in stored], [payload(**c) for c in new])
    assert problem in found


def test_a_renamed_claim_is_missing_and_unknown():
    found = plugin.claim_problems([payload()], [payload(id="small-1st")])
    assert len(found) == 2 and "does not make it" in found[1] and "not stored" in found[0]


@pytest.mark.parametrize("change", [{"sd": None}, {"n": 0}, {"id": "No Id"}, {"unknown": 1}])
def test_a_broken_stored_claim_is_red(change):
    broken = {**payload(), **change}
    [found] = plugin.claim_problems([broken], [{**payload(), "id": broken["id"]}])
    assert "the stored claim is broken" in found
    lacking = payload()
    del lacking["sd"]
    [found] = plugin.claim_problems([lacking], [payload()])
    assert "stored 80.0, this run 80.0 ± 0.6 %: the stored claim is broken" in found


@pytest.mark.parametrize(
    ("stored", "new", "problem"),
    [
        ([{"shows": "cost", "disagree": []}], [{"shows": "cost", "disagree": []}], None),
        ([{"shows": "claims", "disagree": None}], [{"shows": "claims", "disagree": []}], None),
        ([{"shows": "claims", "disagree": None}], [{"shows": "claims", "disagree": None}], "compared nothing"),
        ([{"shows": "claims", "disagree": None}], [{"shows": "claims"}], "compared nothing"),
        ([{"shows": "claims", "disagree": ["a"]}], [{"shows": "claims", "disagree": ["a"]}], "do not agree"),
        ([{"shows": "claims", "disagree": None}], [], "checks shown: stored ['claims'], this run []"),
        ([], [{"shows": "cost", "disagree": []}], "checks shown: stored [], this run ['cost']"),
    ],
)
def test_a_chapters_own_verdict(stored, new, problem):
    found = plugin.check_problems(stored, new)
    assert (found == []) if problem is None else (len(found) == 1 and problem in found[0])


def test_glued_texts_are_the_same_ones():
    assert plugin.glue_problems(["a", "a-mean"], ["a-mean", "a"]) == []
    [found] = plugin.glue_problems(["a", "b"], ["a", "c"])
    assert "lacks ['b'], and ['c'] are not stored" in found
    assert plugin.glue_problems(["a"], ["a", "a"])


class FakeCell:
    """What our comparison needs of nbval's cell, with a comparison that remembers what it was asked to compare."""

    def compare(self, test, ref, skip_compare=None):
        self.comparison_traceback = [] if test == ref else ["exact: differ"]
        self.compared = (test, ref)
        return test == ref

    compare_outputs = plugin.with_claims(compare)


STREAM = {"output_type": "stream", "name": "stdout", "text": "agree\n"}


def test_only_what_is_no_claim_is_compared_exactly():
    check = {"data": {"text/plain": "1 of 1", CHECK_MIME: {"shows": "claims", "disagree": []}}}
    written = {"data": {"text/plain": "the book's own", CHECK_MIME: {"shows": "claims", "disagree": None}}}
    one = FakeCell()
    assert one.compare_outputs([STREAM, *shown(made_claim(mean=80.3)), check], [*shown(made_claim()), STREAM, written])
    assert one.compared == ([STREAM], [STREAM]) and one.comparison_traceback == []


def test_every_difference_is_told():
    one = FakeCell()
    other = {**STREAM, "text": "differ\n"}
    assert not one.compare_outputs([other, *shown(made_claim(mean=86.0))], [STREAM, *shown(made_claim())])
    assert one.comparison_traceback[0] == "exact: differ" and "this run 86.0" in one.comparison_traceback[1]
    assert not one.compare_outputs([STREAM], [STREAM, *shown(made_claim())])
    assert len(one.comparison_traceback) == 2, "the claim, and its texts"


def test_a_glued_text_needs_no_name_to_be_found():
    nameless = {"data": {f"{GLUE_PREFIX}text/plain": "'1'"}, "metadata": {}}
    one = FakeCell()
    assert one.compare_outputs([nameless], [nameless])
    assert not one.compare_outputs([], [nameless])


def test_the_kernels_environment():
    given = {"MPLBACKEND": "Agg", "COURSE_WRITING": "1", "COURSE_SEED": "3", "HOME": "there", "PYTHONPATH": "mine"}
    wanted = {"HOME": "there", "COURSE_QUIET": "1", "OMP_NUM_THREADS": "1", "IPYTHONDIR": "empty"}
    assert plugin.kernel_environment(given, "empty", blocked=False) == {**wanted, "PYTHONPATH": "mine"}
    blocked = plugin.kernel_environment(given, "empty", blocked=True)
    assert blocked == {**wanted, "PYTHONPATH": f"{plugin.OFFLINE}{os.pathsep}mine"}
    assert plugin.kernel_environment({}, "empty", blocked=True)["PYTHONPATH"] == str(plugin.OFFLINE)


def test_the_environment_comes_back():
    before = dict(os.environ)
    with pytest.raises(KeyError), plugin._environment({"ONLY": "this"}):
        assert dict(os.environ) == {"ONLY": "this"}
        raise KeyError
    assert dict(os.environ) == before


OFFLINE = """
import socket, threading, urllib.request

def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except OSError as error:
        return "the network is blocked" in str(error)
    return False

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
outside = ("192.0.2.1", 80)
assert refused(socket.create_connection, outside, timeout=1)
assert refused(socket.socket().connect, outside)
assert refused(socket.socket().connect_ex, outside)
assert refused(udp.sendto, b"x", outside) and refused(udp.sendto, b"x", 0, outside)
assert refused(udp.sendmsg, [b"x"], [], 0, outside)
assert refused(socket.getaddrinfo, "host.invalid", 80) and refused(socket.getaddrinfo, host="host.invalid", port=80)
assert refused(socket.gethostbyname, "host.invalid")
assert refused(urllib.request.urlopen, "http://host.invalid", timeout=1)
assert refused(socket.socket(socket.AF_INET6).connect, ("2001:db8::1", 80))

server = socket.create_server(("127.0.0.1", 0))
for host in ("localhost", "127.0.0.1"):
    with socket.create_connection((host, server.getsockname()[1]), timeout=5) as local:
        local.sendall(b"x")
here, there = socket.socketpair()
here.sendall(b"x")
assert there.recv(1) == b"x"
print("blocked")
"""


def test_offline_only_this_machine_can_be_reached():
    run = subprocess.run(
        [sys.executable, "-c", OFFLINE], env={**os.environ, "PYTHONPATH": str(plugin.OFFLINE)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert run.stdout == "blocked\n", run.stderr


def test_a_kernel_that_is_not_blocked_is_refused():
    class Kernel:
        class kc:
            execute = staticmethod(lambda *args, **kwargs: "2")
            replies = iter(
                [{"parent_header": {"msg_id": id}, "content": {"status": status}} for id, status in ("1a", "2b")]
            )
            get_shell_msg = classmethod(lambda cls, timeout: next(cls.replies))

    with pytest.raises(RuntimeError, match="is not blocked"):
        plugin._need_blocked(Kernel)
