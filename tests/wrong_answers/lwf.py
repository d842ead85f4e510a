"""Typical wrong answers to the exercises of the chapter on LwF and BiC."""

import torch
import torch.nn.functional as F


def softened(p, temperature):
    """Probabilities to the power of 1 / T, brought to sum 1."""
    p = p ** (1 / temperature)
    return p / p.sum(1, keepdim=True)


def old_loss(of_student, of_recorded=softened, reduce=lambda rows: rows.mean()):
    """L_old with parts changed: ``of_student(logits, T)`` are logarithms, ``of_recorded(p, T)`` targets."""

    def answer(student, recorded, heads, temperature):
        parts = [
            -(of_recorded(recorded[:, h], temperature) * of_student(student[:, h], temperature)).sum(1) for h in heads
        ]
        return reduce(torch.stack(parts).sum(0))

    return answer


def logs(logits, temperature):
    return (logits / temperature).log_softmax(1)


def old_loss_over_all_heads(student, recorded, heads, temperature):
    n = heads[-1].stop
    return old_loss(logs)(student, recorded, [slice(0, n)], temperature)


def nearest_to_the_mean(vectors, m):
    return (vectors - vectors.mean(0)).square().sum(1).argsort()[:m]


def herded(vectors, m, again=False, divide=True):
    """Herding with a mistake: an image may come again, or the sum is not divided by k."""
    mean, total, chosen = vectors.mean(0), torch.zeros_like(vectors[0]), []
    for k in range(1, m + 1):
        distances = (mean - (vectors + total) / (k if divide else 1)).square().sum(1)
        if not again:
            distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
        total = total + vectors[chosen[-1]]
    return torch.tensor(chosen)


def corrected_by(loss_of, steps=300, fixed=None):
    """alpha and beta by L-BFGS of ``loss_of(old, new, alpha, beta, labels)``; ``fixed`` is one that does not move."""

    def answer(logits, labels, n_old):
        values = [torch.ones((), dtype=logits.dtype), torch.zeros((), dtype=logits.dtype)]
        free = [value.requires_grad_() for i, value in enumerate(values) if i != fixed]
        optimizer = torch.optim.LBFGS(free, max_iter=steps, line_search_fn="strong_wolfe")
        old, new = logits[:, :n_old], logits[:, n_old:]

        def closure():
            optimizer.zero_grad()
            loss = loss_of(old, new, *values, labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        return tuple(value.item() for value in values)

    return answer


def stage_two(old, new, alpha, beta, labels):
    return F.cross_entropy(torch.cat([old, alpha * new + beta], dim=1), labels)


def stage_two_softmax_twice(old, new, alpha, beta, labels):
    return F.cross_entropy(torch.cat([old, alpha * new + beta], dim=1).softmax(1), labels)


def stage_two_on_the_old(old, new, alpha, beta, labels):
    return F.cross_entropy(torch.cat([alpha * old + beta, new], dim=1), labels)


def stage_two_on_new_images_alone(old, new, alpha, beta, labels):
    own = labels >= old.shape[1]
    return stage_two(old[own], new[own], alpha, beta, labels[own]) + 0.01 * beta.square()


def stage_two_with_decay(old, new, alpha, beta, labels):
    return stage_two(old, new, alpha, beta, labels) + 0.05 * (alpha.square() + beta.square())


MISTAKES = {
    "old_outputs_loss": [
        old_loss(lambda logits, t: logits.log_softmax(1)),
        old_loss(logs, lambda p, t: p),
        old_loss(lambda logits, t: (logits * t).log_softmax(1)),
        old_loss(lambda logits, t: (logits / t).log_softmax(0)),
        old_loss(lambda logits, t: -logs(logits, t)),
        old_loss(logs, reduce=lambda rows: rows.sum()),
        old_loss(logs, reduce=lambda rows: rows.mean() / 3),
        old_loss(logs, reduce=lambda rows: rows),
        old_loss(lambda logits, t: softened(logits.softmax(1), t).log()),
        old_loss_over_all_heads,
    ],
    "herding": [
        nearest_to_the_mean,
        lambda vectors, m: herded(vectors, m, again=True),
        lambda vectors, m: herded(vectors, m, divide=False),
        lambda vectors, m: herded(vectors, m).sort().values,
        lambda vectors, m: vectors[herded(vectors, m)],
        lambda vectors, m: herded(vectors - vectors.mean(0) * 0.5, m).flip(0),
        lambda vectors, m: torch.arange(m),
    ],
    "correction": [
        corrected_by(stage_two_softmax_twice),
        corrected_by(stage_two_on_the_old),
        corrected_by(stage_two_on_new_images_alone),
        corrected_by(stage_two_with_decay),
        corrected_by(stage_two, steps=2),
        corrected_by(stage_two, fixed=0),
        corrected_by(stage_two, fixed=1),
        lambda logits, labels, n_old: (1.0, 0.0),
        lambda logits, labels, n_old: corrected_by(stage_two)(logits, labels, n_old)[0],
    ],
}
