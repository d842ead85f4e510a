"""How much every parameter of a network mattered on some images, and the pull towards where it was.

Methods that protect weights differ in what they call important; all need the gradient of *every example* by every
parameter, squared or as an absolute value, and summed. Hooks keep what a layer was given, autograd says what arrives at
its output, and the two make the sum for the whole batch (:mod:`utils.functional.importance`): one backward pass, and
no gradient of a single example is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from utils.data.streams import Task
from utils.functional import bias_fisher_diagonal, conv_fisher_diagonal, linear_fisher_diagonal

Params = dict[str, Tensor]
"""A tensor for every parameter that is trained, by its name."""

CHUNK = 200
"""Images whose activations are held at a time."""


def trained(network: nn.Module) -> Params:
    """The parameters that are trained, themselves."""
    return {name: value for name, value in network.named_parameters() if value.requires_grad}


def copied(network: nn.Module) -> Params:
    """The parameters that are trained, as they are now."""
    return {name: value.detach().clone() for name, value in trained(network).items()}


def zeros(network: nn.Module) -> Params:
    """Importance of nothing."""
    return {name: torch.zeros_like(value) for name, value in trained(network).items()}


def task_batches(
    task: Task, images: int | None = None, generator: torch.Generator | None = None, chunk: int = CHUNK
) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images of a task as the network sees them, and labels: all, or so many drawn without replacement."""
    rows = torch.arange(len(task.train_x))
    if images is not None:
        rows = torch.randperm(len(rows), generator=generator)[:images]
    for some in rows.to(task.train_x.device).split(chunk):
        yield task.seen(task.train_x[some]), task.train_y[some]


@torch.enable_grad()
def parameter_importance(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    losses: Callable[..., Iterable[Tensor]],
    absolute: bool = False,
) -> Params:
    """Mean over the examples of ``sum_k (dL_bk / dtheta_i)^2`` for every parameter that is trained.

    The gradients of all examples at once need a network in which no example influences another, and layers whose part
    is known: ``Linear``, ``Conv2d``, ``BatchNorm1d`` to ``3d`` (with running statistics), ``GroupNorm``, ``LayerNorm``.
    What has no parameters may be anything.

    Parameters
    ----------
    network : in evaluation mode. Layers are called as modules; the use of a layer's weight without calling the layer is
        not seen (and where the layer is never called, refused).
    batches : tuples ``(x, ...)``, ``x`` with the examples in front. What follows ``x`` is handed on to ``losses``.
    losses : of the network's output and the rest of the batch, scalars L_k = sum_b L_bk: **sums** over the examples.
        One backward pass for each.
    absolute : ``|dL_bk / dtheta_i|`` instead of the square.

    Returns
    -------
    In the shapes of the parameters, float32 (float64 for float64), without a graph. Memory: the result, one more layer
    of it, and the activations of a batch with their gradients.

    Raises
    ------
    ValueError : a module in training mode; a parameter in a layer that is not known or shared by two; a layer that is
        used twice, or not at all; a loss that is no scalar; no images.
    """
    layers = _layers(network)
    sums = {
        name: torch.zeros_like(getattr(layer, kind), dtype=_wide(getattr(layer, kind)))
        for layer, names in layers.items()
        for kind, name in names.items()
    }
    n = 0
    for x, *rest in batches:
        _add(sums, network, layers, x, rest, losses, absolute)
        n += len(x)
    if not n:
        raise ValueError("importance is a mean over images; got none")
    return {name: value / n for name, value in sums.items()}


class _Parabolas(torch.autograd.Function):
    """``sum_i importance_i (theta_i - anchor_i)^2``, of which one tensor a parameter is kept, and no step repeated."""

    @staticmethod
    def forward(ctx, importance: list[Tensor], anchor: list[Tensor], *params: Tensor) -> Tensor:
        moved = [value - there for value, there in zip(params, anchor, strict=True)]
        ctx.pull = [weight * away for weight, away in zip(importance, moved, strict=True)]
        return torch.stack([(pull * away).sum() for pull, away in zip(ctx.pull, moved, strict=True)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        twice = 2 * slope
        return (None, None, *(pull * twice for pull in ctx.pull))


def quadratic_penalty(params: Params, importance: Params, anchor: Params, strength: float) -> Tensor:
    """``(strength / 2) sum_i importance_i (theta_i - anchor_i)^2``, a scalar that can be differentiated once.

    Raises ``ValueError`` where the three do not belong to the same architecture.
    """
    check_architecture(params, importance=importance, anchor=anchor)
    weights, there = ([of[name] for name in params] for of in (importance, anchor))
    return strength / 2 * _Parabolas.apply(weights, there, *params.values())


def check_architecture(params: Params, **others: Params) -> None:
    """Raise ``ValueError`` unless all of ``others`` have the names and the shapes of ``params``."""
    for what, other in others.items():
        if params.keys() != other.keys():
            raise ValueError(
                f"{what} is of another architecture: without {sorted(params.keys() - other.keys())}, and with "
                f"{sorted(other.keys() - params.keys())}, which the network does not train"
            )
        for name, value in params.items():
            if value.shape != other[name].shape:
                raise ValueError(
                    f"{what} is of another architecture: {name} is {list(other[name].shape)}, in the network "
                    f"{list(value.shape)}"
                )


def check_strength(strength: float) -> None:
    if not 0 <= strength < float("inf"):
        raise ValueError(f"the strength of a penalty is a finite number of at least 0; got {strength}")


def check_images(images: int | None) -> None:
    if images is not None and images < 1:
        raise ValueError(f"importance is measured on at least one image, or on all (None); got {images}")


# ------------------------------------------------------------------------------------------------------------- layers

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)
KNOWN = (nn.Linear, nn.Conv2d, *NORMS)


def _layers(network: nn.Module) -> dict[nn.Module, dict[str, str]]:
    """Layers with parameters that are trained: for each, what they are called in it and in the network."""
    layers: dict[nn.Module, dict[str, str]] = {}
    owners: dict[Tensor, str] = {}
    for prefix, layer in network.named_modules():
        if layer.training:
            raise ValueError(
                f"{prefix or 'the network'} is in training mode, in which examples influence each other: "
                "network.eval() first"
            )
        names = {
            kind: f"{prefix}.{kind}" if prefix else kind
            for kind, value in layer.named_parameters(recurse=False)
            if value.requires_grad
        }
        if not names:
            continue
        if not isinstance(layer, KNOWN) or not names.keys() <= {"weight", "bias"}:
            raise ValueError(
                f"the importance of {', '.join(names.values())} is not known: parameters must be weights and biases of "
                f"Linear, Conv2d, BatchNorm, GroupNorm or LayerNorm; this is a {type(layer).__name__}"
            )
        _check_settings(prefix, layer)
        for kind, name in names.items():
            if (owner := owners.setdefault(getattr(layer, kind), name)) != name:
                raise ValueError(f"{owner} and {name} are one parameter: its gradients add up before they are squared")
        layers[layer] = names
    if not layers:
        raise ValueError("the network has no parameters that are trained")
    return layers


def _check_settings(prefix: str, layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.padding == "same"):
        raise ValueError(
            f"{prefix} pads by {layer.padding!r} with {layer.padding_mode}; expected zeros, and numbers: how many"
        )
    if isinstance(layer, BATCH_NORMS) and layer.running_mean is None:
        raise ValueError(f"{prefix} has no running statistics: its examples influence each other in any mode")


def _recorded(network: nn.Module, layers: Iterable[nn.Module], x: Tensor) -> tuple[list[tuple], Tensor]:
    """Every call of a layer, as (layer, its input, the edge of the graph that leaves it), and the network's output.

    An edge, because ``nn.ReLU(inplace=True)`` makes another tensor of the output.
    """
    calls: dict[nn.Module, tuple] = {}
    names = {layer: name for name, layer in network.named_modules()}

    def record(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        if layer in calls:
            raise ValueError(f"{names[layer]} is used twice: its gradients add up before they are squared")
        if len(inputs[0]) != len(x):
            raise ValueError(
                f"{names[layer]} was given {len(inputs[0])} rows of {len(x)} examples: examples must stay in front"
            )
        calls[layer] = layer, inputs[0].detach(), get_gradient_edge(output)

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        outputs = network(x)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [names[layer] for layer in layers if layer not in calls]:
        raise ValueError(
            f"{', '.join(missing)} is never called: its weight is used in another way, which is not seen, or not at "
            "all (then requires_grad_(False) leaves it out)"
        )
    return list(calls.values()), outputs


def _add(
    sums: Params,
    network: nn.Module,
    layers: dict[nn.Module, dict[str, str]],
    x: Tensor,
    rest: list[Tensor],
    losses: Callable[..., Iterable[Tensor]],
    absolute: bool,
) -> None:
    """What a batch adds to the sums; by itself, so that its graph is gone before the next batch."""
    calls, outputs = _recorded(network, layers, x)
    edges = [edge for *_, edge in calls]
    for loss in losses(outputs, *rest):
        if loss.ndim:
            raise ValueError(f"a loss must be a scalar, the sum over the examples; got shape {list(loss.shape)}")
        slopes = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
        for (layer, inputs, _), slope in zip(calls, slopes, strict=True):
            if slope is not None:
                for kind, name in layers[layer].items():
                    sums[name] += _sum(layer, kind, inputs, slope, absolute)


def _sum(layer: nn.Module, kind: str, inputs: Tensor, slopes: Tensor, absolute: bool) -> Tensor:
    """Squares of the gradients of a layer's ``kind`` of parameter, summed over the examples."""
    if isinstance(layer, NORMS):
        return _norm_sum(layer, kind, inputs, slopes, absolute)
    settings = 1, 1, 0, 1, 1
    if isinstance(layer, nn.Conv2d):
        padding = 0 if layer.padding == "valid" else layer.padding
        settings = layer.kernel_size, layer.stride, padding, layer.dilation, layer.groups
    elif inputs.ndim > 2:  # used at many positions of an example: a 1 x 1 convolution
        inputs, slopes = (value.flatten(1, -2).mT[..., None] for value in (inputs, slopes))
    if kind == "bias":
        return bias_fisher_diagonal(slopes, absolute)
    if inputs.ndim == 2:
        return linear_fisher_diagonal(inputs, slopes, absolute)
    return conv_fisher_diagonal(inputs, slopes, *settings, absolute=absolute).view_as(layer.weight)


def _norm_sum(layer: nn.Module, kind: str, inputs: Tensor, slopes: Tensor, absolute: bool) -> Tensor:
    """Of ``y = weight x^ + bias``, at some positions p: ``sum_b (sum_p g_bp x^_bp)^2``, and without x^ for the bias."""
    wide = _wide(slopes)
    slopes, inputs = slopes.to(wide), inputs.to(wide)
    if kind == "weight":
        if isinstance(layer, nn.LayerNorm):
            normal = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        elif isinstance(layer, nn.GroupNorm):
            normal = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        else:
            mean, var = layer.running_mean.to(wide), layer.running_var.to(wide)
            normal = F.batch_norm(inputs, mean, var, eps=layer.eps)
        slopes = slopes * normal
    if isinstance(layer, nn.LayerNorm):
        of_example = slopes.reshape(len(slopes), -1, *layer.normalized_shape).sum(1)
    else:
        of_example = slopes[..., None].flatten(2).sum(-1)
    return (of_example.abs() if absolute else of_example.square()).sum(0)


def _wide(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)
