"""Hebb's rule: what fires together wires together; as a memory, and as a competition that finds groups.

Neither has a loss or a gradient: a synapse changes by what its two ends do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def hebbian_weights(before: Tensor, after: Tensor | None = None) -> Tensor:
    """``w_ji = mean_k x_i^k y_j^k``: the mean product of activities ``before`` and ``after`` a synapse (Hebb 1949).

    Parameters: ``before`` ``[P, I]`` and ``after`` ``[P, J]`` of P patterns, floating point of one dtype; without
    ``after``, the neurons are connected among themselves, ``w_ij = (1 / P) sum_k x_i^k x_j^k``. Returns ``[J, I]``.

    Raises ``ValueError`` for other shapes, ``TypeError`` for whole numbers.
    """
    after = before if after is None else after
    if before.ndim != 2 or after.ndim != 2 or len(before) != len(after) or not len(before):
        raise ValueError(
            "expected activities [P, I] before and [P, J] after, P > 0 patterns; "
            f"got {list(before.shape)} and {list(after.shape)}"
        )
    if not before.is_floating_point() or before.dtype != after.dtype:
        raise TypeError(f"expected activities of one floating-point dtype; got {before.dtype} and {after.dtype}")
    return after.mT @ before / len(before)


def energy(weights: Tensor, states: Tensor) -> Tensor:
    """``-(1/2) sum_{i != j} w_ij x_i x_j`` of states ``[N, I]``: ``[N]`` (Hopfield 1982)."""
    return -((states @ _without_self(weights)) * states).sum(1) / 2


def recall(weights: Tensor, cues: Tensor, sweeps: int = 20) -> Tensor:
    """Stored patterns from parts of them: ``x_i <- sign(sum_{j != i} w_ij x_j)``, one neuron after the other.

    One at a time, no update raises the :func:`energy`, so that it ends in a valley: a stored pattern if there are few
    (up to about 0.14 I random ones). All at once they can swing to and fro for ever. A sum of 0 changes nothing.

    Parameters: ``weights`` ``[I, I]``, symmetric, of :func:`hebbian_weights`; ``cues`` ``[N, I]`` of -1 and 1;
    ``sweeps`` through all neurons at most. Returns ``[N, I]``, the cues as they are left alone.

    Raises ``ValueError`` for other shapes, weights that are not symmetric, cues of other numbers.

    Hopfield 1982.
    """
    links = _without_self(weights)
    if cues.ndim != 2 or cues.shape[1] != len(links):
        raise ValueError(f"{len(links)} neurons need cues [N, {len(links)}]; got {list(cues.shape)}")
    if not (cues.abs() == 1).all():
        raise ValueError("a neuron is -1 or 1; the cues hold other numbers")
    states = cues.clone()
    for _ in range(sweeps):
        old = states.clone()
        for i, link in enumerate(links):
            felt = states @ link
            nothing = felt.abs() <= torch.finfo(link.dtype).eps * link.abs().sum()  # but for rounding
            states[:, i] = torch.where(nothing, states[:, i], felt.sign())
        if torch.equal(states, old):
            break
    return states


def _without_self(weights: Tensor) -> Tensor:
    if weights.ndim != 2 or not torch.equal(weights, weights.mT):
        raise ValueError(f"expected symmetric weights [I, I]; got {list(weights.shape)}")
    return weights - weights.diag().diag()


@dataclass(frozen=True)
class Competition:
    """Neurons after a competition: ``weights`` ``[K, I]``, ``wins`` int64 ``[K]``, ``winners`` int64 ``[N]``."""

    weights: Tensor
    wins: Tensor
    winners: Tensor


def winner(weights: Tensor, x: Tensor) -> Tensor:
    """The one neuron of K that fires for each input, that of the largest output: int64 ``[N]``.

    ``o_k = w_k . x - ||w_k||^2 / 2``, a linear neuron whose threshold grows with its weights. Without it, whoever has
    the longest weights would win everything; with it, who is nearest wins. Of equal outputs, one wins all the same.

    Parameters: ``weights`` ``[K, I]``, ``x`` ``[N, I]``. Raises ``ValueError`` for other shapes.
    """
    _check_competition(weights, x)
    return (x @ weights.mT - weights.square().sum(1) / 2).argmax(1)


def compete(weights: Tensor, x: Tensor, rate: float | None = None, wins: Tensor | None = None) -> Competition:
    """Competitive Hebbian learning: inputs come one by one, and of each only the winner learns.

    ``w_k <- w_k + rate (x - w_k)`` for the :func:`winner` k, and nothing for the others: it becomes a still better
    match for inputs of this kind, and leaves other kinds to the others, so that neurons come to stand for groups.

    Parameters
    ----------
    weights : ``[K, I]`` to begin with; some of the inputs are a good choice, since a neuron that is far from all of
        them never wins.
    x : ``[N, I]``, in the order in which they come.
    rate : in (0, 1]. ``None``: one by the number of its wins, which makes a neuron the mean of all that it won
        (MacQueen's k-means, 1967).
    wins : int64 ``[K]``, of competitions before; default none.

    Raises ``ValueError`` for other shapes or another rate.

    Rumelhart and Zipser 1985; with the threshold above instead of weights of constant length.
    """
    if rate is not None and not 0 < rate <= 1:
        raise ValueError(f"rate must be above 0 and at most 1, or None; got {rate}")
    _check_competition(weights, x)
    weights = weights.clone()
    wins = torch.zeros(len(weights), dtype=torch.int64, device=weights.device) if wins is None else wins.clone()
    if wins.shape != weights.shape[:1]:
        raise ValueError(f"{len(weights)} neurons need as many numbers of wins; got {list(wins.shape)}")
    winners = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for n, one in enumerate(x):
        k = winner(weights, one[None])[0]
        winners[n] = k
        wins[k] += 1
        weights[k] += (1 / wins[k] if rate is None else rate) * (one - weights[k])
    return Competition(weights, wins, winners)


def _check_competition(weights: Tensor, x: Tensor) -> None:
    if weights.ndim != 2 or x.ndim != 2 or weights.shape[1] != x.shape[1] or not len(weights):
        raise ValueError(f"expected weights [K, I] and inputs [N, I]; got {list(weights.shape)} and {list(x.shape)}")
