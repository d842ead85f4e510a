"""The gather of images on a GPU (or in the interpreter): the formula in NumPy, to the last bit."""

from __future__ import annotations

import pytest
import torch
from checks import INTERPRETED
from gather_checks import DTYPES, LAYOUTS, formula, indices, layouts, made
from torch import Tensor

from utils import kernels
from utils.bench.memory import peak_bytes
from utils.data.episodes import EpisodeSampler
from utils.data.images import ImageSet
from utils.functional import gather as module
from utils.functional import gather_episode
from utils.functional.gather import gather_support_and_query

SHAPES = (
    (1, 1, 1), (1, 2, 2), (4, 1, 1), (1, 5, 5), (3, 7, 7), (2, 6, 6), (1, 8, 8), (1, 28, 28), (3, 32, 32),
    (1, 33, 33), (1, 105, 105), (3, 84, 84),
)  # fmt: skip
"""A tile, less, and more; planes of a multiple of four pixels, which are read in words, and others."""
FLAT = ((1, 3, 11), (2, 4, 6), (5, 1, 9), (1, 40, 30))


def compare(images: Tensor, rows: Tensor, turns: Tensor | None = None) -> None:
    x = gather_episode(images, rows, turns)
    assert x.device == images.device and x.dtype == torch.float32 and x.is_contiguous()
    assert torch.equal(x.cpu(), formula(images, rows, turns))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_turn_of_odd_shapes(device, unwritten, shape):
    images = made(3, *shape).to(device)
    rows = torch.tensor([2, 1, 0, 2]) if shape[1] < 100 and shape[0] * shape[1] < 200 else torch.tensor([2] * 4)
    compare(images, rows, torch.arange(4))


@pytest.mark.parametrize("shape", [*FLAT, (1, 28, 28)])
def test_without_turns_images_need_not_be_square(device, unwritten, shape):
    compare(made(4, *shape).to(device), torch.tensor([[3, 0, 3], [1, 2, 0]]))


@pytest.mark.parametrize("shape", [(1, 5, 5), (1, 6, 6)])
@pytest.mark.parametrize(("b", "n", "m"), [(1, 1, 1), (3, 5, 2), (1, 20, 3), (3, 1, 4)])
def test_episodes(device, unwritten, shape, b, n, m):
    images, (rows, turns) = made(11, *shape).to(device), indices(11, b, n, m)
    compare(images, rows, turns)
    for some in (turns[:, :, :1], turns[0, 0], torch.tensor(3)):  # of classes, of places, of all
        compare(images, rows, some)


def test_a_turn_is_counter_clockwise(device):
    images = torch.tensor([[[[0, 51], [102, 255]]]], dtype=torch.uint8).to(device)
    left, over, right = (gather_episode(images, torch.tensor(0), torch.tensor(turn))[0] for turn in (1, 2, 3))
    assert left.mul(5).round().tolist() == [[1, 5], [0, 2]]
    assert over.mul(5).round().tolist() == [[5, 2], [1, 0]]
    assert right.mul(5).round().tolist() == [[2, 0], [5, 1]]


@pytest.mark.parametrize("shape", [(3, 7, 7), (2, 8, 8)])
def test_four_turns_are_none(device, shape):
    images, rows = made(3, *shape), torch.arange(3)
    for turn, times in ((1, 4), (2, 2), (3, 4)):
        turned = images.to(device)
        for i in range(times):
            assert i == 0 or not torch.equal(turned.cpu(), images)
            turned = gather_episode(turned, rows, torch.full((3,), turn)).mul(255).round().to(torch.uint8)
        assert torch.equal(turned.cpu(), images)


def test_every_brightness(device):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).to(device)
    x = gather_episode(images, torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert torch.equal(x.cpu(), formula(images, torch.tensor([0, 0]), torch.tensor([0, 1])))
    assert x[0, 0, 0, 0] == 0 and x[0, 0, -1, -1] == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 6, 6)])
def test_precisions(device, unwritten, dtype, shape):
    images, (rows, turns) = made(9, *shape).to(device), indices(9, 8)
    x = gather_episode(images, rows, turns, dtype)
    assert x.dtype == dtype and torch.equal(x.cpu(), formula(images, rows, turns, dtype, cut=INTERPRETED))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_order_of_memory(device, unwritten, layout):
    images = layouts(made(4, 3, 6, 6).to(device))[layout]
    rows, turns = torch.tensor([3, 1, 0, 2, 1, 3]), torch.tensor([0, 1, 2, 3, 2, 0])
    compare(images, rows, turns)
    compare(images, rows)


def test_words_are_read_where_they_can_be(device):
    from utils.kernels.gather import reads_words

    images = made(4, 3, 6, 6).to(device)
    words = {name for name, x in layouts(images).items() if reads_words(x)}
    assert reads_words(images)
    assert words == {"every second image", "gaps of 4 bytes", "behind 4 bytes", "one image for all"}
    assert not reads_words(made(4, 4, 5, 5).to(device)) and reads_words(made(4, 1, 2, 14).to(device))


def test_images_further_apart_than_32_bits_count(device):
    """Only the bytes that are looked at are written; a system gives memory when it is."""
    far = 2**30
    memory = torch.empty(3 * far + 64, dtype=torch.uint8, device=device)
    values = made(4, 1, 4, 4).to(device)
    for shape, strides in (
        ((4, 1, 4, 4), (far, 16, 4, 1)),  # images
        ((4, 1, 4, 4), (far, 16, 1, 4)),  # images, in no one piece
        ((1, 4, 4, 4), (64, far, 4, 1)),  # channels
        ((1, 1, 4, 4), (64, 64, far, 1)),  # rows of pixels
        ((1, 1, 4, 4), (64, 64, 1, far)),  # columns
    ):
        images = memory.as_strided(shape, strides)
        images.copy_(values.flatten()[: images.numel()].view(shape))
        last = torch.full((4,), shape[0] - 1)
        x = gather_episode(images, last, torch.arange(4))
        assert torch.equal(x.cpu(), formula(images.contiguous(), last, torch.arange(4)))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (2, 1, 1, 2)])
def test_the_shape_is_that_of_the_rows(device, shape):
    images, (rows, turns) = made(9, 3, 5, 5).to(device), indices(9, *shape)
    for some in (None, turns):
        compare(images, rows, some)
        assert gather_episode(images, rows, some).shape == (*shape, 3, 5, 5)


def test_nothing_from_nothing(device):
    for shape, rows in (((0, 1, 5, 5), 0), ((4, 0, 5, 5), 2), ((4, 1, 0, 0), 2)):
        images, (chosen, turns) = torch.zeros(shape, dtype=torch.uint8, device=device), indices(4, rows)
        assert gather_episode(images, chosen, turns).shape == (rows, *shape[1:])


@pytest.mark.parametrize("bad", [-1, 9, 2**61, -(2**61)])
def test_an_index_out_of_range_never_reaches_the_kernel(device, bad):
    images, fine = made(9, 1, 4, 4).to(device), torch.tensor([1, 2])
    with pytest.raises(ValueError, match=rf"rows must lie in 0 \.\. 8; got {min(bad, 1)} \.\. {max(bad, 1)}"):
        gather_episode(images, torch.tensor([bad, 1]))
    with pytest.raises(ValueError, match=rf"turns must lie in 0 \.\. 3; got {min(bad, 1)} \.\. {max(bad, 1)}"):
        gather_episode(images, fine, torch.tensor([bad, 1]))


@pytest.mark.parametrize("turned", [False, True])
def test_support_and_query(device, unwritten, turned):
    images, (rows, turns) = made(9, 1, 6, 6).to(device), indices(9, 2, 5, 4)
    for some in (turns, turns[:, :, :1]) if turned else (None,):
        x = gather_support_and_query(images, rows, 1, some)
        parts = (slice(None, 1), slice(1, None))
        every = formula(images, rows, some)
        for half, part in zip(x, parts, strict=True):
            assert half.is_contiguous() and torch.equal(half.cpu(), every[:, :, part].flatten(1, 2))


@pytest.mark.parametrize("rotations", [False, True])
def test_the_sampler_draws_the_same_episodes(device, unwritten, rotations):
    names = tuple(map(str, range(6)))
    images = ImageSet(made(30, 1, 6, 6).view(6, 5, 1, 6, 6), names, names, "made", "all")
    sampler = EpisodeSampler(images.to(device), 5, 1, 2, batch_size=2, rotations=rotations, seed=3)
    with kernels.use(False):
        plain = [EpisodeSampler(images, 5, 1, 2, 2, rotations, seed=3).sample(i) for i in range(2)]
    for i, expected in enumerate(plain):
        episode = sampler.sample(i)
        for name in ("support_x", "support_y", "query_x", "query_y"):
            value = getattr(episode, name)
            assert value.device == images.to(device).device and torch.equal(value.cpu(), getattr(expected, name))


def test_the_same_bits_every_time(device):
    images, (rows, turns) = made(9, 1, 7, 7).to(device), indices(9, 12)
    first = gather_episode(images, rows, turns)
    assert all(torch.equal(gather_episode(images, rows, turns), first) for _ in range(4))


def test_images_do_not_depend_on_their_neighbours(device):
    images, (rows, turns) = made(9, 1, 6, 6).to(device), indices(9, 12)
    every = gather_episode(images, rows, turns)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gather_episode(images, rows[order], turns[order]), every[order.to(device)])
    assert torch.equal(gather_episode(images, rows[5], turns[5]), every[5])


def test_inputs_are_left_alone(device):
    images, (rows, turns) = made(9, 1, 6, 6).to(device), indices(9, 2, 3)
    before = [x.clone() for x in (images, rows, turns)]
    gather_episode(images, rows, turns).zero_()
    assert all(torch.equal(x, y) for x, y in zip((images, rows, turns), before, strict=True))


def test_it_compiles_whole(device):
    images, (rows, turns) = made(9, 1, 6, 6).to(device), indices(9, 2, 3, 2)

    def both(images, rows, turns):
        support, query = gather_support_and_query(images, rows, 1, turns)
        return -support, query * 2

    support, query = torch.compile(both, fullgraph=True, backend="aot_eager")(images, rows, turns)
    every = formula(images, rows, turns)
    assert torch.equal(support.cpu(), -every[:, :, :1].flatten(1, 2))
    assert torch.equal(query.cpu(), every[:, :, 1:].flatten(1, 2) * 2)


def test_pytorch_finds_no_fault_with_the_operation(device):
    images, (rows, turns) = made(9, 1, 6, 6).to(device), indices(9, 2, 5)
    for some in (None, turns):
        torch.library.opcheck(module._gather, (images, rows, some, torch.float32))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_it_is_a_function_for_torch_func(device):
    images, (rows, turns) = made(9, 1, 6, 6).to(device), indices(9, 3, 2, 2)
    mapped = torch.vmap(lambda rows, turns: gather_episode(images, rows, turns))(rows, turns)
    assert torch.equal(mapped.cpu(), formula(images, rows, turns))
    weight = torch.tensor(2.0, device=device)
    slope = torch.func.grad(lambda weight: (gather_episode(images, rows) * weight).sum())(weight)
    torch.testing.assert_close(slope.cpu(), formula(images, rows).sum())


def test_memory_is_that_of_the_result(device):
    images, (rows, turns) = made(9, 1, 28, 28).to(device), indices(9, 12)
    if device.type == "cpu":
        assert peak_bytes(lambda: gather_episode(images, rows, turns)) <= 1.1 * 12 * 784 * 4
        return
    rows, turns = indices(9, 5000)
    gather_episode(images, rows, turns)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gather_episode(images, rows, turns)
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * 5000 * 784 * 4


def test_no_kernel_means_no_triton(device, monkeypatch):
    """What ``COURSE_KERNELS=0`` and the CPU use; and that the other tests here do run the kernel."""
    from utils.kernels import gather

    images, (rows, turns) = made(9, 1, 6, 6).to(device), indices(9, 4)
    monkeypatch.setattr(gather, "gather", None)
    with kernels.use(False):
        compare(images, rows, turns)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        gather_episode(images, rows, turns)


def test_more_pixels_than_32_bits_count(gpu):
    if torch.cuda.get_device_properties(0).total_memory < 24e9:
        pytest.skip("needs 24 GB")
    n = 750_000
    images = torch.zeros(n, 3, 32, 32, dtype=torch.uint8, device=gpu)  # 2.3e9 bytes
    images[-3:] = made(3, 3, 32, 32).to(gpu)
    rows, turns = n - 1 - torch.arange(n) % 3, torch.arange(n) // 3 % 4
    x = gather_episode(images, rows, turns, torch.float16)
    for some in (slice(0, 12), slice(699_048, 699_060), slice(-12, None)):  # 2**31 pixels end in the middle one
        assert torch.equal(x[some].cpu(), formula(images[-3:], rows[some] - (n - 3), turns[some], torch.float16))


def test_another_stream(gpu):
    images, (rows, turns) = made(9, 1, 28, 28).to(gpu), indices(9, 200)
    expected = formula(images, rows, turns)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x = gather_episode(images, rows, turns)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(x.cpu(), expected)


def test_indices_may_change_while_the_device_is_busy(gpu):
    """They were copied when the call returned, whatever the device still has to do."""
    images, (rows, turns) = made(9, 1, 28, 28).to(gpu), indices(9, 200)
    expected = formula(images, rows, turns)
    gather_episode(images, rows, turns)
    torch.cuda._sleep(100_000_000)
    x = gather_episode(images, rows, turns)
    rows.zero_(), turns.zero_()
    assert torch.equal(x.cpu(), expected)
