"""How well scores tell pairs of the same class from pairs of different ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> float:
    """The error at the threshold where as large a share of different pairs is accepted as of same pairs is rejected.

    Read off the receiver operating characteristic, straight between its points: where false accepts = 1 - true accepts.

    Parameters: ``scores`` ``[n]``, higher means rather the same; ``same`` bool ``[n]``. Returns a number in [0, 1]; 0
    where the kinds are parted, one half for scores that know nothing.

    Raises ``ValueError`` where shapes differ, a score is not finite, or one of the two kinds is missing.
    """
    scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    if scores.shape != same.shape or scores.ndim != 1:
        raise ValueError(f"expected as many scores as answers, [n] each; got {scores.shape} and {same.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("every score must be finite")
    if same.all() or not same.any():
        raise ValueError("an error rate needs pairs of the same class and pairs of different ones")
    accepted_wrongly, accepted_rightly, _ = roc_curve(same, scores, drop_intermediate=False)
    gap = accepted_wrongly - (1 - accepted_rightly)  # from -1 to 1, never falling
    right = int(np.argmax(gap >= 0))
    left = right - 1
    share = -gap[left] / (gap[right] - gap[left])
    return float(accepted_wrongly[left] + share * (accepted_wrongly[right] - accepted_wrongly[left]))
