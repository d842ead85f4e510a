"""Random distortions of images: how Koch et al. (2015) made a small background set larger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NODES = 5
"""The elastic field is given at 5 x 5 nodes, the outer ones on the edges of the image."""


class Components(NamedTuple):
    """What is done to each of ``n`` images; float64 on the CPU. A component that is left out has its neutral value."""

    rotation: Tensor  # [n], degrees, counter-clockwise
    shear: Tensor  # [n, 2]: x + shear[0] y and y + shear[1] x
    scale: Tensor  # [n, 2]: of width and height, 1 = as it is
    shift: Tensor  # [n, 2]: to the right and down, fractions of width and height
    field: Tensor | None  # [n, 2, NODES, NODES]: the same units; None: no elastic field


def affine_matrices(
    rotation: Tensor, shear: Tensor, scale: Tensor, shift: Tensor, size: tuple[int, int] = (1, 1)
) -> Tensor:
    """Where each point of an image goes: ``p -> R S D p + t``, first scaled, then sheared, rotated and shifted.

    D = [s_x 0; 0 s_y],  S = [1 r_x; r_y 1],  R = [cos a  sin a; -sin a  cos a],  t = 2 (t_x, t_y)

    Points are (x, y) with x to the right, y *down* and both -1 .. 1 from edge to edge, so that a positive angle turns
    counter-clockwise, as ``torch.rot90(image, 1, (-2, -1))`` does. det = s_x s_y (1 - r_x r_y).

    Parameters: ``rotation`` ``[n]`` in degrees; ``shear``, ``scale``, ``shift`` ``[n, 2]``, x first, shifts as
    fractions of the side; ``size`` (height, width): turning and shearing take place in pixels, which matters where
    the two differ. Returns ``[n, 2, 3]`` of the same dtype.

    Raises ``ValueError`` for shapes that do not fit.
    """
    n = len(rotation)
    if rotation.shape != (n,) or any(x.shape != (n, 2) for x in (shear, scale, shift)):
        given = [list(x.shape) for x in (rotation, shear, scale, shift)]
        raise ValueError(f"expected rotation [n] and shear, scale, shift [n, 2]; got {given}")
    angle = torch.deg2rad(rotation)
    cosine, sine, one = angle.cos(), angle.sin(), torch.ones_like(angle)
    turn = torch.stack([cosine, sine, -sine, cosine], -1).unflatten(-1, (2, 2))
    slant = torch.stack([one, shear[:, 0], shear[:, 1], one], -1).unflatten(-1, (2, 2))
    linear = turn @ slant * scale[:, None, :]
    height, width = size
    pixels = torch.tensor([[1, height / width], [width / height, 1]], dtype=linear.dtype, device=linear.device)
    return torch.cat([linear * pixels, 2 * shift[..., None]], -1)


def warp(images: Tensor, matrices: Tensor, field: Tensor | None = None) -> Tensor:
    """Move the content of images: what was at ``p`` is at ``A p + t`` afterwards, 0 comes in from outside.

    Parameters: ``images`` float ``[n, C, H, W]``; ``matrices`` ``[n, 2, 3]`` as of :func:`affine_matrices`; ``field``
    ``[n, 2, NODES, NODES]``, how far from there each place takes its content, (x, y) as fractions of the side, made
    smooth by cubic interpolation. Between pixels values are interpolated linearly. Gradients reach ``images``.

    Raises ``TypeError`` for integer images, ``ValueError`` for shapes that do not fit and for a singular matrix.
    """
    if not images.is_floating_point():
        raise TypeError(f"images must be floats in [0, 1]; got {images.dtype}: use utils.data.images.as_float first")
    if images.ndim != 4 or matrices.shape != (len(images), 2, 3):
        raise ValueError(
            f"expected images [n, C, H, W] and matrices [n, 2, 3]; got {list(images.shape)}, {list(matrices.shape)}"
        )
    if not images.numel():
        return images.clone()
    # Each pixel of the result has to be told where its content comes from: the inverse map.
    try:
        inverse = torch.linalg.inv(matrices[:, :, :2])
    except RuntimeError as error:
        raise ValueError("a matrix squeezes its image to a line: it has no inverse") from error
    back = torch.cat([inverse, -inverse @ matrices[:, :, 2:]], -1)
    # Half precision holds no position to a tenth of a pixel.
    dtype = torch.promote_types(images.dtype, torch.float32)
    grid = F.affine_grid(back.to(images.device, dtype), list(images.shape), align_corners=False)
    if field is not None:
        grid = grid + 2 * _smooth(field.to(images.device, dtype), images.shape[-2:])
    warped = F.grid_sample(images.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped.to(images.dtype)


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """``images`` ``[N, C, H, W]``, each moved by -``most`` .. ``most`` whole pixels both ways; 0 comes in at the edges.

    The generator is on the CPU. This is how Hinton et al. (2015, section 3) "jittered" the digits of a teacher.
    """
    n, _, height, width = images.shape
    down, right = torch.randint(2 * most + 1, (2, n), generator=generator)
    return _from_frame(images, most, down[:, None] + torch.arange(height), right[:, None] + torch.arange(width))


def shifted_and_mirrored(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """``images`` ``[N, C, H, W]``, each moved by -``most`` .. ``most`` whole pixels both ways, half of them mirrored.

    What comes in at the edges is 0. This is how CIFAR is usually augmented (He et al. 2016, section 4.2).
    """
    n, _, height, width = images.shape
    down, right = torch.randint(2 * most + 1, (2, n), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns = right[:, None] + torch.where(mirrored[:, None], torch.arange(width - 1, -1, -1), torch.arange(width))
    return _from_frame(images, most, down[:, None] + torch.arange(height), columns)


def _from_frame(images: Tensor, wide: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Of each image in a frame of zeros, ``wide`` pixels wide, the pixels at its ``rows`` and ``columns``."""
    rows, columns = rows.to(images.device), columns.to(images.device)
    every = torch.arange(len(images), device=images.device)[:, None, None]
    moved = F.pad(images, (wide,) * 4).movedim(1, -1)[every, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1)


def _smooth(field: Tensor, size: torch.Size) -> Tensor:
    """``[n, 2, NODES, NODES]`` to ``[n, H, W, 2]``: one product an axis, four times as fast as ``F.interpolate``."""
    rows, columns = (_cubic(side, field) for side in size)
    return torch.einsum("hi,ncij,wj->nhwc", rows, field, columns)


def _cubic(side: int, like: Tensor) -> Tensor:
    """Weight of each node at each of ``side`` places, ``[side, NODES]``: how a 1 at that node alone is interpolated."""
    ones = torch.eye(NODES, dtype=like.dtype, device=like.device)[None, :, :, None]
    return F.interpolate(ones, (side, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T


@dataclass(frozen=True)
class AffineDistortion:
    """A small random affine distortion of each image (Koch et al. 2015, section 3.2, "Affine distortions").

    Every component is uniform, and is included with ``probability``, each by itself: ``rotation`` +- degrees,
    ``shear`` +- in x and in y, ``scale`` 1 +- in x and in y, ``shift`` +- fraction of the side, in x and in y (the
    paper's 2 pixels are of 105). The paper gives no unit for the shear; here it is the tangent of the slant.

    ``elastic``, not in the paper, also bends the image: each of 5 x 5 nodes is moved +- that fraction of the side in
    x and in y, smoothly in between. From 1/8 on, neighbouring nodes can change places and the image can fold.

    Raises ``ValueError`` for amplitudes that can mirror an image or squeeze it to a line, and for negative ones.
    """

    rotation: float = 10.0
    shear: float = 0.3
    scale: float = 0.2
    shift: float = 2 / 105
    probability: float = 0.5
    elastic: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotation", "shift", "elastic"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite; got {getattr(self, name)}")
        for name in ("shear", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1; got {getattr(self, name)}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie between 0 and 1; got {self.probability}")

    def draw(self, n: int, generator: torch.Generator) -> Components:
        """Components for ``n`` images. The amplitudes scale what is drawn: another one changes nothing else."""
        if generator.device.type != "cpu":
            raise ValueError(
                f"the generator must be on the CPU, so that a seed means the same on every device; "
                f"got one on {generator.device}: use torch.Generator().manual_seed(...)"
            )
        included = torch.rand(n, 8, generator=generator, dtype=torch.float64) < self.probability
        uniform = 2 * torch.rand(n, 7, generator=generator, dtype=torch.float64) - 1
        amount = uniform * included[:, :7]
        field = None
        if self.elastic:
            field = 2 * torch.rand(n, 2, NODES, NODES, generator=generator, dtype=torch.float64) - 1
            field = self.elastic * field * included[:, 7, None, None, None]
        return Components(
            rotation=self.rotation * amount[:, 0],
            shear=self.shear * amount[:, 1:3],
            scale=1 + self.scale * amount[:, 3:5],
            shift=self.shift * amount[:, 5:7],
            field=field,
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Distort each image in a way of its own, all its channels alike.

        Parameters: ``images`` float ``[..., C, H, W]`` in [0, 1], any leading axes; ``generator`` on the CPU, whose
        seed gives the same distortions on every device. Returns the same shape, dtype and device; 0 comes in from
        outside.

        Raises ``TypeError`` for integer images, ``ValueError`` for fewer than three axes and for a generator that is
        not on the CPU.
        """
        if not images.is_floating_point():
            raise TypeError(
                f"images must be floats in [0, 1]; got {images.dtype}: use utils.data.images.as_float first"
            )
        if images.ndim < 3:
            raise ValueError(f"expected images [..., C, H, W]; got {list(images.shape)}")
        flat = images.reshape(-1, *images.shape[-3:]) if images.numel() else images.new_empty(0, 1, 1, 1)
        drawn = self.draw(len(flat), generator)
        matrices = affine_matrices(
            drawn.rotation, drawn.shear, drawn.scale, drawn.shift, size=(flat.shape[-2], flat.shape[-1])
        )
        return warp(flat, matrices, drawn.field).reshape(images.shape)
