"""Typical wrong answers to the exercises of the chapter on distillation."""

import torch
import torch.nn.functional as F


def softened_divergence(student, teacher, temperature):
    """Of every row, KL(teacher || student) at a temperature."""
    p, q = (teacher / temperature).log_softmax(1), (student / temperature).log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def two_targets_with(soft, hard=F.cross_entropy, factor=lambda t: t**2, share=lambda w: w):
    """The loss with parts changed: ``soft(student, teacher, T)`` is a number."""

    def answer(student, teacher, labels, temperature, weight):
        weight = share(weight)
        return (1 - weight) * hard(student, labels) + weight * factor(temperature) * soft(student, teacher, temperature)

    return answer


def mean_divergence(student, teacher, temperature):
    return softened_divergence(student, teacher, temperature).mean()


def two_targets_by_probabilities(student, teacher, labels, temperature, weight):
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    soft = (p * (p.log() - q.log())).sum(1).mean()
    return (1 - weight) * F.cross_entropy(student, labels) + weight * temperature**2 * soft


def two_targets_all_tempered(student, teacher, labels, temperature, weight):
    hard = F.cross_entropy(student / temperature, labels)
    return (1 - weight) * hard + weight * temperature**2 * mean_divergence(student, teacher, temperature)


def raised_until(measure):
    """What to add until ``measure(logits, missing)`` has reached the share, by halving an interval."""

    def answer(logits, missing, share):
        low, high = -100.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            moved = logits.clone()
            moved[:, missing] += middle
            low, high = (middle, high) if measure(moved, missing) < share else (low, middle)
        return low

    return answer


def mean_probability(logits, missing):
    return float(logits.softmax(1)[:, missing].mean())


def answered_share(logits, missing):
    return float((logits.argmax(1) == missing).double().mean())


def raised_by_log_odds(logits, missing, share):
    p = mean_probability(logits, missing)
    return float(torch.tensor(share / (1 - share) * (1 - p) / p).log())


def int8_with(scales, to_whole=torch.round):
    """Codes with a mistake in the scales or in the rounding."""

    def answer(weight):
        found = scales(weight)
        return to_whole(weight / found).clamp(-128, 127).to(torch.int8), found

    return answer


def row_scales(weight):
    return weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127


MISTAKES = {
    "two_targets": [
        two_targets_with(mean_divergence, factor=lambda t: 1.0),
        two_targets_with(mean_divergence, factor=lambda t: t),
        two_targets_with(lambda s, t, T: mean_divergence(s, t, T) / s.shape[1]),
        two_targets_with(lambda s, t, T: softened_divergence(s, t, T).sum()),
        two_targets_with(lambda s, t, T: mean_divergence(s, t * T, T)),
        two_targets_with(lambda s, t, T: mean_divergence(s * T, t, T)),
        two_targets_with(lambda s, t, T: mean_divergence(t, s, T)),
        two_targets_with(lambda s, t, T: F.cross_entropy(s / T, (t / T).softmax(1))),
        two_targets_with(mean_divergence, share=lambda w: 1 - w),
        two_targets_with(softened_divergence),
        two_targets_with(lambda s, t, T: -mean_divergence(s, t, T)),
        two_targets_by_probabilities,
        two_targets_all_tempered,
    ],
    "raise_output": [
        raised_until(answered_share),
        raised_by_log_odds,
        lambda logits, missing, share: -raised_until(mean_probability)(logits, missing, share),
        lambda logits, missing, share: share - mean_probability(logits, missing),
        lambda logits, missing, share: float(torch.tensor(share / mean_probability(logits, missing)).log()),
        lambda logits, missing, share: 2.0,
    ],
    "int8": [
        int8_with(row_scales, torch.trunc),
        int8_with(row_scales, torch.floor),
        int8_with(lambda weight: weight.abs().amax() / 127),
        int8_with(lambda weight: weight.abs().amax(1, keepdim=True) / 128),
        int8_with(lambda weight: weight.abs().amax(1, keepdim=True) / 127),
        int8_with(lambda weight: weight.amax(1, keepdim=True) / 127),
        int8_with(lambda weight: weight.abs().amax(0, keepdim=True) / 127),
        lambda weight: ((weight / row_scales(weight)).round(), row_scales(weight)),
        lambda weight: (int8_with(row_scales)(weight)[0], 1 / row_scales(weight)),
        lambda weight: int8_with(row_scales)(weight)[0],
    ],
}
