"""Exercises of the chapter on LwF and BiC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utils.continual.bic import bias_correction as reference_correction
from utils.continual.icarl import herding as reference_herding
from utils.exercises.check import Exercise


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _tempered_entropy(student: Tensor, recorded: Tensor, temperature: float, by: float) -> Tensor:
    """Of each row, the cross-entropy of probabilities tempered by ``by`` with the student's at ``temperature``."""
    target = recorded ** (1 / by)
    target = target / target.sum(1, keepdim=True)
    return -(target * (student / temperature).log_softmax(1)).sum(1)


def _test_old_outputs_loss(answer: Callable[[Tensor, Tensor, Sequence[slice], float], Tensor]) -> None:
    heads = [slice(0, 3), slice(3, 5), slice(5, 9)]
    student, teacher = 2 * _random(6, 12), 2 * _random(6, 12, seed=1)
    recorded = torch.cat([teacher[:, head].softmax(1) for head in heads], dim=1)

    def total(temperature: float, by: float) -> Tensor:
        parts = [_tempered_entropy(student[:, head], recorded[:, head], temperature, by) for head in heads]
        return torch.stack(parts).sum(0).mean()

    for temperature in (2.0, 5.0):
        found = answer(student, recorded, heads, temperature)
        assert isinstance(found, Tensor) and found.shape == (), "Return one number, as a tensor without axes."
        wanted = total(temperature, temperature)
        assert not torch.allclose(found, total(temperature, 1.0)), (
            "The recorded outputs are left as they are. Both sides are to be softened, or the network that has not "
            "changed would have a gradient."
        )
        assert not torch.allclose(found, total(1.0, temperature)), "The network's own outputs are not softened."
        assert not torch.allclose(found, -wanted), "The sign is wrong: a cross-entropy is never below zero."
        assert not torch.allclose(found, wanted / len(heads)), "Sum over the old tasks; the mean is over the images."
        assert not torch.allclose(found, wanted * len(student)), "Take the mean over the images, not the sum."
        assert torch.allclose(found, wanted), (
            f"For T = {temperature:g} the loss is {float(wanted):.4f}; yours is {float(found):.4f}. Every old task has "
            "a softmax of its own, over its own outputs, row by row."
        )
    student[:, 0] = -4000.0  # whose probability is 0 in any floating-point format
    found, wanted = answer(student, recorded, heads, 2.0), total(2.0, 2.0)
    assert bool(found.isfinite()) and torch.allclose(found, wanted), (
        "It is right, until an output is so unlikely that its probability is rounded to 0: then the logarithm fails. "
        "Soften the network's logits instead of its probabilities, with log_softmax."
    )


def _test_herding(answer: Callable[[Tensor, int], Tensor]) -> None:
    for seed, (n, m) in enumerate([(12, 5), (30, 8), (7, 7)]):
        vectors = _random(n, 3, seed=seed) + torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
        found, wanted = answer(vectors.clone(), m), reference_herding(vectors, m)
        assert isinstance(found, Tensor) and found.shape == (m,), f"Return the places of {m} vectors, as a tensor."
        assert found.dtype == torch.int64, "Return places, whole numbers, not the vectors."
        assert len(found.unique()) == m, "A vector is taken twice. Each can be chosen once."
        assert not torch.equal(found, wanted.sort().values) or torch.equal(found, wanted), (
            "The right ones, in the wrong order. The order matters: a memory that shrinks keeps the first."
        )
        assert bool(found[0] == wanted[0]), "The first exemplar is the vector nearest to the mean of the class."
        nearest = (vectors - vectors.mean(0)).square().sum(1).argsort()[:m]
        assert n == m or not torch.equal(found, nearest), (
            "Those are the vectors nearest to the mean. Herding asks that the mean of all chosen so far is near it."
        )
        assert torch.equal(found, wanted), (
            f"For {n} vectors the choice is {wanted.tolist()}; yours is {found.tolist()}. The k-th brings the mean of "
            "the k chosen vectors as near as possible to the mean of all."
        )


def _test_correction(answer: Callable[[Tensor, Tensor, int], tuple[float, float]]) -> None:
    n_old, n_new, n = 6, 4, 4000
    for seed, planted in enumerate([(0.6, -1.5), (1.4, 0.8)]):
        logits = 2 * _random(n, n_old + n_new, seed=seed)
        corrected = torch.cat([logits[:, :n_old], planted[0] * logits[:, n_old:] + planted[1]], dim=1)
        generator = torch.Generator().manual_seed(100 + seed)
        labels = torch.multinomial(corrected.softmax(1), 1, generator=generator)[:, 0]
        wanted = reference_correction(logits, labels, n_old, penalty=0.0)
        # The same with old and new exchanged: new outputs first, and the labels numbered accordingly.
        turned, places = logits.roll(n_new, 1), (labels + n_new) % (n_old + n_new)
        of_old = reference_correction(turned, places, n_new, penalty=0.0)
        found = answer(logits.clone(), labels, n_old)
        assert isinstance(found, tuple | list) and len(found) == 2, "Return two numbers: alpha and beta."
        alpha, beta = (float(value) for value in found)
        assert abs(alpha - of_old[0]) > 0.01, (
            "That corrects the *old* outputs. The old ones stay as they are; the new ones become alpha o + beta."
        )
        assert abs(alpha - wanted[0]) < 0.01 * abs(wanted[0]) and abs(beta - wanted[1]) < 0.02, (
            f"The labels were drawn with alpha = {planted[0]} and beta = {planted[1]}. The minimum of the "
            f"cross-entropy is at alpha = {wanted[0]:.3f} and beta = {wanted[1]:.3f}; yours is at {alpha:.3f} and "
            f"{beta:.3f}. Mind that `F.cross_entropy` takes logits, and that it takes steps enough to get there."
        )


old_outputs_loss = Exercise("the loss on old outputs", _test_old_outputs_loss)
herding = Exercise("exemplars by herding", _test_herding)
correction = Exercise("two numbers against the bias", _test_correction)
