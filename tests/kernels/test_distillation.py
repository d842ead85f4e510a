"""The distilling loss on a GPU (or in the interpreter): the float64 formula, derivatives, layouts, edges, systems."""

from __future__ import annotations

import math

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from checks import LAYOUTS, TOLERANCE, error, laid_out
from torch import Tensor
from torch.func import grad, jvp, vmap

from utils.functional import distillation as module
from utils.functional.distillation import distillation_loss, distillation_terms

# Behind the last column both logits are -inf, and the interpreter's arrays warn of their difference, which is not used.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
IGNORED = -100
INF, NAN = math.inf, math.nan

ROWS_AND_COLUMNS = (
    (1, 1), (7, 1), (65, 2), (2, 3), (33, 5), (16, 10), (17, 16), (7, 17), (3, 64), (1, 100), (7, 100), (21, 101),
    (2, 128), (3, 129), (2, 256), (1, 257), (2, 1000), (1, 1025),
)  # fmt: skip
"""One, odd numbers, all columns of a tile, one less and one more; the last tile full, half full and with one row."""


def made(b: int, c: int, device, dtype=torch.float32, known: int | None = None, seed: int = 0) -> list[Tensor]:
    """Student, teacher (of ``known`` classes) and labels, of which every fifth is missing."""
    generator = torch.Generator().manual_seed(b * 10000 + c + seed)
    student = 3 * torch.randn(b, c, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(b, known or c, generator=generator, dtype=torch.float64)
    labels = torch.randint(c, (b,), generator=generator)
    labels[4::5] = IGNORED
    return [student.to(dtype).to(device), teacher.to(dtype).to(device), labels.to(device)]


def formula(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 2.0, n_old: int | None = None):
    """Both terms as they are defined, in float64."""
    s, t, y = student.double().cpu(), teacher.double().cpu(), labels.cpu()
    n_old = n_old or t.shape[1]
    ignored = y == IGNORED
    entropy = -s.log_softmax(1).gather(1, y.masked_fill(ignored, 0)[:, None])[:, 0].masked_fill(ignored, 0)
    log_p, log_q = ((x[:, :n_old] / temperature).log_softmax(1) for x in (t, s))
    each = (log_p.exp() * (log_p - log_q)).masked_fill(log_p == -INF, 0)
    return entropy, temperature**2 * each.sum(1)


def slope(function, student: Tensor, *others, by: tuple[Tensor, Tensor]) -> Tensor:
    student = student.detach().requires_grad_()
    terms = function(student, *others)
    return torch.autograd.grad(terms, student, [x.to(y) for x, y in zip(by, terms, strict=True)])[0]


def everything(*inputs: Tensor, by: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [*distillation_terms(*inputs), slope(distillation_terms, *inputs, by=by)]


def compare(inputs: list[Tensor], *options, scale: float = 1.0) -> None:
    """Both terms and the derivative by each of them against the formula in float64."""
    student, teacher, labels = inputs
    wide = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(len(labels), generator=generator, dtype=torch.float64).to(wide)
    both = []
    for function, s in ((distillation_terms, student), (formula, student.double().cpu())):
        s = s.detach().requires_grad_()  # of the same layout
        terms = function(s, teacher, labels, *options)
        both.append((terms, [torch.autograd.grad(x, s, upstream.to(x), retain_graph=True)[0] for x in terms]))
    (terms, slopes), (exact_terms, exact_slopes) = both
    for term, exact in zip(terms, exact_terms, strict=True):
        assert term.dtype == wide and error(term, exact) < scale * TOLERANCE[wide]
    for slope, exact in zip(slopes, exact_slopes, strict=True):
        assert slope.dtype == student.dtype and error(slope, exact) < scale * TOLERANCE[student.dtype]


# Values and first derivatives


@pytest.mark.parametrize(("b", "c"), ROWS_AND_COLUMNS)
def test_terms_and_slopes_of_odd_shapes(device, unwritten, b, c):
    compare(made(b, c, device))


def test_many_rows_in_several_programs(device, unwritten):
    compare(made(65, 100, device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_precisions(device, dtype):
    compare(made(7, 33, device, dtype))


@pytest.mark.parametrize(
    ("of_student", "of_teacher"),
    [
        (torch.bfloat16, torch.float32), (torch.float32, torch.float16),
        (torch.float16, torch.bfloat16), (torch.float32, torch.float64), (torch.float64, torch.float32),
    ],
)  # fmt: skip
def test_student_and_teacher_may_differ_in_precision(device, of_student, of_teacher):
    student, teacher, labels = made(7, 33, device)
    compare([student.to(of_student), teacher.to(of_teacher), labels])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.3, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_temperatures(device, dtype, temperature):
    # The hotter, the smaller the divergence is against the terms that it is summed from.
    compare(made(9, 100, device, dtype), temperature, scale=2 if temperature > 10 else 1)


@pytest.mark.parametrize(("known", "n_old"), [(1, None), (1, 1), (10, None), (48, 1), (48, 10), (48, 47), (48, 48)])
def test_old_classes_are_the_first(device, unwritten, known, n_old):
    inputs = made(9, 48, device, known=known)
    compare(inputs, 2.0, n_old)
    by = torch.zeros(9, device=device), torch.ones(9, device=device)
    assert (slope(distillation_terms, *inputs, 2.0, n_old, by=by)[:, n_old or known :] == 0).all()


def test_what_a_wider_teacher_thinks_of_new_classes_is_not_read(device):
    student, teacher, labels = made(9, 37, device)
    known = teacher.clone()
    teacher[:, 10:] = NAN
    for ours, other in zip(
        distillation_terms(student, teacher, labels, n_old=10),
        distillation_terms(student, known[:, :10], labels),
        strict=True,
    ):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", [0, 1, (0, 1)], ids=["student", "teacher", "both"])
def test_layouts(device, layout, which):
    inputs = made(12, 20, device)
    for i in which if isinstance(which, tuple) else (which,):
        inputs[i] = laid_out(inputs[i], layout)
    compare(inputs)


def test_layouts_of_labels_and_stride_zero(device):
    student, teacher, labels = made(12, 20, device)
    every_second = torch.stack([labels, torch.full_like(labels, 10**6)], 1)[:, 0]
    compare([student, teacher, every_second])
    compare([student[:1].expand(12, 20), teacher[:1].expand(12, 20), labels[:1].expand(12)])
    compare([student[:, :1].expand(12, 20), teacher, labels])


@pytest.mark.parametrize("aligned", [1, 2, 4, 8, 16])
def test_every_unit_of_length(device, unwritten, aligned):
    """Of the number of columns and of old ones, and of the strides."""
    student, teacher, labels = made(5, 48, device)
    compare([student[:, : 32 + aligned], teacher[:, : 32 + aligned], labels.clamp(max=31)], 2.0, 16 + aligned)


def test_no_rows_launch_nothing(device, monkeypatch):
    from utils.kernels import distillation

    monkeypatch.setattr(distillation, "terms_kernel", None)
    monkeypatch.setattr(distillation, "slope_kernel", None)
    student, teacher, labels = made(0, 5, device)
    student.requires_grad_()
    terms = distillation_terms(student, teacher, labels)
    assert [x.shape for x in terms] == [(0,), (0,)]
    assert torch.autograd.grad(terms, student, terms)[0].shape == (0, 5)
    for reduction in ("mean", "sum"):
        loss = distillation_loss(student, teacher, labels, reduction=reduction)
        assert loss == 0 and torch.autograd.grad(loss, student)[0].shape == (0, 5)


# Labels


@pytest.mark.parametrize("ignore_index", [-100, 2, 10**12])
def test_a_row_without_a_label_still_listens_to_the_teacher(device, ignore_index):
    student, teacher, labels = made(9, 5, device)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3], device=device)
    missing = torch.tensor([2, 7], device=device)
    labels[missing] = ignore_index
    entropy, divergence = distillation_terms(student, teacher, labels, ignore_index=ignore_index)
    exact = formula(student, teacher, labels.masked_fill(labels == ignore_index, IGNORED))
    assert (entropy[missing] == 0).all() and error(entropy, exact[0]) < TOLERANCE[torch.float32]
    assert error(divergence, exact[1]) < TOLERANCE[torch.float32]
    ones, zeros = torch.ones(9, device=device), torch.zeros(9, device=device)
    hard = slope(distillation_terms, student, teacher, labels, 2.0, None, ignore_index, by=(ones, zeros))
    soft = slope(distillation_terms, student, teacher, labels, 2.0, None, ignore_index, by=(zeros, ones))
    assert (hard == 0).all(1).nonzero()[:, 0].tolist() == [2, 7]
    assert (soft != 0).any(1).all()


@pytest.mark.parametrize("label", [-1, -99, 5, 6, 2**33, -(2**33)])
def test_a_label_out_of_range_spoils_its_row_and_no_other(device, label):
    student, teacher, labels = made(9, 5, device)
    expected = distillation_terms(student, teacher, labels)
    by = torch.ones(9, device=device), torch.ones(9, device=device)
    plain = slope(distillation_terms, student, teacher, labels, by=by)
    labels[3] = label
    entropy, divergence = distillation_terms(student, teacher, labels)
    spoiled = slope(distillation_terms, student, teacher, labels, by=by)
    others = [i for i in range(9) if i != 3]
    assert entropy[3].isnan() and torch.equal(entropy[others], expected[0][others])
    assert torch.equal(divergence, expected[1])
    assert spoiled[3].isnan().all() and torch.equal(spoiled[others], plain[others])


# Numerics


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_large_logits(device, temperature):
    rows = [
        [1e4, -1e4, 0.0, 1e4], [1e30, -1e30, 0.0, 1.0], [-1e30, -1e30, -1e30, -1e30], [88.0, 89.0, 90.0, -104.0],
        [1e30, 1e30, 1e30, 0.0], [5e3, 5e3 + 1, 5e3 - 1, 5e3], [0.0, 0.0, 0.0, 0.0],
    ]  # fmt: skip
    student = torch.tensor(rows, device=device).repeat_interleave(len(rows), 0)
    teacher = torch.tensor(rows, device=device).repeat(len(rows), 1)
    labels = torch.arange(len(student), device=device) % 4
    exact = formula(student, teacher, labels, temperature)
    for ours, other in zip(distillation_terms(student, teacher, labels, temperature), exact, strict=True):
        torch.testing.assert_close(ours.double().cpu(), other, rtol=2e-6, atol=2e-6 * temperature**2)
    ones = torch.ones(len(student), dtype=torch.float64, device=device)
    ours = slope(distillation_terms, student, teacher, labels, temperature, by=(ones, ones))
    double = (x.double() if x.is_floating_point() else x for x in (student, teacher, labels))
    other = slope(formula, *(x.cpu() for x in double), temperature, by=(ones.cpu(), ones.cpu()))
    torch.testing.assert_close(ours.double().cpu(), other, rtol=2e-6, atol=2e-6 * temperature)


def test_masked_classes(device):
    """A class that is ``-inf`` for both is not there; for the student alone, the divergence is infinite."""
    student, teacher, labels = made(6, 7, device)
    labels[:] = 0
    kept = torch.tensor([0, 1, 3, 4, 6], device=device)
    student[:, [2, 5]] = teacher[:, [2, 5]] = -INF
    compare([student, teacher, labels])
    for ours, other in zip(
        distillation_terms(student, teacher, labels),
        distillation_terms(student[:, kept], teacher[:, kept], labels),
        strict=True,
    ):
        torch.testing.assert_close(ours, other)
    teacher[1, 2] = 0.0
    labels[2] = 5
    entropy, divergence = distillation_terms(student, teacher, labels)
    assert entropy.isinf().nonzero().tolist() == [[2]] and divergence.isinf().nonzero().tolist() == [[1]]
    ones = torch.ones(6, device=device)
    gradient = slope(distillation_terms, student, teacher, labels, by=(ones, ones))
    assert gradient.isfinite().all() and gradient[1, 2] < 0 and gradient[2, 5] == -1


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("of_teacher", [False, True])
def test_not_a_number_stays_in_its_row(device, value, of_teacher):
    student, teacher, labels = made(9, 5, device)
    expected = distillation_terms(student, teacher, labels)
    (teacher if of_teacher else student)[3, 1] = value
    entropy, divergence = distillation_terms(student, teacher, labels)
    others = [i for i in range(9) if i != 3]
    assert divergence[3].isnan() and torch.equal(divergence[others], expected[1][others])
    assert bool(entropy[3].isnan()) != of_teacher and torch.equal(entropy[others], expected[0][others])
    ones = torch.ones(9, device=device)
    gradient = slope(distillation_terms, student, teacher, labels, by=(ones, ones))
    assert gradient.isnan().any(1).nonzero().tolist() == [[3]]


def test_a_row_of_nothing_but_minus_infinity_is_no_number(device):
    student, teacher, labels = made(3, 5, device)
    student[1] = -INF
    entropy, divergence = distillation_terms(student, teacher, labels)
    assert entropy.isnan().tolist() == divergence.isnan().tolist() == [False, True, False]
    student, teacher, labels = made(3, 5, device)
    teacher[2] = -INF
    entropy, divergence = distillation_terms(student, teacher, labels)
    assert entropy.isfinite().all() and divergence.isnan().tolist() == [False, False, True]


# What must hold


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_agreement_costs_and_pulls_nothing(device, temperature):
    student, _, labels = made(9, 37, device)
    divergence = distillation_terms(student, student.clone(), labels, temperature)[1]
    assert (divergence == 0).all()
    by = torch.zeros(9, device=device), torch.ones(9, device=device)
    assert (slope(distillation_terms, student, student.clone(), labels, temperature, by=by) == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_the_divergence_is_never_negative(device, temperature):
    student, _, labels = made(40, 5, device)
    for step in (1e-7, 1e-6, 1e-5, 1e-3):
        noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(0)).to(device)
        divergence = distillation_terms(student, student + step * noise, labels, temperature)[1]
        assert (divergence >= 0).all()
        assert (divergence < 100 * step**2 + 1e-7 * temperature**2).all()


def test_a_constant_added_to_a_row_changes_nothing(device):
    student, teacher, labels = made(9, 37, device)
    student, teacher = (x.mul(1024).round().div(1024) for x in (student, teacher))  # so that the sums are exact
    by = torch.ones(9, device=device), torch.ones(9, device=device)
    shift = torch.arange(9, device=device)[:, None]
    shifted = everything(student + 8 * shift, teacher - 4 * shift, labels, by=by)
    assert all(torch.equal(x, y) for x, y in zip(shifted, everything(student, teacher, labels, by=by), strict=True))


def test_rows_do_not_depend_on_their_neighbours(device):
    student, teacher, labels = made(19, 37, device)
    by = tuple(torch.randn(19, generator=torch.Generator().manual_seed(i)).to(device) for i in range(2))
    results = everything(student, teacher, labels, by=by)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0)).to(device)
    for rows in (order, order[:1], order[:6]):
        again = everything(student[rows], teacher[rows], labels[rows], by=tuple(x[rows] for x in by))
        assert all(torch.equal(x, y[rows]) for x, y in zip(again, results, strict=True))


def test_renaming_the_classes_renames_the_slope(device):
    student, teacher, labels = made(9, 37, device)
    by = torch.ones(9, device=device), torch.ones(9, device=device)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0)).to(device)
    position = torch.argsort(order)
    renamed = student[:, order], teacher[:, order], torch.where(labels < 0, labels, position[labels.clamp(min=0)])
    entropy, divergence, gradient = everything(student, teacher, labels, by=by)
    for ours, other in zip(everything(*renamed, by=by), (entropy, divergence, gradient[:, order]), strict=True):
        torch.testing.assert_close(ours, other)


def test_the_same_bits_every_time(device):
    inputs = made(5, 100, device)
    by = tuple(torch.randn(5, generator=torch.Generator().manual_seed(i)).to(device) for i in range(2))
    first = everything(*inputs, by=by)
    for _ in range(4):
        assert all(torch.equal(x, y) for x, y in zip(first, everything(*inputs, by=by), strict=True))


# The loss


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_the_loss_is_what_the_terms_add_up_to(device, weight, reduction):
    inputs = made(9, 37, device, torch.float64, known=10)
    student, teacher, labels = inputs
    student.requires_grad_()
    loss = distillation_loss(*inputs, 3.0, weight, reduction=reduction)
    entropy, divergence = formula(student, teacher, labels, 3.0)
    if reduction == "mean":
        entropy, divergence = entropy.sum() / int((labels >= 0).sum()), divergence.mean()
    elif reduction == "sum":
        entropy, divergence = entropy.sum(), divergence.sum()
    exact = (1 - weight) * entropy + weight * divergence
    assert error(loss, exact) < 1e-12
    gradients = (torch.autograd.grad(x.sum(), student)[0] for x in (loss, exact))
    assert error(*gradients) < 1e-12


def test_nothing_but_ignored_labels_leave_the_divergence(device):
    student, teacher, labels = made(9, 5, device)
    labels[:] = IGNORED
    student.requires_grad_()
    loss = distillation_loss(student, teacher, labels, 2.0, 0.25)
    assert error(loss, 0.25 * formula(student, teacher, labels)[1].mean()) < TOLERANCE[torch.float32]
    assert torch.autograd.grad(loss, student)[0].isfinite().all()
    alone = distillation_loss(student, teacher, labels, 2.0, 0.0)
    assert alone == 0 and (torch.autograd.grad(alone, student)[0] == 0).all()


# Derivatives


@pytest.mark.parametrize("known", [1, 2, 3])
def test_first_and_second_derivatives_are_those_of_finite_differences(device, known):
    student, teacher, labels = made(3, 3, device, torch.float64, known)
    labels[1] = IGNORED
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: distillation_terms(s, teacher, labels), student)
    assert torch.autograd.gradgradcheck(lambda s: distillation_terms(s, teacher, labels), student)


def test_the_second_derivative_is_that_of_the_formula(device):
    student, teacher, labels = made(9, 37, device, torch.float64, 10)
    vector = torch.randn(student.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    products = []
    for function, s in ((distillation_terms, student), (formula, student.cpu())):
        s = s.detach().requires_grad_()
        entropy, divergence = function(s, teacher, labels, 3.0)
        loss = (entropy.square() + entropy * divergence).sum()
        (first,) = torch.autograd.grad(loss, s, create_graph=True)
        products.append(torch.autograd.grad(first, s, vector.to(s))[0])
    assert error(*products) < 1e-12


def test_only_the_student_learns(device):
    student, teacher, labels = made(9, 5, device)
    teacher.requires_grad_()
    assert not any(x.requires_grad for x in distillation_terms(student, teacher, labels))
    student.requires_grad_()
    loss = distillation_loss(student, teacher, labels)
    by_student, by_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert by_teacher is None and (by_student != 0).any()


def test_one_term_alone_and_other_upstream_layouts(device):
    inputs = made(9, 37, device)
    ones, zeros = torch.ones(9, device=device), torch.zeros(9, device=device)
    student = inputs[0].detach().requires_grad_()
    terms = distillation_terms(student, *inputs[1:])
    for i, by in enumerate(((ones, zeros), (zeros, ones))):
        expected = slope(distillation_terms, *inputs, by=by)
        (summed,) = torch.autograd.grad(terms[i].sum(), student, retain_graph=True)  # upstream of stride 0
        assert torch.equal(summed, expected)
    by = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).to(device)
    strided = torch.autograd.grad(terms, student, (by[:, 0], by[:, 1]))[0]
    assert torch.equal(strided, slope(distillation_terms, *inputs, by=(by[:, 0].clone(), by[:, 1].clone())))


# Systems


def test_it_is_a_function_for_torch_func(device):
    b, c, tasks = 5, 7, 3
    student, teacher, _ = made(b * tasks, c, device, torch.float64)
    students, teacher = student.view(b, tasks, c), teacher[:b]
    labels = torch.arange(tasks * b, device=device).view(tasks, b) % c
    labels[1, 2] = IGNORED

    def loss(function, s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        entropy, divergence = function(s, t, y)
        return (entropy * divergence + entropy).sum()

    terms = vmap(distillation_terms, in_dims=(1, None, 0))(students, teacher, labels)
    slopes = vmap(grad(lambda *x: loss(distillation_terms, *x)), in_dims=(1, None, 0))(students, teacher, labels)
    for task in range(tasks):
        inputs = students[:, task], teacher, labels[task]
        for ours, other in zip((x[task] for x in terms), formula(*inputs), strict=True):
            assert error(ours, other) < 1e-12
        exact = grad(lambda *x: loss(formula, *x))(*(x.cpu() for x in inputs))
        assert error(slopes[task], exact) < 1e-12

    inputs = students[:, 0], teacher, labels[1]
    hessian = grad(lambda s: grad(lambda s: loss(distillation_terms, s, *inputs[1:]))(s).square().sum())(inputs[0])
    teacher, labels = teacher.cpu(), labels[1].cpu()
    exact = grad(lambda s: grad(lambda s: loss(formula, s, teacher, labels))(s).square().sum())(inputs[0].cpu())
    assert error(hessian, exact) < 1e-12


def test_vmap_in_vmap(device):
    student, teacher, labels = made(4, 6, device)
    students = torch.stack([student, student + 1, student * 2])
    temperatures = vmap(vmap(distillation_loss, in_dims=(0, None, None)), in_dims=(None, 0, None))
    losses = temperatures(students, torch.stack([teacher, teacher.flip(1)]), labels)
    for i, t in enumerate((teacher, teacher.flip(1))):
        for j, s in enumerate(students):
            torch.testing.assert_close(losses[i, j], distillation_loss(s, t, labels))


def test_forward_mode_raises(device):
    student, teacher, labels = made(5, 4, device)
    direction = torch.ones_like(student)
    with pytest.raises(RuntimeError, match=r"forward mode AD|jvp"):
        jvp(lambda s: distillation_loss(s, teacher, labels), (student,), (direction,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"forward mode AD|jvp"):
        distillation_loss(forward_ad.make_dual(student, direction), teacher, labels)


def test_a_tangent_of_the_upstream_gradient_is_kept(device):
    inputs = made(5, 4, device, torch.float64)
    student = inputs[0].requires_grad_()
    factor, direction = (torch.randn(5, dtype=torch.float64, device=device) for _ in range(2))
    expected = torch.autograd.grad(direction @ distillation_terms(*inputs)[0], student)[0]
    with forward_ad.dual_level():
        terms = distillation_terms(*inputs)
        (first,) = torch.autograd.grad(forward_ad.make_dual(factor, direction) @ terms[0], student)
        tangent = forward_ad.unpack_dual(first).tangent
    torch.testing.assert_close(tangent, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_it_compiles_whole(device, reduction):
    student, teacher, labels = made(5, 4, device)
    student.requires_grad_()
    compiled = torch.compile(distillation_loss, fullgraph=True, backend="aot_eager")
    for temperature in (2.0, 3.0, 4.0):
        losses = [f(student, teacher, labels, temperature, reduction=reduction) for f in (compiled, distillation_loss)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(x.sum(), student)[0] for x in losses))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pytorch_finds_no_fault_with_the_operations(device, dtype):
    student, teacher, labels = made(5, 4, device, dtype, known=3)
    by = torch.rand(5, device=device)
    torch.library.opcheck(module._terms, (student, teacher, labels, 2.0, 3, IGNORED))
    torch.library.opcheck(module._slope, (by, by + 1, student, teacher, labels, 2.0, 3, IGNORED))


def test_inputs_are_left_alone(device):
    inputs = made(9, 37, device)
    before = [x.clone() for x in inputs]
    by = torch.ones(9, device=device), torch.ones(9, device=device)
    everything(*inputs, by=by)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    assert all((x == 1).all() for x in by)


def test_autocasting_changes_nothing(device):
    inputs = made(9, 37, device)
    inputs[0].requires_grad_()
    expected = distillation_loss(*inputs)
    with torch.autocast(device.type, torch.bfloat16):
        loss = distillation_loss(*inputs)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    gradients = (torch.autograd.grad(x, inputs[0])[0] for x in (loss, expected))
    assert torch.equal(*gradients)


def test_memory_is_that_of_the_terms_and_of_the_slope(device):
    b, c = (8, 256) if device.type == "cpu" else (512, 1024)
    student, teacher, labels = made(b, c, device)
    student.requires_grad_()
    if device.type == "cpu":
        from utils.bench.memory import peak_bytes

        assert peak_bytes(lambda: [x.detach() for x in distillation_terms(student, teacher, labels)]) <= 2 * b * 4
        terms = distillation_terms(student, teacher, labels)
        ones = torch.ones(b), torch.ones(b)
        assert peak_bytes(lambda: torch.autograd.grad(terms, student, ones)) <= 1.1 * b * c * 4
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(distillation_loss(student, teacher, labels), student)
    assert torch.cuda.max_memory_allocated() - before < 1.1 * b * c * 4


def test_rows_too_wide_for_the_registers_take_the_formula(device, monkeypatch):
    from utils.kernels import distillation

    inputs = made(3, 37, device)
    launched = []
    monkeypatch.setattr(distillation, "terms", lambda *_: launched.append(1) or (torch.empty(3), torch.empty(3)))
    monkeypatch.setattr(module, "WIDEST", {torch.float32: 36, torch.float64: 37})
    for ours, other in zip(distillation_terms(*inputs), formula(*inputs), strict=True):
        assert error(ours, other) < TOLERANCE[torch.float32]
    compiled = torch.compile(distillation_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), distillation_loss(*inputs))
    assert not launched
    distillation_terms(inputs[0].double(), *inputs[1:])
    assert launched


def test_the_widest_rows(device):
    compare(made(2, module.WIDEST[torch.float32], device))
    compare(made(1, module.WIDEST[torch.float64], device, torch.float64))


# On a GPU only


def test_more_elements_than_32_bits_count(gpu):
    b, c = 2**31 // 100 + 1000, 100
    if torch.cuda.get_device_properties(0).total_memory < 24e9:
        pytest.skip("needs 24 GB")
    student = torch.zeros(b, c, dtype=torch.float16, device=gpu)
    tail, teacher, labels = made(9, c, gpu, torch.float16)
    student[-9:] = tail
    entropy, divergence = distillation_terms(student, teacher[:1].expand(b, c), labels[:1].expand(b))
    inputs = tail, teacher[:1].expand(9, c), labels[:1].expand(9)
    for ours, other in zip((entropy[-9:], divergence[-9:]), formula(*inputs), strict=True):
        assert error(ours, other) < 2e-6
    by = torch.ones((), device=gpu).expand(b)
    spread = slope(distillation_terms, student, teacher[:1].expand(b, c), labels[:1].expand(b), by=(by, by))
    assert torch.equal(spread[-9:], slope(distillation_terms, *inputs, by=(by[:9], by[:9])))


def test_a_captured_graph_and_another_stream(gpu):
    inputs = made(33, 100, gpu)
    expected = distillation_loss(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.equal(distillation_loss(*inputs), expected)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = distillation_loss(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)
