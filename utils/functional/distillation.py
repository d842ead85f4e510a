"""Learning from a teacher: its probabilities at a temperature beside the labels.

For every row, ``p`` and ``q`` being the softmax of the teacher's and of the student's first K logits over T:

    cross_entropy   -log softmax(s)_y                               d/ds = softmax(s) - onehot(y)
    divergence      T^2 KL(p || q) = T^2 sum_k p_k log(p_k / q_k)   d/ds = T (q - p), 0 behind the first K

On a GPU both are one kernel and their derivative another. On the CPU the derivative is left over from the value, with
most of the work done in place. Second derivatives, ``torch.func`` and ``torch.compile`` take the formula.

The sum over k is everywhere taken of ``p log(p / q) - p + q``. The last two add up to nothing but the rounding of both
normalisers, which is in the first as well and which T^2 would enlarge.
"""

# No postponed annotations: PyTorch 2.4 cannot make the schema of an operation from them.
import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from utils import kernels
from utils.functional.vmap import folded

WIDEST = {torch.float32: 8192, torch.float64: 4096}
"""Columns that the kernels can hold in registers, by the dtype they compute in."""
LN2 = math.log(2)
REDUCTIONS = ("mean", "sum", "none")


def distillation_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 2.0,
    n_old: int | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Of every row, the cross-entropy with its label and T^2 times the divergence from the teacher.

    ``-log softmax(s)_y`` over all C classes, and ``T^2 KL(softmax(t / T) || softmax(s / T))`` over the first ``n_old``.
    The gradient of a softened term shrinks with 1/T^2; the factor keeps it at the scale of the hard one (Hinton et al.
    2015, section 2). Old classes only: LwF (Li & Hoiem 2016, eq. 2) and the distilling loss of BiC (Wu et al. 2019),
    both without T^2, and with the teacher's entropy on top, which has no gradient.

    Parameters: ``student_logits`` ``[B, C]``; ``teacher_logits`` ``[B, C]`` or ``[B, n_old]``; ``labels`` ``[B]``
    int64, ``ignore_index`` where there is none; ``n_old`` in 1 .. C, by default as many classes as the teacher knows.
    Logits are float16, bfloat16, float32 or float64; student and teacher may differ.

    Returns two times ``[B]`` in nats, in float32, or in float64 if one of the logits is. The cross-entropy is 0 where
    the label is ignored. The divergence is never negative, and 0 where student and teacher agree. No gradient goes to
    the teacher. A class that has ``-inf`` from both adds nothing to the divergence; NaN or ``+inf`` makes the terms of
    its row NaN.

    Has derivatives of any order. On CUDA the value is one kernel and the gradient another, with the same bits every
    time, and forward-mode differentiation raises. Rows longer than ``WIDEST`` take the formula.

    Raises ``ValueError`` for shapes that do not fit, for a temperature that is not positive and finite, for ``n_old``
    out of range and, on the CPU, for a label out of range. On a GPU, compiled or inside ``torch.func`` that row's
    cross-entropy is NaN: to look at the labels would stop the device. ``TypeError`` for other dtypes.
    """
    temperature, n_old = _checked(student_logits, teacher_logits, labels, temperature, n_old)
    inputs = student_logits, teacher_logits.detach(), labels
    if _takes_kernel(*inputs):
        return _ByKernel.apply(*inputs, temperature, n_old, ignore_index)
    if _takes_cpu(student_logits):
        entropy = _OnCpu.apply(*inputs, temperature, 0.0, n_old, ignore_index, "none")
        return entropy, _OnCpu.apply(*inputs, temperature, 1.0, n_old, ignore_index, "none")
    return _plain_terms(*inputs, temperature, n_old, ignore_index)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 2.0,
    weight: float = 0.5,
    n_old: int | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Learning from labels and a teacher: ``(1 - weight) cross_entropy + weight T^2 KL(teacher || student)``.

    With ``weight = n_old / C``, and but for T^2 and a constant, this is the first stage of BiC (Wu et al. 2019).
    Parameters, derivatives and errors are those of :func:`distillation_terms`; ``weight`` lies in 0 .. 1. A term of
    weight 0 does not count, even where it is infinite; with weight 1 the labels do not matter.

    Returns a scalar, or ``[B]`` for ``reduction="none"``, in nats. ``"mean"`` divides the cross-entropy by the number
    of rows that have a label, and the divergence, for which a teacher needs no label, by that of all rows. A mean over
    no rows is 0: where all labels are ignored the divergence is left, and an empty batch has loss 0.

    Raises also ``ValueError`` for a weight out of range and for another reduction.
    """
    temperature, n_old = _checked(student_logits, teacher_logits, labels, temperature, n_old)
    if not 0 <= (weight := _number("weight", weight)) <= 1:
        raise ValueError(f"weight must lie in 0 .. 1; got {weight}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    inputs = student_logits, teacher_logits.detach(), labels
    by_kernel = _takes_kernel(*inputs)
    if not by_kernel and _takes_cpu(student_logits):
        return _OnCpu.apply(*inputs, temperature, weight, n_old, ignore_index, reduction)
    terms = _ByKernel.apply if by_kernel else _plain_terms
    entropy, divergence = terms(*inputs, temperature, n_old, ignore_index)
    if reduction != "none":
        entropy, divergence = entropy.sum(), divergence.sum()
    if reduction == "mean":
        entropy, divergence = entropy / _labelled(labels, ignore_index), divergence / max(1, len(labels))
    if weight in (0, 1):
        return divergence if weight else entropy
    return torch.add(entropy * (1 - weight), divergence, alpha=weight)


# --------------------------------------------------------------------------------------------------- what is allowed


def _number(name: str, value: float) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    return float(value)


def _checked(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, n_old: int | None
) -> tuple[float, int]:
    """Temperature and number of old classes, after everything that can be told without looking at a tensor's values."""
    if student.ndim != 2 or teacher.ndim != 2 or labels.ndim != 1 or not len(student) == len(teacher) == len(labels):
        raise ValueError(
            "expected the student's logits [B, C], the teacher's [B, C] or [B, n_old] and labels [B]; "
            f"got {list(student.shape)}, {list(teacher.shape)} and {list(labels.shape)}"
        )
    n_classes, known = student.shape[1], teacher.shape[1]
    n_old = known if n_old is None else n_old
    if not 1 <= n_old <= n_classes:
        raise ValueError(f"n_old must lie in 1 .. {n_classes}, the student's classes; got {n_old}")
    if known not in (n_old, n_classes):
        raise ValueError(f"the teacher must know the {n_old} old classes or all {n_classes}; got logits of {known}")
    if student.dtype not in kernels.DTYPES or teacher.dtype not in kernels.DTYPES:
        allowed = ", ".join(str(dtype) for dtype in kernels.DTYPES)
        raise TypeError(f"expected logits of {allowed}; got {student.dtype} and {teacher.dtype}")
    if labels.dtype != torch.int64:
        raise TypeError(f"expected labels of torch.int64, a class each; got {labels.dtype}")
    if not student.device == teacher.device == labels.device:
        raise ValueError(f"expected one device; got {student.device}, {teacher.device} and {labels.device}")
    if not 0 < (temperature := _number("temperature", temperature)) < math.inf:
        raise ValueError(f"temperature must be positive and finite; got {temperature}")
    return temperature, n_old


def _takes_kernel(student: Tensor, teacher: Tensor, labels: Tensor) -> bool:
    return kernels.launches(student, teacher, labels) and student.shape[1] <= WIDEST[_wide(student, teacher)]


def _takes_cpu(student: Tensor) -> bool:
    """Whether ``_OnCpu`` serves: on the CPU, as long as nothing transforms the function."""
    return student.device.type == "cpu" and not torch.compiler.is_compiling() and not _transformed(student)


def _transformed(*tensors: Tensor) -> bool:
    """Whether a transform of ``torch.func`` is at work, or one of these carries a tangent of forward mode."""
    return torch._C._are_functorch_transforms_active() or any(unpack_dual(x).tangent is not None for x in tensors)


# ------------------------------------------------------------------------------------------- the formula, plain PyTorch


def _wide(student: Tensor, teacher: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)


def _first(x: Tensor, n: int) -> Tensor:
    """The first ``n`` columns."""
    return x if x.shape[1] == n else x[:, :n]


def _labelled(labels: Tensor, ignore_index: int) -> Tensor:
    """How many rows have a label, 1 at least."""
    return (labels != ignore_index).sum().clamp(min=1)


def _counted(x: Tensor, labels: Tensor, n_classes: int, ignore_index: int) -> Tensor:
    """``x``, but 0 where the label is ignored and NaN where there is no such class."""
    ignored = labels == ignore_index
    wrong = ((labels < 0) | (labels >= n_classes)) & ~ignored
    return (x * torch.where(wrong, math.nan, 1).to(x.dtype)).masked_fill(ignored, 0)


def _plain_terms(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, n_old: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    wide, n_classes = _wide(student, teacher), student.shape[1]
    s, t = student.to(wide), _first(teacher, n_old).to(wide)
    chosen = F.log_softmax(s, 1).gather(1, labels.clamp(0, n_classes - 1)[:, None])[:, 0]
    log_p, log_q = F.log_softmax(t / temperature, 1), F.log_softmax(_first(s, n_old) / temperature, 1)
    p, q = log_p.exp(), log_q.exp()
    each = torch.where(p > 0, p * (log_p - log_q), 0) + (q - p)  # 0 log(0 / q) = 0, where q is 0 too
    divergence = each.sum(1) * temperature**2
    # Rounding can leave it below zero; to clamp it would take its derivatives too.
    divergence = divergence + (-divergence.detach()).clamp_min(0)
    return _counted(-chosen, labels, n_classes, ignore_index), divergence


def _plain_slope(
    by_entropy: Tensor, by_divergence: Tensor, student: Tensor, teacher: Tensor, labels: Tensor,
    temperature: float, n_old: int, ignore_index: int,
) -> Tensor:  # fmt: skip
    """``[B]``, ``[B]``, what the terms are made of, to the derivative by the student ``[B, C]``; differentiable."""
    wide, n_classes = _wide(student, teacher), student.shape[1]
    s, t = student.to(wide), _first(teacher, n_old).to(wide)
    classes = torch.arange(n_classes, device=student.device)
    hard = F.softmax(s, 1) - (classes == labels[:, None]).to(wide)
    soft = F.softmax(_first(s, n_old) / temperature, 1) - F.softmax(t / temperature, 1)
    hard = hard * _counted(by_entropy, labels, n_classes, ignore_index)[:, None]
    soft = soft * (by_divergence * temperature)[:, None]
    return (hard + F.pad(soft, (0, n_classes - n_old))).to(student.dtype)


# ------------------------------------------------------------------------------------------------- opaque to PyTorch


@torch.library.custom_op("course::distillation_terms", mutates_args=())
def _terms(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, n_old: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    if not kernels.launches(student, teacher, labels):
        return _plain_terms(student, teacher, labels, temperature, n_old, ignore_index)
    from utils.kernels import distillation

    return distillation.terms(student, teacher, labels, temperature, n_old, ignore_index)


@torch.library.custom_op("course::distillation_slope", mutates_args=())
def _slope(
    by_entropy: Tensor, by_divergence: Tensor, student: Tensor, teacher: Tensor, labels: Tensor,
    temperature: float, n_old: int, ignore_index: int,
) -> Tensor:  # fmt: skip
    inputs = by_entropy, by_divergence, student, teacher, labels
    if not kernels.launches(*inputs):
        return _plain_slope(*inputs, temperature, n_old, ignore_index)
    from utils.kernels import distillation

    return distillation.slope(*inputs, temperature, n_old, ignore_index)


@_terms.register_fake
def _(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, n_old: int, ignore_index: int):
    wide = _wide(student, teacher)
    return student.new_empty(student.shape[0], dtype=wide), student.new_empty(student.shape[0], dtype=wide)


@_slope.register_fake
def _(by_entropy: Tensor, by_divergence: Tensor, student: Tensor, *_):
    return student.new_empty(student.shape)


# ------------------------------------------------------------------------------------------------------- derivatives


class _ByKernel(torch.autograd.Function):
    @staticmethod
    def forward(student: Tensor, teacher: Tensor, labels: Tensor, *options) -> tuple[Tensor, Tensor]:
        return _terms(student, teacher, labels, *options)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[3:]

    @staticmethod
    def backward(ctx, by_entropy: Tensor, by_divergence: Tensor):
        inputs = by_entropy, by_divergence, *ctx.saved_tensors
        followed = torch.is_grad_enabled() or (not torch.compiler.is_compiling() and _transformed(*inputs[:2]))
        return (_plain_slope if followed else _slope)(*inputs, *ctx.options), None, None, None, None, None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return folded(_ByKernel, info, in_dims, inputs[:3], *inputs[3:])


def _exponents(x: Tensor, temperature: float) -> Tensor:
    """``z`` of ``2^z = exp((x - the row's largest) / T)``, of which softmax and logarithms are made.

    PyTorch's softmax would keep its sums to itself, and its powers of e take three times as long as those of 2.
    """
    return (x - x.amax(1, keepdim=True)).mul_(1 / (temperature * LN2))


class _OnCpu(torch.autograd.Function):
    """The loss and, in memory that its value no longer needs, its slope."""

    @staticmethod
    def forward(
        ctx, student: Tensor, teacher: Tensor, labels: Tensor,
        temperature: float, weight: float, n_old: int, ignore_index: int, reduction: str,
    ) -> Tensor:  # fmt: skip
        wide, (n_rows, n_classes) = _wide(student, teacher), student.shape
        s, mean = student.to(wide), reduction == "mean"
        loss, hard, b = None, None, None
        if weight < 1:
            kept = (labels != ignore_index)[:, None]
            at, by = labels[:, None] * kept, kept.to(wide).mul_(1 - weight)
            by = by.div_(kept.sum().clamp_(min=1)) if mean else by
            b = _exponents(s, 1.0)
            try:
                of_label = b.gather(1, at)
            except (RuntimeError, IndexError):
                wrong = int(at[(at < 0) | (at >= n_classes)][0])
                raise ValueError(f"labels must lie in 0 .. {n_classes - 1} or be {ignore_index}; got {wrong}") from None
            hard = b.exp2()
            total = hard.sum(1, keepdim=True)
            loss = torch.sub(total.log(), of_label, alpha=LN2).mul_(by).masked_fill_(~kept, 0)[:, 0]
        if weight > 0:
            of_row = weight * temperature / (max(1, n_rows) if mean else 1)
            shared = b is not None and n_old == n_classes
            b = b.mul_(1 / temperature) if shared else _exponents(_first(s, n_old), temperature)
            a = _exponents(_first(teacher, n_old).to(wide), temperature)
            q, log_ratio, p = b.exp2(), b.sub_(a), a.exp2_()
            of_q, of_p = (x.sum(1, keepdim=True).reciprocal_() for x in (q, p))
            # Of the normalisers as they are rounded, so that the same errors are in all of p log(p / q) - p + q.
            log_ratio.add_((of_q - of_p).div_(of_p).log1p_().mul_(1 / LN2))
            soft = q.mul_(of_q).sub_(p.mul_(of_p))
            each = torch.sub(soft, p.mul_(log_ratio), alpha=LN2, out=p)
            divergence = each.sum(1)
            if divergence.isnan().any():
                # 0 log(0 / q) = 0. Where a logit was no number, there is none in all of its row of q - p.
                divergence = torch.where(each.isnan(), soft, each).sum(1)
            divergence.clamp_(min=0).mul_(of_row * temperature)
            loss = divergence if loss is None else loss.add_(divergence)
        if ctx.needs_input_grad[0]:
            slope = s.new_zeros(s.shape) if hard is None else hard.mul_(by / total).scatter_add_(1, at, -by)
            if weight > 0:
                _first(slope, n_old).add_(soft, alpha=of_row)
            ctx.save_for_backward(student, teacher, labels, slope)
            ctx.options = temperature, weight, n_old, ignore_index, reduction
        return loss.sum() if reduction != "none" else loss

    @staticmethod
    def backward(ctx, by: Tensor):
        student, teacher, labels, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            slope = (slope * by[..., None]).to(student.dtype)
        else:
            temperature, weight, n_old, ignore_index, reduction = ctx.options
            by_entropy, by_divergence = by * (1 - weight), by * weight
            if reduction == "mean":
                by_entropy, by_divergence = by_entropy / _labelled(labels, ignore_index), by_divergence / len(labels)
            rows = (x.expand(len(labels)) for x in (by_entropy, by_divergence))
            slope = _plain_slope(*rows, student, teacher, labels, temperature, n_old, ignore_index)
        return slope, None, None, None, None, None, None, None
