"""Distances and class means against float64, loops, finite differences, and far from the origin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, vmap

from utils.functional import class_means, cosine_similarity, squared_distances


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pairwise(a: Tensor, b: Tensor) -> Tensor:
    """The definition, in float64."""
    return (a.double()[..., :, None, :] - b.double()[..., None, :, :]).square().sum(-1)


# ------------------------------------------------------------------------------------------------ squared distances


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (7, 4, 3), (30, 20, 64)])
def test_squared_distances_are_those_of_all_differences(n, m, d, dtype):
    a, b = normal(2, n, d, dtype=dtype), normal(2, m, d, seed=1, dtype=dtype)
    result = squared_distances(a, b)
    assert result.dtype == dtype and result.shape == (2, n, m)
    torch.testing.assert_close(result.double(), pairwise(a, b), rtol=50 * torch.finfo(dtype).eps, atol=1e-30)


@pytest.mark.parametrize(
    ("a_shape", "b_shape", "shape"),
    [
        ((5, 3), (4, 3), (5, 4)),
        ((2, 5, 3), (4, 3), (2, 5, 4)),
        ((5, 3), (2, 4, 3), (2, 5, 4)),
        ((6, 1, 5, 3), (2, 4, 3), (6, 2, 5, 4)),
        ((2, 0, 3), (2, 4, 3), (2, 0, 4)),
    ],
)
@pytest.mark.parametrize("function", [squared_distances, cosine_similarity])
def test_leading_axes_broadcast(function, a_shape, b_shape, shape):
    a, b = normal(*a_shape), normal(*b_shape, seed=1)
    result = function(a, b)
    lead = shape[:-2]
    alone = function(a.expand(*lead, -1, -1).contiguous(), b.expand(*lead, -1, -1).contiguous())
    assert result.shape == shape
    torch.testing.assert_close(result, alone)


def test_distances_survive_an_offset_of_a_thousand_in_float32():
    """There ||a||^2 - 2ab + ||b||^2 without moving the origin leaves nothing: that is shown too."""
    a, b = (normal(20, 64, seed=s, dtype=torch.float32) + 1000 for s in (0, 1))
    truth = pairwise(a, b)
    plain = a.square().sum(-1)[:, None] - 2 * a @ b.T + b.square().sum(-1)
    assert ((plain - truth).abs() / truth).max() > 0.05
    torch.testing.assert_close(squared_distances(a, b).double(), truth, rtol=1e-5, atol=0)


def test_one_task_far_away_does_not_harm_another():
    a, b = normal(2, 5, 8, dtype=torch.float32), normal(2, 4, 8, seed=1, dtype=torch.float32)
    offset = torch.tensor([0.0, 1e4])[:, None, None]
    a, b = a + offset, b + offset
    torch.testing.assert_close(squared_distances(a, b).double(), pairwise(a, b), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_no_distance_is_negative_and_that_to_itself_is_rounding(dtype):
    a = normal(200, 64, dtype=dtype) + 3
    result = squared_distances(a, a)
    assert (result >= 0).all()
    assert result.diagonal().max() < 10 * torch.finfo(dtype).eps * result.max()


def test_nan_stays_nan():
    a = normal(3, 4)
    a[1, 2] = torch.nan
    result = squared_distances(a, normal(2, 4, seed=1))
    assert result.isnan().any(1).tolist() == [False, True, False]


def test_gradients_of_distances():
    a, b = normal(2, 4, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    assert gradcheck(squared_distances, (a, b))
    assert gradgradcheck(squared_distances, (a, b))


def test_the_gradient_is_twice_the_difference():
    """Also of a point to itself, and of points as close as rounding: 0, and not what a clamp makes of it."""
    a, b = normal(6, 3, dtype=torch.float32).requires_grad_(), normal(5, 3, seed=1, dtype=torch.float32)
    b[:3] = a[:3].detach()
    b[2] += 1e-6
    jacobian = jacrev(squared_distances)(a, b)  # [6, 5, 6, 3]
    expected = torch.zeros_like(jacobian)
    for i in range(6):
        expected[i, :, i] = 2 * (a[i] - b)
    torch.testing.assert_close(jacobian, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("d", [3, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_second_derivative_of_coinciding_points_is_two(d, dtype):
    """One-shot: a support image lies on its prototype. Rounding takes half of such distances below zero."""
    a = normal(8, d, dtype=dtype).requires_grad_()
    b = a.detach().clone()
    (first,) = torch.autograd.grad(squared_distances(a, b).diagonal().sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), a)
    torch.testing.assert_close(second, torch.full_like(second, 2.0))


def test_distances_under_vmap_and_grad():
    a, b = normal(6, 4, 3), normal(6, 5, 3, seed=1)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return squared_distances(a, b).exp().neg().sum()

    together = vmap(grad(loss, argnums=(0, 1)))(a, b)
    one_by_one = [grad(loss, argnums=(0, 1))(a[i], b[i]) for i in range(6)]
    for k in (0, 1):
        torch.testing.assert_close(together[k], torch.stack([g[k] for g in one_by_one]))


# --------------------------------------------------------------------------------------------------------- cosines


def test_cosines_are_those_of_numpy():
    a, b = normal(6, 5), normal(4, 5, seed=1)
    expected = [[np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for y in b.numpy()] for x in a.numpy()]
    torch.testing.assert_close(cosine_similarity(a, b), torch.tensor(np.array(expected)))


def test_cosines_know_no_length():
    a, b = normal(6, 5), normal(4, 5, seed=1)
    torch.testing.assert_close(cosine_similarity(7 * a, 0.01 * b), cosine_similarity(a, b))
    torch.testing.assert_close(cosine_similarity(a, a).diagonal(), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(cosine_similarity(a, -a).diagonal(), -torch.ones(6, dtype=torch.float64))


def test_a_zero_vector_has_cosine_zero():
    a = normal(3, 5)
    a[1] = 0
    result = cosine_similarity(a, normal(2, 5, seed=1))
    assert not result[1].any() and result[[0, 2]].all()


def test_gradients_of_cosines():
    assert gradcheck(cosine_similarity, (normal(2, 4, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()))


@pytest.mark.parametrize("function", [squared_distances, cosine_similarity])
def test_what_is_refused(function):
    with pytest.raises(ValueError, match=r"same D; got \[5, 3\] and \[4, 2\]"):
        function(torch.zeros(5, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"got \[3\] and \[4, 3\]"):
        function(torch.zeros(3), torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"floating-point vectors; got torch\.uint8"):
        function(torch.zeros(5, 3, dtype=torch.uint8), torch.zeros(4, 3))


# ----------------------------------------------------------------------------------------------------- class means


def naive_means(embedding: Tensor, labels: Tensor, n_way: int) -> Tensor:
    tasks = []
    for x, y in zip(embedding, labels, strict=True):
        tasks.append(torch.stack([x[y == k].mean(0) for k in range(n_way)]))
    return torch.stack(tasks)


def labels_of(n_tasks: int, n_way: int, size: int, seed: int = 0) -> Tensor:
    """Every class at least once, the rest by chance, in random order."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n_tasks):
        row = torch.cat([torch.arange(n_way), torch.randint(n_way, (size - n_way,), generator=generator)])
        rows.append(row[torch.randperm(size, generator=generator)])
    return torch.stack(rows)


@pytest.mark.parametrize(("n_way", "size"), [(5, 5), (5, 25), (3, 11), (1, 4), (1, 1), (20, 27)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_class_means_are_those_of_a_loop(n_way, size, dtype):
    """One shot, several, unequal numbers of them, one class: whatever the order."""
    x, y = normal(4, size, 6, dtype=dtype), labels_of(4, n_way, size)
    result = class_means(x, y, n_way)
    assert result.dtype == dtype and result.shape == (4, n_way, 6)
    torch.testing.assert_close(result, naive_means(x, y, n_way), rtol=20 * torch.finfo(dtype).eps, atol=1e-6)


def test_of_one_shot_the_mean_is_the_shot():
    x = normal(2, 5, 4)
    y = torch.tensor([[3, 1, 4, 0, 2], [0, 1, 2, 3, 4]])
    expected = torch.stack([x[task][y[task].argsort()] for task in range(2)])
    assert torch.equal(class_means(x, y, 5), expected)


def test_gradients_of_class_means():
    x, y = normal(2, 7, 3).requires_grad_(), labels_of(2, 3, 7)
    assert gradcheck(lambda x: class_means(x, y, 3), (x,))
    assert gradgradcheck(lambda x: class_means(x, y, 3), (x,))


def test_class_means_have_the_same_bits_every_time():
    x, y = normal(8, 300, 64, dtype=torch.float32), labels_of(8, 60, 300)
    first = class_means(x, y, 60)
    assert all(torch.equal(class_means(x, y, 60), first) for _ in range(5))


def test_an_empty_class_is_named():
    with pytest.raises(ValueError, match="class 2 of task 1 has no support image"):
        class_means(normal(2, 4, 3), torch.tensor([[0, 1, 2, 0], [0, 1, 1, 0]]), 3)


@pytest.mark.parametrize(("wrong", "text"), [(3, r"0 \.\. 2; got 0 \.\. 3"), (-1, r"0 \.\. 2; got -1 \.\. 2")])
def test_a_label_out_of_range_is_named(wrong, text):
    with pytest.raises(ValueError, match=text):
        class_means(normal(1, 5, 3), torch.tensor([[0, 1, 2, 0, wrong]]), 3)


@pytest.mark.parametrize(
    ("x_shape", "y_shape"), [((4, 3), (4,)), ((2, 4, 3), (4,)), ((2, 4, 3), (2, 5)), ((2, 4, 3, 1), (2, 4))]
)
def test_shapes_that_do_not_fit_are_shown(x_shape, y_shape):
    with pytest.raises(ValueError, match=r"expected embedding \[B, S, D\] and labels \[B, S\]; got \["):
        class_means(torch.zeros(x_shape), torch.zeros(y_shape, dtype=torch.int64), 1)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="n_way must be at least 1; got 0"):
        class_means(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_computes_the_same():
    a, b = normal(2, 6, 5), normal(2, 4, 5, seed=1)
    torch.testing.assert_close(squared_distances(a.cuda(), b.cuda()).cpu(), squared_distances(a, b))
    torch.testing.assert_close(cosine_similarity(a.cuda(), b.cuda()).cpu(), cosine_similarity(a, b))
    y = labels_of(2, 3, 6)
    torch.testing.assert_close(class_means(a.cuda(), y.cuda(), 3).cpu(), class_means(a, y, 3))
    empty = class_means(a.cuda(), torch.zeros_like(y).cuda(), 3)
    assert empty[:, 1:].isnan().all() and not empty[:, 0].isnan().any()
