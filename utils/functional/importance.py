"""How much each weight of a layer mattered: gradients of every example, squared and summed, never kept one by one.

Of a layer with inputs ``a_b`` and output gradients ``g_b = dL_b / dz_b``, where ``L_b`` is the loss of example b alone,
and p the positions at which a convolution applies its kernel:

    linear         dL_b/dW_oi = g_bo a_bi                      sum_b (dL_b/dW)^2 = (g^2)^T (a^2)
    convolution    dL_b/dW_ok = sum_p g_bop a_bpk              squared after the sum over p, so no such product
    bias           dL_b/db_o  = sum_p g_bop

Divided by the number of examples this is the diagonal of the Fisher information that EWC keeps (Kirkpatrick et al.
2017): with labels drawn from the model; with those of the data, the "empirical" Fisher. Absolute values instead of
squares, and ``||output||^2`` instead of the loss, are the importance of MAS (Aljundi et al. 2018).

What has to hold for the gradients of a batch to be those of its examples:

- The loss is a **sum** over the examples. Gradients of their mean are B times too small, and the squares B^2 times.
- Examples do not see each other: batch normalisation in evaluation mode.
- The layer is used once. The gradients of several uses add up before they are squared.

A hook that keeps ``a_b`` when the layer is called and meets ``g_b`` in the backward pass has all that is needed: one
pass serves the whole batch. Results are constants, as if detached: without a graph, and with derivatives of zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils import kernels

CHUNK, GPU_CHUNK = 2**18, 2**24
"""Windows of some examples, or gradients, held at a time: on the CPU 1 MB in float32, which stays in its cache."""


def linear_fisher_diagonal(inputs: Tensor, output_gradients: Tensor, absolute: bool = False) -> Tensor:
    """Squared gradients of a linear layer's weight, summed over the examples: ``sum_b (g_b a_b^T)^2 = (g^2)^T (a^2)``.

    Parameters: ``inputs`` ``[B, I]`` of the layer and ``output_gradients`` ``[B, O]`` of a loss that is a sum over the
    examples, of one floating-point dtype; ``absolute`` for ``sum_b |g_b a_b^T|``. Returns ``[O, I]``, the shape of the
    weight, in float32 (float64 for float64), without a graph. Memory O(B (I + O) + I O).

    Raises ``ValueError`` for shapes that do not fit, ``TypeError`` for other dtypes.

    Kirkpatrick et al. 2017; Aljundi et al. 2018.
    """
    if inputs.ndim != 2 or output_gradients.ndim != 2 or len(inputs) != len(output_gradients):
        raise ValueError(
            "expected inputs [B, I] and output_gradients [B, O] of the same examples (a layer that is used at many "
            "positions of an example is a 1 x 1 convolution: conv_fisher_diagonal); "
            f"got {list(inputs.shape)} and {list(output_gradients.shape)}"
        )
    a, g = (x.abs() if absolute else x.square() for x in _wide(inputs, output_gradients))
    return _product(g.mT, a)


def bias_fisher_diagonal(output_gradients: Tensor, absolute: bool = False) -> Tensor:
    """Squared gradients of a linear or convolutional layer's bias, summed over examples: ``sum_b (sum_p g_bp)^2``.

    Parameters: ``output_gradients`` ``[B, O]`` or ``[B, O, H_out, W_out]`` of a loss that is a sum over the examples,
    floating point; ``absolute`` for ``sum_b |sum_p g_bp|``. Returns ``[O]`` in float32 (float64 for float64), without a
    graph.

    Raises ``ValueError`` for other shapes, ``TypeError`` for other dtypes.

    Kirkpatrick et al. 2017; Aljundi et al. 2018.
    """
    if output_gradients.ndim not in (2, 4):
        raise ValueError(f"expected output_gradients [B, O] or [B, O, H, W]; got {list(output_gradients.shape)}")
    (g,) = _wide(output_gradients)
    g = g[..., None].flatten(2).sum(-1)
    return (g.abs() if absolute else g.square()).sum(0)


def conv_fisher_diagonal(
    inputs: Tensor,
    output_gradients: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    absolute: bool = False,
) -> Tensor:
    """Squared gradients of a convolution's weight, summed over the examples: ``sum_b (sum_p g_bop a_bpk)^2``.

    The sum over positions p comes before the square, so ``(g^2)^T (a^2)``, right for a linear layer, is wrong here: it
    leaves out what two positions have in common.

    Parameters
    ----------
    inputs : ``[B, C_in, H, W]``, those of the layer, in any order of memory.
    output_gradients : ``[B, C_out, H_out, W_out]`` of the same dtype, of a loss that is a sum over the examples.
    kernel_size, stride, padding, dilation, groups : the attributes of ``torch.nn.Conv2d``; numbers, or pairs (height,
        width); zeros around the inputs.
    absolute : ``sum_b |sum_p g_bop a_bpk|`` instead.

    Returns
    -------
    ``[C_out, C_in / groups, kernel height, kernel width]``, the shape of the weight, in float32 (float64 for float64),
    without a graph; the same bits every time. Memory: the result, and what a few examples need. A kernel on CUDA, from
    capability 8.0 on and not for float64.

    Raises
    ------
    ValueError : shapes and settings that do not fit each other.
    TypeError : other dtypes; settings that are no whole numbers. For ``padding="same"``, pad the inputs.

    Kirkpatrick et al. 2017; Aljundi et al. 2018.
    """
    if inputs.ndim != 4 or output_gradients.ndim != 4 or len(inputs) != len(output_gradients):
        raise ValueError(
            "expected inputs [B, C_in, H, W] and output_gradients [B, C_out, H_out, W_out] of the same examples; "
            f"got {list(inputs.shape)} and {list(output_gradients.shape)}"
        )
    _check_dtype(inputs, output_gradients)
    kernel = _pair("kernel_size", kernel_size, 1)
    stride, padding, dilation = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    if groups < 1 or inputs.shape[1] % groups or output_gradients.shape[1] % groups:
        raise ValueError(
            f"groups must divide the channels, {inputs.shape[1]} in and {output_gradients.shape[1]} out; got {groups}"
        )
    size = tuple(
        (inputs.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    )
    if size != tuple(output_gradients.shape[2:]) or min(size) < 1:
        raise ValueError(
            f"a {_by(kernel)} kernel with stride {_by(stride)}, padding {_by(padding)} and dilation {_by(dilation)} "
            f"makes {_by([max(0, n) for n in size])} outputs of {_by(inputs.shape[2:])} inputs; "
            f"got gradients of {_by(output_gradients.shape[2:])}"
        )
    # A compiler is shown the operation itself: PyTorch 2.4's cannot look into the function around it.
    function = _conv if torch.compiler.is_compiling() else _Conv.apply
    return function(
        inputs.detach(), output_gradients.detach(), kernel, stride, padding, dilation, groups, bool(absolute)
    )


# --------------------------------------------------------------------------------------------------------- what fits


def _check_dtype(*tensors: Tensor) -> None:
    dtypes = [x.dtype for x in tensors]
    if not all(x.is_floating_point() for x in tensors) or any(dtype != dtypes[0] for dtype in dtypes):
        raise TypeError(f"expected one floating-point dtype; got {' and '.join(map(str, dtypes))}")


def _wide(*tensors: Tensor) -> list[Tensor]:
    """Constants in the dtype of the sums: float16 has no squares of anything below 2e-4."""
    _check_dtype(*tensors)
    return [x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _pair(name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, Sequence) or not all(isinstance(n, int) for n in pair):
        instead = "; pad the inputs instead, by torch.nn.functional.pad" if isinstance(value, str) else ""
        raise TypeError(f"{name} must be a whole number or two, (height, width); got {value!r}{instead}")
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{name} must be at least {least}, one number or two (height, width); got {value!r}")
    return pair[0], pair[1]


def _by(pair: Sequence[int]) -> str:
    return f"{pair[0]} x {pair[1]}"


# -------------------------------------------------------------------------------------------------- the plain formula


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the dtype of its arguments, also where ``torch.autocast`` would round them."""
    if a.device.type not in ("cpu", "cuda"):  # PyTorch 2.4 has no autocast elsewhere, and none to switch off
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def _plain(
    inputs: Tensor,
    output_gradients: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    absolute: bool,
) -> Tensor:
    """``s_bok`` and the sum of its squares, a few examples at a time.

    For each example and group a product of matrices, of output gradients ``[O, P]`` and windows of the padded inputs
    ``[K, P]``; ``O x K`` is a group's weight and P the positions. A convolution with the examples as groups would do
    the same. On a GPU that one rounds to TF32 unasked. On the CPU neither is faster everywhere: the convolution takes
    up to five times as long for many channels of a few pixels (64 of 4 x 4), where networks have most of their
    weights, and down to half as long for few channels or large images.
    """
    wide = torch.promote_types(inputs.dtype, torch.float32)
    (n, channels), out_channels, positions = inputs.shape[:2], output_gradients.shape[1], output_gradients.shape[2:]
    rows, columns, points = out_channels // groups, channels // groups * kernel[0] * kernel[1], positions.numel()
    example = groups * columns * max(rows, points)
    step = min(n, max(1, (CHUNK if inputs.device.type == "cpu" else GPU_CHUNK) // max(1, example)))
    # Both are made once: on the CPU, memory that is new costs more than what is written to it.
    windows = inputs.new_empty(step * groups, columns, points, dtype=wide)
    slopes = inputs.new_empty(step * groups, rows, columns, dtype=wide)
    total = inputs.new_zeros(groups, rows, columns, dtype=wide)
    for first in range(0, n, max(1, step)):
        a, g = (x[first : first + step].to(wide) for x in (inputs, output_gradients))
        a = F.pad(a, (padding[1], padding[1], padding[0], padding[0]))
        b, c, y, x = a.stride()
        size = (len(a), channels, *kernel, *positions)
        moves = (b, c, y * dilation[0], x * dilation[1], y * stride[0], x * stride[1])
        window, slope = windows[: len(a) * groups], slopes[: len(a) * groups]
        window.view(size).copy_(a.as_strided(size, moves))
        # Autocast leaves alone what writes to memory that is given.
        torch.bmm(g.reshape(len(window), rows, points), window.mT, out=slope)
        slope = slope.abs_() if absolute else slope.square_()
        total += slope.view(len(a), *total.shape).sum(0)
    return total.view(out_channels, channels // groups, *kernel)


# -------------------------------------------------------------------------------------------------- opaque to PyTorch


def _launches(inputs: Tensor, output_gradients: Tensor) -> bool:
    """Whether the kernel computes: ``tl.dot`` has no float64, and Triton supports GPUs from capability 8.0 on."""
    if not kernels.launches(inputs, output_gradients) or inputs.dtype == torch.float64:
        return False
    return not inputs.is_cuda or torch.cuda.get_device_capability(inputs.device) >= (8, 0)


# The types are spelt out because PyTorch 2.4 cannot read annotations that are kept as text.
@torch.library.custom_op(
    "course::conv_fisher_diagonal",
    mutates_args=(),
    schema="(Tensor inputs, Tensor output_gradients, SymInt[] kernel, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups, bool absolute) -> Tensor",
)
def _conv(
    inputs: Tensor,
    output_gradients: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    absolute: bool,
) -> Tensor:
    settings = kernel, stride, padding, dilation, groups, absolute
    if not _launches(inputs, output_gradients):
        return _plain(inputs, output_gradients, *settings)
    from utils.kernels import conv_fisher

    return conv_fisher.fisher_diagonal(inputs, output_gradients, *settings)


@_conv.register_fake
def _(inputs, output_gradients, kernel, stride, padding, dilation, groups, absolute) -> Tensor:
    wide = torch.promote_types(inputs.dtype, torch.float32)
    return inputs.new_empty(output_gradients.shape[1], inputs.shape[1] // groups, *kernel, dtype=wide)


class _Conv(torch.autograd.Function):
    """Of constants, so without a derivative; it is there for what ``torch.func.vmap`` is to do."""

    @staticmethod
    def forward(inputs: Tensor, output_gradients: Tensor, *settings) -> Tensor:
        return (_conv if kernels.launches(inputs, output_gradients) else _plain)(inputs, output_gradients, *settings)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Nothing to keep."""

    @staticmethod
    def vmap(info, in_dims, inputs: Tensor, output_gradients: Tensor, *settings):
        """The new axis becomes part of the groups: its entries are as independent of each other as those are."""
        n = info.batch_size
        folded = [
            (x.expand(n, *x.shape).movedim(0, 1) if axis is None else x.movedim(axis, 1)).flatten(1, 2)
            for x, axis in zip((inputs, output_gradients), in_dims[:2], strict=True)
        ]
        *settings, groups, absolute = settings
        return _Conv.apply(*folded, *settings, groups * n, absolute).unflatten(0, (n, -1)), 0
