"""Typical wrong answers to the exercises of the chapter on replay."""

import torch
import torch.nn.functional as F


def place_by(of_later):
    """The first images fill the memory; ``of_later(t, size, generator)`` says where the others go."""
    return lambda t, size, generator: t if t < size else of_later(t, size, generator)


def whole(n, generator):
    return int(torch.randint(n, (), generator=generator))


def below(place, size):
    return place if place < size else None


def coin_and_place(t, size, generator):
    return whole(size, generator) if whole(2, generator) else None


def always_the_first_place(t, size, generator):
    return 0 if whole(t + 1, generator) < size else None


def replayed_loss(own=None, old=None, weights=None, answers=None):
    """The solver's loss with parts changed."""
    weights = weights or (lambda t: (1 / t, 1 - 1 / t))
    answers = answers or (lambda past, old, n_old, n: old[:, :n_old].argmax(1))
    own = own or (lambda new, labels, n: F.cross_entropy(new[:, :n], labels))
    replayed = old or (lambda past, y, n_old, n: F.cross_entropy(past[:, :n], y))

    def answer(new, labels, past, old, n_old, n, t):
        a, b = weights(t)
        return a * own(new, labels, n) + b * replayed(past, answers(past, old, n_old, n), n_old, n)

    return answer


def soft_answers(new, labels, past, old, n_old, n, t):
    soft = F.cross_entropy(past[:, :n], F.pad(old[:, :n_old].softmax(1), (0, n - n_old)))
    return F.cross_entropy(new[:, :n], labels) / t + (1 - 1 / t) * soft


def all_units(new, labels, past, old, n_old, n, t):
    answers = old[:, :n_old].argmax(1)
    return F.cross_entropy(new, labels) / t + (1 - 1 / t) * F.cross_entropy(past, answers)


def summed(new, labels, past, old, n_old, n, t):
    answers = old[:, :n_old].argmax(1)
    own = F.cross_entropy(new[:, :n], labels, reduction="sum")
    return own / t + (1 - 1 / t) * F.cross_entropy(past[:, :n], answers, reduction="sum")


def critic_loss(real, made):
    return F.softplus(-real).mean() + F.softplus(made).mean()


def maker_loss(made):
    return F.softplus(-made).mean()


MISTAKES = {
    "place": [
        place_by(lambda t, size, generator: whole(size, generator)),
        place_by(lambda t, size, generator: t % size),
        place_by(lambda t, size, generator: None),
        place_by(lambda t, size, generator: below(whole(t, generator), size)),
        place_by(lambda t, size, generator: below(whole(t + 2, generator), size)),
        place_by(coin_and_place),
        place_by(always_the_first_place),
        lambda t, size, generator: below(whole(t + 1, generator), size),
        place_by(lambda t, size, generator: whole(t + 1, generator)),
    ],
    "solver_loss": [
        replayed_loss(weights=lambda t: (1 - 1 / t, 1 / t)),
        replayed_loss(weights=lambda t: (0.5, 0.5)),
        replayed_loss(weights=lambda t: (1.0, 1.0)),
        replayed_loss(answers=lambda past, old, n_old, n: past[:, :n].argmax(1)),
        replayed_loss(answers=lambda past, old, n_old, n: past[:, :n_old].argmax(1)),
        replayed_loss(answers=lambda past, old, n_old, n: old[:, :n].argmax(1)),
        replayed_loss(old=lambda past, y, n_old, n: F.cross_entropy(past[:, :n_old], y)),
        soft_answers,
        all_units,
        summed,
        lambda *parts: replayed_loss()(*parts)[None],
    ],
    "gan_losses": [
        lambda real, made: (-critic_loss(real, made), maker_loss(made)),
        lambda real, made: (critic_loss(made, real), maker_loss(made)),
        lambda real, made: (critic_loss(real, made) / 2, maker_loss(made)),
        lambda real, made: (critic_loss(real, made) * len(real), maker_loss(made)),
        lambda real, made: (critic_loss(real, made), -F.softplus(made).mean()),
        lambda real, made: (critic_loss(real, made), F.softplus(made).mean()),
        lambda real, made: (
            -real.sigmoid().log().mean() - (1 - made.sigmoid()).log().mean(),
            -made.sigmoid().log().mean(),
        ),
        lambda real, made: (critic_loss(real.clamp(-50, 50), made.clamp(-50, 50)), maker_loss(made.clamp(-50, 50))),
        lambda real, made: critic_loss(real, made),
    ],
}
