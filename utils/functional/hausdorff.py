"""The modified Hausdorff distance: the classical baseline of one-shot classification on Omniglot."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor


def modified_hausdorff(a: Tensor, b: Tensor) -> Tensor:
    """How far the ink of two images is apart, whatever their position.

    max( mean_{p in A} min_{q in B} ||p - q||, mean_{q in B} min_{p in A} ||p - q|| ), where A and B are the
    (row, column) points of non-zero pixels minus their mean.

    Parameters
    ----------
    a, b : ``[height, width]``, any dtype; zero is background. The sizes may differ.

    Returns
    -------
    float64 scalar, in pixels.

    Raises
    ------
    ValueError : an image is not two-dimensional or has no ink.

    Dubuisson and Jain (1994), distance 22; the baseline of Lake et al. (2015), figure 6.
    """
    p, q = _centred_points(a).numpy(), _centred_points(b).numpy()
    there, back = (cKDTree(to).query(of)[0].mean() for to, of in ((q, p), (p, q)))
    return torch.tensor(max(there, back), dtype=torch.float64)


def _centred_points(image: Tensor) -> Tensor:
    if image.ndim != 2:
        raise ValueError(f"an image must be [height, width]; got {list(image.shape)}")
    points = image.cpu().nonzero().to(torch.float64)
    if not len(points):
        raise ValueError("an image without ink has no distance to another")
    return points - points.mean(0)
