"""Where work is done: threads of this process, or a Dask cluster. The same results whichever does it, in any order.

A task is plain values, its result is texts, and doing it twice does no harm: what a worker had begun when it died is
begun again by another. Threads are enough on one machine, because each only waits for a sandbox or a parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Protocol

RETRIES = 2
"""How often a cluster tries a task again whose worker died."""


class Engine(Protocol):
    def results(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """``(number of the task, result)`` as they come; an exception in place of a result that there is not."""
        ...


@contextmanager
def threads(jobs: int) -> Iterator[Engine]:
    """``jobs`` tasks at a time. Raises ``ValueError`` for fewer than one."""
    if jobs < 1:
        raise ValueError(f"at least one job does the work; got {jobs}")
    yield _Threads(jobs)


@contextmanager
def dask(address: str) -> Iterator[Engine]:
    """The workers of the scheduler at ``address`` (``dask://host:port`` or ``tcp://host:port``).

    Each needs this package and sees the course's folder under the same path; it is not for a network that strangers are
    on, unless it is set up with TLS.

    Raises
    ------
    ModuleNotFoundError : ``distributed`` is not installed.
    OSError : nobody answers there.
    """
    from distributed import Client

    with Client(address.replace("dask://", "tcp://", 1), set_as_default=False) as client:
        yield _Dask(client)


def engine(address: str | None, jobs: int) -> Any:
    """``dask(address)`` where an address is given, else ``threads(jobs)``. ``ValueError`` for any other address."""
    if address is None or address == "threads":
        return threads(jobs)
    if not address.startswith(("dask://", "tcp://", "tls://")):
        raise ValueError(f"an engine is threads or dask://host:port; got {address!r}")
    return dask(address)


class _Threads:
    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def results(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="grading")
        try:
            numbers = {pool.submit(function, task): number for number, task in enumerate(tasks)}
            for done in as_completed(numbers):
                yield numbers[done], _outcome(done.result)
        finally:
            # whoever stops listening waits only for what has begun
            pool.shutdown(wait=True, cancel_futures=True)


class _Dask:
    def __init__(self, client: Any) -> None:
        self._client = client

    def results(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        from distributed import as_completed as finished

        # impure: a failure of the machine is tried again by the next run, and not remembered by the cluster
        futures = self._client.map(function, tasks, retries=RETRIES, pure=False)
        numbers = {future.key: number for number, future in enumerate(futures)}
        try:
            for done in finished(futures, loop=self._client.loop):
                yield numbers[done.key], _outcome(done.result)
        finally:
            self._client.cancel(futures)


def _outcome(result: Callable[[], Any]) -> Any:
    try:
        return result()
    except Exception as error:  # a bug of ours or a dead worker must not take the class with it
        return error
