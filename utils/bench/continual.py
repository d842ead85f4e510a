"""Learning without forgetting: importance, penalties, distillation and memories, against the usual ways to write them.

Both sides compute the same. Before anything is timed, they must agree to ``TOLERANCE`` in float64, and where places in
a memory are chosen, exactly. Avalanche, the library that has most of these methods, is no peer: it takes the gradient
of a batch's mean for that of an example, which is another number. The other sides are what is usually written instead,
correctly: a dictionary of tensors by parameter, an example at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.backbones import MLP
from utils.bench.memory import peak_bytes
from utils.bench.timing import Timing, paired
from utils.continual.ewc import consolidated, fisher_diagonal
from utils.continual.icarl import herding
from utils.continual.importance import Params, copied, quadratic_penalty, trained, zeros
from utils.continual.memory import reservoir
from utils.fewshot.classifier import ClassifierNetwork
from utils.functional import linear_fisher_diagonal
from utils.functional.distillation import distillation_loss

TOLERANCE = 1e-10
PIXELS, WIDTH, CLASSES = 784, 400, 10
"""The network of split MNIST: two hidden layers of 400."""
IMAGES = 200
TASKS = 10
STRENGTH = 1e3
LOGITS = ((128, 100), (256, 1000))
"""Batch and classes of the distillation loss: CIFAR-100's, and ImageNet's."""
TEMPERATURE, WEIGHT = 2.0, 0.5
SEEN, PLACES = 12_000, 2000
CANDIDATES, FEATURES, CHOSEN = 500, 64, 50


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ClassifierNetwork(MLP(PIXELS, (WIDTH, WIDTH)), CLASSES).eval()


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference, each by the largest entry of its tensor."""
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def check(what: str, apart: float) -> float:
    """``apart``; ``ValueError`` where it is too much: the two sides do not compute the same."""
    if not apart <= TOLERANCE:
        raise ValueError(
            f"{what}: the two sides differ by {apart:.1e}, allowed are {TOLERANCE:.0e}: they do not compute the same, "
            "and are not timed"
        )
    return apart


def compared(
    shared: dict,
    ours: tuple[str, Callable[[], object]],
    other: tuple[str, Callable[[], object]],
    repeats: int,
    apart: float,
    inner: int = 1,
) -> Iterator[dict]:
    """A row for each of two ways, by name, of which the second is the baseline; milliseconds."""
    mine, theirs, ratio = paired(ours[1], other[1], repeats, inner=inner)

    def row(variant: str, timing: Timing, **more: object) -> dict:
        return {**shared, "variant": variant, "baseline": not more, "unit": "ms", "repeats": repeats,
                "median": 1e3 * timing.median, "low": 1e3 * timing.low, "high": 1e3 * timing.high, **more}  # fmt: skip

    yield row(other[0], theirs)
    yield row(
        ours[0], mine, speedup_over=other[0], speedup=ratio.median, speedup_low=ratio.low, speedup_high=ratio.high,
        difference=apart,
    )  # fmt: skip


def megabytes(shared: dict, sides: Sequence[tuple[str, Callable[[], object]]]) -> Iterator[dict]:
    """A row for each way, by name: the most that is alive at once."""
    for name, call in sides:
        size = peak_bytes(call) / 1e6
        yield {**shared, "variant": name, "baseline": True, "unit": "MB", "repeats": 1,
               "median": size, "low": size, "high": size}  # fmt: skip


# -------------------------------------------------------------------------------------------------------- importance


def linear_by_products(inputs: Tensor, slopes: Tensor) -> Tensor:
    """Squared gradients of a linear layer, summed: one example's after the other, as the product that it is."""
    total = inputs.new_zeros(slopes.shape[1], inputs.shape[1])
    for a, g in zip(inputs, slopes, strict=True):
        total += torch.outer(g, a).square()
    return total


def linear_by_passes(inputs: Tensor, slopes: Tensor) -> Tensor:
    """The same with a forward and a backward pass of the layer for every example."""
    weight = inputs.new_zeros(slopes.shape[1], inputs.shape[1], requires_grad=True)
    total = torch.zeros_like(weight)
    for a, g in zip(inputs.split(1), slopes.split(1), strict=True):
        total += torch.autograd.grad(F.linear(a, weight), weight, g)[0].square()
    return total


def linear_layer(repeats: int) -> Iterator[dict]:
    """The Fisher diagonal of one linear layer, of inputs and gradients that are there."""
    a = torch.randn(IMAGES, PIXELS, generator=generator(), dtype=torch.float64)
    g = torch.randn(IMAGES, WIDTH, generator=generator(1), dtype=torch.float64)
    shared = {"function": "Fisher diagonal of a linear layer", "case": f"{IMAGES} examples, {PIXELS} x {WIDTH}"}
    narrow = a.float(), g.float()
    ours = "linear_fisher_diagonal, (g²)ᵀ(a²)", lambda: linear_fisher_diagonal(*narrow)
    for name, other in (
        ("a backward pass an example", linear_by_passes),
        ("an outer product an example", linear_by_products),
    ):
        apart = check("Fisher diagonal of a layer", difference([linear_fisher_diagonal(a, g)], [other(a, g)]))
        yield from compared(shared, ours, (name, lambda other=other: other(*narrow)), repeats, apart, 10)


def fisher_loop(model: nn.Module, x: Tensor, y: Tensor | None = None) -> Params:
    """The usual loop with a backward pass an example: of its label, or of every class times its probability."""
    fisher = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for b in range(len(x)):
        logs = F.log_softmax(model(x[b : b + 1]), 1)[0]
        classes = range(len(logs)) if y is None else [int(y[b])]
        for one in classes:
            model.zero_grad()
            logs[one].backward(retain_graph=True)
            weight = float(logs[one].detach().exp()) if y is None else 1.0
            for name, value in model.named_parameters():
                fisher[name] += weight * value.grad.square() / len(x)
    model.zero_grad()
    return fisher


def importances(repeats: int) -> Iterator[dict]:
    """EWC's importance of the whole network."""
    x = torch.rand(IMAGES, 1, 1, PIXELS, generator=generator(2))
    y = torch.randint(CLASSES, (IMAGES,), generator=generator(3))

    def sides(model: nn.Module, x: Tensor, kind: str):
        labels = y if kind == "empirical" else None
        return (
            ("fisher_diagonal", lambda: fisher_diagonal(model, [(x, y)], slice(0, CLASSES), kind)),
            ("a backward pass an example", lambda: fisher_loop(model, x, labels)),
        )

    for kind in ("empirical", "exact"):
        (_, ours), (_, other) = sides(network().double(), x.double(), kind)
        apart = check(f"{kind} Fisher information", difference([*ours().values()], [*other().values()]))
        shared = {
            "function": f"EWC: importance, {kind} Fisher information",
            "case": f"{IMAGES} images, {PIXELS}-{WIDTH}-{WIDTH}-{CLASSES}",
        }
        both = sides(network(), x, kind)
        yield from compared(shared, *both, repeats, apart)
        yield from megabytes(shared | {"function": f"{shared['function']}: memory"}, both)


def penalty_loop(model: nn.Module, importances: Sequence[Params], anchors: Sequence[Params], strength: float) -> Tensor:
    """The usual penalty: a term a task and parameter, by name."""
    loss = torch.zeros((), dtype=next(model.parameters()).dtype)
    for importance, anchor in zip(importances, anchors, strict=True):
        for name, value in model.named_parameters():
            loss = loss + (importance[name] * (value - anchor[name]) ** 2).sum()
    return strength / 2 * loss


def penalties(repeats: int) -> Iterator[dict]:
    """EWC's separate penalties after several tasks, and their gradient: one parabola against a parabola a task.

    The sum of parabolas and the one that it is differ by a number that does not depend on the parameters, so it is the
    gradients that have to agree.
    """
    model, rng = network(), generator(4)
    anchors = [copied(network(1 + task)) for task in range(TASKS)]
    found = [
        {name: torch.rand(value.shape, generator=rng) for name, value in trained(model).items()} for _ in range(TASKS)
    ]

    def sides(model: nn.Module, importances: Sequence[Params], anchors: Sequence[Params]):
        values, one = [*model.parameters()], (zeros(model), copied(model))
        for importance, anchor in zip(importances, anchors, strict=True):
            one = consolidated(*one, importance, anchor, online=False)
        return (
            (
                "quadratic_penalty of one parabola",
                lambda: torch.autograd.grad(quadratic_penalty(trained(model), *one, STRENGTH), values),
            ),
            (
                "a term a task and parameter",
                lambda: torch.autograd.grad(penalty_loop(model, importances, anchors, STRENGTH), values),
            ),
        )

    wide = [[{name: value.double() for name, value in one.items()} for one in many] for many in (found, anchors)]
    (_, ours), (_, other) = sides(network().double(), *wide)
    apart = check("EWC's penalty", difference(ours(), other()))
    shared = {
        "function": "EWC: penalty and gradient",
        "case": f"after {TASKS} tasks, {PIXELS}-{WIDTH}-{WIDTH}-{CLASSES}",
    }
    yield from compared(shared, *sides(model, found, anchors), repeats, apart, 5)
    yield from megabytes(shared | {"function": f"{shared['function']}: memory"}, sides(model, found, anchors))


# ------------------------------------------------------------------------------------------------------ distillation


def usual_distillation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and divergence as most code has them."""
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, 1), F.softmax(teacher / TEMPERATURE, 1), reduction="batchmean"
    )  # fmt: skip
    return (1 - WEIGHT) * F.cross_entropy(student, labels) + WEIGHT * TEMPERATURE**2 * soft


def distillation(repeats: int) -> Iterator[dict]:
    """The distillation loss and its gradient by the student."""

    def gradient(loss: Callable[..., Tensor], student: Tensor, *rest: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        student = student.clone().requires_grad_()
        return lambda: torch.autograd.grad(loss(student, *rest), student)

    def ours(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return distillation_loss(student, teacher, labels, TEMPERATURE, WEIGHT)

    for n, classes in LOGITS:
        student, teacher = (3 * torch.randn(n, classes, generator=generator(seed)) for seed in (5, 6))
        labels = torch.randint(classes, (n,), generator=generator(7))
        wide = student.double(), teacher.double(), labels
        losses = difference([ours(*wide)], [usual_distillation(*wide)])
        slopes = difference(gradient(ours, *wide)(), gradient(usual_distillation, *wide)())
        apart = check("distillation loss", max(losses, slopes))
        shared = {"function": "distillation loss and gradient", "case": f"{n} images, {classes:,} classes"}
        sides = (
            ("distillation_loss", gradient(ours, student, teacher, labels)),
            ("softmax, kl_div, cross_entropy", gradient(usual_distillation, student, teacher, labels)),
        )
        yield from compared(shared, *sides, repeats, apart, 3)
        yield from megabytes(shared | {"function": f"{shared['function']}: memory"}, sides)


# ---------------------------------------------------------------------------------------------------------- memories


def reservoir_loop(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Algorithm R, an image after the other."""
    memory = images.new_zeros(size, *images.shape[1:])
    for t, image in enumerate(images):
        place = int(torch.rand((), generator=rng, dtype=torch.float64) * (t + 1))
        if t < size:
            memory[t] = image
        elif place < size:
            memory[place] = image
    return memory


def reservoir_at_once(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    memory = images.new_zeros(size, *images.shape[1:])
    places, items = reservoir(0, len(images), size, rng)
    memory[places] = images[items]
    return memory


def reservoirs(repeats: int) -> Iterator[dict]:
    images = torch.randint(256, (SEEN, PIXELS), generator=generator(8)).to(torch.uint8)
    ours, other = reservoir_at_once(images, PLACES, generator(9)), reservoir_loop(images, PLACES, generator(9))
    check("reservoir", float(not torch.equal(ours, other)))
    shared = {"function": "reservoir", "case": f"{SEEN:,} images of {PIXELS} bytes into {PLACES:,} places"}
    sides = (
        ("reservoir, all at once", lambda: reservoir_at_once(images, PLACES, generator(9))),
        ("an image after the other", lambda: reservoir_loop(images, PLACES, generator(9))),
    )
    yield from compared(shared, *sides, repeats, 0.0, 5)


def herding_by_candidates(vectors: Tensor, m: int) -> Tensor:
    """Algorithm 4 of iCaRL word by word: for every candidate the mean of all that would then be chosen."""
    mean, chosen = vectors.mean(0), []
    for k in range(1, m + 1):
        so_far = vectors[chosen].expand(len(vectors), -1, -1)
        means = torch.cat([so_far, vectors[:, None]], 1).sum(1) / k
        distances = (mean - means).square().sum(1)
        distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
    return torch.tensor(chosen)


def herding_by_sums(vectors: Tensor, m: int) -> Tensor:
    """The same with one sum over what is chosen a step, as in much public code."""
    mean, chosen = vectors.mean(0), []
    for k in range(1, m + 1):
        distances = (mean - (vectors + vectors[chosen].sum(0)) / k).square().sum(1)
        distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
    return torch.tensor(chosen)


def herdings(repeats: int) -> Iterator[dict]:
    vectors = F.normalize(torch.randn(CANDIDATES, FEATURES, generator=generator(10), dtype=torch.float64))
    ours = "herding, a column of the Gram matrix a step", lambda: herding(vectors, CHOSEN)
    shared = {"function": "herding", "case": f"{CHOSEN} of {CANDIDATES} images, {FEATURES} features"}
    for name, other in (
        ("a mean for every candidate", herding_by_candidates),
        ("a sum over the chosen every step", herding_by_sums),
    ):
        check("herding", float(not torch.equal(ours[1](), other(vectors, CHOSEN))))
        yield from compared(shared, ours, (name, lambda other=other: other(vectors, CHOSEN)), repeats, 0.0, 5)


def measure(repeats: int = 11) -> list[dict]:
    """All rows: milliseconds and MB. Raises ``ValueError`` where two sides do not agree."""
    return [
        *linear_layer(repeats),
        *importances(repeats),
        *penalties(repeats),
        *distillation(repeats),
        *reservoirs(repeats),
        *herdings(repeats),
    ]
