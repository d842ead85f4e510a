"""Chosen images as floats: the formula in NumPy, image by image, whatever the shapes, turns and order of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gather_checks import DTYPES, LAYOUTS, formula, indices, layouts, made
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, vmap

from utils import kernels
from utils.bench.memory import peak_bytes
from utils.data.episodes import EpisodeSampler
from utils.data.images import ImageSet, as_float
from utils.functional import gather as module
from utils.functional import gather_episode
from utils.functional.gather import gather_support_and_query, sent, unit_range

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
SHAPES = ((1, 1, 1), (1, 5, 5), (3, 7, 7), (1, 28, 28), (3, 84, 84))


@pytest.fixture(params=[*DEVICES, pytest.param("cuda without Triton", marks=needs_cuda)])
def everywhere(request):
    """A device; a GPU with the kernel and without."""
    with kernels.use(kernels.AVAILABLE and request.param != "cuda without Triton"):
        yield torch.device(request.param.split()[0])


# ------------------------------------------------------------------------------------------------------- what comes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("b", "n"), [(1, 1), (3, 5), (1, 20)])
def test_images_are_those_of_the_formula(everywhere, shape, b, n):
    images = made(9, *shape)
    rows, turns = indices(9, b, n, 3)
    for some in (None, turns, turns[:, :, :1], turns[0, 0]):  # none, of images, of classes, of places
        x = gather_episode(images.to(everywhere), rows, some)
        assert x.device.type == everywhere.type and x.dtype == torch.float32 and x.is_contiguous()
        assert torch.equal(x.cpu(), formula(images, rows, some))


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_one_turn_for_all(everywhere, turn):
    images, (rows, _) = made(9, 2, 6, 6), indices(9, 4, 3)
    x = gather_episode(images.to(everywhere), rows, torch.tensor(turn))
    assert torch.equal(x.cpu(), formula(images, rows, torch.tensor(turn)))


def test_a_turn_is_counter_clockwise(everywhere):
    images = torch.tensor([[[[0, 51], [102, 255]]]], dtype=torch.uint8).to(everywhere)
    left, over, right = (gather_episode(images, torch.tensor(0), torch.tensor(turn))[0] for turn in (1, 2, 3))
    assert left.mul(5).round().tolist() == [[1, 5], [0, 2]]
    assert over.mul(5).round().tolist() == [[5, 2], [1, 0]]
    assert right.mul(5).round().tolist() == [[2, 0], [5, 1]]


def test_four_turns_are_none(everywhere):
    images, rows = made(5, 3, 7, 7), torch.arange(5)
    for turn, times in ((1, 4), (2, 2), (3, 4)):
        turned = images.to(everywhere)
        for i in range(times):
            assert i == 0 or not torch.equal(turned.cpu(), images)
            turned = gather_episode(turned, rows, torch.full((5,), turn)).mul(255).round().to(torch.uint8)
        assert torch.equal(turned.cpu(), images)


def test_images_that_are_not_square(everywhere):
    images, (rows, _) = made(6, 2, 3, 11), indices(6, 2, 4)
    assert torch.equal(gather_episode(images.to(everywhere), rows).cpu(), formula(images, rows))


def test_every_brightness_is_what_as_float_makes_of_it(everywhere):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).to(everywhere)
    x = gather_episode(images, torch.tensor([0]))
    assert torch.equal(x, as_float(images)) and x[0, 0, 0, 0] == 0 and x[0, 0, -1, -1] == 1
    assert torch.equal(x.cpu().flatten(), formula(images, torch.tensor([0])).flatten())
    divided = torch.arange(256, dtype=torch.float32) / 255
    assert (x.cpu().flatten().view(torch.int32) - divided.view(torch.int32)).abs().max() == 1  # the last bit at most


@pytest.mark.parametrize("dtype", DTYPES)
def test_precisions(everywhere, dtype):
    images, (rows, turns) = made(9, 1, 6, 6), indices(9, 3, 4)
    x = gather_episode(images.to(everywhere), rows, turns, dtype)
    assert x.dtype == dtype and torch.equal(x.cpu(), formula(images, rows, turns, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_order_of_memory(everywhere, layout):
    images, (rows, turns) = layouts(made(6, 3, 6, 6).to(everywhere))[layout], indices(6, 3, 4)
    same = made(6, 3, 6, 6)
    assert torch.equal(images.cpu(), same[:1].expand_as(same) if layout == "one image for all" else same)
    for some in (None, turns):
        x = gather_episode(images, rows, some)
        assert x.is_contiguous() and torch.equal(x.cpu(), formula(images, rows, some))


def test_indices_of_any_order_of_memory(everywhere):
    images, (rows, turns) = made(9, 1, 5, 5), indices(9, 4, 6)
    for some, turned in ((rows.T, turns.T), (rows[:, 1::2], turns[:, ::2]), (rows[:1].expand(4, 6), turns)):
        assert torch.equal(gather_episode(images.to(everywhere), some, turned).cpu(), formula(images, some, turned))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (2, 1, 1, 2)])
def test_the_shape_is_that_of_the_rows(everywhere, shape):
    images, (rows, turns) = made(9, 3, 5, 5), indices(9, *shape)
    for some in (None, turns):
        x = gather_episode(images.to(everywhere), rows, some)
        assert x.shape == (*shape, 3, 5, 5) and torch.equal(x.cpu(), formula(images, rows, some))


def test_nothing_from_nothing(everywhere):
    none = torch.zeros(0, dtype=torch.int64)
    for shape in ((0, 1, 5, 5), (4, 0, 5, 5), (4, 1, 0, 0)):
        images = torch.zeros(shape, dtype=torch.uint8, device=everywhere)
        assert gather_episode(images, none, none).shape == (0, *shape[1:])
        assert gather_support_and_query(images, none.view(1, 2, 0), 0, none.view(1, 2, 0))[1].shape == (
            1,
            0,
            *shape[1:],
        )


def test_inputs_are_left_alone(everywhere):
    images, (rows, turns) = made(9, 1, 6, 6).to(everywhere), indices(9, 2, 3)
    before = [x.clone() for x in (images, rows, turns)]
    gather_episode(images, rows, turns).zero_()
    gather_episode(images, rows).zero_()
    for half in gather_support_and_query(images, rows[None], 1, turns[None]):
        half.zero_()
    assert all(torch.equal(x, y) for x, y in zip((images, rows, turns), before, strict=True))


def test_the_default_dtype_does_not_matter():
    images, (rows, turns) = made(9, 1, 6, 6), indices(9, 3)
    torch.set_default_dtype(torch.float64)
    try:
        x = gather_episode(images, rows, turns)
    finally:
        torch.set_default_dtype(torch.float32)
    assert x.dtype == torch.float32 and torch.equal(x, formula(images, rows, turns))


# ---------------------------------------------------------------------------------------------- support and query


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("k_shot", [0, 1, 3, 4])
def test_support_and_query_are_the_first_images_of_every_class_and_the_others(everywhere, k_shot, turned):
    images, (rows, turns) = made(9, 3, 7, 7), indices(9, 2, 5, 4)
    turns = turns[:, :, :1] if turned else None
    halves = gather_support_and_query(images.to(everywhere), rows, k_shot, turns)
    for x, some in zip(halves, (rows[:, :, :k_shot], rows[:, :, k_shot:]), strict=True):
        assert x.is_contiguous() and torch.equal(x.cpu(), formula(images, some, turns).flatten(1, 2))
    support, query = halves
    assert support.untyped_storage().data_ptr() != query.untyped_storage().data_ptr() or 0 in (k_shot, 4 - k_shot)


def test_support_and_query_may_be_turned_image_by_image(everywhere):
    images, (rows, turns) = made(9, 1, 6, 6), indices(9, 2, 5, 4)
    support, query = gather_support_and_query(images.to(everywhere), rows, 1, turns, torch.float16)
    every = formula(images, rows, turns, torch.float16)
    assert torch.equal(support.cpu(), every[:, :, :1].flatten(1, 2))
    assert torch.equal(query.cpu(), every[:, :, 1:].flatten(1, 2))


def test_a_set_whose_support_cannot_be_split_off_is_refused():
    images = made(9, 1, 4, 4)
    for shape, k_shot in (((2, 4), 1), ((1, 2, 4), 5), ((1, 2, 4), -1), ((4,), 1)):
        with pytest.raises(ValueError, match=rf"at least k_shot={k_shot}\]; got \[{', '.join(map(str, shape))}\]"):
            gather_support_and_query(images, torch.zeros(shape, dtype=torch.int64), k_shot)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("low", "high"), [(-1, 8), (0, 9), (-9, -1), (3, 2**62), (-(2**62), 2)])
def test_a_row_out_of_range_is_refused(everywhere, low, high):
    images = made(9, 1, 4, 4).to(everywhere)
    rows = torch.tensor([[0, low, 4], [high, 1, 2]])
    said = rf"rows must lie in 0 \.\. 8; got {min(low, 0)} \.\. {max(high, 4)}"
    for turns in (None, torch.tensor(1)):
        with pytest.raises(ValueError, match=said):
            gather_episode(images, rows, turns)
        with pytest.raises(ValueError, match="rows must lie in"):
            gather_support_and_query(images, rows[None], 1, turns)


@pytest.mark.parametrize("bad", [-1, 4, -(2**62), 2**29, 2**62])
def test_a_turn_out_of_range_is_refused(everywhere, bad):
    images = made(9, 1, 4, 4).to(everywhere)
    with pytest.raises(ValueError, match=rf"turns must lie in 0 \.\. 3; got {min(bad, 0)} \.\. {max(bad, 3)}"):
        gather_episode(images, torch.tensor([1, 2, 3]), torch.tensor([3, bad, 0]))


def test_rows_of_no_images_are_refused(everywhere):
    with pytest.raises(ValueError, match="rows must lie in"):
        gather_episode(torch.zeros(0, 1, 4, 4, dtype=torch.uint8, device=everywhere), torch.tensor([0]))


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_images_that_are_not_square_are_not_turned(turn):
    with pytest.raises(ValueError, match="only square images can be turned; these are 3 x 11"):
        gather_episode(made(6, 2, 3, 11), torch.tensor([1]), torch.tensor([turn]))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (4, 2), (2, 4, 3), (1, 1, 1)])
def test_turns_that_do_not_fit_are_refused(shape):
    said = rf"turns must broadcast to the shape of rows, \[4, 3\]; got \[{', '.join(map(str, shape))}\]"
    turns, rows = torch.ones(shape, dtype=torch.int64), torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=said):
        gather_episode(made(6, 1, 4, 4), rows, turns)


def test_other_dtypes_and_shapes_are_refused():
    images, rows = made(6, 1, 4, 4), torch.tensor([1, 2])
    for wrong in (images.float(), images.to(torch.int8), images.bool()):
        with pytest.raises(TypeError, match=f"expected uint8 images.*got {wrong.dtype}, torch.float32"):
            gather_episode(wrong, rows)
    for dtype in (torch.uint8, torch.int64, torch.complex64, torch.bool):
        with pytest.raises(TypeError, match=f"a floating-point dtype of the result; got torch.uint8, {dtype}"):
            gather_episode(images, rows, dtype=dtype)
    with pytest.raises(TypeError, match=r"expected int64 rows; got torch\.int32"):
        gather_episode(images, rows.int())
    with pytest.raises(TypeError, match=r"expected int64 turns; got torch\.float32"):
        gather_episode(images, rows, torch.ones(2))
    for shape in ((6, 4, 4), (2, 3, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"expected images \[N, C, H, W\]; got \["):
            gather_episode(torch.zeros(shape, dtype=torch.uint8), rows)


@pytest.mark.parametrize("name", ["rows", "turns"])
def test_indices_that_are_not_on_the_cpu_are_refused(name):
    index = {"rows": torch.tensor([1]), "turns": torch.tensor([1])}
    index[name] = index[name].to("meta")
    with pytest.raises(ValueError, match=f"{name} must be on the CPU, where they are drawn and checked; got meta"):
        gather_episode(made(6, 1, 4, 4), **index)


# ----------------------------------------------------------------------------------------------------------- systems


def test_it_compiles_whole(everywhere):
    images, (rows, turns) = made(9, 1, 6, 6).to(everywhere), indices(9, 2, 5, 4)

    def both(images, rows, turns):
        support, query = gather_support_and_query(images, rows, 1, turns)
        return -support, query * 2, gather_episode(images, rows[0], None, torch.float64)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    every = formula(images, rows, turns)
    support, query, upright = (x.cpu() for x in compiled(images, rows, turns))
    assert torch.equal(support, -every[:, :, :1].flatten(1, 2))
    assert torch.equal(query, every[:, :, 1:].flatten(1, 2) * 2)
    assert torch.equal(upright, formula(images, rows[0], None, torch.float64))
    with pytest.raises(ValueError, match="rows must lie in"):  # checked inside the operation too
        compiled(images, rows + 9, turns)


def test_pytorch_finds_no_fault_with_the_operation(everywhere):
    images, (rows, turns) = made(9, 1, 6, 6).to(everywhere), indices(9, 2, 5)
    for some in (None, turns, turns[:, :1].expand(2, 5)):
        for dtype in (torch.float32, torch.float16):
            torch.library.opcheck(module._gather, (images, rows, some, dtype))


@pytest.mark.parametrize("on", ["cuda", "mps", "xpu"])
def test_the_result_is_where_the_images_are(on):
    """Only shapes and places are computed, so the device need not be there."""
    rows, turns = indices(9, 2, 5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = module._gather(torch.empty(9, 3, 6, 6, dtype=torch.uint8, device=on), rows, turns, torch.bfloat16)
    assert x.device.type == on and x.shape == (2, 5, 3, 6, 6) and x.dtype == torch.bfloat16 and x.is_contiguous()


def test_it_may_stand_in_a_function_that_is_differentiated(everywhere):
    images, (rows, turns) = made(9, 1, 6, 6).to(everywhere), indices(9, 2, 5)

    def loss(weight):
        return (gather_episode(images, rows, turns) * weight).sum()

    weight = torch.tensor(2.0, device=everywhere)
    total = formula(images, rows, turns).sum().to(everywhere)
    torch.testing.assert_close(grad(loss)(weight), total)
    torch.testing.assert_close(vmap(grad(loss))(weight.expand(3)), total.expand(3))
    assert not gather_episode(images, rows, turns).requires_grad


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_is_right_or_says_what_to_do_instead(everywhere):
    images, (rows, turns) = made(9, 1, 6, 6).to(everywhere), indices(9, 3, 2, 5)
    assert torch.equal(vmap(lambda rows: gather_episode(images, rows))(rows).cpu(), formula(images, rows))
    turned = vmap(lambda rows: gather_episode(images, rows, turns[0]))(rows)
    assert torch.equal(turned.cpu(), formula(images, rows, turns[0]))
    if kernels.launches(images):
        mapped = vmap(lambda rows, turns: gather_episode(images, rows, turns))(rows, turns)
        assert torch.equal(mapped.cpu(), formula(images, rows, turns))
    else:
        with pytest.raises(RuntimeError, match=r"torch\.vmap cannot map over turns; rows and turns may have any axes"):
            vmap(lambda rows, turns: gather_episode(images, rows, turns))(rows, turns)


def test_memory_is_that_of_the_bytes_and_the_floats():
    images, (rows, turns) = made(20, 1, 28, 28), indices(20, 4, 50)
    pixels = rows.numel() * 784
    assert peak_bytes(lambda: gather_episode(images, rows)) <= 5.1 * pixels
    assert peak_bytes(lambda: gather_episode(images, rows, turns)) <= 5.1 * pixels


@pytest.mark.parametrize("dtype", DTYPES)
def test_unit_range_rounds_once(dtype):
    pixels = torch.arange(256, dtype=torch.uint8)
    x = unit_range(pixels, dtype)
    scale = np.float64(1 / 255) if dtype == torch.float64 else np.float32(1 / 255)
    exact = torch.from_numpy(pixels.numpy().astype(scale.dtype) * scale)
    assert x.dtype == dtype and torch.equal(x, exact.to(dtype)) and x[0] == 0 and x[-1] == 1
    assert torch.equal(pixels, torch.arange(256, dtype=torch.uint8))


@needs_cuda
def test_indices_are_sent_without_waiting(monkeypatch):
    index = torch.arange(7)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = sent(index, torch.device("cuda"))
        with pytest.raises(RuntimeError, match="synchroniz"):
            index.to("cuda")  # what would wait
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.cpu(), index)


@needs_cuda
@pytest.mark.parametrize("with_kernels", [False, True])
@pytest.mark.parametrize("rotations", [False, True])
def test_an_episode_is_drawn_without_waiting_for_the_device(rotations, with_kernels):
    names = tuple(map(str, range(12)))
    images = ImageSet(made(84, 1, 6, 6).view(12, 7, 1, 6, 6).cuda(), names, names, "made", "all")
    sampler = EpisodeSampler(images, 5, 2, 3, batch_size=4, rotations=rotations)
    with kernels.use(with_kernels and kernels.AVAILABLE):
        first = sampler.sample(0)  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            again = sampler.sample(0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first.support_x, again.support_x) and torch.equal(first.query_x, again.query_x)
