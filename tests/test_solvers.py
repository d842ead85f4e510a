"""The problems solved inside a learner: against scikit-learn, dense algebra, optimality conditions and differences."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad

from utils.functional import conjugate_gradient, crammer_singer, logistic_newton, one_hot, ridge, ridge_logits


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def task(n_way: int, k_shot: int, d: int, n_tasks: int = 3, seed: int = 0, relu: bool = True) -> tuple[Tensor, Tensor]:
    """Embeddings with a common part a class, and their labels in mixed order: ``[B, n, d]``, ``[B, n]``."""
    labels = torch.arange(n_way).repeat_interleave(k_shot).expand(n_tasks, -1)
    order = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    labels = labels.gather(1, order)
    classes = normal(n_tasks, n_way, d, seed=seed + 1).gather(1, labels[..., None].expand(-1, -1, d))
    x = classes + normal(*labels.shape, d, seed=seed + 2)
    return x.relu() if relu else x, labels


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    """Equal to ``tolerance`` of the largest entry."""
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max()))


# ---------------------------------------------------------------------------------------------------- ridge regression


def primal(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    return torch.linalg.solve(x.mT @ x + penalty * torch.eye(x.shape[-1], dtype=x.dtype), x.mT @ y)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 64), (25, 64), (64, 64), (65, 64), (100, 3)])
@pytest.mark.parametrize("penalty", [0.2, 1.0, 50.0])
def test_ridge_solves_the_normal_equations(n, d, penalty):
    x, y = normal(2, n, d), normal(2, n, 5, seed=1)
    close(ridge(x, y, penalty), primal(x, y, penalty), 1e-12)


def test_woodbury_and_the_normal_equations_give_the_same_predictions():
    x, y, query = normal(2, 25, 64), normal(2, 25, 5, seed=1), normal(2, 7, 64, seed=2)
    close(ridge_logits(x, y, query, 2.0), query @ primal(x, y, 2.0))
    dual = torch.linalg.solve(x @ x.mT + 2.0 * torch.eye(25, dtype=x.dtype), y)
    close(ridge_logits(x, y, query, 2.0), query @ x.mT @ dual)


@pytest.mark.parametrize(("n", "d"), [(5, 64), (25, 16)])
def test_ridge_is_that_of_scikit_learn(n, d):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = normal(3, n, d), normal(3, n, 4, seed=1)
    for task, penalty in enumerate((0.1, 1.0, 50.0)):
        fitted = linear_model.Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(x[task], y[task])
        close(ridge(x, y, penalty)[task], torch.from_numpy(fitted.coef_).T)


def test_the_penalty_does_not_grow_with_the_examples():
    """Dividing x and y by sqrt(n) first, as some code does, is a penalty n times as large."""
    x, y = normal(2, 25, 64), normal(2, 25, 5, seed=1)
    scaled = ridge(x / 5, y / 5, 2.0)
    close(scaled, ridge(x, y, 25 * 2.0))
    assert (scaled - ridge(x, y, 2.0)).abs().max() > 0.01
    twice = ridge(torch.cat([x, x], 1), torch.cat([y, y], 1), 2.0)
    close(twice, ridge(x, y, 1.0))


@pytest.mark.parametrize(("n", "d"), [(3, 5), (5, 3)])
def test_ridge_can_be_differentiated_twice(n, d):
    x, y, query = normal(2, n, d), normal(2, n, 2, seed=1), normal(2, 2, d, seed=2)
    penalty = torch.tensor(0.7, dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (x, y, query, penalty)]
    assert gradcheck(ridge_logits, inputs)
    assert gradgradcheck(ridge_logits, inputs)


def test_a_penalty_for_each_task():
    x, y = normal(2, 5, 8), normal(2, 5, 3, seed=1)
    penalty = torch.tensor([0.5, 3.0], dtype=torch.float64)
    both = ridge(x, y, penalty)
    for task in range(2):
        close(both[task], ridge(x[task], y[task], float(penalty[task])))


@pytest.mark.parametrize(("n", "d"), [(25, 1600), (25, 16)])
def test_ridge_in_float32_is_exact_where_the_penalty_is_next_to_nothing(n, d):
    """lambda = 1e-7 ||x||^2, two examples (or features) nearly equal: factorised in float32, hardly a digit is left."""
    x = normal(2, min(n, d), max(n, d)).float()
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 2]
    x = x if n < d else x.mT
    y, query = normal(2, n, 5, seed=1).float(), normal(2, 7, d, seed=2).float()
    penalty = 1e-7 * float(x.square().sum((1, 2)).mean() / min(n, d))
    exact = primal(x.double(), y.double(), penalty)
    wanted = query.double() @ exact
    close(ridge(x, y, penalty).double(), exact, 1e-6)
    close(ridge_logits(x, y, query, penalty).double(), wanted, 1e-5)
    gram = x @ x.mT if n < d else x.mT @ x
    factor, info = torch.linalg.cholesky_ex(gram + penalty * torch.eye(min(n, d)))
    weight = torch.cholesky_solve(y if n < d else x.mT @ y, factor)
    off = (query @ (x.mT @ weight if n < d else weight)).double() - wanted
    assert bool(info.any()) or off.abs().max() > 0.01 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_solutions_have_the_precision_of_the_embeddings(dtype):
    x, y = normal(2, 5, 8).to(dtype), normal(2, 5, 3, seed=1).to(dtype)
    assert ridge(x, y, 1.0).dtype == ridge_logits(x, y, x, 1.0).dtype == dtype
    assert logistic_newton(x, y > 0, 1.0).dtype == dtype
    assert crammer_singer(x @ x.mT, torch.tensor([[0, 1, 1, 0, 2]] * 2), 3).dtype == dtype


# ------------------------------------------------------------------------------------------------- logistic regression


def signs(n: int, k: int = 2, seed: int = 1) -> Tensor:
    return (normal(2, n, k, seed=seed) > 0).double()


@pytest.mark.parametrize(("n", "d"), [(6, 20), (20, 6)])
def test_the_first_newton_step_is_weighted_least_squares(n, d):
    x, y = normal(2, n, d), signs(n)
    s, z = 0.25, 4 * (y - 0.5)
    weighted = torch.linalg.solve(s * x.mT @ x + 0.3 * torch.eye(d, dtype=x.dtype), s * x.mT @ z)
    first = logistic_newton(x, y, 0.3, steps=1)
    close(first, weighted)
    close(first, ridge(x, z, 4 * 0.3))


@pytest.mark.parametrize(("n", "d"), [(6, 20), (20, 6)])
def test_further_steps_are_those_of_the_normal_equations(n, d):
    x, y = normal(2, n, d), signs(n)
    for column in range(2):
        w = torch.zeros(2, d, 1, dtype=x.dtype)
        for steps in range(1, 6):
            mu = (x @ w).sigmoid()
            s = mu * (1 - mu)
            z = x @ w + (y[..., column, None] - mu) / s
            w = torch.linalg.solve(x.mT @ (s * x) + 0.3 * torch.eye(d, dtype=x.dtype), x.mT @ (s * z))
            close(logistic_newton(x, y, 0.3, steps)[..., column, None], w, 1e-10)


@pytest.mark.parametrize(("n", "d", "penalty"), [(6, 20, 1.0), (6, 20, 0.05), (40, 6, 0.2)])
def test_converged_it_is_the_logistic_regression_of_scikit_learn(n, d, penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = normal(2, n, d), signs(n)
    w = logistic_newton(x, y, penalty, steps=30)
    close(w, logistic_newton(x, y, penalty, steps=31), 1e-12)
    for task in range(2):
        for column in range(2):
            model = linear_model.LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-10, max_iter=10000)
            fitted = model.set_params(solver="newton-cholesky").fit(x[task], y[task, :, column])
            close(w[task, :, column], torch.from_numpy(fitted.coef_[0]), 1e-7)
    f = x @ w  # and where the slope of the objective is zero
    close(x.mT @ (f.sigmoid() - y), -penalty * w, 1e-11)


def test_logistic_regression_can_be_differentiated():
    x, y, penalty = normal(2, 3, 5), signs(3), torch.tensor(0.4, dtype=torch.float64)
    inputs = [x.requires_grad_(), penalty.requires_grad_()]
    for steps in (1, 3):

        def newton(x, penalty, steps=steps):
            return logistic_newton(x, y, penalty, steps)

        assert gradcheck(newton, inputs)
        assert gradgradcheck(newton, inputs)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3, 1e6])
def test_saturated_probabilities_leave_finite_gradients(scale):
    x = (scale * normal(2, 6, 64).float()).requires_grad_()
    y, query = signs(6), scale * normal(2, 4, 64, seed=3).float()
    logits = query @ logistic_newton(x, y, 1e-3, steps=10)
    (slope,) = torch.autograd.grad(logits.sum(), x)
    assert logits.isfinite().all() and slope.isfinite().all() and slope.abs().max() > 0
    if scale >= 1e3:  # every example is fitted with certainty, rounded to 1 in float32
        f = (x @ logistic_newton(x, y, 1e-3, steps=10)).detach()
        assert ((f > 0) == (y > 0)).all() and ((f.sigmoid() == 0) | (f.sigmoid() == 1) | (f.abs() > 5)).all()


# ------------------------------------------------------------------------------------------------- conjugate gradients


def positive_definite(n_tasks: int, d: int, seed: int = 0) -> Tensor:
    factor = normal(n_tasks, d, d, seed=seed)
    return factor @ factor.mT / d + torch.eye(d, dtype=torch.float64)


def product(matrix: Tensor):
    return lambda v: (matrix @ v[..., None])[..., 0]


@pytest.mark.parametrize("d", [1, 2, 10])
def test_conjugate_gradients_need_as_many_steps_as_there_are_dimensions(d):
    matrix, b = positive_definite(3, d), normal(3, d, seed=1)
    expected = torch.linalg.solve(matrix, b)
    close(conjugate_gradient(product(matrix), b, d), expected, 1e-12)
    close(conjugate_gradient(product(matrix), b, d + 50), expected, 1e-12)
    if d > 1:
        off = (conjugate_gradient(product(matrix), b, d - 1) - expected).abs().amax(1)
        assert (off > 1e-9 * expected.abs().amax(1)).all()


def test_tasks_converge_at_different_times():
    """Rows with 1, 2 and 10 different eigenvalues, and one without right-hand side; the first are long at rest."""
    values = torch.ones(4, 10, dtype=torch.float64)
    values[1, 5:] = 3
    values[2] = torch.linspace(1, 100, 10)
    basis = torch.linalg.qr(normal(4, 10, 10)).Q
    matrix, b = basis @ values.diag_embed() @ basis.mT, normal(4, 10, seed=1)
    b[3] = 0
    expected = torch.linalg.solve(matrix, b)
    for steps, solved in ((1, [0, 3]), (2, [0, 1, 3]), (10, [0, 1, 2, 3]), (200, [0, 1, 2, 3])):
        off = (conjugate_gradient(product(matrix), b, steps) - expected).abs().amax(1) / b.norm()
        assert [row for row in range(4) if off[row] < 1e-12] == solved
    assert torch.equal(conjugate_gradient(product(matrix), b, 200)[3], torch.zeros(10, dtype=torch.float64))


def test_each_row_is_what_it_would_be_alone():
    matrix, b = positive_definite(3, 6), normal(3, 6, seed=1)
    together = conjugate_gradient(product(matrix), b, 4, tolerance=0.05)
    for row in range(3):
        alone = conjugate_gradient(product(matrix[row]), b[row : row + 1], 4, tolerance=0.05)
        close(together[row : row + 1], alone, 1e-13)


def test_the_error_keeps_its_bound():
    matrix, b = positive_definite(3, 40), normal(3, 40, seed=1)
    exact = torch.linalg.solve(matrix, b)
    root = torch.linalg.cond(matrix).sqrt()

    def energy(v: Tensor) -> Tensor:
        return (v * product(matrix)(v)).sum(1).sqrt()

    before = energy(exact)
    for steps in range(1, 15):
        error = energy(conjugate_gradient(product(matrix), b, steps) - exact)
        assert (error <= 2 * ((root - 1) / (root + 1)) ** steps * energy(exact)).all() and (error < before).all()
        before = error


def test_a_tolerance_ends_the_work():
    matrix, b, products = positive_definite(3, 40), normal(3, 40, seed=1), []

    def counted(v: Tensor) -> Tensor:
        products.append(v)
        return product(matrix)(v)

    x = conjugate_gradient(counted, b, 40, tolerance=1e-3)
    residual = (b - product(matrix)(x)).norm(dim=1) / b.norm(dim=1)
    assert (residual < 1e-3).all() and (residual > 1e-7).all() and 2 < len(products) < 30


def test_conjugate_gradients_stop_where_there_is_no_minimum():
    indefinite = torch.diag(torch.tensor([1.0, -1.0, -5.0])).double()
    matrix, b = torch.stack([positive_definite(1, 3)[0], indefinite, indefinite]), normal(3, 3, seed=1)
    b[1:] = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])  # at once downhill for ever; all within reach uphill
    x = conjugate_gradient(product(matrix), b, 20)
    close(x[0], torch.linalg.solve(matrix[0], b[0]))
    assert x[1].tolist() == [0, 0, 0] and x[2].tolist() == [1, 0, 0]


def test_conjugate_gradients_in_float32():
    matrix, b = positive_definite(3, 10).float(), normal(3, 10, seed=1).float()
    x = conjugate_gradient(product(matrix), b, 500)
    assert x.dtype == torch.float32
    close(x, torch.linalg.solve(matrix, b), 1e-5)


# ------------------------------------------------------------------------------------------ multi-class support vectors


def optimality(gram: Tensor, labels: Tensor, n_way: int, C: float, alpha: Tensor) -> dict[str, float]:
    """How far from feasible and from optimal, by the conditions of Karush, Kuhn and Tucker.

    The slope of the objective is the same for all classes of an example whose bound is not reached, and lower nowhere.
    """
    upper = C * one_hot(labels, n_way, gram.dtype).mT
    slope = gram @ alpha - upper / C
    multiplier = slope.amax(-1, keepdim=True) - slope
    slack = (upper - alpha) / alpha.abs().amax((1, 2), keepdim=True)
    return {
        "bounds": float(-slack.min()),
        "sums": float(alpha.sum(-1).abs().max()) / C,
        "slopes": float(torch.minimum(multiplier, slack).max()),
    }


def objectives(x: Tensor, labels: Tensor, n_way: int, C: float, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Of the primal at ``W = x^T alpha``, written as in the paper, and of the dual."""
    member = one_hot(labels, n_way, x.dtype).mT
    w = x.mT @ alpha
    scores = x @ w
    violated = (1 - member + scores - (scores * member).sum(-1, keepdim=True)).amax(-1)
    squares = w.square().sum((1, 2)) / 2
    return squares + C * violated.sum(-1), (alpha * member).sum((1, 2)) - squares


SHAPES = [(5, 1, 64), (5, 5, 64), (20, 1, 64), (5, 5, 1600), (2, 1, 64), (3, 8, 6), (4, 10, 3)]


@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize(("n_way", "k_shot", "d"), SHAPES)
def test_a_support_vector_machine_is_optimal(n_way, k_shot, d, C):
    x, labels = task(n_way, k_shot, d)
    alpha = crammer_singer(x @ x.mT, labels, n_way, C)
    assert alpha.shape == (3, n_way * k_shot, n_way)
    for violation in optimality(x @ x.mT, labels, n_way, C, alpha).values():
        assert violation < 1e-6
    above, below = objectives(x, labels, n_way, C, alpha)
    assert (above >= below - 1e-12 * below).all()
    torch.testing.assert_close(above, below, rtol=1e-6, atol=0)


def test_these_conditions_notice_what_is_not_optimal():
    x, labels = task(5, 5, 64)
    gram, C = x @ x.mT, 0.005
    alpha = crammer_singer(gram, labels, 5, C)
    assert optimality(gram, labels, 5, C, 1.001 * alpha)["bounds"] > 1e-6
    assert optimality(gram, labels, 5, C, 0.999 * alpha)["slopes"] > 1e-6
    assert optimality(gram, labels, 5, C, alpha - 1e-3 * C)["sums"] > 1e-6
    above, below = objectives(x, labels, 5, C, 0.9 * alpha)
    assert (above > 1.001 * below).all()


@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize(("n_way", "k_shot", "d"), [(5, 1, 64), (5, 5, 64), (20, 1, 64), (3, 8, 6)])
def test_a_support_vector_machine_is_that_of_liblinear(n_way, k_shot, d, C):
    svm = pytest.importorskip("sklearn.svm")
    x, labels = task(n_way, k_shot, d, n_tasks=1)
    query, _ = task(n_way, 4, d, n_tasks=1, seed=7)
    scores = query @ (x.mT @ crammer_singer(x @ x.mT, labels, n_way, C))
    options = {"dual": True, "tol": 1e-9, "max_iter": 10**5, "random_state": 0}
    model = svm.LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=C, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may complain that rounding keeps it from its tolerance
        fitted = model.fit(x[0].numpy(), labels[0].numpy())
    values = torch.from_numpy(fitted.decision_function(query[0].numpy()))
    close(scores[0], values, 1e-6)
    assert torch.equal(scores[0].argmax(-1), torch.from_numpy(fitted.predict(query[0].numpy())))


def test_two_classes_are_an_ordinary_support_vector_machine():
    """With w_1 = -w_0 = v / 2 the objective is half of 1/2 |v|^2 + 2 C sum max(0, 1 - t v . x)."""
    svm = pytest.importorskip("sklearn.svm")
    x, labels = task(2, 6, 5, n_tasks=1)
    w = (x.mT @ crammer_singer(x @ x.mT, labels, 2, 0.05))[0]
    close(w[:, 0], -w[:, 1], 1e-9)
    plain = svm.LinearSVC(loss="hinge", fit_intercept=False, C=0.1, dual=True, tol=1e-12, max_iter=10**6)
    close(2 * w[:, 1], torch.from_numpy(plain.fit(x[0].numpy(), labels[0].numpy()).coef_[0]), 1e-6)


@pytest.mark.parametrize(
    ("n_way", "k_shot", "d", "C"), [(3, 1, 8, 0.02), (3, 2, 8, 0.02), (3, 2, 8, 0.3), (2, 3, 8, 5.0), (4, 1, 16, 0.1)]
)
def test_the_gradient_of_a_support_vector_machine_is_that_of_finite_differences(n_way, k_shot, d, C):
    x, labels = task(n_way, k_shot, d, n_tasks=1, seed=3)
    gram = (x @ x.mT).requires_grad_()
    assert gradcheck(lambda gram: crammer_singer(gram, labels, n_way, C), gram, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("n_way", "k_shot", "d"), [(5, 1, 64), (5, 5, 64), (20, 1, 64), (5, 5, 1600), (4, 10, 6)])
def test_and_so_it_is_with_respect_to_the_embeddings(n_way, k_shot, d):
    x, labels = task(n_way, k_shot, d, n_tasks=1, relu=d > 6)  # a ReLU would leave some of 6 features without any
    query, weight, direction = normal(1, 9, d, seed=4), normal(1, 9, n_way, seed=5), normal(*x.shape, seed=6)

    def loss(x: Tensor) -> Tensor:
        return (weight * (query @ (x.mT @ crammer_singer(x @ x.mT, labels, n_way, 0.1)))).sum()

    slope = (grad(loss)(x) * direction).sum()
    h = 1e-5
    difference = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-5, atol=0)


def test_a_second_derivative_of_a_support_vector_machine_raises():
    x, labels = task(3, 2, 8)

    def loss(x: Tensor) -> Tensor:
        return crammer_singer(x @ x.mT, labels, 3).square().sum()

    (slope,) = torch.autograd.grad(loss(x.requires_grad_()), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_support_vector_machines_of_a_batch_are_those_of_each_task():
    parts = [task(4, 3, 10, n_tasks=1, seed=seed) for seed in range(4)]
    parts[1] = (30 * parts[1][0], parts[1][1])  # a problem of another size takes more steps
    x, labels = (torch.cat(values) for values in zip(*parts, strict=True))
    gram = (x @ x.mT).requires_grad_()
    together = crammer_singer(gram, labels, 4)
    (slopes,) = torch.autograd.grad(together.square().sum(), gram)
    for number in range(4):
        one = gram[number : number + 1].detach().requires_grad_()
        alone = crammer_singer(one, labels[number : number + 1], 4)
        close(together[number : number + 1], alone, 1e-12)
        (slope,) = torch.autograd.grad(alone.square().sum(), one)
        close(slopes[number : number + 1], slope, 1e-9)


def test_the_size_of_the_embeddings_is_a_matter_of_C():
    """alpha(s^2 G, C) = alpha(G, s^2 C) / s^2, over eight orders of magnitude."""
    x, labels = task(5, 5, 64)
    for scale in (1e-4, 1e-2, 1e2, 1e4):
        scaled = scale**2 * crammer_singer(scale**2 * x @ x.mT, labels, 5, 0.1 / scale**2)
        close(scaled, crammer_singer(x @ x.mT, labels, 5, 0.1), 1e-9)


def test_only_the_symmetric_part_of_a_gram_matrix_counts():
    x, labels = task(3, 2, 8)
    other = normal(3, 6, 6, seed=9)
    close(crammer_singer(x @ x.mT + other - other.mT, labels, 3), crammer_singer(x @ x.mT, labels, 3), 1e-9)


def test_support_vector_machines_in_float32():
    """Also where the matrix has no full rank, and rounding makes it indefinite."""
    for d in (64, 1600, 3):
        x, labels = task(5, 5, d)
        gram = (x.float() @ x.float().mT).requires_grad_()
        alpha = crammer_singer(gram, labels, 5)
        w = x.mT @ crammer_singer(x @ x.mT, labels, 5)
        close(x.mT @ alpha.double(), w, 1e-4)
        (slope,) = torch.autograd.grad(alpha.square().sum(), gram)
        assert slope.dtype == torch.float32 and slope.isfinite().all()


@pytest.mark.parametrize("d", [3, 20])
def test_equal_and_empty_embeddings_do_not_break_a_support_vector_machine(d):
    x, labels = task(3, 3, d)
    x[:, 1] = x[:, 0]
    x[1, 2] = 0
    x[2] = 0
    x.requires_grad_()
    alpha = crammer_singer(x @ x.mT, labels, 3)
    w = x.mT @ alpha
    (slope,) = torch.autograd.grad((normal(3, 4, d, seed=3) @ w).square().sum(), x)
    assert slope.isfinite().all() and slope[:2].abs().max() < 100
    for violation in optimality((x @ x.mT).detach(), labels, 3, 0.1, alpha.detach()).values():
        assert violation < 1e-6


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, torch.tensor(0.0), torch.tensor([1.0, -2.0])])
def test_a_penalty_is_positive(wrong):
    x, y = normal(2, 3, 5), signs(3)
    for solve in (ridge, logistic_newton):
        with pytest.raises(ValueError, match="regularisation must be positive and finite; got"):
            solve(x, y, wrong)
    if not isinstance(wrong, Tensor):
        with pytest.raises(ValueError, match="C must be positive and finite; got"):
            crammer_singer(x @ x.mT, torch.tensor([[0, 1, 2]] * 2), 3, wrong)


def test_shapes_that_do_not_fit_are_refused():
    x, y, labels = normal(2, 3, 5), signs(3), torch.tensor([[0, 1, 2]] * 2)
    for solve in (ridge, logistic_newton):
        with pytest.raises(ValueError, match=r"expected examples \[..., n, d\] and targets \[..., n, k\]; got"):
            solve(x, y[:, :2], 1.0)
        with pytest.raises(ValueError, match="the support set is empty"):
            solve(x[:, :0], y[:, :0], 1.0)
        with pytest.raises(TypeError, match="floating-point examples; got"):
            solve(x.long(), y, 1.0)
    with pytest.raises(ValueError, match=r"of the same D; got \[2, 3, 5\] and \[2, 3, 4\]"):
        ridge_logits(x, y, x[..., :4], 1.0)
    with pytest.raises(ValueError, match="at least one Newton step; got 0"):
        logistic_newton(x, y, 1.0, steps=0)
    with pytest.raises(ValueError, match=r"gram \[B, n, n\] and labels \[B, n\]; got \[2, 3, 5\]"):
        crammer_singer(x, labels, 3)
    with pytest.raises(ValueError, match="the support set is empty"):
        crammer_singer(x[:, :0, :0], labels[:, :0], 3)
    with pytest.raises(ValueError, match="at least two classes; got n_way=1"):
        crammer_singer(x @ x.mT, torch.zeros_like(labels), 1)
    with pytest.raises(ValueError, match="class 3 of task 0 has no support image"):
        crammer_singer(x @ x.mT, labels, 4)
    with pytest.raises(TypeError, match="C is a number"):
        crammer_singer(x @ x.mT, labels, 3, torch.tensor(0.1))
    with pytest.raises(TypeError, match="floating-point gram matrix; got"):
        crammer_singer((x @ x.mT).long(), labels, 3)


def test_numbers_that_are_not_finite_are_refused():
    x, y, labels = normal(2, 3, 5), signs(3), torch.tensor([[0, 1, 2]] * 2)
    gram = x @ x.mT
    with pytest.raises(RuntimeError, match=r"has not converged after .* finite and positive semi-definite"):
        crammer_singer(torch.where(gram == gram[0, 0, 0], math.nan, gram), labels, 3)
    with pytest.raises(RuntimeError, match="has not converged"):
        crammer_singer(-gram, labels, 3)
    x[0, 0, 0] = math.inf
    with pytest.raises(ValueError, match="not positive definite in float64: are all embeddings finite"):
        ridge(x, y, 1.0)


def test_conjugate_gradients_refuse_what_they_cannot_do():
    b = normal(2, 3)
    with pytest.raises(ValueError, match=r"a right-hand side \[B, P\], one row a task; got \[3\]"):
        conjugate_gradient(lambda v: v, b[0], 3)
    with pytest.raises(ValueError, match="at least one step; got 0"):
        conjugate_gradient(lambda v: v, b, 0)
    for wrong in (-1e-3, math.nan):
        with pytest.raises(ValueError, match="tolerance must not be negative; got"):
            conjugate_gradient(lambda v: v, b, 3, tolerance=wrong)
    with pytest.raises(ValueError, match=r"must keep the shape \[2, 3\]; it returned \[2, 2\]"):
        conjugate_gradient(lambda v: v[:, :2], b, 3)
