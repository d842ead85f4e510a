"""Squared gradients of convolutions on a GPU (or in the interpreter): single examples in float64, layouts, edges."""

from __future__ import annotations

import pytest
import torch
from checks import INTERPRETED, LAYOUTS, TOLERANCE, error, laid_out
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from utils.functional import conv_fisher_diagonal
from utils.functional import importance as module

EXACT = TOLERANCE[torch.float32]
"""Also of half precision: its products are exact in float32, and so is what is added."""

# examples, C_in, C_out, (height, width), kernel, stride, padding, dilation, groups
CONVOLUTIONS = (
    (1, 1, 1, (5, 5), 1, 1, 0, 1, 1),
    (7, 1, 33, (6, 5), (3, 1), 1, (1, 0), 1, 1),
    (2, 3, 17, (7, 9), 3, 1, 1, 1, 1),
    (3, 17, 3, (8, 7), 3, 2, 1, 1, 1),
    (1, 33, 65, (4, 4), 1, 1, 0, 1, 1),
    (1, 65, 33, (3, 5), 3, 1, 1, 1, 1),
    (2, 16, 64, (4, 8), 2, 2, 0, 1, 1),  # exactly a tile of weights
    (2, 16, 16, (4, 8), 1, 1, 0, 1, 1),  # exactly the smallest, and its positions
    (1, 17, 65, (3, 11), 1, 1, 0, 1, 1),  # one more of each
    (5, 4, 6, (9, 11), 5, (2, 1), 2, 1, 2),
    (3, 6, 12, (7, 7), 3, 1, 2, 2, 6),
    (2, 17, 17, (5, 6), 3, 1, 1, 1, 17),
    (2, 2, 16, (12, 13), (2, 3), (1, 2), (0, 2), (3, 1), 1),
    (2, 3, 5, (6, 6), 5, 1, 4, 2, 1),  # more padding than image on the way
)


def made(n: int, channels: int, out_channels: int, size: tuple[int, int], *settings, device, dtype=torch.float32):
    """Inputs and output gradients of a convolution."""
    generator = torch.Generator().manual_seed(n * 10000 + channels * 100 + out_channels)
    inputs = torch.randn(n, channels, *size, generator=generator, dtype=torch.float64)
    weight = torch.zeros(out_channels, channels // settings[-1], *pair(settings[0]), dtype=torch.float64)
    outputs = F.conv2d(inputs, weight, None, *settings[1:])
    gradients = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    return [x.to(dtype).to(device) for x in (inputs, gradients)]


def pair(n: int | tuple[int, int]) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else n


def one_by_one(inputs: Tensor, gradients: Tensor, settings: tuple, absolute: bool = False) -> Tensor:
    """One backward pass an example, in float64."""
    inputs, gradients, (kernel, *rest) = inputs.double().cpu(), gradients.double().cpu(), settings
    weight = torch.zeros(gradients.shape[1], inputs.shape[1] // rest[-1], *pair(kernel), dtype=torch.float64)
    weight.requires_grad_()
    total = torch.zeros_like(weight, requires_grad=False)
    for a, g in zip(inputs.split(1), gradients.split(1), strict=True):
        (slope,) = torch.autograd.grad(F.conv2d(a, weight, None, *rest), weight, g)
        total += slope.abs() if absolute else slope.square()
    return total


def launch_in_parts(monkeypatch, programs: int, least: int) -> None:
    from utils.kernels import conv_fisher

    monkeypatch.setattr(conv_fisher, "PROGRAMS", programs)
    monkeypatch.setattr(conv_fisher, "LEAST", least)


@pytest.fixture(autouse=True)
def only_where_the_kernel_runs() -> None:
    if not INTERPRETED and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the plain formula runs on this GPU: see test_importance.py")


@pytest.fixture
def small(device) -> tuple[Tensor, Tensor, tuple]:
    """A convolution with nothing in particular: a tile that is not full, one and a half tiles of positions."""
    settings = (3, (1, 2), (1, 0), 1, 1)
    return *made(3, 2, 5, (6, 17), *settings, device=device), settings


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_it_is_the_sum_over_single_examples(device, unwritten, convolution):
    settings = convolution[4:]
    inputs, gradients = made(*convolution, device=device)
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    assert fisher.dtype == torch.float32 and error(fisher, one_by_one(inputs, gradients, settings)) < EXACT


@pytest.mark.parametrize("convolution", CONVOLUTIONS[::4], ids=str)
def test_absolute_values(device, unwritten, convolution):
    settings = convolution[4:]
    inputs, gradients = made(*convolution, device=device)
    importance = conv_fisher_diagonal(inputs, gradients, *settings, absolute=True)
    assert error(importance, one_by_one(inputs, gradients, settings, absolute=True)) < EXACT


@pytest.mark.parametrize(
    ("n", "programs", "least"),
    [(1, 8, 1), (7, 8, 1), (7, 3, 1), (8, 512, 4), (9, 512, 4), (13, 9, 2), (13, 1, 1)],
    # Parts of:   1         1         3, 3, 1     4, 4        5, 4         2 .. 1, none  all
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_batch_may_be_cut_into_parts(device, unwritten, monkeypatch, n, programs, least, absolute):
    launch_in_parts(monkeypatch, programs, least)
    settings = (1, 1, 0, 1, 1)
    inputs, gradients = made(n, 3, 5, (3, 2), *settings, device=device)
    fisher = conv_fisher_diagonal(inputs, gradients, *settings, absolute=absolute)
    assert error(fisher, one_by_one(inputs, gradients, settings, absolute)) < EXACT


def test_without_examples_nothing_mattered(device, unwritten):
    settings = (3, 1, 1, 1, 2)
    inputs, gradients = made(0, 4, 6, (5, 5), *settings, device=device)
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    assert fisher.shape == (6, 2, 3, 3) and (fisher == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(device, dtype):
    settings = (3, 1, 1, 1, 1)
    inputs, gradients = made(9, 3, 17, (5, 5), *settings, device=device, dtype=dtype)
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    assert fisher.dtype == torch.float32 and error(fisher, one_by_one(inputs, gradients, settings)) < EXACT


def test_every_position_counts_once(device):
    # Every product is 1/8, and every sum is exact.
    inputs = torch.full((1, 1, 1, 1), 0.5, device=device).expand(3, 1, 15, 21)
    gradients = torch.full((1, 1, 1, 1), 0.25, device=device).expand(3, 1, 15, 21)
    assert conv_fisher_diagonal(inputs, gradients, 1).item() == 3 * (15 * 21 / 8) ** 2
    assert conv_fisher_diagonal(inputs, gradients, 1, absolute=True).item() == 3 * 15 * 21 / 8
    # Padded by one: the corners of the kernel lose a row and a column, its edges one of them.
    lost = torch.tensor([1, 0, 1], device=device)
    counts = (15 - lost[:, None]) * (21 - lost)
    assert torch.equal(conv_fisher_diagonal(inputs, gradients, 3, padding=1)[0, 0], 3 * (counts / 8) ** 2)


def test_what_the_kernel_does_not_do_runs_without_it(device, monkeypatch):
    from utils.kernels import conv_fisher

    settings = (3, 1, 1, 1, 1)
    inputs, gradients = made(3, 2, 5, (4, 4), *settings, device=device)
    launched = []
    plain = conv_fisher.fisher_diagonal
    monkeypatch.setattr(conv_fisher, "fisher_diagonal", lambda *args: launched.append(1) or plain(*args))
    fisher = conv_fisher_diagonal(inputs.double(), gradients.double(), *settings)
    assert not launched and error(fisher, one_by_one(inputs, gradients, settings)) < 1e-12
    assert error(conv_fisher_diagonal(inputs, gradients, *settings), fisher) < EXACT
    assert launched


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(small, layout):
    inputs, gradients, settings = small
    exact = one_by_one(inputs, gradients, settings)
    fisher = conv_fisher_diagonal(laid_out(inputs, layout), laid_out(gradients, layout), *settings)
    assert error(fisher, exact) < EXACT


def test_channels_last_and_stride_zero(small):
    inputs, gradients, settings = small
    last = {"memory_format": torch.channels_last}
    fisher = conv_fisher_diagonal(inputs.contiguous(**last), gradients.contiguous(**last), *settings)
    assert error(fisher, one_by_one(inputs, gradients, settings)) < EXACT
    ones = torch.ones((), device=inputs.device).expand_as(gradients)
    assert error(conv_fisher_diagonal(inputs, ones, *settings), one_by_one(inputs, ones, settings)) < EXACT
    same = inputs[:1].expand_as(inputs)
    assert error(conv_fisher_diagonal(same, gradients, *settings), one_by_one(same, gradients, settings)) < EXACT


def test_offsets_beyond_32_bits(device, monkeypatch):
    # Examples, channels, rows or columns 2^30 numbers apart, in memory of which only a few pages are touched.
    launch_in_parts(monkeypatch, 3, 1)
    far = 2**30
    try:
        memory = torch.empty(2 * far + 27, dtype=torch.float16, device=device)
    except RuntimeError:
        pytest.skip("needs 4.3 GB of address space")
    generator = torch.Generator().manual_seed(0)
    for moves in ((far, 3, 1, 1), (1, far, 3, 1), (1, 3, far, 1)):
        x = memory.as_strided((3, 3, 3, 1), moves)
        x.copy_(torch.randn(x.shape, generator=generator))
        y = torch.randn(3, 3, 3, 1, generator=generator).half().to(device)
        for inputs, gradients, kernel in ((x, y, 1), (y, x, 1), (x, y[:, :, :1], (3, 1))):
            settings = (kernel, 1, 0, 1, 1)
            exact = one_by_one(inputs, gradients, settings)
            assert error(conv_fisher_diagonal(inputs, gradients, *settings), exact) < EXACT
            turned = conv_fisher_diagonal(inputs.mT, gradients.mT, pair(kernel)[::-1])
            assert error(turned, exact.mT) < EXACT


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # in NumPy, which the interpreter multiplies with
def test_not_a_number_stays_where_it_matters(small):
    inputs, gradients, settings = small
    expected = conv_fisher_diagonal(inputs, gradients, *settings)
    gradients[1, 3, 2, 2] = float("nan")
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    others = [0, 1, 2, 4]
    assert fisher[3].isnan().all() and torch.equal(fisher[others], expected[others])
    # A pixel in the last row, of even column: no position has it in the first row of the kernel, which is padded by
    # one, nor in the middle column, which moves by two.
    gradients[1, 3, 2, 2], inputs[2, 1, 5, 4] = 1.0, float("inf")
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)[others]
    assert not fisher[:, 1, 1:, ::2].isfinite().any()
    fisher[:, 1, 1:, ::2] = expected[others][:, 1, 1:, ::2]
    assert torch.equal(fisher, expected[others])


def test_neighbours_in_memory_have_no_part_in_it(small):
    inputs, gradients, settings = small
    n = len(inputs)
    wide = [torch.cat([torch.full_like(x[:1], torch.nan), x, torch.full_like(x[:1], torch.nan)]) for x in small[:2]]
    fisher = conv_fisher_diagonal(*(x[1 : n + 1] for x in wide), *settings)
    assert torch.equal(fisher, conv_fisher_diagonal(inputs, gradients, *settings))


def test_weights_do_not_depend_on_their_neighbours(device):
    settings = (1, 1, 0, 1, 1)
    inputs, gradients = made(2, 66, 70, (3, 3), *settings, device=device)
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(70, generator=generator), torch.randperm(66, generator=generator)
    moved = conv_fisher_diagonal(inputs[:, columns], gradients[:, rows], *settings)
    assert torch.equal(moved, fisher[rows][:, columns])


def test_the_order_of_examples_does_not_matter(small):
    inputs, gradients, settings = small
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    backwards = conv_fisher_diagonal(inputs.flip(0), gradients.flip(0), *settings)
    parts = sum(conv_fisher_diagonal(inputs[i:j], gradients[i:j], *settings) for i, j in ((0, 1), (1, 3)))
    assert error(backwards, fisher) < EXACT and error(parts, fisher) < EXACT


def test_the_same_bits_every_time(device, monkeypatch):
    launch_in_parts(monkeypatch, 4, 2)
    settings = (3, 1, 1, 1, 1)
    inputs, gradients = made(9, 2, 17, (5, 5), *settings, device=device)
    first = conv_fisher_diagonal(inputs, gradients, *settings)
    for _ in range(4):
        assert torch.equal(conv_fisher_diagonal(inputs, gradients, *settings), first)


def test_inputs_are_left_alone(small):
    inputs, gradients, settings = small
    before = inputs.clone(), gradients.clone()
    conv_fisher_diagonal(inputs, gradients, *settings)
    assert torch.equal(inputs, before[0]) and torch.equal(gradients, before[1])


def test_results_are_constants(small):
    inputs, gradients, settings = small
    inputs.requires_grad_(), gradients.requires_grad_()
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    assert not fisher.requires_grad
    slope = grad(lambda x: (conv_fisher_diagonal(x, gradients, *settings) * x.sum()).sum())(inputs.detach())
    assert error(slope, fisher.sum().expand_as(slope)) < EXACT


def test_it_is_a_function_for_torch_func(device):
    settings = (3, 1, 1, 1, 2)
    inputs, gradients = made(6, 2, 4, (4, 5), *settings, device=device)
    inputs, gradients = inputs.unflatten(0, (2, 3)), gradients.unflatten(0, (2, 3))

    def f(a: Tensor, g: Tensor) -> Tensor:
        return conv_fisher_diagonal(a, g, *settings)

    expected = torch.stack([f(a, g) for a, g in zip(inputs, gradients, strict=True)])
    assert torch.equal(vmap(f, in_dims=(2, 0))(inputs.movedim(0, 2), gradients), expected)
    assert torch.equal(vmap(f, in_dims=(0, None))(inputs, gradients[0])[1], f(inputs[1], gradients[0]))


def test_it_compiles_whole(small):
    inputs, gradients, settings = small
    compiled = torch.compile(
        lambda a, g: conv_fisher_diagonal(a.relu(), g, *settings).sqrt(), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(inputs, gradients), conv_fisher_diagonal(inputs.relu(), gradients, *settings).sqrt())


def test_pytorch_finds_no_fault_with_the_operation(device):
    settings = ((3, 2), (1, 2), (1, 0), (1, 1), 2)
    inputs, gradients = made(2, 2, 4, (4, 4), *settings, device=device, dtype=torch.float16)
    torch.library.opcheck(module._conv, (inputs, gradients, *map(list, settings[:4]), settings[4], True))


def test_memory_is_that_of_the_weights(device):
    settings = (1, 1, 0, 1, 1)
    if device.type == "cpu":
        from utils.bench.memory import peak_bytes
        from utils.kernels import conv_fisher

        inputs, gradients = made(32, 17, 33, (2, 2), *settings, device=device)
        ones, weights = (1, 1), 17 * 33 * 4
        # The parts, of at least four examples each, and their sum; the examples one by one would be 32. Without the
        # operation around it, which hides what is inside.
        launch = lambda: conv_fisher.fisher_diagonal(inputs, gradients, ones, ones, (0, 0), ones, 1, False)  # noqa: E731
        assert 2 * weights < peak_bytes(launch) <= (32 / 4 + 1) * weights
        return
    inputs, gradients = torch.randn(512, 256, 8, 8, device=device), torch.randn(512, 256, 8, 8, device=device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    conv_fisher_diagonal(inputs, gradients, 3, padding=1)
    assert torch.cuda.max_memory_allocated() - before < 8 * 256 * 256 * 9 * 4


def test_a_layer_and_a_batch_of_real_size(gpu):
    settings = (3, 1, 1, 1, 1)
    inputs, gradients = made(256, 64, 64, (16, 16), *settings, device=gpu)
    assert error(conv_fisher_diagonal(inputs, gradients, *settings), one_by_one(inputs, gradients, settings)) < EXACT


def test_more_numbers_than_32_bits_count(gpu):
    if torch.cuda.get_device_properties(0).total_memory < 24e9:
        pytest.skip("needs 24 GB")
    inputs, gradients = torch.zeros(2**17, 17, 32, 32, device=gpu, dtype=torch.float16), torch.zeros(2**17, 1, 1, 1)
    gradients = gradients.to(inputs)
    inputs[-3:], gradients[-3:] = torch.randn(3, 17, 32, 32), torch.randn(3, 1, 1, 1)
    fisher = conv_fisher_diagonal(inputs, gradients, 32)
    assert error(fisher, conv_fisher_diagonal(inputs[-3:], gradients[-3:], 32)) < EXACT


def test_a_captured_graph_and_another_stream(gpu):
    settings = (3, 1, 1, 1, 1)
    inputs, gradients = made(32, 16, 33, (9, 9), *settings, device=gpu)
    expected = conv_fisher_diagonal(inputs, gradients, *settings)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.equal(conv_fisher_diagonal(inputs, gradients, *settings), expected)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = conv_fisher_diagonal(inputs, gradients, *settings)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)
