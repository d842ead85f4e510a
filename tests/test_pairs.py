"""Scores of all pairs: the formula in loops, its derivatives, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad

from utils.functional import best_of_class, one_hot, pairwise_weighted_l1
from utils.functional import pairs as module

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def made(*lead: int, n: int = 5, m: int = 4, d: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((*lead, n, d), (*lead, m, d), (d,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def loops(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([torch.stack([(weight * (x - y).abs()).sum() for y in b]) for x in a])


@pytest.fixture(params=[2**18, 12, 1], ids=["one piece", "a row a piece", "less than a row"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", request.param)


@pytest.mark.parametrize("device", DEVICES)
def test_scores_and_gradients_are_those_of_the_formula(chunk, device):
    inputs = [x.to(device).requires_grad_() for x in made()]
    upstream = torch.randn(5, 4, dtype=torch.float64, device=device)
    scores, expected = pairwise_weighted_l1(*inputs), loops(*inputs)
    torch.testing.assert_close(scores, expected, rtol=1e-14, atol=1e-14)
    slopes = torch.autograd.grad(scores, inputs, upstream)
    for slope, other in zip(slopes, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-13, atol=1e-13)


def test_first_and_second_derivatives_are_those_of_finite_differences(chunk):
    inputs = [x.requires_grad_() for x in made(2)]
    assert torch.autograd.gradcheck(pairwise_weighted_l1, inputs)
    assert torch.autograd.gradgradcheck(pairwise_weighted_l1, inputs)


def test_tasks_do_not_mix(chunk):
    a, b, weight = made(2, 3)
    scores = pairwise_weighted_l1(a, b, weight)
    assert scores.shape == (2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(scores[i, j], loops(a[i, j], b[i, j], weight))


def test_it_is_a_function_for_torch_func():
    a, b, weight = made(3)
    torch.testing.assert_close(
        torch.vmap(pairwise_weighted_l1, in_dims=(0, 0, None))(a, b, weight), pairwise_weighted_l1(a, b, weight)
    )
    slopes = torch.vmap(grad(lambda a, b: pairwise_weighted_l1(a, b, weight).square().sum()))(a, b)
    inputs = a.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(pairwise_weighted_l1(inputs, b, weight).square().sum(), inputs)
    torch.testing.assert_close(slopes, wanted)


def test_coinciding_points_score_zero_and_pull_nowhere():
    a, _, weight = made()
    a.requires_grad_()
    scores = pairwise_weighted_l1(a, a, weight)
    assert torch.equal(scores.diagonal(), torch.zeros(5, dtype=torch.float64))
    assert torch.equal(scores, scores.T)
    (slope,) = torch.autograd.grad(scores.diagonal().sum(), a)
    assert torch.equal(slope, torch.zeros_like(a))


def test_a_weight_of_zero_has_a_gradient():
    a, b, weight = made()
    weight = torch.zeros_like(weight).requires_grad_()
    (slope,) = torch.autograd.grad(pairwise_weighted_l1(a, b, weight).sum(), weight)
    torch.testing.assert_close(slope, (a[:, None] - b).abs().sum((0, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions_are_kept(dtype):
    scores = pairwise_weighted_l1(*made(dtype=dtype))
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.double(), loops(*made()), rtol=3e-2, atol=3e-2)


def test_no_rows_give_no_scores():
    a, b, weight = made()
    assert pairwise_weighted_l1(a[:0], b, weight).shape == (0, 4)
    assert pairwise_weighted_l1(a, b[:0], weight).shape == (5, 0)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((5, 3), (4, 2), (3,)), r"the same D; got \[5, 3\], \[4, 2\] and \[3\]"),
        (((5, 3), (4, 3), (2,)), "the same D"),
        (((2, 5, 3), (4, 3), (3,)), "the same leading axes"),
        (((3,), (3,), (3,)), "expected"),
        (((5, 3), (4, 3), (1, 3)), "one weight a coordinate"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, said):
    with pytest.raises(ValueError, match=said):
        pairwise_weighted_l1(*(torch.zeros(shape) for shape in shapes))


def test_mixed_and_integer_dtypes_are_refused():
    a, b, weight = made()
    with pytest.raises(TypeError, match=r"torch\.float32, torch\.float64 and torch\.float64"):
        pairwise_weighted_l1(a.float(), b, weight)
    with pytest.raises(TypeError, match="one floating-point dtype"):
        pairwise_weighted_l1(a.long(), b.long(), weight.long())


# The best match of a class


@pytest.mark.parametrize("device", DEVICES)
def test_the_best_match_is_the_largest_score_of_the_class(device):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 6, generator=generator).to(device)
    labels = torch.tensor([[0, 1, 1, 2, 2, 2], [2, 0, 1, 0, 1, 0]], device=device)  # unequal shots, any order
    best = best_of_class(scores, labels, 3)
    for task in range(2):
        for query in range(3):
            for k in range(3):
                assert best[task, query, k] == max(scores[task, query, i] for i in range(6) if labels[task, i] == k)
    nearest = labels.gather(1, scores.argmax(-1))
    assert torch.equal(best.argmax(-1), nearest)


def test_membership_is_checked_where_it_costs_nothing():
    with pytest.raises(ValueError, match="class 1 of task 0 has no support image"):
        best_of_class(torch.zeros(1, 2, 3), torch.tensor([[0, 2, 2]]), 3)
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 1; got 0 \.\. 2"):
        one_hot(torch.tensor([[0, 2]]), 2)
    with pytest.raises(ValueError, match="expected scores"):
        best_of_class(torch.zeros(1, 2, 3), torch.tensor([[0, 1]]), 2)
    with pytest.raises(ValueError, match="no support image"):
        best_of_class(torch.zeros(1, 2, 0), torch.zeros(1, 0, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match=r"expected labels \[B, S\]"):
        one_hot(torch.tensor([0, 1]), 2)
