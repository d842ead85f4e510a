"""Exercises of the chapter on replay."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.exercises.check import Exercise


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _off(count: int, draws: int, chance: float) -> bool:
    """Whether so many of so many draws are further from the chance than five standard errors."""
    return abs(count / draws - chance) > 5 * (chance * (1 - chance) / draws) ** 0.5


def _test_place(answer: Callable[[int, int, torch.Generator], int | None]) -> None:
    size, draws, generator = 4, 4000, torch.Generator().manual_seed(0)
    first = [answer(t, size, generator) for t in range(size)]
    assert sorted(p for p in first if p is not None) == list(range(size)), (
        f"The first {size} images fill the {size} places, each another one; yours go to {first}. Images count from 0."
    )
    for t in (size, 9):
        found = [answer(t, size, generator) for _ in range(draws)]
        assert all(p is None or (isinstance(p, int) and not isinstance(p, bool) and 0 <= p < size) for p in found), (
            f"Return a place, an int from 0 to {size - 1}, or None where the image is not kept."
        )
        kept = sum(p is not None for p in found)
        assert kept, f"Image {t} is never kept. Then the memory is the beginning of the stream and no sample of it."
        assert kept < draws, (
            f"Image {t} is kept every time. Of the {t + 1} images so far each should be in the memory with the same "
            f"chance, {size} / {t + 1}, this one too."
        )
        assert _off(kept, draws, size / (t + 1)) is False, (
            f"Image {t}, number {t + 1} in all, is kept in {kept / draws:.3f} of the draws. It should be "
            f"{size} / {t + 1} = {size / (t + 1):.3f}: images count from 0, so there are t + 1 of them so far."
        )
        of_place = [found.count(place) for place in range(size)]
        assert not any(_off(n, draws, 1 / (t + 1)) for n in of_place), (
            f"Image {t} is kept often enough, but the places are not hit alike ({of_place} times): what is in a place "
            "that is hit more often is lost sooner."
        )


def _test_solver_loss(answer: Callable[[Tensor, Tensor, Tensor, Tensor, int, int, int], Tensor]) -> None:
    n_old, n = 4, 6
    for t, n_images in ((2, 8), (4, 5)):
        new, past, old = (3 * _random(n_images, 9, seed=10 * t + i) for i in range(3))
        labels = torch.arange(n_images) % (n - n_old) + n_old
        old[:, n_old:] += 4.0  # what an untrained output says: anything
        answers = old[:, :n_old].argmax(1)

        def rows(logits: Tensor, y: Tensor, width: int = n) -> Tensor:
            return -logits[:, :width].log_softmax(1).gather(1, y[:, None])[:, 0]

        own, replayed = rows(new, labels).mean(), rows(past, answers).mean()
        found = answer(new.clone(), labels, past.clone(), old.clone(), n_old, n, t)
        assert isinstance(found, Tensor) and found.shape == (), "Return one number, as a tensor without axes."
        wanted = own / t + (1 - 1 / t) * replayed

        def mixed(replayed: Tensor, own: Tensor = own, t: int = t) -> Tensor:
            return own / t + (1 - 1 / t) * replayed

        assert t == 2 or not torch.allclose(found, (1 - 1 / t) * own + replayed / t), (
            "The weights are exchanged: r = 1/t belongs to the new task, and the rest to all that went before."
        )
        assert t == 2 or not torch.allclose(found, (own + replayed) / 2), (
            f"Both parts count half. In task {t} there are {t - 1} old tasks and one new one."
        )
        assert not torch.allclose(found, own + replayed), "The weights are missing: 1/t and 1 - 1/t."
        wrong = rows(past, past[:, :n].argmax(1)).mean(), rows(past, past[:, :n_old].argmax(1)).mean()
        assert not any(torch.allclose(found, mixed(one)) for one in wrong), (
            "The made-up images are labelled by the network that is being trained. The *old* solver answers them."
        )
        untrained = rows(past, old[:, :n].argmax(1)).mean(), F.cross_entropy(past, old.argmax(1))
        assert not any(torch.allclose(found, mixed(one)) for one in untrained), (
            f"The old solver was only trained on its first {n_old} outputs. Look for its answer among those."
        )
        assert not torch.allclose(found, mixed(rows(past, answers, n_old).mean())), (
            "The made-up images compete among the old outputs alone. Then nobody learns to tell old from new: all "
            f"{n} take part."
        )
        soft = -(old[:, :n_old].softmax(1) * past[:, :n].log_softmax(1)[:, :n_old]).sum(1).mean()
        assert not torch.allclose(found, mixed(soft)), "Here the likeliest answer is asked for, not the probabilities."
        assert not torch.allclose(found, mixed(rows(past, answers, 9).mean(), rows(new, labels, 9).mean())), (
            f"Only the outputs of digits met so far take part: the first {n} of 9, as `labels` are from {n_old} to "
            f"{n - 1}."
        )
        assert not torch.allclose(found, wanted * n_images), "Take the mean over the images, not the sum."
        assert torch.allclose(found, wanted), (
            f"In task {t} the loss is {float(wanted):.4f}; yours is {float(found):.4f}. It is L(new) / t + (1 - 1/t) "
            "L(past), each a cross-entropy over the digits met so far."
        )


def _test_gan_losses(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    real, made = 2 * _random(7), 2 * _random(7, seed=1) - 1
    found = answer(real.clone(), made.clone())
    assert isinstance(found, tuple | list) and len(found) == 2, "Return two losses: the critic's and the generator's."
    assert all(isinstance(one, Tensor) and one.shape == () for one in found), "Each loss is a tensor without axes."
    critic, maker = found
    p, q = 1 / (1 + (-real).exp()), 1 / (1 + (-made).exp())  # the chance of being real, of each
    wanted = -p.log().mean() - (1 - q).log().mean()
    assert not torch.allclose(critic, -wanted), "The critic's loss has the wrong sign: it is to be made *small*."
    assert not torch.allclose(critic, -q.log().mean() - (1 - p).log().mean()), (
        "The critic is trained to call made images real, and real ones made."
    )
    assert not torch.allclose(critic, wanted / 2), "The critic's loss is a sum of two means, not their mean."
    assert not torch.allclose(critic, wanted * 7), "Take means over the images, not sums."
    assert torch.allclose(critic, wanted), (
        f"The critic's loss is {float(wanted):.4f}; yours is {float(critic):.4f}. Scores are logits: the chance of "
        "being real is their sigmoid."
    )
    assert not torch.allclose(maker, (1 - q).log().mean()), (
        "That is the generator's part of the game as it is written, log(1 - sigma). Where the critic is sure that an "
        "image is made, it is flat. The other form is asked for, which does not saturate."
    )
    assert not torch.allclose(maker, -(1 - q).log().mean()), "That makes the generator's images *easier* to tell."
    assert torch.allclose(maker, -q.log().mean()), (
        f"The generator's loss is {float(-q.log().mean()):.4f}; yours is {float(maker):.4f}. It is small if the critic "
        "takes the made images for real ones."
    )
    critic, maker = answer(real.new_tensor([-900.0, 900.0]), real.new_tensor([-900.0, 900.0]))
    assert bool(critic.isfinite()) and bool(maker.isfinite()), (
        "It is right, until the critic is very sure: then the sigmoid is rounded to 0 or 1 and the logarithm fails. "
        "-log sigma(s) is softplus(-s), which PyTorch has."
    )
    assert abs(float(critic) - 900) < 1e-3 and abs(float(maker) - 450) < 1e-3, (
        "For scores of 900 and -900 the losses are 900 and 450. -log sigma(s) is softplus(-s), without any bound on s."
    )


place = Exercise("the place of the next image", _test_place)
solver_loss = Exercise("the solver's loss", _test_solver_loss)
gan_losses = Exercise("the losses of generator and critic", _test_gan_losses)
