"""What becomes of support images class by class, for a batch of tasks at once: means, sums, the best match."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, n_way: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Which support image belongs to which class: ``[B, S]`` int64 in ``0 .. n_way - 1`` to 0/1 ``[B, n_way, S]``.

    Products with it take the place of loops over classes and of scatters: no waiting for the device, and the same
    bits in every run, which atomic additions do not give.

    Raises ``ValueError`` for shapes that do not fit and, on the CPU, for a class without support or a label out of
    range. On a GPU the values are not looked at: that would stop the device.
    """
    if labels.ndim != 2:
        raise ValueError(f"expected labels [B, S]; got {list(labels.shape)}")
    if n_way < 1:
        raise ValueError(f"n_way must be at least 1; got {n_way}")
    member = labels[:, None, :] == torch.arange(n_way, device=labels.device)[:, None]
    if labels.device.type == "cpu":
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < n_way):
            raise ValueError(f"labels must lie in 0 .. {n_way - 1}; got {int(labels.min())} .. {int(labels.max())}")
        if not bool((full := member.any(-1)).all()):
            task, empty = (~full).nonzero()[0].tolist()
            raise ValueError(f"class {empty} of task {task} has no support image: there is nothing to compare with")
    return member.to(dtype)


def class_means(embedding: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Prototypes ``c_k = (1/|S_k|) sum_{i in S_k} f(x_i)`` of every task (Snell et al. 2017, eq. 1).

    Parameters: ``embedding`` float ``[B, S, D]``; ``labels`` int64 ``[B, S]`` in ``0 .. n_way - 1``, any number of
    images a class. Returns ``[B, n_way, D]``.

    Raises as :func:`one_hot`, and ``ValueError`` where embedding and labels do not fit. On a GPU, a class without
    support has prototype NaN.
    """
    if embedding.ndim != 3 or labels.shape != embedding.shape[:2]:
        raise ValueError(
            f"expected embedding [B, S, D] and labels [B, S]; got {list(embedding.shape)} and {list(labels.shape)}"
        )
    member = one_hot(labels, n_way, embedding.dtype)
    return member @ embedding / member.sum(-1, keepdim=True)


def best_of_class(scores: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """The highest score of each class: ``max_{i in S_k} s_qi``.

    Parameters: ``scores`` ``[B, Q, S]`` of each query with each support image, ``labels`` int64 ``[B, S]``. Returns
    ``[B, Q, n_way]``; its argmax is the class of the best match among all support images.

    Raises as :func:`one_hot`; on a GPU a class without support scores ``-inf``.
    """
    if scores.ndim != 3 or labels.shape != (scores.shape[0], scores.shape[2]):
        raise ValueError(f"expected scores [B, Q, S] and labels [B, S]; got {list(scores.shape)}, {list(labels.shape)}")
    member = one_hot(labels, n_way, torch.bool)
    return torch.where(member[:, None], scores[:, :, None], -torch.inf).amax(-1)
