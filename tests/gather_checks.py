"""What the tests of the gather share, with the kernel and without: images, indices, the formula, orders of memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def made(n: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def indices(n_images: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Rows and turns, each of this shape."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(n_images, shape, generator=generator), torch.randint(4, shape, generator=generator)


def formula(
    images: Tensor, rows: Tensor, turns: Tensor | None = None, dtype: torch.dtype = torch.float32, cut: bool = False
) -> Tensor:
    """One image after the other, in NumPy; products of float32 (float64 for float64) rounded once, then to ``dtype``.

    With ``cut``, bfloat16 is what Triton's interpreter makes of it: it cuts off where a GPU rounds to the nearest.
    """
    wide = np.float64 if dtype == torch.float64 else np.float32
    pixels, chosen = images.cpu().numpy(), rows.flatten().tolist()
    turned = [0] * len(chosen) if turns is None else turns.expand(rows.shape).flatten().tolist()
    out = np.empty((len(chosen), *pixels.shape[1:]), dtype=wide)
    for i, (row, turn) in enumerate(zip(chosen, turned, strict=True)):
        out[i] = np.rot90(pixels[row], turn, (-2, -1)).astype(wide) * wide(1 / 255)
    if dtype == torch.bfloat16 and cut:
        out = (out.view(np.int32) & -(2**16)).view(np.float32)
    return torch.from_numpy(out).view(*rows.shape, *images.shape[1:]).to(dtype)


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same images in other orders of memory, with other bytes between them; at last one image for all."""
    n, c, h, w = x.shape
    wide = torch.full((n, c + 2, h + 3, w + 5), 7, dtype=torch.uint8, device=x.device)
    wide[:, 1 : c + 1, 2 : h + 2, 3 : w + 3] = x
    gaps = {k: torch.cat([x.flatten(1), torch.full_like(x.flatten(1)[:, :k], 7)], 1) for k in (2, 4)}
    return {
        "transposed": x.mT.contiguous().mT,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "images last": x.movedim(0, -1).contiguous().movedim(-1, 0),
        "every second image": torch.stack([x, torch.full_like(x, 7)], 1).flatten(0, 1)[::2],
        "every second row": torch.stack([x, torch.full_like(x, 7)], 3).flatten(2, 3)[:, :, ::2],
        "a part of larger images": wide[:, 1 : c + 1, 2 : h + 2, 3 : w + 3],
        **{f"gaps of {k} bytes": gap[:, : c * h * w].view(n, c, h, w) for k, gap in gaps.items()},
        **{f"behind {k} bytes": torch.cat([x.flatten()[:k], x.flatten()])[k:].view(x.shape) for k in (1, 2, 3, 4)},
        "one image for all": x[:1].expand(n, -1, -1, -1),
    }


LAYOUTS = tuple(layouts(made(2, 1, 2, 2)))
