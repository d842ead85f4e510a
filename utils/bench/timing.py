"""Paired timing: two ways of doing the same, in turn, so that a machine whose speed drifts does not favour either."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute with ``n`` threads meanwhile; small operations on a busy machine otherwise wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Timing:
    """Seconds a call: median and the 10 % and 90 % quantiles over the repeats."""

    median: float
    low: float
    high: float
    repeats: int


def summarise(seconds: list[float]) -> Timing:
    if len(seconds) < 2:
        raise ValueError(f"quantiles need at least two repeats; got {len(seconds)}")
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    return Timing(statistics.median(seconds), deciles[0], deciles[-1], len(seconds))


def _once(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def paired(
    ours: Callable[[], object],
    other: Callable[[], object],
    repeats: int = 21,
    device: torch.device | str = "cpu",
    inner: int = 1,
) -> tuple[Timing, Timing, Timing]:
    """Timings of ``ours`` and ``other`` (seconds a call) and of the ratio other / ours, repeat by repeat.

    Each is called once unmeasured, then they take turns, and who goes first alternates. In its turn ``ours`` is called
    ``inner`` times and its time divided: what takes a hundredth of the other's time would else be measured with the
    caches and the memory that the other left behind, and not as it runs in a loop of its own.
    """
    device = torch.device(device)
    once, ours = ours, lambda: [once() for _ in range(inner)]
    ours(), other()
    first, second = [], []
    for repeat in range(repeats):
        if repeat % 2:
            second.append(_once(other, device))
            first.append(_once(ours, device) / inner)
        else:
            first.append(_once(ours, device) / inner)
            second.append(_once(other, device))
    return summarise(first), summarise(second), summarise([b / a for a, b in zip(first, second, strict=True)])
