"""Watches every load and store of Triton's interpreter: an address outside all arguments of the kernel is an error.

Without this, a wrong mask reads a neighbour's memory, or writes to it, and the test may well pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class OutOfBoundsError(AssertionError):
    """A lane that is not masked out touches memory of no argument; or a kernel adds atomically."""


def extent(x: torch.Tensor) -> tuple[int, int]:
    """First byte of ``x`` and the byte behind its last."""
    if not x.numel():
        return x.data_ptr(), x.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


class _Watcher:
    """Stands before ``triton._C.libtriton.interpreter``, which reads and writes raw memory."""

    def __init__(self, plain: object) -> None:
        self._plain = plain
        self.extents: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._plain, name)

    def _check(self, what: str, addresses: np.ndarray, mask: np.ndarray, width: int) -> None:
        touched = addresses[np.broadcast_to(mask.astype(bool), addresses.shape)].astype(np.int64)
        inside = np.zeros(touched.shape, dtype=bool)
        for low, high in self.extents:
            inside |= (touched >= low) & (touched + width <= high)
        if not inside.all():
            raise OutOfBoundsError(f"{(~inside).sum()} of {touched.size} lanes {what} outside of the arguments")

    def load(self, addresses, mask, other, dtype):
        self._check("read", addresses, mask, np.dtype(dtype).itemsize)
        return self._plain.load(addresses, mask, other, dtype)

    def store(self, addresses, values, mask):
        self._check("write", addresses, mask, values.dtype.itemsize)
        return self._plain.store(addresses, values, mask)

    def atomic_rmw(self, *_):
        raise OutOfBoundsError("an atomic operation: the order of additions, and so the last bits, would be left open")

    atomic_cas = atomic_rmw


@contextmanager
def watched() -> Iterator[None]:
    """Check the accesses of interpreted kernels meanwhile. The interpreter wraps the error in one of its own."""
    from triton.runtime import interpreter

    plain, launch = interpreter._interpreter, interpreter.GridExecutor.__call__
    watcher = _Watcher(plain)

    def watched_launch(self, *args, **options):
        tensors = [value for value in (*args, *options.values()) if isinstance(value, torch.Tensor)]
        watcher.extents = [extent(x) for x in tensors]
        return launch(self, *args, **options)

    interpreter._interpreter, interpreter.GridExecutor.__call__ = watcher, watched_launch
    try:
        yield
    finally:
        interpreter._interpreter, interpreter.GridExecutor.__call__ = plain, launch
