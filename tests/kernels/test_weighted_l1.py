"""Scores of all pairs on a GPU (or in the interpreter): the float64 formula, derivatives, layouts, edges, systems."""

from __future__ import annotations

import pytest
import torch
from checks import LAYOUTS, SIZES, TOLERANCE, error, laid_out
from torch import Tensor
from torch.func import grad, jvp, vmap

from utils.functional import pairs, pairwise_weighted_l1

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def made(n: int, m: int, d: int, device, dtype=torch.float32, *lead: int, offset: float = 0.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n * 10000 + m * 100 + d)
    shapes = ((*lead, n, d), (*lead, m, d), (d,))
    a, b, w = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [x.to(dtype).to(device) for x in (a + offset, b + offset, w)]


def formula(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    a, b, w = (x.double().cpu() for x in (a, b, w))
    return ((a[..., :, None, :] - b[..., None, :, :]).abs() * w).sum(-1)


def slopes(function, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    return list(torch.autograd.grad(out, inputs, upstream.to(out)))


def compare(inputs: list[Tensor], scale: float = 1.0) -> None:
    """Value and all gradients against the formula in float64."""
    dtype = inputs[0].dtype
    out = pairwise_weighted_l1(*inputs)
    assert out.dtype == dtype and error(out, formula(*inputs)) < scale * TOLERANCE[dtype]
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    exact = slopes(formula, [x.double().cpu() for x in inputs], upstream.double())
    for slope, other in zip(slopes(pairwise_weighted_l1, inputs, upstream.to(out.device)), exact, strict=True):
        assert slope.dtype == dtype and error(slope, other) < scale * TOLERANCE[dtype]


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_scores_and_gradients_of_odd_shapes(device, unwritten, n, m, d):
    compare(made(n, m, d, device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_precisions(device, dtype):
    compare(made(33, 65, 17, device, dtype))


def test_far_from_the_origin_nothing_is_lost(device):
    # The rounding of the inputs is the same on both sides; only that of the differences and sums counts.
    compare(made(33, 17, 65, device, offset=1000.0), scale=2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(device, layout):
    a, b, w = made(19, 21, 18, device, torch.float32, 2)
    compare([laid_out(a, layout), laid_out(b, layout), w])


def test_stride_zero(device):
    a, b, w = made(1, 5, 7, device)
    out = pairwise_weighted_l1(a.expand(4, 7), b, w)
    assert error(out, formula(a.expand(4, 7), b, w)) < TOLERANCE[torch.float32]


def test_offsets_beyond_32_bits(device):
    # Rows or coordinates 2^30 numbers apart, in memory of which only a few pages are touched.
    far = 2**30
    try:
        memory = torch.empty(2 * far + 9, dtype=torch.float16, device=device)
    except RuntimeError:
        pytest.skip("needs 4.3 GB of address space")
    near = made(3, 3, 3, device, torch.float16)
    for moves in ((3, far), (far, 3)):
        inputs = [memory.as_strided((3, 3), moves, i).copy_(x) for i, x in enumerate(near[:2])]
        weight = memory.as_strided((3,), (far,), 2).copy_(near[2])
        compare([*inputs, weight])
        for function in (torch.ops.course.pair_sign_score, torch.ops.course.pair_sign_sum):
            for order in ((0, 1, 0), (1, 0, 1)):
                a, b, x = (inputs[i][None] for i in order)
                assert torch.equal(function(a, b, x), function(a.contiguous(), b.contiguous(), x.contiguous()))


def test_empty_sets(device):
    for n, m, d in ((0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)):
        inputs = [x.requires_grad_() for x in made(n, m, d, device)]
        out = pairwise_weighted_l1(*inputs)
        assert out.shape == (n, m) and (out == 0).all()
        assert all((slope == 0).all() for slope in torch.autograd.grad(out.sum(), inputs))


def test_ties_pull_nowhere(device):
    a, _, w = made(20, 20, 5, device)
    scores = pairwise_weighted_l1(a, a, w)
    assert (scores.diagonal() == 0).all() and torch.equal(scores, scores.T)
    (slope,) = slopes(lambda x: pairwise_weighted_l1(x, a, w), [a], torch.eye(20))
    assert (slope == 0).all()


def test_not_a_number_and_infinity_stay_in_their_row(device):
    a, b, w = made(20, 18, 5, device)
    expected = pairwise_weighted_l1(a, b, w)
    a[3, 2], a[5, 1] = float("nan"), float("inf")
    scores = pairwise_weighted_l1(a, b, w)
    assert scores[3].isnan().all() and torch.equal(scores[5], (w[1] * float("inf")).expand(18))
    others = [i for i in range(20) if i not in (3, 5)]
    (slope,) = slopes(lambda x: pairwise_weighted_l1(x, b, w), [a], torch.ones(20, 18))
    assert slope.isnan().nonzero().tolist() == [[3, 2]]
    assert torch.equal(scores[others], expected[others])


def test_rows_do_not_depend_on_their_neighbours(device):
    a, b, w = made(70, 66, 9, device)
    scores = pairwise_weighted_l1(a, b, w)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pairwise_weighted_l1(a[order], b, w), scores[order])
    assert torch.equal(pairwise_weighted_l1(a[:1], b, w), scores[:1])


def test_the_same_bits_every_time(device):
    inputs = made(40, 70, 33, device)
    upstream = torch.randn(40, 70, generator=torch.Generator().manual_seed(0)).to(device)
    first = [pairwise_weighted_l1(*inputs), *slopes(pairwise_weighted_l1, inputs, upstream)]
    for _ in range(4):
        again = [pairwise_weighted_l1(*inputs), *slopes(pairwise_weighted_l1, inputs, upstream)]
        assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_first_and_second_derivatives_are_those_of_finite_differences(device):
    inputs = [x.requires_grad_() for x in made(2, 3, 2, device, torch.float64)]
    assert torch.autograd.gradcheck(pairwise_weighted_l1, inputs)
    assert torch.autograd.gradgradcheck(pairwise_weighted_l1, inputs)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_what_is_asked_for(device, wanted):
    inputs = made(5, 6, 3, device, torch.float64)
    every = slopes(pairwise_weighted_l1, inputs, torch.ones(5, 6))
    chosen = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
    some = torch.autograd.grad(pairwise_weighted_l1(*chosen).sum(), [chosen[i] for i in wanted])
    for i, slope in zip(wanted, some, strict=True):
        torch.testing.assert_close(slope, every[i])


def test_it_is_a_function_for_torch_func(device):
    a, b, w = made(5, 4, 3, device, torch.float64, 3)
    shared = vmap(pairwise_weighted_l1, in_dims=(1, None, 0))(a.movedim(0, 1), b[0], w.expand(3, 3))
    torch.testing.assert_close(shared, torch.stack([pairwise_weighted_l1(x, b[0], w) for x in a]))

    def loss(a, b, w):
        return pairwise_weighted_l1(a, b, w).square().sum()

    by_task = vmap(grad(loss, argnums=(0, 1, 2)), in_dims=(0, 0, None))(a, b, w)
    for task in range(3):
        wanted = slopes(lambda a, b, w: formula_square(a, b, w), [a[task], b[task], w], torch.ones(()))
        for slope, other in zip(by_task, wanted, strict=True):
            assert error(slope[task], other) < 1e-12
    hessian = grad(lambda a: grad(loss)(a, b, w).square().sum())(a)
    exact = grad(lambda a: grad(formula_square)(a, b.cpu(), w.cpu()).square().sum())(a.cpu())
    assert error(hessian, exact) < 1e-12


def formula_square(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    return formula(a, b, w).square().sum()


def test_forward_mode_raises(device):
    a, b, w = made(5, 4, 3, device)
    with pytest.raises(RuntimeError, match=r"forward mode AD|jvp"):
        jvp(lambda a: pairwise_weighted_l1(a, b, w), (a,), (torch.ones_like(a),))


def test_it_compiles_whole(device):
    inputs = [x.requires_grad_() for x in made(5, 4, 3, device)]

    def loss(a, b, w):
        return pairwise_weighted_l1(a, b, w).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))
    for slope, other in zip(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(loss(*inputs), inputs), strict=True
    ):
        torch.testing.assert_close(slope, other)


@pytest.mark.parametrize("name", ["_score", "_sign_sum", "_sign_score"])
def test_pytorch_finds_no_fault_with_the_operation(device, name):
    a, b, w = made(5, 4, 3, device, torch.float32, 2)
    third = {"_score": w.expand(2, 3), "_sign_sum": torch.randn(2, 5, 4, device=device), "_sign_score": a.clone()}[name]
    torch.library.opcheck(getattr(pairs, name), (a, b, third))


def test_inputs_are_left_alone(device):
    inputs = made(5, 4, 3, device)
    before = [x.clone() for x in inputs]
    slopes(pairwise_weighted_l1, inputs, torch.ones(5, 4))
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_memory_is_that_of_the_scores(device):
    if device.type == "cpu":
        from utils.bench.memory import peak_bytes

        inputs = [x.requires_grad_() for x in made(70, 66, 65, device)]
        scores = 70 * 66 * 4
        assert peak_bytes(lambda: pairwise_weighted_l1(*inputs).detach()) <= 1.1 * scores
        whole = peak_bytes(lambda: torch.autograd.grad(pairwise_weighted_l1(*inputs).sum(), inputs))
        assert whole < 70 * 66 * 65 * 4 / 2
        return
    inputs = [x.requires_grad_() for x in made(2000, 2000, 64, device)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(pairwise_weighted_l1(*inputs).sum(), inputs)
    assert torch.cuda.max_memory_allocated() - before < 5 * 2000 * 2000 * 4


def test_more_scores_than_32_bits_count(gpu):
    if torch.cuda.get_device_properties(0).total_memory < 24e9:
        pytest.skip("needs 24 GB")
    a, b, w = made(50_000, 3, 2, gpu)
    b = b.repeat(15_000, 1)
    scores = pairwise_weighted_l1(a, b, w)
    assert error(scores[-7:, -9:], formula(a[-7:], b[-9:], w)) < 2e-6


def test_a_captured_graph_and_another_stream(gpu):
    inputs = made(33, 17, 65, gpu)
    expected = pairwise_weighted_l1(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.equal(pairwise_weighted_l1(*inputs), expected)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = pairwise_weighted_l1(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)
