"""Exercises of the chapter on Siamese networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.exercises.check import Exercise
from utils.fewshot.siamese import pair_loss as reference_loss


def _test_pair_loss(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([2, 0, 1, 0, 2, 0, 1])
    scores = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    scores = scores + scores.T
    found = answer(scores, labels)
    assert isinstance(found, Tensor) and found.ndim == 0, "Return the loss as a tensor with a single number."
    same = (labels[:, None] == labels).double()
    plain = F.binary_cross_entropy_with_logits(scores, same)
    assert not torch.allclose(found.double(), plain), (
        "That is the plain mean over everything: but there are far more different pairs than same ones, and the "
        "diagonal counts too."
    )
    certain = scores.clone()
    certain.fill_diagonal_(30.0)
    assert torch.allclose(answer(certain, labels).double(), found.double()), (
        "Changing the diagonal changes your loss: no image is compared with itself."
    )
    wanted = reference_loss(scores, labels)
    assert torch.allclose(found.double(), wanted), (
        f"For these scores it should be {float(wanted):.4f}; yours is {float(found):.4f}. "
        "Take the mean over the same pairs and the mean over the different pairs, and of the two the mean."
    )


def _test_hardest(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    points, labels = torch.tensor([0.0, 1.0, 5.0, 2.0, 7.0]), torch.tensor([0, 0, 0, 1, 1])
    distances = (points[:, None] - points).abs()
    found = answer(distances, labels)
    assert isinstance(found, tuple) and len(found) == 2, "Return two tensors: farthest positives, nearest negatives."
    positive, negative = found
    assert positive.shape == negative.shape == (5,), "Both tensors have one number for each image."
    told = "Images at 0, 1, 5 are of one class, those at 2, 7 of another. "
    assert torch.equal(positive, torch.tensor([5.0, 4.0, 5.0, 5.0, 5.0])), (
        f"{told}The farthest of the own class are 5, 4, 5, 5 and 5 away; you find {positive.tolist()}."
    )
    assert torch.equal(negative, torch.tensor([2.0, 1.0, 2.0, 1.0, 2.0])), (
        f"{told}The nearest of the other class are 2, 1, 2, 1 and 2 away; you find {negative.tolist()}."
    )


def _test_threshold(answer: Callable[[Tensor, float], float]) -> None:
    scores = torch.tensor([0.1, 0.9, 0.4, 0.4, 0.7, 0.2, 0.3, 0.8, 0.6, 0.5])
    for share, wanted in ((0.0, 0.9), (0.1, 0.8), (0.25, 0.7), (0.5, 0.4), (0.6, 0.4), (0.7, 0.3)):
        found = float(answer(scores, share))
        passing = float((scores > found).double().mean())
        assert passing <= share + 1e-9, (
            f"With your threshold {found:g} a share of {passing:g} passes, more than {share:g}. Mind ties."
        )
        assert abs(found - wanted) < 1e-6, (
            f"For a share of {share:g} the lowest score that will do is {wanted:g}; yours is {found:g}."
        )


pair_loss = Exercise("loss of all pairs", _test_pair_loss)
hardest = Exercise("the hardest of the batch", _test_hardest)
threshold = Exercise("a threshold for the guard", _test_threshold)
