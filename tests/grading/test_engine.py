"""Engines: the same results by threads and by a cluster, and one task that fails takes no other with it."""

from __future__ import annotations

import importlib.util
import threading
import time

import pytest

from utils.grading.engine import dask, engine, threads

NO_CLUSTER = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")


def work(task: dict) -> str:
    if task["n"] == 3:
        raise OSError("this one fails")
    time.sleep(0.001 * (5 - task["n"] % 5))  # so that they do not come in their order
    return f'{{"n":{task["n"]}}}'


TASKS = [{"n": n} for n in range(12)]


def check(found: list) -> None:
    assert sorted(number for number, _ in found) == list(range(12))
    by_number = dict(found)
    assert isinstance(by_number.pop(3), OSError)
    assert by_number == {n: f'{{"n":{n}}}' for n in range(12) if n != 3}


@pytest.mark.parametrize("jobs", [1, 4])
def test_threads_give_every_result(jobs: int) -> None:
    with threads(jobs) as workers:
        check(list(workers.results(work, TASKS)))
        assert list(workers.results(work, [])) == []


def test_so_many_tasks_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def count(task: int) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return ""

    with threads(3) as workers:
        list(workers.results(count, range(12)))
    assert most == 3


def test_whoever_stops_listening_ends_the_work() -> None:
    begun = []

    def slow(task: int) -> str:
        begun.append(task)
        time.sleep(0.02)
        return ""

    with threads(1) as workers:
        next(results := workers.results(slow, range(100)))
        results.close()
    count = len(begun)
    assert count < 10
    time.sleep(0.1)
    assert len(begun) == count


@NO_CLUSTER
def test_a_cluster_gives_the_same() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        with dask(address) as workers:
            check(list(workers.results(work, TASKS)))


@NO_CLUSTER
def test_where_there_is_no_cluster_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    config = pytest.importorskip("dask").config
    assert distributed
    with config.set({"distributed.comm.timeouts.connect": "300ms"}), pytest.raises(OSError), dask("dask://127.0.0.1:9"):
        pass


def test_no_job_and_no_such_engine() -> None:
    with pytest.raises(ValueError, match="at least one job"), engine(None, 0):
        pass
    with pytest.raises(ValueError, match="dask://host:port"):
        engine("ray://somewhere", 1)
