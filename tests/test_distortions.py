"""Affine distortions: what each component does to an image, how often it is there, and that a seed repeats them."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.data import load
from utils.data.distortions import NODES, AffineDistortion, affine_matrices, shifted, shifted_and_mirrored, warp
from utils.data.images import as_float

FIELDS = ("rotation", "shear", "scale", "shift")


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rotation=0.0, shear=(0.0, 0.0), scale=(1.0, 1.0), shift=(0.0, 0.0), size=(1, 1), n: int = 1) -> Tensor:
    """The same for ``n`` images."""
    numbers = (torch.tensor(x, dtype=torch.float64).expand(n, *np.shape(x)) for x in (rotation, shear, scale, shift))
    return affine_matrices(*numbers, size=size)


def naive_warp(image: Tensor, forward: Tensor) -> Tensor:
    """Pixel by pixel: where does it come from, and what do the four pixels around that place say?"""
    height, width = image.shape
    a, t = forward[:, :2].numpy(), forward[:, 2].numpy()
    result = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            here = np.array([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1])  # x, y in -1 .. 1
            x, y = np.linalg.solve(a, here - t)
            column, row = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
            for r in (math.floor(row), math.floor(row) + 1):
                for c in (math.floor(column), math.floor(column) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        result[i, j] += image[r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return result


# -------------------------------------------------------------------------------------------- what a component does


@pytest.mark.parametrize("size", [(9, 9), (8, 13)])
def test_warping_is_that_of_a_loop(size):
    x = images(3, 1, *size)
    drawn = AffineDistortion(30, 0.3, 0.3, 0.2, probability=1).draw(3, generator())
    matrices = affine_matrices(*drawn[:4], size=size)
    result = warp(x, matrices)
    for i in range(3):
        torch.testing.assert_close(result[i, 0], naive_warp(x[i, 0], matrices[i]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
@pytest.mark.parametrize("side", [6, 7])
def test_a_positive_quarter_turn_is_that_of_rot90(turns, side):
    x = images(2, 3, side, side)
    torch.testing.assert_close(warp(x, matrix(90.0 * turns, n=2)), torch.rot90(x, turns, (-2, -1)))


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, 3), (-1, 2), (-4, -4)])
def test_shifts_by_whole_pixels_move_pixels(right, down):
    x = images(1, 1, 8, 10)
    result = warp(x, matrix(shift=(right / 10, down / 8)))
    padded = torch.nn.functional.pad(x, (10, 10, 8, 8))
    torch.testing.assert_close(result, padded[..., 8 - down : 16 - down, 10 - right : 20 - right])


def test_scales_and_shears_go_the_way_they_say():
    """A ring of ink around the middle: twice as wide, half as high; a shear in x moves the lower half to the right."""
    x = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    x[..., 6:15, 6:15] = 1

    def spread(image: Tensor) -> tuple[float, float]:
        ink, place = image[0, 0], torch.arange(21.0, dtype=torch.float64) - 10
        return tuple(float((ink.sum(axis) * place**2).sum() / ink.sum()) ** 0.5 for axis in (0, 1))  # x, y

    wide, high = spread(x)
    wider, lower = spread(warp(x, matrix(scale=(2, 0.5))))
    assert wider / wide == pytest.approx(2, rel=0.05) and lower / high == pytest.approx(0.5, rel=0.15)
    columns = torch.arange(21.0, dtype=torch.float64)
    for shear, axis in (((0.5, 0.0), 0), ((0.0, 0.5), 1)):
        slanted = warp(x, matrix(shear=shear))[0, 0]
        slanted = slanted.T if axis else slanted
        middle = (slanted * columns).sum(1)[6:15] / slanted.sum(1)[6:15]
        torch.testing.assert_close(middle, 10 + 0.5 * torch.arange(-4.0, 5, dtype=torch.float64))


def test_a_matrix_is_the_product_of_its_parts():
    """First scaled, then sheared, then turned, then shifted; the determinant is that of the scales and shears."""
    angle, shear, scale, shift = 25.0, (0.2, -0.1), (1.3, 0.8), (0.1, -0.05)
    whole = matrix(angle, shear, scale, shift)[0]
    parts = [matrix(angle), matrix(shear=shear), matrix(scale=scale)]
    product = parts[0][0, :, :2] @ parts[1][0, :, :2] @ parts[2][0, :, :2]
    torch.testing.assert_close(whole[:, :2], product)
    torch.testing.assert_close(whole[:, 2], torch.tensor([0.2, -0.1], dtype=torch.float64))
    assert float(torch.linalg.det(whole[:, :2])) == pytest.approx(1.3 * 0.8 * (1 + 0.02))
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turned = parts[0][0, :, :2] @ torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert turned.tolist() == pytest.approx([cosine, -sine])  # counter-clockwise: what was right goes up


def test_an_oblong_image_turns_in_pixels():
    """Otherwise a turn would also stretch."""
    x = torch.zeros(1, 1, 12, 24, dtype=torch.float64)
    x[..., 4:8, 10:14] = 1  # a square in the middle
    torch.testing.assert_close(warp(x, matrix(90.0, size=(12, 24))), x)
    assert not torch.allclose(warp(x, matrix(90.0)), x, atol=0.1)


def test_without_amplitudes_or_by_probability_zero_nothing_changes():
    for distortion in (
        AffineDistortion(0, 0, 0, 0),
        AffineDistortion(probability=0, elastic=0.1),
        AffineDistortion(0, 0, 0, 0, probability=1),
    ):
        x = images(5, 2, 28, 28)
        torch.testing.assert_close(distortion(x, generator()), x, rtol=0, atol=1e-12)
        torch.testing.assert_close(distortion(x.float(), generator()), x.float(), rtol=0, atol=1e-5)


def test_a_distortion_applies_what_it_draws():
    x = images(6, 1, 14, 14)
    distortion = AffineDistortion(elastic=0.05)
    drawn = distortion.draw(6, generator(3))
    expected = warp(x, affine_matrices(*drawn[:4]), drawn.field)
    assert torch.equal(distortion(x, generator(3)), expected)


# ------------------------------------------------------------------------------------------------------ what is drawn


def test_components_are_uniform_symmetric_and_there_half_of_the_time():
    """Koch et al. (2015), section 3.2: seven components, each included with probability 0.5."""
    n = 20_000
    drawn = AffineDistortion().draw(n, generator())
    columns = [drawn.rotation, *drawn.shear.T, *(drawn.scale - 1).T, *drawn.shift.T]
    amplitudes = [10, 0.3, 0.3, 0.2, 0.2, 2 / 105, 2 / 105]
    there = torch.stack([column != 0 for column in columns])
    for column, amplitude, included in zip(columns, amplitudes, there, strict=True):
        assert float(included.double().mean()) == pytest.approx(0.5, abs=0.015)
        values = column[included] / amplitude
        assert float(values.abs().max()) <= 1 and float(values.abs().max()) > 0.999
        assert float(values.mean()) == pytest.approx(0, abs=0.025)
        assert float(values.abs().mean()) == pytest.approx(0.5, abs=0.015)
        assert float((values**2).mean()) == pytest.approx(1 / 3, abs=0.015)
    both = there.double() @ there.double().T / n  # each by itself
    assert float((both - 0.25).fill_diagonal_(0).abs().max()) < 0.02
    values = torch.corrcoef(torch.stack(columns)).fill_diagonal_(0)
    assert float(values.abs().max()) < 0.03


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_the_probability_is_that_of_each_component(probability):
    drawn = AffineDistortion(probability=probability, elastic=0.1).draw(4000, generator())
    shares = [(drawn.rotation != 0), (drawn.shear[:, 1] != 0), (drawn.field != 0).flatten(1).any(1)]
    assert [float(share.double().mean()) for share in shares] == pytest.approx([probability] * 3, abs=0.03)


def test_the_same_seed_gives_the_same_distortions():
    x, distortion = images(4, 1, 16, 16), AffineDistortion(elastic=0.05)
    assert torch.equal(distortion(x, generator(7)), distortion(x, generator(7)))
    assert not torch.allclose(distortion(x, generator(7)), distortion(x, generator(8)), atol=0.1)
    state = torch.get_rng_state()
    one = generator()
    first, second = distortion(x, one), distortion(x, one)
    assert not torch.allclose(first, second, atol=0.1)
    assert torch.equal(torch.get_rng_state(), state), "global random numbers were used"


def test_another_amplitude_changes_nothing_else():
    wide, narrow = AffineDistortion(rotation=40, shear=0.1), AffineDistortion()
    a, b = wide.draw(9, generator()), narrow.draw(9, generator())
    torch.testing.assert_close(a.rotation, 4 * b.rotation)
    torch.testing.assert_close(a.shear, b.shear / 3)
    assert torch.equal(a.scale, b.scale) and torch.equal(a.shift, b.shift)
    bent = AffineDistortion(elastic=0.1).draw(9, generator())
    assert all(torch.equal(x, y) for x, y in zip(bent[:4], b[:4], strict=True)) and b.field is None


# ------------------------------------------------------------------------------------------------------ elastic field


def test_an_even_field_is_a_shift():
    x = images(1, 1, 20, 20)
    field = torch.zeros(1, 2, NODES, NODES, dtype=torch.float64)
    field[:, 0], field[:, 1] = 3 / 20, -2 / 20  # taken from 3 pixels to the right and 2 above
    torch.testing.assert_close(warp(x, matrix(), field), warp(x, matrix(shift=(-3 / 20, 2 / 20))))


def test_a_node_moves_its_surroundings_by_what_it_says():
    """A ramp shows where each pixel was taken from: exactly there at a node, smoothly in between."""
    side = 41  # nodes on pixels: every tenth
    ramp = torch.linspace(0, 1, side, dtype=torch.float64).expand(1, 1, side, side).contiguous()
    field = torch.zeros(1, 2, NODES, NODES, dtype=torch.float64)
    field[0, 0, 2, 2] = 0.05
    moved = (warp(ramp, matrix(), field) - ramp)[0, 0] * (side - 1) / side  # in fractions of the side
    assert float(moved[20, 20]) == pytest.approx(0.05)
    assert float(moved[20].diff().abs().max()) < 0.01 and int(moved.argmax()) == 20 * side + 20
    nodes = moved[::10, ::10].clone()
    nodes[2, 2] = 0
    assert float(nodes.abs().max()) < 1e-12


def test_elastic_nodes_stay_within_the_amplitude():
    field = AffineDistortion(elastic=0.03, probability=1).draw(500, generator()).field
    assert field.shape == (500, 2, NODES, NODES)
    assert 0.0299 < float(field.abs().max()) <= 0.03 and abs(float(field.mean())) < 1e-3


# ------------------------------------------------------------------------------------------------- shapes and devices


@pytest.mark.parametrize("lead", [(), (1,), (6,), (2, 3), (2, 1, 3)])
def test_leading_axes_do_not_matter(lead):
    x = images(*lead, 3, 12, 10)
    distortion = AffineDistortion(elastic=0.05)
    result = distortion(x, generator())
    assert result.shape == x.shape
    assert torch.equal(result.flatten(), distortion(x.reshape(-1, 3, 12, 10), generator()).flatten())


def test_no_images_stay_none():
    assert AffineDistortion()(images(0, 1, 5, 5), generator()).shape == (0, 1, 5, 5)


def test_each_image_is_distorted_in_its_own_way_and_its_channels_alike():
    x = images(1, 1, 20, 20).expand(8, 3, 20, 20)
    result = AffineDistortion(probability=1)(x, generator())
    assert torch.equal(result[:, 0], result[:, 1]) and torch.equal(result[:, 0], result[:, 2])
    assert all(not torch.allclose(result[i], result[j], atol=0.1) for i in range(8) for j in range(i))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str
)
def test_the_dtype_stays(dtype, tolerance):
    x = images(4, 1, 28, 28)
    result = AffineDistortion()(x.to(dtype), generator())
    assert result.dtype == dtype
    expected = AffineDistortion()(x.to(dtype).double(), generator())
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=tolerance)


def test_values_stay_between_0_and_1_and_the_input_as_it_is():
    x = as_float(load("glyphs", "val").images[:3].flatten(0, 1))
    before = x.clone()
    result = AffineDistortion(elastic=0.04)(x, generator())
    assert torch.equal(x, before) and float(result.min()) >= 0 and float(result.max()) <= 1 + 1e-6
    kept = result.flatten(1).sum(1) / x.flatten(1).sum(1)  # ink is neither lost nor made, but for the scale
    assert float(kept.min()) > 0.5 and float(kept.max()) < 1.6 and abs(float(kept.mean()) - 1) < 0.1
    assert float((result - x).abs().mean()) > 0.01


def test_gradients_flow_to_the_images():
    x = images(2, 1, 6, 6).requires_grad_()
    distortion = AffineDistortion(elastic=0.03)
    assert torch.autograd.gradcheck(lambda x: distortion(x, generator(1)), (x,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_distorts_alike():
    x, distortion = images(5, 1, 28, 28), AffineDistortion(elastic=0.05)
    there = distortion(x.cuda(), generator())
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), distortion(x, generator()))
    with pytest.raises(ValueError, match="the generator must be on the CPU"):
        distortion(x, torch.Generator("cuda"))


# --------------------------------------------------------------------------------------------------- what is refused


def test_integer_images_are_refused_with_the_remedy():
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    for call in (lambda: AffineDistortion()(x, generator()), lambda: warp(x, matrix(n=2))):
        with pytest.raises(TypeError, match=r"got torch\.uint8: use utils\.data\.images\.as_float first"):
            call()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"rotation": -1}, "rotation must be at least 0 and finite; got -1"),
        ({"shift": math.nan}, "shift must be at least 0"),
        ({"elastic": -0.1}, "elastic must be at least 0"),
        ({"rotation": math.inf}, "rotation must be at least 0 and finite"),
        ({"scale": 1.0}, r"scale must be at least 0 and less than 1; got 1\.0"),
        ({"shear": -0.3}, "shear must be at least 0 and less than 1"),
        ({"probability": 1.1}, r"probability must lie between 0 and 1; got 1\.1"),
        ({"probability": math.nan}, "probability must lie"),
    ],
)
def test_amplitudes_that_make_no_sense_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        AffineDistortion(**wrong)


def test_shapes_that_do_not_fit_are_shown():
    with pytest.raises(ValueError, match=r"expected images \[\.\.\., C, H, W\]; got \[8, 8\]"):
        AffineDistortion()(images(8, 8), generator())
    with pytest.raises(
        ValueError, match=r"expected images \[n, C, H, W\] and matrices \[n, 2, 3\]; got \[2, 1, 8, 8\]"
    ):
        warp(images(2, 1, 8, 8), matrix(n=3))
    with pytest.raises(ValueError, match=r"expected rotation \[n\] and shear, scale, shift \[n, 2\]; got"):
        affine_matrices(torch.zeros(2), torch.zeros(2), torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="a matrix squeezes its image to a line"):
        warp(images(1, 1, 8, 8), matrix(scale=(0.0, 1.0)))


def test_a_distortion_is_frozen():
    with pytest.raises(FrozenInstanceError):
        AffineDistortion().rotation = 5


# ------------------------------------------------------------------------------------------- shifts by whole pixels


def test_shifted_images_are_cut_from_a_frame_of_zeros():
    """All 25 shifts by up to two pixels, about equally often; in the middle nothing is lost."""
    x = images(1, 2, 4, 6) + 0.1
    framed = F.pad(x, (2, 2, 2, 2))
    wanted = [framed[0, :, i : i + 4, j : j + 6] for i in range(5) for j in range(5)]
    found = shifted(x.expand(5000, -1, -1, -1), 2, generator(1))
    assert found.shape == (5000, 2, 4, 6) and found.dtype == x.dtype
    often = [int((found == one).all(dim=(1, 2, 3)).sum()) for one in wanted]
    assert sum(often) == 5000 and min(often) > 140 and max(often) < 260
    assert torch.equal(shifted(x, 0, generator(1)), x)
    assert torch.equal(found, shifted(x.expand(5000, -1, -1, -1), 2, generator(1)))


def test_shifted_and_mirrored_images_are_cut_from_a_frame_of_zeros():
    """Every result is one of the 2 (2 most + 1)^2 that there are, and all of them occur alike."""
    x = images(1, 2, 4, 5)
    framed = F.pad(x, (1, 1, 1, 1))
    cut = [framed[..., i : i + 4, j : j + 5] for i in range(3) for j in range(3)]
    every = torch.cat([*cut, *(one.flip(-1) for one in cut)]).flatten(1)
    found = shifted_and_mirrored(x.expand(3600, -1, -1, -1), 1, generator(1))
    assert found.shape == (3600, 2, 4, 5) and found.dtype == x.dtype
    distance, which = torch.cdist(found.flatten(1), every).min(1)
    assert float(distance.max()) < 1e-6
    counts = which.bincount(minlength=18)
    assert int(counts.min()) > 140 and int(counts.max()) < 265
    assert torch.equal(found, shifted_and_mirrored(x.expand(3600, -1, -1, -1), 1, generator(1)))
