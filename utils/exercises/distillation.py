"""Exercises of the chapter on distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.exercises.check import Exercise


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _softmax(logits: Tensor) -> Tensor:
    powers = (logits - logits.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


def _test_two_targets(answer: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> None:
    for n, n_classes, temperature, weight in ((6, 5, 4.0, 0.7), (9, 3, 2.5, 0.4)):
        student, teacher = 2 * _random(n, n_classes), 3 * _random(n, n_classes, seed=1)
        labels = torch.arange(n) % n_classes
        found = answer(student.clone(), teacher.clone(), labels, temperature, weight)
        assert isinstance(found, Tensor) and found.shape == (), "Return one number, as a tensor without axes."
        hard = -_softmax(student).log()[torch.arange(n), labels].mean()

        def soft(of_teacher: float, of_student: float, t: Tensor = teacher, s: Tensor = student) -> Tensor:
            p, q = _softmax(t / of_teacher), _softmax(s / of_student)
            return (p * (p / q).log()).sum(1).mean()

        def total(value: Tensor, factor: float, h: Tensor = hard, w: float = weight) -> Tensor:
            return (1 - w) * h + w * factor * value

        square, p = temperature**2, _softmax(teacher / temperature)
        right = soft(temperature, temperature)
        wanted = total(right, square)
        for mistaken, text in (
            (total(right, 1.0), "T^2 is missing: at this temperature the teacher would hardly be heard."),
            (total(right, temperature), "The factor is T^2, not T: one T from each of the two logits."),
            (
                total(right / n_classes, square),
                "The divergence is a sum over the classes and a mean over the images; you have taken the mean over "
                "both. `F.kl_div` does that with reduction='mean'.",
            ),
            (total(right * n, square), "Take the mean over the images, not the sum."),
            (total(soft(1.0, temperature), square), "The teacher's logits are not divided by T."),
            (total(soft(temperature, 1.0), square), "The student's logits are not divided by T in the soft term."),
            (
                total(soft(temperature, temperature, student, teacher), square),
                "Teacher and student have changed places: the expectation in KL is over the teacher's classes.",
            ),
            (
                total(right - (p * p.log()).sum(1).mean(), square),
                "That is the cross-entropy with the teacher, right in its gradient. KL is asked for, which is 0 where "
                "student and teacher agree: subtract the entropy of the targets.",
            ),
            (
                total(right, square, -_softmax(student / temperature).log()[torch.arange(n), labels].mean()),
                "The hard term is taken at T as well; labels are compared at temperature 1.",
            ),
            (total(right, square, w=1 - weight), "The weight belongs to the teacher, the rest of it to the labels."),
        ):
            assert not torch.allclose(found, mistaken), text
        assert torch.allclose(found, wanted), (
            f"For T = {temperature:g} and weight = {weight:g} the loss is {float(wanted):.4f}; yours is "
            f"{float(found):.4f}."
        )
    sure = torch.tensor([[0.0, -4000.0], [-4000.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[1.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    found = answer(student, sure, torch.tensor([0, 1]), 2.0, 1.0)
    wanted = -4 * (student / 2).log_softmax(1).diagonal().mean()
    assert bool(found.isfinite()) and torch.allclose(found, wanted), (
        "It is right, until the teacher is so sure that a probability is rounded to 0: then 0 log 0 is not a number. "
        "Take logarithms with log_softmax, or let `F.kl_div` do it."
    )


def _test_raise_output(answer: Callable[[Tensor, int, float], float]) -> None:
    # All images alike: log-odds say what to add, log(s / (1 - s)) - log(p / (1 - p)).
    for missing, share in ((2, 0.25), (0, 0.6)):
        logits = _random(1, 4, seed=5).expand(7, 4)
        p = float(_softmax(logits)[0, missing])
        wanted = torch.tensor(share / (1 - share) * (1 - p) / p).log().item()
        found = float(answer(logits.clone(), missing, share))
        assert abs(found + wanted) > 1e-3, "The sign is wrong: what is returned is *added* to the output."
        assert abs(found - (share - p)) > 1e-3, "Add to the logit, not to the probability."
        assert abs(found - float(torch.tensor(share / p).log())) > 1e-3, (
            "The logarithm of share / p is not enough: what one class gains, the others lose."
        )
        assert abs(found - wanted) < 1e-3, (
            f"With the same outputs for all images, class {missing} has p = {p:.3f}. To bring it to {share} its output "
            f"has to be raised by {wanted:.3f}; yours is {found:.3f}."
        )
    for seed, (missing, share) in enumerate([(1, 0.2), (4, 0.5), (3, 0.05)]):
        logits = 4 * _random(60, 5, seed=seed)
        found = float(answer(logits.clone(), missing, share))

        def reached(by: float, z: Tensor = logits, k: int = missing) -> Tensor:
            return _softmax(z + by * torch.eye(z.shape[1], dtype=z.dtype)[k])

        p = reached(found)
        mean = float(p[:, missing].mean())
        answered = float((p.argmax(1) == missing).double().mean())
        assert abs(mean - share) < 1e-4 or abs(answered - share) > 1 / len(logits), (
            f"So many images are answered with class {missing}. The mean of its *probability* is asked for."
        )
        assert abs(mean - share) < 1e-4, (
            f"Raised by {found:.3f}, class {missing} has the mean probability {mean:.4f} and not {share}. Images "
            "differ, so there is no formula. The mean grows with what is added: halve an interval."
        )


def _test_int8(answer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    weight = _random(5, 8).float() * torch.tensor([0.01, 1.0, 30.0, 1.0, 0.2])[:, None]
    weight[3] = weight[3].abs()
    found = answer(weight.clone())
    assert isinstance(found, tuple) and len(found) == 2, "Return two tensors: (codes, scales)."
    codes, scales = found
    assert isinstance(codes, Tensor) and codes.dtype == torch.int8, "The codes must be a tensor of dtype torch.int8."
    assert codes.shape == (5, 8), "There is one code for every weight: [5, 8]."
    assert isinstance(scales, Tensor) and scales.numel() == 5, (
        "Every row has a scale of its own: 5 of them. With a single one a row of small weights would be lost."
    )
    scales = scales.reshape(5, 1)
    wanted = weight.abs().amax(1, keepdim=True) / 127
    assert not torch.allclose(scales, wanted * 127 / 128), (
        "With the largest size / 128, the largest weight needs the code 128, which int8 does not have."
    )
    assert not torch.allclose(scales, 1 / wanted), "A scale multiplies the codes; yours has to divide them."
    assert torch.allclose(scales, wanted), (
        "The scale of a row is the size of its largest weight, divided by 127. The sign of that weight does not matter."
    )
    exact = weight / wanted
    assert not torch.equal(codes, exact.to(torch.int8)) or torch.equal(codes, exact.round().to(torch.int8)), (
        "Your codes are cut off towards zero: round to the nearest whole number, or all weights shrink."
    )
    assert torch.equal(codes, exact.round().to(torch.int8)), (
        "Codes times scales must come back to within half a scale of the weights; yours are off by up to "
        f"{float((codes * wanted - weight).abs().max()):.2g}."
    )
    weight[2] = 0.0
    codes, scales = answer(weight.clone())
    assert bool(scales.isfinite().all()) and bool((scales > 0).all()) and not bool(codes[2].any()), (
        "A row without any weight would get the scale 0, and 0 / 0 is not a number, whatever int8 makes of it. Give "
        "such a row any positive scale, and codes 0."
    )


two_targets = Exercise("two targets in one loss", _test_two_targets)
raise_output = Exercise("raising an output", _test_raise_output)
int8 = Exercise("weights in one byte", _test_int8)
