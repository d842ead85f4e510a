"""Learning from a teacher: the definition in loops, known values, derivatives of every kind, and what does not fit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from utils.bench.memory import peak_bytes
from utils.functional import distillation as module
from utils.functional import distillation_loss, distillation_terms

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
IGNORED = -100
INF, NAN = math.inf, math.nan


def made(b: int = 7, c: int = 6, known: int | None = None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Student, teacher and labels, of which the third is missing."""
    generator = torch.Generator().manual_seed(b * 100 + c)
    student, teacher = (3 * torch.randn(b, n, generator=generator, dtype=torch.float64) for n in (c, known or c))
    labels = torch.randint(c, (b,), generator=generator)
    labels[2:3] = IGNORED
    return [student.to(dtype), teacher.to(dtype), labels]


def loops(
    student: Tensor, teacher: Tensor, labels: Tensor | list[int], temperature: float, n_old: int
) -> tuple[Tensor, Tensor]:
    entropies, divergences = [], []
    for s, t, y in zip(student, teacher, labels if isinstance(labels, list) else labels.tolist(), strict=True):
        entropies.append(0 * s[0] if y == IGNORED else -(s[y].exp() / s.exp().sum()).log())
        q, p = ((x[:n_old] / temperature).exp() for x in (s, t))
        q, p = q / q.sum(), p / p.sum()
        divergences.append(temperature**2 * sum(p[k] * (p[k] / q[k]).log() for k in range(n_old)))
    return torch.stack(entropies), torch.stack(divergences)


def usual(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 2.0, weight: float = 0.5) -> Tensor:
    """As it is mostly written."""
    soft = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return (1 - weight) * F.cross_entropy(student, labels) + weight * soft * temperature**2


def slopes(terms: tuple[Tensor, Tensor], student: Tensor) -> list[Tensor]:
    return [torch.autograd.grad(x.sum(), student, retain_graph=True)[0] for x in terms]


@pytest.fixture(params=["in place", "formula"])
def route(request, monkeypatch):
    """On the CPU; what transforms of ``torch.func`` and compiled functions take, and other devices without kernels."""
    if request.param == "formula":
        monkeypatch.setattr(module, "_takes_cpu", lambda _: False)


# The definition


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("known", "n_old"), [(6, None), (6, 6), (6, 2), (6, 1), (4, None), (1, None), (4, 4)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.3])
def test_terms_and_slopes_are_those_of_the_definition(route, device, known, n_old, temperature):
    student, teacher, labels = (x.to(device) for x in made(known=known))
    student.requires_grad_()
    terms = distillation_terms(student, teacher, labels, temperature, n_old)
    exact = loops(student, teacher, labels, temperature, n_old or known)
    for ours, other in zip((*terms, *slopes(terms, student)), (*exact, *slopes(exact, student)), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("b", "c"), [(1, 1), (1, 2), (7, 1), (7, 100), (65, 2), (65, 101), (7, 1000)])
def test_odd_shapes(route, b, c):
    student, teacher, labels = made(b, c)
    student.requires_grad_()
    terms, exact = distillation_terms(student, teacher, labels), loops(student, teacher, labels, 2.0, c)
    for ours, other in zip((*terms, *slopes(terms, student)), (*exact, *slopes(exact, student)), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_the_loss_and_its_slope_are_as_it_is_mostly_written(route, device, weight):
    student, teacher, labels = (x.to(device) for x in made())
    student.requires_grad_()
    pairs = [f(student, teacher, labels, 3.0, weight) for f in (distillation_loss, usual)]
    torch.testing.assert_close(*pairs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in pairs))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_reductions(route, weight, reduction):
    student, teacher, labels = made(known=4)
    student.requires_grad_()
    entropy, divergence = loops(student, teacher, labels, 2.0, 4)
    exact = {
        "mean": (1 - weight) * entropy.sum() / 6 + weight * divergence.sum() / 7,  # one of seven has no label
        "sum": (1 - weight) * entropy.sum() + weight * divergence.sum(),
        "none": (1 - weight) * entropy + weight * divergence,
    }[reduction]
    loss = distillation_loss(student, teacher, labels, 2.0, weight, reduction=reduction)
    torch.testing.assert_close(loss, exact)
    upstream = torch.linspace(-1, 2, 7, dtype=torch.float64) if reduction == "none" else torch.tensor(1.7).double()
    torch.testing.assert_close(*(torch.autograd.grad(x, student, upstream)[0] for x in (loss, exact)))


# Known values


def test_soft_targets_of_two_classes(route):
    """Logits 3 and 10 at T = 1, 5, 10: the lecture's table, in per cent."""
    teacher = torch.tensor([[3.0, 10.0]], dtype=torch.float64)
    for temperature, per_cent in ((1, 0.0911), (5, 19.7816), (10, 33.1812)):
        p = per_cent / 100
        flat = torch.zeros_like(teacher).requires_grad_()  # a student that knows nothing: q = 1/2
        _, divergence = distillation_terms(flat, teacher, torch.zeros(1, dtype=torch.int64), temperature)
        (slope,) = torch.autograd.grad(divergence.sum(), flat)
        assert slope[0].tolist() == pytest.approx([temperature * (0.5 - p), temperature * (p - 0.5)], abs=1e-5)
        entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
        assert divergence.item() == pytest.approx(temperature**2 * (math.log(2) - entropy), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_at_a_high_temperature_logits_are_matched(route, dtype):
    """T^2 KL has slope (z - v) / N for large T, z and v the logits less their mean (Hinton et al. 2015, eq. 4)."""
    student, teacher, labels = made(5, 10, dtype=dtype)
    student.requires_grad_()
    _, divergence = distillation_terms(student, teacher, labels, 1000.0)
    (slope,) = torch.autograd.grad(divergence.sum(), student)
    z, v = (x - x.mean(1, keepdim=True) for x in (student, teacher))
    assert (slope - (z - v) / 10).abs().max() < 4e-3 * slope.abs().max()
    half = (z - v).square().sum(1) / 20
    torch.testing.assert_close(divergence, half, rtol=1e-2, atol=0)


def test_in_float32_hot_divergences_keep_their_digits(route):
    """At T = 100 what is left of the normalisers' rounding costs the usual form more than ten times as much."""
    student, teacher, labels = made(50, 100, dtype=torch.float32)
    exact = distillation_terms(student.double(), teacher.double(), labels, 100.0)[1]
    ours = distillation_terms(student, teacher, labels, 100.0)[1]
    log_q, p = F.log_softmax(student / 100, 1), F.softmax(teacher / 100, 1)
    other = 100**2 * F.kl_div(log_q, p, reduction="none").sum(1)
    ours, other = ((x.double() - exact).norm() / exact.norm() for x in (ours, other))
    assert ours < 1e-5 and other > 10 * ours


def test_cross_entropy_with_the_teacher_has_the_same_slope(route):
    """KL is that less the teacher's entropy, which does not depend on the student."""
    student, teacher, labels = made()
    student.requires_grad_()
    divergence = distillation_terms(student, teacher, labels, 3.0)[1].sum()
    soft = 9 * F.cross_entropy(student / 3, F.softmax(teacher / 3, 1), reduction="sum")
    entropy = -(F.softmax(teacher / 3, 1) * F.log_softmax(teacher / 3, 1)).sum()
    torch.testing.assert_close(soft - divergence, 9 * entropy)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (divergence, soft)))


def test_the_divergence_is_averaged_over_rows_and_not_over_classes(route):
    """A mean over all elements, as ``F.kl_div`` takes it by default, is C times too small."""
    student, teacher, labels = made()
    loss = distillation_loss(student, teacher, labels, 1.0, 1.0)
    each = F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="none")
    torch.testing.assert_close(loss, 6 * each.mean())


# What must hold


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_agreement_costs_and_pulls_nothing(route, dtype, temperature):
    student, _, labels = made(20, 10, dtype=dtype)
    student.requires_grad_()
    _, divergence = distillation_terms(student, student, labels, temperature, 4)
    assert (divergence == 0).all()
    assert (torch.autograd.grad(divergence.sum(), student)[0].abs() < 1e-6).all()
    vector = torch.ones(20, 10, dtype=dtype)
    vector[:, 0] = -1
    second = torch.autograd.functional.hvp(
        lambda s: distillation_terms(s, student.detach(), labels, temperature, 4)[1].sum(), student, vector
    )[1]
    assert (second[:, :4] != 0).any(1).all()  # a minimum, not a plateau: no clamp has cut the derivatives off


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_the_divergence_is_never_negative(route, temperature):
    student, _, labels = made(200, 5, dtype=torch.float32)
    for step in (1e-7, 1e-6, 1e-5):
        noise = step * torch.randn(student.shape, generator=torch.Generator().manual_seed(0))
        divergence = distillation_terms(student, student + noise, labels, temperature)[1]
        assert (divergence >= 0).all() and (divergence < 100 * step**2 + 1e-7 * temperature**2).all()


def test_a_constant_added_to_a_row_changes_nothing(route):
    student, teacher, labels = made()
    shift = torch.arange(7)[:, None]
    for ours, other in zip(
        distillation_terms(student + 8 * shift, teacher - 4 * shift, labels),
        distillation_terms(student, teacher, labels),
        strict=True,
    ):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


def test_only_the_student_learns(route):
    student, teacher, labels = made()
    teacher.requires_grad_()
    assert not any(x.requires_grad for x in distillation_terms(student, teacher, labels))
    student.requires_grad_()
    loss = distillation_loss(student, teacher, labels)
    by_student, by_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert by_teacher is None and (by_student != 0).any()


def test_inputs_are_left_alone(route):
    wider = [torch.cat([x, x], 1) for x in made()[:2]]
    inputs = [wider[0][:, 3:9].requires_grad_(), wider[1].T[:6].T, made()[2]]
    before = [x.clone() for x in inputs]
    distillation_loss(*inputs).backward()
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_a_backward_pass_can_be_repeated(route):
    student, teacher, labels = made()
    loss = distillation_loss(student.requires_grad_(), teacher, labels)
    first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


# Numerics


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_large_logits(route, temperature):
    rows = [
        [1e4, -1e4, 0.0, 1e4], [1e30, -1e30, 0.0, 1.0], [-1e30, -1e30, -1e30, -1e30], [88.0, 89.0, 90.0, -104.0],
        [1e30, 1e30, 1e30, 0.0], [5e3, 5e3 + 1, 5e3 - 1, 5e3], [0.0, 0.0, 0.0, 0.0],
    ]  # fmt: skip
    student = torch.tensor(rows).repeat_interleave(len(rows), 0).requires_grad_()
    teacher, labels = torch.tensor(rows).repeat(len(rows), 1), torch.arange(len(rows) ** 2) % 4
    log_p, log_q = ((x.double() / temperature).log_softmax(1) for x in (teacher, student))
    exact = (
        F.cross_entropy(student.double(), labels, reduction="none"),
        temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1),
    )
    terms = distillation_terms(student, teacher, labels, temperature)
    for ours, other in zip((*terms, *slopes(terms, student)), (*exact, *slopes(exact, student)), strict=True):
        torch.testing.assert_close(ours.double(), other.double(), rtol=2e-6, atol=2e-6 * temperature**2)


def test_masked_classes(route):
    """A class that is ``-inf`` for both is not there; for the student alone, the divergence is infinite."""
    student, teacher, labels = made(6, 7)
    labels[:] = 0
    kept = [0, 1, 3, 4, 6]
    student[:, [2, 5]] = teacher[:, [2, 5]] = -INF
    student.requires_grad_()
    terms = distillation_terms(student, teacher, labels)
    exact = loops(student[:, kept], teacher[:, kept], labels, 2.0, 5)
    for ours, other in zip((*terms, *slopes(terms, student)), (*exact, *slopes(exact, student)), strict=True):
        torch.testing.assert_close(ours, other)
    teacher[1, 2] = 0.0
    labels[2] = 5
    terms = distillation_terms(student, teacher, labels, 1.0)
    assert [x.isinf().nonzero().tolist() for x in terms] == [[[2]], [[1]]]
    for weight, finite in ((0.0, [0, 1, 3, 4, 5]), (0.5, [0, 3, 4, 5]), (1.0, [0, 2, 3, 4, 5])):
        rows = distillation_loss(student, teacher, labels, 1.0, weight, reduction="none")
        assert rows.isfinite().nonzero()[:, 0].tolist() == finite and not rows.isnan().any()
        assert torch.autograd.grad(rows.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_lowest_number_masks_as_well(route, temperature):
    student, teacher, labels = made(6, 7, dtype=torch.float32)
    labels[:] = 0
    kept = [0, 1, 3, 4, 6]
    student[:, [2, 5]] = teacher[:, [2, 5]] = torch.finfo(torch.float32).min
    student.requires_grad_()
    terms = distillation_terms(student, teacher, labels, temperature)
    exact = loops(student[:, kept].double(), teacher[:, kept].double(), labels, temperature, 5)
    for ours, other in zip((*terms, *slopes(terms, student)), (*exact, *slopes(exact, student)), strict=True):
        torch.testing.assert_close(ours.double(), other.double(), rtol=1e-5, atol=1e-6 * temperature**2)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("of_teacher", [False, True])
def test_not_a_number_stays_in_its_row(route, value, of_teacher):
    student, teacher, labels = made()
    expected = distillation_terms(student, teacher, labels)
    (teacher if of_teacher else student)[3, 1] = value
    student.requires_grad_()
    terms = distillation_terms(student, teacher, labels)
    assert terms[1].isnan().nonzero().tolist() == [[3]]
    assert terms[0].isnan().nonzero().tolist() == ([] if of_teacher else [[3]])
    for ours, other in zip(terms, expected, strict=True):
        torch.testing.assert_close(*(x[[0, 1, 2, 4, 5, 6]] for x in (ours, other)))
    gradient = torch.autograd.grad(distillation_loss(student, teacher, labels, reduction="sum"), student)[0]
    assert gradient.isnan().any(1).nonzero().tolist() == [[3]]


@pytest.mark.parametrize("ignore_index", [-100, 2, 10**12])
def test_a_row_without_a_label_still_listens_to_the_teacher(route, ignore_index):
    student, teacher, _ = made()
    labels = torch.tensor([0, 1, ignore_index, 3, 4, 5, ignore_index])
    student.requires_grad_()
    entropy, divergence = distillation_terms(student, teacher, labels, ignore_index=ignore_index)
    hard, soft = slopes((entropy, divergence), student)
    assert (entropy == 0).nonzero()[:, 0].tolist() == (hard == 0).all(1).nonzero()[:, 0].tolist() == [2, 6]
    assert (divergence > 0).all() and (soft != 0).any(1).all()
    torch.testing.assert_close(entropy[[0, 1]], F.cross_entropy(student[:2], labels[:2], reduction="none"))
    loss = distillation_loss(student, teacher, labels, ignore_index=ignore_index)
    torch.testing.assert_close(loss, 0.5 * entropy.sum() / 5 + 0.5 * divergence.mean())


def test_nothing_but_ignored_labels_leave_the_divergence(route):
    """PyTorch's cross-entropy is 0/0 there."""
    student, teacher, _ = made()
    labels = torch.full((7,), IGNORED)
    student.requires_grad_()
    assert F.cross_entropy(student, labels).isnan()
    loss = distillation_loss(student, teacher, labels, 2.0, 0.25)
    torch.testing.assert_close(loss, 0.25 * loops(student, teacher, labels, 2.0, 6)[1].mean())
    torch.testing.assert_close(
        torch.autograd.grad(loss, student)[0],
        torch.autograd.grad(distillation_loss(student, teacher, labels, 2.0, 1.0), student)[0] / 4,
    )
    alone = distillation_loss(student, teacher, labels, 2.0, 0.0)
    assert alone == 0 and (torch.autograd.grad(alone, student)[0] == 0).all()


def test_no_rows(route):
    student, teacher, labels = made(0)
    student.requires_grad_()
    assert [x.shape for x in distillation_terms(student, teacher, labels)] == [(0,), (0,)]
    assert distillation_loss(student, teacher, labels, reduction="none").shape == (0,)
    for reduction in ("mean", "sum"):
        loss = distillation_loss(student, teacher, labels, reduction=reduction)
        assert loss == 0 and torch.autograd.grad(loss, student)[0].shape == (0, 6)


@pytest.mark.parametrize("of_student", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("of_teacher", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precisions_are_widened_and_only_the_slope_is_rounded(route, of_student, of_teacher):
    student, teacher, labels = made()
    student, teacher = student.to(of_student).requires_grad_(), teacher.to(of_teacher)
    terms = distillation_terms(student, teacher, labels)
    wide = torch.float64 if torch.float64 in (of_student, of_teacher) else torch.float32
    tolerance = 1e-12 if wide == torch.float64 else 2e-6
    widened = student.detach().double().requires_grad_()
    exact = loops(widened, teacher.double(), labels, 2.0, 6)
    for ours, other in zip(terms, exact, strict=True):
        assert ours.dtype == wide
        torch.testing.assert_close(ours.double(), other, rtol=tolerance, atol=tolerance)
    for ours, other in zip(slopes(terms, student), slopes(exact, widened), strict=True):
        assert ours.dtype == of_student
        tolerance = max(tolerance, {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-7}.get(of_student, 0))
        torch.testing.assert_close(ours.double(), other, rtol=tolerance, atol=tolerance)


def test_a_scaled_half_precision_slope_is_rounded_after_scaling(route):
    """Half precision is trained with a scaled loss, because slopes like these would round to 0."""
    student, teacher, labels = (x[:1].repeat(4096, *([1] * (x.ndim - 1))) for x in made(dtype=torch.float16))
    student.requires_grad_()
    loss = distillation_loss(student, teacher * 0.99 + student.detach() * 0.01, labels)
    (scaled,) = torch.autograd.grad(loss * 2.0**14, student)
    wide = student.detach().double().requires_grad_()
    exact = distillation_loss(wide, (teacher * 0.99 + student.detach() * 0.01).double(), labels)
    torch.testing.assert_close(
        scaled.double(), torch.autograd.grad(exact * 2.0**14, wide)[0], rtol=1e-3, atol=1e-6
    )  # fmt: skip


def test_autocasting_changes_nothing(route):
    inputs = made(dtype=torch.float32)
    inputs[0].requires_grad_()
    expected = distillation_loss(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        loss = distillation_loss(*inputs)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    assert torch.equal(*(torch.autograd.grad(x, inputs[0])[0] for x in (loss, expected)))


def test_memory_is_less_than_of_the_usual_form():
    student, teacher, labels = made(64, 100, dtype=torch.float32)
    student.requires_grad_()
    ours, other = (
        peak_bytes(lambda f=f: torch.autograd.grad(f(student, teacher, labels), student))
        for f in (distillation_loss, usual)
    )
    assert ours <= 4.2 * student.nbytes < other


# Derivatives of every kind


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("weight", "known"), [(0.3, 4), (0.0, 4), (1.0, 4), (1.0, 3), (0.3, 1)])
def test_derivatives_of_the_loss_are_those_of_finite_differences(weight, known, reduction):
    student, teacher, labels = made(3, 4, known)
    student.requires_grad_()

    def loss(student: Tensor) -> Tensor:
        return distillation_loss(student, teacher, labels, 3.0, weight, reduction=reduction)

    assert torch.autograd.gradcheck(loss, student, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, student, check_fwd_over_rev=True)


@pytest.mark.parametrize("known", [4, 1])
def test_derivatives_of_the_terms_are_those_of_finite_differences(route, known):
    student, teacher, labels = made(3, 4, known)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: distillation_terms(s, teacher, labels), student, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda s: distillation_terms(s, teacher, labels), student)


def test_second_derivatives_in_every_order():
    student, teacher, labels = made(3, 4)

    def ours(student: Tensor) -> Tensor:
        entropy, divergence = distillation_terms(student, teacher, labels, 3.0)
        return distillation_loss(student, teacher, labels, 3.0, 0.3) + (entropy * divergence).sum()

    known = labels.tolist()  # what PyTorch 2.4 refuses inside a transform

    def definition(student: Tensor) -> Tensor:
        entropy, divergence = loops(student, teacher, known, 3.0, 4)
        return 0.7 * entropy.sum() / 2 + 0.3 * divergence.mean() + (entropy * divergence).sum()

    exact = torch.autograd.functional.hessian(definition, student)
    for second in (hessian, *(lambda f, a=a, b=b: a(b(f)) for a in (jacrev, jacfwd) for b in (jacrev, jacfwd))):
        torch.testing.assert_close(second(ours)(student), exact)
    torch.testing.assert_close(torch.autograd.functional.hessian(ours, student), exact)
    third = torch.autograd.functional.jacobian(lambda s: torch.autograd.functional.hessian(ours, s, True), student)
    other = jacrev(hessian(definition))(student)
    torch.testing.assert_close(third, other)


def test_forward_mode_is_right():
    student, teacher, labels = made()
    direction = torch.randn(student.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = labels.tolist()
    expected = jvp(lambda s: torch.stack(loops(s, teacher, known, 2.0, 6)), (student,), (direction,))[1]
    ours = jvp(lambda s: torch.stack(distillation_terms(s, teacher, labels)), (student,), (direction,))[1]
    torch.testing.assert_close(ours, expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(student.clone().requires_grad_(), direction)
        terms = distillation_terms(dual, teacher, labels)
        torch.testing.assert_close(torch.stack([forward_ad.unpack_dual(x).tangent for x in terms]), expected)
        (first,) = torch.autograd.grad(distillation_loss(dual, teacher, labels), dual)
        product = forward_ad.unpack_dual(first).tangent  # forward over reverse
    exact = torch.autograd.functional.hvp(lambda s: distillation_loss(s, teacher, labels), student, direction)[1]
    torch.testing.assert_close(product, exact)


def test_a_tangent_of_the_upstream_gradient_is_kept(route):
    student, teacher, labels = made()
    student.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    factor, direction = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = torch.autograd.grad(direction @ distillation_terms(student, teacher, labels)[0], student)[0]
    with forward_ad.dual_level():
        entropy, divergence = distillation_terms(student, teacher, labels)
        loss = forward_ad.make_dual(factor, direction) @ entropy + divergence.sum()
        tangent = forward_ad.unpack_dual(torch.autograd.grad(loss, student)[0]).tangent
    torch.testing.assert_close(tangent, expected)


def test_many_upstream_gradients_at_once(route):
    student, teacher, labels = made()
    student.requires_grad_()
    rows = distillation_loss(student, teacher, labels, reduction="none")
    (jacobian,) = torch.autograd.grad(
        rows, student, torch.eye(7, dtype=torch.float64), is_grads_batched=True, retain_graph=True
    )
    for i in range(7):
        torch.testing.assert_close(jacobian[i], torch.autograd.grad(rows[i], student, retain_graph=True)[0])


def test_it_is_a_function_for_torch_func():
    generator = torch.Generator().manual_seed(0)
    students = torch.randn(7, 3, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(6, (3, 7), generator=generator)
    labels[1, 2] = IGNORED
    losses = vmap(distillation_loss, in_dims=(1, None, 0))(students, teacher, labels)
    slopes = vmap(grad(distillation_loss), in_dims=(1, None, 0))(students, teacher, labels)
    for task in range(3):
        student = students[:, task].clone().requires_grad_()
        loss = distillation_loss(student, teacher, labels[task])
        torch.testing.assert_close(losses[task], loss.detach())
        torch.testing.assert_close(slopes[task], torch.autograd.grad(loss, student)[0])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_it_compiles_whole(reduction):
    student, teacher, labels = made(known=4)
    student.requires_grad_()
    compiled = torch.compile(distillation_loss, fullgraph=True, backend="aot_eager")
    for temperature in (2.0, 3.0, 4.0):
        losses = [f(student, teacher, labels, temperature, reduction=reduction) for f in (compiled, distillation_loss)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(x.sum(), student)[0] for x in losses))


# What does not fit


@pytest.mark.parametrize("label", [-1, 6, 2**40])
@pytest.mark.parametrize("expanded", [False, True])
def test_labels_out_of_range_are_refused_where_that_costs_nothing(label, expanded):
    student, teacher, labels = made()
    labels = torch.tensor(label).expand(7) if expanded else labels.index_fill(0, torch.tensor([4]), label)
    said = rf"labels must lie in 0 \.\. 5 or be -100; got {label}"
    with pytest.raises(ValueError, match=said):
        distillation_terms(student, teacher, labels)
    with pytest.raises(ValueError, match=said):
        distillation_loss(student, teacher, labels)


@pytest.mark.parametrize("label", [-1, 6, 2**40])
def test_elsewhere_a_label_out_of_range_makes_its_row_no_number(label):
    student, teacher, labels = made()
    labels[4] = label
    rows = torch.func.jacrev(lambda s: distillation_terms(s, teacher, labels)[0].sum())(student)
    assert rows.isnan().all(1).nonzero().tolist() == [[4]]
    (entropy, divergence), tangents = jvp(
        lambda s: distillation_terms(s, teacher, labels), (student,), (torch.ones_like(student),)
    )
    assert entropy.isnan().nonzero().tolist() == tangents[0].isnan().nonzero().tolist() == [[4]]
    assert divergence.isfinite().all() and tangents[1].isfinite().all()


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((7, 6), (7, 6), (6,)), r"labels \[B\]; got \[7, 6\], \[7, 6\] and \[6\]"),
        (((7, 6), (5, 6), (7,)), "expected the student's logits"),
        (((2, 7, 6), (2, 7, 6), (2,)), "expected the student's logits"),
        (((7, 6), (7,), (7,)), "expected the student's logits"),
        (((7, 6), (7, 6), (7, 1)), "expected the student's logits"),
        (((7, 6), (7, 8), (7,)), r"n_old must lie in 1 \.\. 6, the student's classes; got 8"),
        (((7, 6), (7, 0), (7,)), r"n_old must lie in 1 \.\. 6, the student's classes; got 0"),
        (((7, 0), (7, 0), (7,)), "n_old must lie in"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, said):
    student, teacher, labels = shapes
    inputs = torch.zeros(student), torch.zeros(teacher), torch.zeros(labels, dtype=torch.int64)
    for function in (distillation_terms, distillation_loss):
        with pytest.raises(ValueError, match=said):
            function(*inputs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0}, r"temperature must be positive and finite; got 0\.0"),
        ({"temperature": -2.0}, "positive and finite"),
        ({"temperature": INF}, "positive and finite; got inf"),
        ({"temperature": NAN}, "positive and finite; got nan"),
        ({"n_old": 0}, r"n_old must lie in 1 \.\. 6, the student's classes; got 0"),
        ({"n_old": -1}, "n_old must lie in"),
        ({"n_old": 7}, r"n_old must lie in 1 \.\. 6, the student's classes; got 7"),
        ({"weight": -0.1}, r"weight must lie in 0 \.\. 1; got -0\.1"),
        ({"weight": 1.1}, r"weight must lie in 0 \.\. 1; got 1\.1"),
        ({"weight": NAN}, "weight must lie in"),
        ({"reduction": "batchmean"}, "reduction must be one of mean, sum, none; got 'batchmean'"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        distillation_loss(*made(), **options)


def test_a_teacher_of_other_classes_is_refused():
    student, teacher, labels = made(known=4)
    with pytest.raises(ValueError, match="the teacher must know the 3 old classes or all 6; got logits of 4"):
        distillation_loss(student, teacher, labels, n_old=3)


def test_other_types_are_refused():
    student, teacher, labels = made()
    with pytest.raises(TypeError, match=r"expected logits of torch\.float16, .* got torch\.int64 and torch\.float64"):
        distillation_loss(student.long(), teacher, labels)
    with pytest.raises(TypeError, match=r"got torch\.float64 and torch\.complex128"):
        distillation_loss(student, teacher.to(torch.complex128), labels)
    with pytest.raises(TypeError, match=r"expected labels of torch\.int64, a class each; got torch\.float64"):
        distillation_loss(student, teacher, labels.double())
    with pytest.raises(TypeError, match=r"got torch\.int32"):
        distillation_loss(student, teacher, labels.int())
    with pytest.raises(TypeError, match="temperature must be a number; got Tensor"):
        distillation_loss(student, teacher, labels, torch.tensor(2.0))
    with pytest.raises(TypeError, match="weight must be a number; got str"):
        distillation_loss(student, teacher, labels, weight="half")
    with pytest.raises(ValueError, match="expected one device; got cpu, cpu and meta"):
        distillation_loss(student, teacher, labels.to("meta"))
