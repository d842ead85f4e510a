"""Means of embeddings by class, for a batch of tasks at once."""

from __future__ import annotations

import torch
from torch import Tensor


def class_means(embedding: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Prototypes ``c_k = (1/|S_k|) sum_{i in S_k} f(x_i)`` of every task (Snell et al. 2017, eq. 1).

    Parameters: ``embedding`` float ``[B, S, D]``; ``labels`` int64 ``[B, S]`` in ``0 .. n_way - 1``, any number of
    images a class. Returns ``[B, n_way, D]``.

    One product with the one-hot labels instead of a loop over classes or a scatter: no waiting for the device, and
    the same bits in every run, which atomic additions do not give.

    Raises ``ValueError`` for shapes that do not fit and, on the CPU, for a class without support or a label out of
    range. On a GPU the values are not looked at (that would stop the device): there, an empty class has prototype NaN.
    """
    if embedding.ndim != 3 or labels.shape != embedding.shape[:2]:
        raise ValueError(
            f"expected embedding [B, S, D] and labels [B, S]; got {list(embedding.shape)} and {list(labels.shape)}"
        )
    if n_way < 1:
        raise ValueError(f"n_way must be at least 1; got {n_way}")
    member = labels[:, None, :] == torch.arange(n_way, device=labels.device)[:, None]  # [B, n_way, S]
    counts = member.sum(-1, keepdim=True)
    if labels.device.type == "cpu":
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < n_way):
            raise ValueError(f"labels must lie in 0 .. {n_way - 1}; got {int(labels.min())} .. {int(labels.max())}")
        if not bool(counts.all()):
            task, empty = (counts[..., 0] == 0).nonzero()[0].tolist()
            raise ValueError(f"class {empty} of task {task} has no support image: its prototype is undefined")
    return member.to(embedding.dtype) @ embedding / counts
