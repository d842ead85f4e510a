"""What ``torch.func.vmap`` does to a function that treats its rows independently of each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def folded(
    function: type[torch.autograd.Function], info, in_dims: Sequence, tensors: Sequence[Tensor], *options
) -> tuple[Tensor | tuple[Tensor, ...], int | tuple[int, ...]]:
    """The mapped axis becomes part of the first one, and comes first in what ``function.apply`` returns.

    For the ``vmap`` method of a function of ``tensors`` and ``options``, of which only the tensors may be mapped over,
    whose entries along the first axis do not see each other. Returns results and their mapped axes.
    """
    moved = [
        x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
        for x, axis in zip(tensors, in_dims[: len(tensors)], strict=True)
    ]
    found = function.apply(*(x.flatten(0, 1) for x in moved), *options)
    if isinstance(found, Tensor):
        return found.unflatten(0, moved[0].shape[:2]), 0
    return tuple(x.unflatten(0, moved[0].shape[:2]) for x in found), (0,) * len(found)
