"""The functions that have a kernel, and the ones that algebra made fast, against the same thing written otherwise.

``naive`` follows the formula, ``eager`` is the best that we know how to write in plain PyTorch, ``compiled`` is
``torch.compile`` of the naive one, ``ours`` is what ``utils.functional`` does on this device. Before anything is timed
each is compared with the formula in float64 at the timed size. Convolutions compute in float32 proper: on a GPU,
PyTorch's default rounds their factors to 10 bits (TF32).

How near to the machine's limit a variant comes is told by a roofline: ``floor = max(bytes / copy bandwidth,
instructions / rate)``, both rates measured in the same run.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.bench.memory import peak_bytes
from utils.bench.timing import summarise
from utils.functional import (
    conv_fisher_diagonal,
    distillation_loss,
    gather_episode,
    linear_fisher_diagonal,
    pairwise_weighted_l1,
    squared_distances,
)

MODES = ("forward", "backward", "both")
SCHEMA = {
    "type": "object",
    "required": [
        "function", "case", "variant", "mode", "shape", "dtype", "unit", "baseline", "status", "repeats", "median",
        "low", "high", "floor_bytes", "floor_instructions", "floor_ms",
    ],
    "additionalProperties": False,
    "properties": {
        "function": {"type": "string"},
        "case": {"type": "string"},
        "variant": {"enum": ["naive", "chunked", "eager", "compiled", "ours"]},
        "mode": {"enum": list(MODES)},
        "shape": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
        "dtype": {"const": "float32"},
        "unit": {"const": "ms"},
        "baseline": {"type": "boolean"},
        "status": {"type": "string", "minLength": 1},
        "repeats": {"type": "integer", "minimum": 0},
        **{name: {"type": ["number", "null"], "exclusiveMinimum": 0} for name in ("median", "low", "high")},
        "floor_bytes": {"type": "integer", "minimum": 1},
        "floor_instructions": {"type": "integer", "minimum": 0},
        "floor_ms": {"type": "number", "exclusiveMinimum": 0},
        "roofline_percent": {"type": "number", "exclusiveMinimum": 0},
        "peak_bytes": {"type": ["integer", "null"], "minimum": 0},
        "error": {"type": ["number", "null"], "minimum": 0},
        "speedup_over": {"const": "naive"},
        **{name: {"type": "number", "exclusiveMinimum": 0} for name in ("speedup", "speedup_low", "speedup_high")},
    },
    "if": {"properties": {"status": {"const": "ok"}}},
    "then": {
        "required": ["roofline_percent", "peak_bytes", "error"],
        "properties": {"median": {"type": "number"}, "low": {"type": "number"}, "high": {"type": "number"}},
    },
    "else": {"properties": {"median": {"type": "null"}}},
}  # fmt: skip
"""JSON schema of a row. ``median``, ``low``, ``high``: milliseconds a call, over ``repeats``; ``speedup``: of the naive
variant's time by this one's, in the same round. ``error``: against float64, unknown where that would not fit."""
CORNER = 64
LARGEST = 2**33
"""Bytes of a cube of differences in float64, up to which all of a result is compared with the formula."""
AT_LEAST = 0.004
"""Seconds that one measurement should take; shorter calls are repeated."""


@dataclass(frozen=True)
class Work:
    """One function at one size.

    ``variants``: name to function of ``inputs``; ``by``: which inputs have a gradient, none for what is not
    differentiated; ``bytes`` and ``instructions``: what forward, and forward with backward, cannot do without.
    ``tolerance``: of the relative error against the first variant in float64. ``rounds``: how often to time what takes
    seconds, a single call each; none for what is timed as often as everything else.
    """

    function: str
    shape: Mapping[str, int]
    inputs: Sequence[Tensor]
    variants: Mapping[str, Callable[..., Tensor]]
    bytes: tuple[int, int]
    instructions: tuple[int, int] = (0, 0)
    by: tuple[int, ...] = ()
    compiled: str | None = "naive"
    tolerance: float = 1e-4
    rounds: int | None = None

    @property
    def case(self) -> str:
        return ", ".join(f"{name} = {size:,}" for name, size in self.shape.items())


# -------------------------------------------------------------------------------------------------- what is measured


def _random(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def distances(device: torch.device, n_way: int, n_query: int, features: int) -> Work:
    q, c = _random(device, (n_way * n_query, features), (n_way, features))
    n, m, d = len(q), len(c), features

    def naive(q: Tensor, c: Tensor) -> Tensor:
        return (q[:, None] - c).square().sum(-1)

    return Work(
        "squared_distances", {"N": n, "M": m, "D": d}, (q, c),
        {"naive": naive, "eager": lambda q, c: torch.cdist(q, c).square(), "ours": squared_distances},
        (4 * (n * d + m * d + n * m), 12 * (n * d + m * d + n * m)), (n * m * d, 3 * n * m * d), (0, 1),
    )  # fmt: skip


def weighted_l1(device: torch.device, n: int, m: int, d: int) -> Work:
    a, b, w = _random(device, (n, d), (m, d), (d,))

    def naive(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return ((a[:, None] - b).abs() * w).sum(-1)

    def split(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        """``w |x| = |w x|`` for the positive weights, less the same for the negative ones."""
        up, down = w.clamp_min(0), (-w).clamp_min(0)
        return torch.cdist(a * up, b * up, p=1) - torch.cdist(a * down, b * down, p=1)

    def chunked(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        """The formula for a few rows at a time; with a gradient it still keeps all of them."""
        return torch.cat([naive(rows, b, w) for rows in a.split(max(1, 2**18 // (m * d)))])

    size = 4 * (n * d + m * d + n * m)
    return Work(
        "pairwise_weighted_l1", {"N": n, "M": m, "D": d}, (a, b, w),
        {"naive": naive, "chunked": chunked, "eager": split, "ours": pairwise_weighted_l1},
        (size, 3 * size), (2 * n * m * d, 2 * n * m * d + 2 * 4 * n * m * d), (0, 1, 2),
    )  # fmt: skip


def distillation(device: torch.device, rows: int, classes: int) -> Work:
    student, teacher = _random(device, (rows, classes), (rows, classes))
    labels = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1)).to(device)
    temperature, weight = 4.0, 0.5

    def naive(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(student / temperature, 1)
        soft = F.kl_div(log_p, F.softmax(teacher / temperature, 1), reduction="batchmean") * temperature**2
        return (1 - weight) * F.cross_entropy(student, labels) + weight * soft

    def soft_targets(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with the teacher's probabilities, less the teacher's entropy, which has no gradient."""
        with torch.no_grad():
            log_t = F.log_softmax(teacher / temperature, 1)
            t = log_t.exp()
            entropy = -(t * log_t).sum(1).mean()
        soft = (F.cross_entropy(student / temperature, t) - entropy) * temperature**2
        return (1 - weight) * F.cross_entropy(student, labels) + weight * soft

    def ours(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return distillation_loss(student, teacher, labels, temperature, weight)

    size = 4 * rows * classes
    return Work(
        "distillation_loss", {"B": rows, "C": classes}, (student, teacher, labels),
        {"naive": naive, "eager": soft_targets, "ours": ours}, (2 * size, 5 * size), by=(0,),
    )  # fmt: skip


def episode(device: torch.device, n_way: int, per_class: int, channels: int, side: int, n_classes: int) -> Work:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n_classes * 20, channels, side, side), generator=generator).to(torch.uint8)
    classes = torch.randperm(n_classes, generator=generator)[:n_way, None]
    rows = 20 * classes + torch.rand(n_way, 20, generator=generator).topk(per_class, -1).indices
    turns = torch.randint(4, (n_way, 1), generator=generator)

    def naive(images: Tensor, rows: Tensor, turns: Tensor) -> Tensor:
        turned = [torch.rot90(images[of], int(turn), (-2, -1)) for of, turn in zip(rows, turns, strict=True)]
        return torch.stack(turned).float() / 255

    def by_turn(images: Tensor, rows: Tensor, turns: Tensor) -> Tensor:
        block = images.index_select(0, rows.flatten().to(images.device)).unflatten(0, rows.shape)
        for turn in (1, 2, 3):
            where = (turns[:, 0] == turn).nonzero()[:, 0].to(images.device)
            block[where] = torch.rot90(block[where], turn, (-2, -1))
        return block.float() / 255

    size = n_way * per_class * channels * side * side
    return Work(
        "gather_episode", {"n": n_way * per_class, "C": channels, "H": side, "W": side},
        (images.to(device), rows, turns), {"naive": naive, "eager": by_turn, "ours": gather_episode},
        (5 * size, 5 * size), compiled=None, tolerance=1e-6,
    )  # fmt: skip


def conv_fisher(device: torch.device, batch: int, channels: int, side: int) -> Work:
    x, g = _random(device, (batch, channels, side, side), (batch, channels, side, side))

    def naive(x: Tensor, g: Tensor) -> Tensor:
        total = 0.0
        for i in range(len(x)):
            one = torch.nn.grad.conv2d_weight(x[i : i + 1], (channels, channels, 3, 3), g[i : i + 1], padding=1)
            total = total + one.square()
        return total

    def unfolded(x: Tensor, g: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1)  # [B, C * 9, H * W]
        return (g.flatten(2) @ columns.mT).square().sum(0).view(channels, channels, 3, 3)

    def ours(x: Tensor, g: Tensor) -> Tensor:
        return conv_fisher_diagonal(x, g, 3, padding=1)

    size, products = 4 * batch * channels * side * side, batch * channels * channels * 9 * side * side
    return Work(
        "conv_fisher_diagonal", {"B": batch, "C": channels, "H": side, "W": side}, (x, g),
        {"naive": naive, "eager": unfolded, "ours": ours}, (2 * size, 2 * size), (products, products),
        compiled="eager",
    )  # fmt: skip


def network_fisher(device: torch.device, images: int, side: int, at_once: int = 128) -> Work:
    """All convolutions of a ResNet-18 for small images: squared gradients of the loss, as EWC wants them after a task.

    In evaluation mode, where images do not see each other. ``naive`` is the loop that is mostly written, an image at a
    time; the others run through the network with ``at_once`` images and differ in what they do for a layer.
    """
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = resnet18(num_classes=100)
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    network.eval()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    (x,) = _random(device, (images, 3, side, side))
    labels = torch.randint(100, (images,), generator=torch.Generator().manual_seed(1)).to(device)

    def zeros(like: Tensor) -> dict[nn.Conv2d, Tensor]:
        network.to(like)
        return {layer: torch.zeros_like(layer.weight) for layer in layers}

    def flat(totals: Mapping[nn.Conv2d, Tensor]) -> Tensor:
        return torch.cat([total.flatten() for total in totals.values()])

    def naive(x: Tensor, labels: Tensor) -> Tensor:
        totals = zeros(x)
        for image, label in zip(x.split(1), labels.split(1), strict=True):
            loss = F.cross_entropy(network(image), label)
            slopes = torch.autograd.grad(loss, [layer.weight for layer in layers])
            for total, slope in zip(totals.values(), slopes, strict=True):
                total.addcmul_(slope, slope)
        return flat(totals)

    def by_layer(diagonal: Callable[[nn.Conv2d, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def fisher(x: Tensor, labels: Tensor) -> Tensor:
            totals = zeros(x)

            def keep(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
                def meet(gradient: Tensor) -> None:
                    totals[layer].add_(diagonal(layer, inputs[0].detach(), gradient))

                output.register_hook(meet)

            hooks = [layer.register_forward_hook(keep) for layer in layers]
            try:
                for some, their in zip(x.split(at_once), labels.split(at_once), strict=True):
                    some = some.detach().requires_grad_()  # asked for this gradient, PyTorch makes none of the weights
                    torch.autograd.grad(F.cross_entropy(network(some), their, reduction="sum"), some)
            finally:
                for hook in hooks:
                    hook.remove()
            return flat(totals)

        return fisher

    def unfolded(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
        columns = F.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return (g.flatten(2) @ columns.mT).square().sum(0).view_as(layer.weight)

    def ours(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
        return conv_fisher_diagonal(a, g, layer.kernel_size, layer.stride, layer.padding, layer.dilation)

    products = []

    def counted(layer: nn.Conv2d, a: Tensor, g: Tensor) -> Tensor:
        # Three times a layer: forwards, for its weights and, but for the first, backwards to its inputs.
        products.append(g.numel() * layer.weight[0].numel() * (2 if layer is layers[0] else 3))
        return layer.weight.detach()

    size = 4 * (x.numel() + 2 * by_layer(counted)(x[:1], labels[:1]).numel())
    return Work(
        "conv_fisher_diagonal", {"images through a ResNet-18": images, "C": 3, "H": side, "W": side}, (x, labels),
        {"naive": naive, "eager": by_layer(unfolded), "ours": by_layer(ours)},
        # Rounding decides on which side of its kink a ReLU works, and with that on the gradient of one image.
        (size, size), (images * sum(products),) * 2, compiled=None, tolerance=1e-3, rounds=3,
    )  # fmt: skip


def linear_fisher(device: torch.device, batch: int, inputs: int, outputs: int) -> Work:
    x, g = _random(device, (batch, inputs), (batch, outputs))

    def naive(x: Tensor, g: Tensor) -> Tensor:
        total = 0.0
        for a, b in zip(x, g, strict=True):
            total = total + torch.outer(b, a).square()
        return total

    products = batch * inputs * outputs
    return Work(
        "linear_fisher_diagonal", {"B": batch, "I": inputs, "O": outputs}, (x, g),
        {
            "naive": naive,
            "eager": lambda x, g: torch.einsum("bo,bi->boi", g, x).square().sum(0),
            "ours": linear_fisher_diagonal,
        },
        (4 * (batch * (inputs + outputs) + inputs * outputs),) * 2, (products, products), compiled="eager",
    )  # fmt: skip


def pair_convolution(device: torch.device, n_way: int, n_query: int, channels: int, side: int) -> Work:
    """The first convolution of a relation network, over every class beside every query."""
    classes, queries, weight = _random(
        device, (n_way, channels, side, side), (n_query, channels, side, side), (channels, 2 * channels, 3, 3)
    )

    def naive(classes: Tensor, queries: Tensor, weight: Tensor) -> Tensor:
        shape = (n_query, n_way, channels, side, side)
        pairs = torch.cat([classes.expand(shape), queries[:, None].expand(shape)], 2)
        return F.conv2d(pairs.flatten(0, 1), weight, padding=1).unflatten(0, (n_query, n_way))

    def split(classes: Tensor, queries: Tensor, weight: Tensor) -> Tensor:
        of_class, of_query = weight.split(channels, 1)
        return F.conv2d(classes, of_class, padding=1) + F.conv2d(queries, of_query, padding=1)[:, None]

    out = n_query * n_way * channels * side * side
    work_done = (n_way + n_query) * channels**2 * 9 * side * side
    return Work(
        "pair_convolution", {"classes": n_way, "queries": n_query, "C": channels, "H": side, "W": side},
        (classes, queries, weight), {"naive": naive, "ours": split}, (4 * out, 8 * out), (work_done, 3 * work_done),
        (0, 1, 2), compiled=None,
    )  # fmt: skip


def ridge(device: torch.device, n: int, features: int, classes: int) -> Work:
    """The weights of ridge regression on a support set: an equation for each feature, or one for each image."""
    x, y = _random(device, (n, features), (n, classes))

    def naive(x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.solve(x.mT @ x + torch.eye(features).to(x), x.mT @ y)

    def woodbury(x: Tensor, y: Tensor) -> Tensor:
        return x.mT @ torch.linalg.solve(x @ x.mT + torch.eye(n).to(x), y)

    work_done, size = n * n * features + n**3 // 3 + n * features * classes, 4 * (n * features + features * classes)
    return Work(
        "ridge", {"n": n, "D": features, "K": classes}, (x, y), {"naive": naive, "ours": woodbury},
        (size, 3 * size), (work_done, 3 * work_done), (0, 1), compiled=None, tolerance=1e-3,
    )  # fmt: skip


def works(device: torch.device) -> list[Callable[[], Work]]:
    """What is measured on this device; each is made when its turn comes, because the large ones need the memory."""
    shared = [
        lambda: distances(device, 20, 15, 1600),
        *(lambda n=n: weighted_l1(device, n, n, 64) for n in (20, 100, 300, 1000)),
        lambda: distillation(device, 128, 100),
        lambda: distillation(device, 4096, 100),
        lambda: distillation(device, 4096, 1000),
        lambda: episode(device, 20, 20, 1, 28, 400),
        lambda: linear_fisher(device, 128, 512, 100),
        lambda: conv_fisher(device, 32, 64, 21),
        lambda: pair_convolution(device, 5, 75, 64, 19),
        lambda: ridge(device, 25, 1600, 5),
    ]
    if device.type != "cuda":
        return shared
    return [
        *shared,
        lambda: weighted_l1(device, 10_000, 10_000, 64),
        lambda: episode(device, 20, 20, 3, 84, 400),
        lambda: conv_fisher(device, 512, 64, 32),
        lambda: conv_fisher(device, 512, 512, 4),
        lambda: network_fisher(device, 5000, 32),
    ]


# --------------------------------------------------------------------------------------------------------- measuring


def _clock(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Seconds of one call, anew at each call: on a GPU the median of several on cold caches, by Triton's own timer."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return lambda: do_bench(call, warmup=5, rep=40, quantiles=[0.5]) / 1e3
    start = time.perf_counter()
    call()
    inner = max(1, math.ceil(AT_LEAST / max(time.perf_counter() - start, 1e-9)))

    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(inner):
            call()
        return (time.perf_counter() - start) / inner

    return seconds


def _once(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Seconds of one call, anew at each call, for what takes so many that nothing else counts."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def seconds() -> float:
        wait()
        start = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - start

    return seconds


def ceilings(device: torch.device) -> dict[str, float]:
    """Bytes a second of a copy (read and written), and float32 multiply-adds a second of a matrix product."""
    cuda = device.type == "cuda"
    source = torch.ones(2**30 if cuda else 2**25, device=device)
    target = torch.empty_like(source)
    n = 8192 if cuda else 1024
    a, b = torch.ones(n, n, device=device), torch.ones(n, n, device=device)
    copy = _clock(lambda: target.copy_(source), device)
    product = _clock(lambda: a @ b, device)
    return {
        "copy_bytes_per_s": 8 * source.numel() / min(copy() for _ in range(5)),
        "fma_per_s": n**3 / min(product() for _ in range(5)),
    }


def _calls(variant: Callable[..., Tensor], work: Work) -> dict[str, Callable[[], object]]:
    """What each mode times; ``forward`` alone where there is nothing to differentiate."""
    if not work.by:
        return {"forward": lambda: variant(*work.inputs)}
    inputs = [x.detach().requires_grad_() if i in work.by else x for i, x in enumerate(work.inputs)]
    wanted = [inputs[i] for i in work.by]
    out = variant(*inputs)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out)

    def forward() -> Tensor:
        with torch.no_grad():
            return variant(*work.inputs)

    return {
        "forward": forward,
        "backward": lambda: torch.autograd.grad(out, wanted, upstream, retain_graph=True),
        "both": lambda: torch.autograd.grad(variant(*inputs), wanted, upstream),
    }


def _flat(result: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest of ``||x - exact|| / ||exact||``; ``exact`` may be the corner of ``found``."""
    errors = []
    for x, y in zip(found, exact, strict=True):
        corner = x[tuple(slice(n) for n in y.shape)].double()
        errors.append(float((corner - y).norm() / y.norm().clamp_min(1e-300)))
    return max(errors)


def _exact(work: Work) -> dict[str, list[Tensor]]:
    """The naive variant in float64, by mode. Where that does not fit, a corner of the forward result."""
    wide = [x.double() if x.is_floating_point() else x for x in work.inputs]
    if 8 * math.prod(work.shape.values()) > LARGEST:
        return {"forward": [work.variants["naive"](wide[0][:CORNER], wide[1][:CORNER], *wide[2:])]}
    return {mode: _flat(call()) for mode, call in _calls(work.variants["naive"], replace(work, inputs=wide)).items()}


def _memory(call: Callable[[], object], device: torch.device, compiled: bool) -> int | None:
    """Most bytes alive at once; unknown for compiled code on the CPU, whose buffers are not PyTorch's."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return None if compiled else peak_bytes(call)


def measure(device: torch.device | str, rounds: int = 21, chosen: Sequence[Callable[[], Work]] | None = None) -> dict:
    """Ceilings of the machine and a row for each function, size, variant and mode.

    A variant that runs out of memory, or that ``torch.compile`` cannot compile here, has a row that says so. Raises
    ``ValueError`` where a variant does not compute the formula.
    """
    device = torch.device(device)
    limits, rows = ceilings(device), []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for make in works(device) if chosen is None else chosen:
            rows += _rows(make(), device, limits, rounds)
            torch.compiler.reset()
    return {"ceilings": limits, "rows": rows}


def _rows(work: Work, device: torch.device, limits: Mapping[str, float], rounds: int) -> list[dict]:
    variants = dict(work.variants)
    if work.compiled is not None:
        variants["compiled"] = torch.compile(work.variants[work.compiled], dynamic=False)
    exact, rounds = _exact(work), min(rounds, work.rounds or rounds)
    calls, failed, errors = {}, {}, {}
    for name, variant in variants.items():
        try:
            calls[name] = _calls(variant, work)
            found = {mode: _flat(call()) for mode, call in calls[name].items()}
        except (torch.OutOfMemoryError, RuntimeError) as error:  # a compiler that is not there is a RuntimeError too
            calls.pop(name, None)
            failed[name] = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error).splitlines()[0]
            continue
        errors[name] = {mode: _error(found.pop(mode), wanted) for mode, wanted in exact.items()}
        for mode, error in errors[name].items():
            if not error <= work.tolerance:
                raise ValueError(
                    f"{work.function}, {work.case}: {name} is off by {error:.1e} {mode}; allowed {work.tolerance:.0e}"
                )
    rows = []
    for mode in MODES if work.by else MODES[:1]:
        rows += _mode(
            work, device, limits, rounds, mode, {name: call[mode] for name, call in calls.items()}, failed, errors
        )
    return rows


def _mode(work, device, limits, rounds, mode, calls, failed, errors) -> list[dict]:
    """The variants take turns, and each round begins with another one, so that a slow moment strikes all."""
    clocks = {name: (_once if work.rounds else _clock)(call, device) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    names = list(clocks)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(clocks[name]())
    at = {"forward": 0, "backward": 1, "both": 1}[mode]
    size, work_done = work.bytes[at], work.instructions[at]
    if mode == "backward":
        size, work_done = size - work.bytes[0], work_done - work.instructions[0]
    floor = max(size / limits["copy_bytes_per_s"], work_done / limits["fma_per_s"])
    rows = []
    for name in (*calls, *failed):
        row = {
            "function": work.function, "case": f"{work.case}, {mode}", "variant": name, "mode": mode,
            "shape": dict(work.shape), "dtype": "float32", "unit": "ms", "baseline": name == "naive",
            "floor_bytes": size, "floor_instructions": work_done, "floor_ms": 1e3 * floor,
        }  # fmt: skip
        if name in failed:
            rows.append({**row, "status": failed[name], "repeats": 0, "median": None, "low": None, "high": None})
            continue
        timing = summarise(seconds[name])
        row |= {
            "status": "ok", "repeats": rounds, "median": 1e3 * timing.median, "low": 1e3 * timing.low,
            "high": 1e3 * timing.high, "roofline_percent": 100 * floor / timing.median,
            "peak_bytes": _memory(calls[name], device, name == "compiled"),
            "error": errors[name].get(mode),
        }  # fmt: skip
        if name != "naive" and "naive" in seconds:
            ratio = summarise([b / a for a, b in zip(seconds[name], seconds["naive"], strict=True)])
            row |= {"speedup_over": "naive", "speedup": ratio.median, "speedup_low": ratio.low}
            row["speedup_high"] = ratio.high
        rows.append(row)
    return rows


def machine(device: torch.device | str) -> str:
    """A name for the record of this kind of machine: "cpu", or the GPU's."""
    device = torch.device(device)
    if device.type != "cuda":
        return "cpu"
    name = torch.cuda.get_device_name(device).lower().removeprefix("nvidia ")
    return "".join(c if c.isalnum() else "_" for c in name) or platform.machine()
