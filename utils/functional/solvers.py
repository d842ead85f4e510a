"""Small optimisation problems solved inside a learner, batched over tasks, and differentiable.

Ridge regression, logistic regression, the multi-class support vector machine, and linear systems given by products.
The systems are small (one equation a support image) and can be badly conditioned, so all but the last are solved in
float64 whatever comes in; the results have the dtype of the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils.functional.prototypes import one_hot

# ---------------------------------------------------------------------------------------------------- ridge regression


def ridge(x: Tensor, y: Tensor, regularisation: float | Tensor) -> Tensor:
    """Weights of ridge regression: ``W = argmin ||x W - y||^2 + lambda ||W||^2``.

    For fewer examples than features an n x n system, ``W = x^T (x x^T + lambda I)^-1 y`` (the Woodbury identity, as in
    Bertinetto et al. 2019), otherwise a d x d one, ``W = (x^T x + lambda I)^-1 x^T y``. Can be differentiated twice,
    with respect to ``x``, ``y`` and ``lambda``.

    The penalty is that of the formula: lambda does not grow with n. Some public code divides x and y by sqrt(n) first,
    which is a penalty of n lambda. There is no bias; a column of ones in ``x`` is one, penalised as the rest.

    Parameters: ``x`` float ``[..., n, d]``, ``y`` float ``[..., n, k]``, ``regularisation`` a positive number or a
    tensor that broadcasts with the leading axes. Returns ``[..., d, k]``.

    Raises ``ValueError`` for shapes that do not fit, no examples, a regularisation that is not positive (of a tensor:
    on the CPU), and, on the CPU, for ``x`` that is not finite.
    """
    dtype = _check_examples(x, y)
    check_positive("regularisation", regularisation)
    x, y = x.double(), y.double()
    if x.shape[-2] < x.shape[-1]:
        weight = x.mT @ _solve_regularised(x @ x.mT, y, regularisation)
    else:
        weight = _solve_regularised(x.mT @ x, x.mT @ y, regularisation)
    return weight.to(dtype)


def ridge_logits(support: Tensor, targets: Tensor, query: Tensor, regularisation: float | Tensor) -> Tensor:
    """Predictions of :func:`ridge`: ``[..., S, D]``, ``[..., S, K]``, ``[..., Q, D]`` to ``[..., Q, K]``.

    The weights are made first: with at least as many support images as classes, this is never more than 1 + S / Q
    times the work of ``(query support^T) alpha``, and mostly less. They are made in float64, so that nothing is lost
    where the ``alpha`` are large and cancel.
    """
    _check_query(support, query)
    return query @ ridge(support, targets, regularisation).to(query.dtype)


def check_positive(name: str, value: float | Tensor) -> None:
    """``ValueError`` unless positive and finite. A tensor is looked at on the CPU alone: it would stop a GPU."""
    if isinstance(value, Tensor):
        if value.device.type == "cpu" and not bool(((value > 0) & (value < math.inf)).all()):
            raise ValueError(f"{name} must be positive and finite; got {value.detach().flatten()[:8].tolist()}")
    elif not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {value}")


def _check_examples(x: Tensor, y: Tensor) -> torch.dtype:
    if x.ndim < 2 or y.ndim < 2 or x.shape[-2] != y.shape[-2]:
        raise ValueError(
            f"expected examples [..., n, d] and targets [..., n, k]; got {list(x.shape)} and {list(y.shape)}"
        )
    if x.shape[-2] == 0:
        raise ValueError("the support set is empty: there is nothing to learn from")
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point examples; got {x.dtype}")
    return x.dtype


def _check_query(support: Tensor, query: Tensor) -> None:
    if support.ndim < 2 or query.ndim < 2 or support.shape[-1] != query.shape[-1]:
        raise ValueError(
            f"expected support [..., S, D] and query [..., Q, D] of the same D; "
            f"got {list(support.shape)} and {list(query.shape)}"
        )


def _solve_regularised(gram: Tensor, rhs: Tensor, regularisation: float | Tensor) -> Tensor:
    """``(gram + lambda I)^-1 rhs``."""
    return torch.cholesky_solve(rhs, _cholesky(gram + _diagonal(regularisation, gram)))


def _diagonal(regularisation: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(regularisation, Tensor):
        regularisation = regularisation.to(like)[..., None, None]
    return regularisation * torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _cholesky(matrix: Tensor) -> Tensor:
    """The factor; where there is none, ``ValueError`` on the CPU and NaN on a GPU, which is not kept waiting."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if matrix.device.type != "cpu":
        return torch.where((info == 0)[..., None, None], factor, math.nan)
    if bool((info != 0).any()):
        raise ValueError("a matrix is not positive definite in float64: are all embeddings finite?")
    return factor


# ------------------------------------------------------------------------------------------------- logistic regression


def logistic_newton(x: Tensor, y: Tensor, regularisation: float | Tensor, steps: int = 5) -> Tensor:
    """Weights of binary logistic regression after ``steps`` Newton steps from zero, for each column of ``y`` alone.

    They go towards ``argmin_w sum_i log(1 + exp(-t_i w . x_i)) + lambda/2 ||w||^2`` with ``t_i = 2 y_i - 1``, by
    iteratively reweighted least squares (Bertinetto et al. 2019): with ``f = x w``, ``mu = sigmoid(f)``,
    ``s = mu (1 - mu)`` and ``z = f + (y - mu) / s``,

    w <- (x^T diag(s) x + lambda I)^-1 x^T diag(s) z = x^T (x x^T + lambda diag(s)^-1)^-1 z.

    The first step is the least-squares fit of ``4 (y - 1/2)`` with penalty ``4 lambda``. As in the paper no step is
    shortened: where far outliers make a full step too long, more steps can be worse than fewer.

    Parameters: ``x`` float ``[..., n, d]``; ``y`` of 0 and 1 ``[..., n, k]``; ``regularisation`` as for :func:`ridge`.
    Returns ``[..., d, k]``. Differentiable by unrolling, to any order; the cost is that of k systems n x n a step.

    Raises as :func:`ridge`, and ``ValueError`` for less than one step.
    """
    dtype = _check_examples(x, y)
    check_positive("regularisation", regularisation)
    if steps < 1:
        raise ValueError(f"logistic regression takes at least one Newton step; got {steps}")
    x, targets = x.double(), y.double().mT
    gram = x @ x.mT
    lambdas = _diagonal(regularisation, gram)[..., None, :, :]
    f = torch.zeros_like(targets)
    for _ in range(steps):
        mu = f.sigmoid()
        s = mu * (-f).sigmoid()  # 1 - mu would lose its digits before it is lost itself
        # w = x^T a with a = s (z - x w) / lambda, hence (lambda I + diag(s) x x^T) a = s z = s f + y - mu. Nothing is
        # divided by s and no root of it is taken: where a probability saturates, s -> 0 and a -> (y - mu) / lambda,
        # with derivatives that are finite, so s needs no floor.
        system = lambdas + s[..., None] * gram[..., None, :, :]
        a = torch.linalg.solve_ex(system, (s * f + targets - mu)[..., None]).result[..., 0]
        f = a @ gram
    return (x.mT @ a.mT).to(dtype)


# ------------------------------------------------------------------------------------------------- conjugate gradients


def conjugate_gradient(matvec: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float = 0.0) -> Tensor:
    """``x`` with ``A x = b`` for each row, ``A`` symmetric positive definite and known by its products alone.

    After k steps ``||x_k - x||_A <= 2 ((sqrt(c) - 1) / (sqrt(c) + 1))^k ||x||_A`` with the condition number c of A
    (Hestenes and Stiefel 1952; the bound: Shewchuk 1994), and without rounding the solution is reached after as many
    steps as A has different eigenvalues. What iMAML's implicit gradient is computed with (Rajeswaran et al. 2019).

    A row whose residual is at most ``tolerance * ||b||`` stays as it is while others go on. So does one that meets a
    direction of no positive curvature, ``p^T A p <= 0``, where A is not positive definite and there is no minimum.

    Parameters: ``matvec`` from ``[B, P]`` to ``[B, P]``, each row with a matrix of its own; ``b`` ``[B, P]``;
    ``steps`` at most, one product each. Returns ``[B, P]`` in the dtype of ``b``; start from zero.

    Raises ``ValueError`` for ``b`` of another shape, products of another shape, less than one step, and a tolerance
    that is negative.
    """
    if b.ndim != 2:
        raise ValueError(f"expected a right-hand side [B, P], one row a task; got {list(b.shape)}")
    if steps < 1:
        raise ValueError(f"conjugate gradients take at least one step; got {steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative; got {tolerance}")
    x, residual, direction = torch.zeros_like(b), b, b
    square = b.square().sum(-1, keepdim=True)
    enough = tolerance**2 * square
    active = square > enough
    for _ in range(steps):
        if b.device.type == "cpu" and not bool(active.any()):
            break
        product = matvec(direction)
        if product.shape != b.shape:
            raise ValueError(f"matvec must keep the shape {list(b.shape)}; it returned {list(product.shape)}")
        curvature = (direction * product).sum(-1, keepdim=True)
        active = active & (curvature > 0)
        # Rows that have come to rest divide by 1, not by their zeros.
        length = torch.where(active, square / torch.where(active, curvature, 1), 0)
        x = x + length * direction
        residual = residual - length * product
        new = residual.square().sum(-1, keepdim=True)
        direction = torch.where(active, residual + new / torch.where(active, square, 1) * direction, direction)
        square = torch.where(active, new, square)
        active = active & (square > enough)
    return x


# ------------------------------------------------------------------------------------------ multi-class support vectors

ITERATIONS = 60
"""Newton steps after which :func:`crammer_singer` gives up. Tasks of few shots take 8 to 25."""


def crammer_singer(gram: Tensor, labels: Tensor, n_way: int, C: float = 0.1) -> Tensor:
    """Dual variables of the multi-class support vector machine of every task.

    min_W 1/2 sum_k ||w_k||^2 + C sum_i max_k (1 - [k = y_i] + w_k . x_i - w_{y_i} . x_i)

    (Crammer and Singer 2001; MetaOptNet: Lee et al. 2019, eq. 8) has the dual (there eq. 10)

    max_alpha -1/2 sum_k alpha_k^T G alpha_k + sum_i alpha_{i, y_i},  alpha_ik <= C [k = y_i],  sum_k alpha_ik = 0

    with ``G = x x^T``, and ``w_k = sum_i alpha_ik x_i`` (eq. 9). Solved by a primal-dual interior-point method
    (Mehrotra 1992) whose Newton systems fall apart into ``n_way`` blocks n x n and one n x n system that ties them,
    in float64, until the optimality conditions hold: ``r_ik = max_l g_il - g_ik`` with ``g = G alpha - [k = y_i]`` is 0
    unless ``alpha_ik`` is at its bound; at the end the smaller of ``r_ik`` (1 being the margin) and of the distance to
    the bound (in units of the largest alpha) is below 1e-6, and mostly below 1e-9.

    Differentiable with respect to ``gram``, once, by the implicit function theorem: the same Newton system, solved once
    more. The solution has kinks, where a support image becomes or ceases to be a support vector of a class; there, and
    for embeddings that are zero or occur twice, it has no gradient and what is returned is finite. A second derivative
    raises ``RuntimeError``.

    Parameters: ``gram`` float ``[B, n, n]``, positive semi-definite, of which only the symmetric part is used;
    ``labels`` int64 ``[B, n]`` in ``0 .. n_way - 1``; ``C`` how much a violated margin costs. Returns ``alpha``
    ``[B, n, n_way]``. A gram matrix in float32 is only known to 1e-7 of its diagonal, and so is solved with n times
    that added to it: the conditions above then hold to about 1e-5. Compute it from ``x.double()`` where that matters.

    Raises ``ValueError`` for shapes that do not fit, labels out of range, a class without examples (as
    :func:`one_hot`), fewer than two classes, ``C`` not positive; ``RuntimeError`` where :data:`ITERATIONS` steps do not
    suffice: a matrix that is not finite or not positive semi-definite, or classes that a few features cannot separate
    with a very large C (in random tasks from ``C ||x||^2`` of 10^8 on).
    """
    if gram.ndim != 3 or gram.shape[1] != gram.shape[2] or labels.shape != gram.shape[:2]:
        raise ValueError(f"expected gram [B, n, n] and labels [B, n]; got {list(gram.shape)} and {list(labels.shape)}")
    if not gram.is_floating_point():
        raise TypeError(f"expected a floating-point gram matrix; got {gram.dtype}")
    if n_way < 2:
        raise ValueError(f"there is a margin between at least two classes; got n_way={n_way}")
    if isinstance(C, Tensor):
        raise TypeError("C is a number: derivatives with respect to it are not computed")
    check_positive("C", C)
    if gram.shape[1] == 0:
        raise ValueError("the support set is empty: there is nothing to learn from")
    member = one_hot(labels, n_way, torch.float64)
    gram_64 = (gram + gram.mT).double() / 2
    diagonal = gram_64.detach().diagonal(dim1=1, dim2=2)
    # What the gram matrix was rounded by when it was computed: it can be indefinite by that much.
    rounding = gram.shape[1] * torch.finfo(gram.dtype).eps * diagonal.amax(1)
    # In units in which neither the problem nor its solution is large: alpha is at most C, and about 1 / |x|^2 where
    # that is less and the margins can be kept.
    unit = (1 / diagonal.mean(1).clamp_min(0)).clamp_max(C)[:, None, None]
    scaled = unit * (gram_64 + _diagonal(rounding, gram_64))
    a, _ = _CrammerSinger.apply(scaled, member, C / unit)
    return (unit * a.mT).to(gram.dtype)


class _CrammerSinger(torch.autograd.Function):
    """Solution ``a`` ``[B, K, n]`` of :func:`_interior_point`, and the barrier ``multiplier / slack`` there.

    Of two solutions for Q and Q + dQ the difference solves ``Q da_k + d_k da_k + dnu = -dQ a_k``, ``sum_k da_k = 0``,
    where the barrier ``d`` is next to nothing for a variable that is free and next to infinite for one at its bound.
    """

    @staticmethod
    def forward(gram: Tensor, member: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        return _interior_point(gram, member, bound)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    @once_differentiable  # the barrier is a function of Q too, and a second derivative would leave that out
    def backward(ctx, gradient: Tensor, _):
        gram, a, barrier = ctx.saved_tensors
        adjoint, _ = _NewtonSystem(gram, barrier).solve(gradient)
        return -adjoint.mT @ a, None, None


class _NewtonSystem:
    """``Q v_k + d_k v_k + nu = r_k`` for all k, ``sum_k v_k = c``, with ``Q`` ``[B, n, n]`` and ``d`` ``[B, K, n]``.

    v_k = N_k (r_k - nu) with ``N_k = (Q + diag(d_k))^-1``, and so ``(sum_k N_k) nu = sum_k N_k r_k - c``.
    """

    def __init__(self, gram: Tensor, barrier: Tensor) -> None:
        # With more examples than features and all of them free, Q alone would be singular.
        floor = 1e-11 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        factor = torch.linalg.cholesky_ex(gram[:, None] + torch.maximum(barrier, floor).diag_embed()).L
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        self.root = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)  # N = root^T root
        stacked = self.root.flatten(1, 2)
        self.ties = torch.linalg.cholesky_ex(stacked.mT @ stacked).L

    def _apply(self, r: Tensor) -> Tensor:
        return (self.root.mT @ (self.root @ r[..., None]))[..., 0]

    def solve(self, r: Tensor, total: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """``v`` ``[B, K, n]`` and ``nu`` ``[B, n]``."""
        v = self._apply(r)
        nu = torch.cholesky_solve((v.sum(1) - total)[..., None], self.ties)[..., 0]
        return v - self._apply(nu[:, None].expand_as(r)), nu


def _interior_point(gram: Tensor, member: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """``min 1/2 sum_k a_k^T Q a_k - sum_i a_{y_i, i}``, ``a <= bound * member``, ``sum_k a_k = 0``, all tasks at once.

    Mehrotra's predictor and corrector. With slacks ``s = bound * member - a >= 0``, their multipliers ``m >= 0`` and
    ``nu`` for the sums, a solution has ``Q a_k + m_k + nu = member_k`` and ``s m = 0``: both stay positive while their
    products go to zero together. ``a`` and ``s`` are kept both, as either can be what rounding would leave of the
    other. The mean of the diagonal of ``gram`` is at most 1, ``bound`` ``[B, 1, 1]`` at least 1.
    """
    a = (member - (1 - member) / (member.shape[1] - 1)) / 2
    s = bound * member - a
    slope = a @ gram - member
    nu = -1 - slope.amax(1)
    m = -slope - nu[:, None]  # at least 1
    size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    for iteration in range(ITERATIONS + 1):
        products, dual, total = s * m, a @ gram + m + nu[:, None] - member, a.sum(1, keepdim=True)
        largest = a.abs().amax((1, 2), keepdim=True).clamp_min(1)  # 1, unless the classes cannot be separated
        violation = torch.maximum(dual.abs(), total.abs()) / (1e-10 * largest).clamp_max(1e-7)
        violation = torch.maximum(violation, products / (1e-13 * size.clamp_min(1e-3) * largest))
        violation = violation.amax((1, 2), keepdim=True)
        worst = float(violation.max())
        if worst <= 1:
            return a, m / s
        if iteration == ITERATIONS or not math.isfinite(worst):
            break
        system = _NewtonSystem(gram, m / s)
        da, _ = system.solve(m - dual, -total[:, 0])
        dm = m / s * da - m
        t = torch.minimum(_longest(s, -da), _longest(m, dm))
        mean = products.mean((1, 2), keepdim=True)
        reached = ((s - t * da) * (m + t * dm)).mean((1, 2), keepdim=True)
        wanted = (reached / mean) ** 3 * mean - products + da * dm
        da, dnu = system.solve(-dual - wanted / s, -total[:, 0])
        dm = (wanted + m * da) / s
        t = 0.995 * torch.minimum(_longest(s, -da), _longest(m, dm))
        t = torch.where(violation <= 1, 0, t)  # a task that has arrived stays
        a, s, m, nu = a + t * da, s - t * da, m + t * dm, nu + t[:, 0] * dnu
    raise RuntimeError(
        f"a support vector machine has not converged after {iteration} of at most {ITERATIONS} steps: "
        "is the gram matrix finite and positive semi-definite?"
    )


def _longest(value: Tensor, change: Tensor) -> Tensor:
    """The longest step, at most 1, that leaves all of a task's ``value + t change`` at zero or above."""
    return torch.where(change < 0, -value / change, 1).amin((1, 2), keepdim=True).clamp_max(1)
