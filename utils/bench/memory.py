"""How much memory a computation needs at once, counted and not sampled: the same number in every run."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Storages(TorchDispatchMode):
    """Adds the bytes of each storage when an operation returns it first, subtracts them when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.ops.aten.lift_fresh.default:  # torch.tensor(...), whose argument is new
            self._meet((args, kwargs), count=False)
        result = func(*args, **kwargs)
        self._meet(result, count=True)
        return result

    def _meet(self, tree: object, count: bool) -> None:
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
                continue
            storage = tensor.untyped_storage()
            key = id(storage)  # a storage keeps its Python object for life
            if key in self.known:
                continue
            size = storage.nbytes() if count else 0
            self.known[key] = weakref.ref(storage, lambda _, key=key, size=size: self._free(key, size))
            self.alive += size
            self.peak = max(self.peak, self.alive)

    def _free(self, key: int, size: int) -> None:
        del self.known[key]
        self.alive -= size


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors alive at once, on the CPU, that were allocated during ``function()``.

    Counts what operations return, in the backward pass too: every storage once, however many views it has, from the
    operation that returns it until its last tensor is gone. What was there before does not count, and neither does
    what an operation needs for itself while it runs (a convolution's workspace).
    """
    with _Storages() as storages:
        result = function()  # held until the end: what is returned is alive
    del result
    return storages.peak
