"""Learning to adapt: one meta-step of ours against learn2learn's, and what the inner learners cost.

The same network, the same weights and the same tasks on both sides. Before anything is timed, loss and all gradients
must agree to ``TOLERANCE`` in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.backbones import MLP, Conv4
from utils.bench.episodes import copied, parameters
from utils.bench.memory import peak_bytes
from utils.bench.peers import learn2learn
from utils.bench.timing import Timing, paired, summarise
from utils.data import ImageSet
from utils.data.episodes import Episode, EpisodeSampler
from utils.fewshot.classifier import ClassifierNetwork
from utils.functional.solvers import ridge
from utils.meta.imaml import IMAML
from utils.meta.inner import truncated
from utils.meta.maml import MAML

TOLERANCE = 1e-5
N_WAY, N_TASKS, WIDTH = 5, 16, 64
INNER_LR = 0.4
FEATURES = 1600
STEPS = (1, 2, 4, 8, 16, 32, 64)
"""Inner steps of the cost curves."""
LAST = 4
"""Steps through which truncated back-propagation goes."""


@dataclass(frozen=True)
class MetaStep:
    """Loss and gradient of a batch of tasks, as one library computes them."""

    name: str
    loss: Callable[[Episode], Tensor]
    module: nn.Module

    def gradient(self, episode: Episode) -> tuple[Tensor, ...]:
        """The loss and its gradient by each parameter, in the same order on both sides."""
        loss = self.loss(episode)
        return loss.detach(), *torch.autograd.grad(loss, parameters(self.module))


def networks(images: ImageSet) -> dict[str, nn.Module]:
    """The two networks of the MAML paper for Omniglot, by name."""
    channels, size = images.image_shape[:2]
    return {
        "strided Conv4": ClassifierNetwork(Conv4(channels, WIDTH, size, "stride"), N_WAY),
        "MLP": ClassifierNetwork(MLP(channels * size * size, normalise=True), N_WAY),
    }


def plain(network: ClassifierNetwork) -> nn.Module:
    """The same network as everybody writes it, with the same weights."""
    body = network.embedding
    if isinstance(body, Conv4):
        layers = [
            nn.Sequential(nn.Conv2d(conv.in_channels, WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU())
            for conv in body.convs
        ]
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    else:
        layers = [nn.Flatten()]
        for linear in body.linears:
            width = linear.out_features
            layers += [nn.Linear(linear.in_features, width), nn.BatchNorm1d(width), nn.ReLU()]
        tail = []
    return copied(network, nn.Sequential(*layers, *tail, nn.Linear(body.out_features, N_WAY)))


def of_learn2learn(network: nn.Module, first_order: bool, steps: int) -> MetaStep:
    """``learn2learn.algorithms.MAML`` around the network, one task after the other, as in its examples."""
    network = plain(network).train()
    maml = learn2learn().algorithms.MAML(network, lr=INNER_LR, first_order=first_order)

    def loss(episode: Episode) -> Tensor:
        losses = []
        for task in range(episode.n_tasks):
            learner = maml.clone()
            for _ in range(steps):
                learner.adapt(F.cross_entropy(learner(episode.support_x[task]), episode.support_y[task]))
            losses.append(F.cross_entropy(learner(episode.query_x[task]), episode.query_y[task]))
        return torch.stack(losses).mean()

    return MetaStep("learn2learn MAML", loss, network)


def of_ours(network: nn.Module, first_order: bool, steps: int, vectorised: bool = True) -> MetaStep:
    learner = MAML(network, INNER_LR, steps, 1 if first_order else 2, vectorised=vectorised)
    name = "MAML" if vectorised else "MAML, one task after the other"
    return MetaStep(name, lambda episode: learner.loss(None, episode), network)


def difference(ours: MetaStep, other: MetaStep, episode: Episode) -> float:
    """The larger of the loss's difference, by the loss, and the gradients', by their largest entry."""
    (loss, *slopes), (expected, *wanted) = ours.gradient(episode), other.gradient(episode)
    largest = max(float(slope.abs().max()) for slope in wanted)
    apart = max(float((a - b).abs().max()) for a, b in zip(slopes, wanted, strict=True))
    return max(float((loss - expected).abs() / expected.abs()), apart / largest)


def check(ours: MetaStep, other: MetaStep, modules: tuple[nn.Module, ...], episode: Episode) -> float:
    """:func:`difference` in float64; ``ValueError`` where it is too large: they do not compute the same."""
    for module in modules:
        module.double()
    found = difference(
        ours, other, replace(episode, support_x=episode.support_x.double(), query_x=episode.query_x.double())
    )
    for module in modules:
        module.float()
    if not found <= TOLERANCE:
        raise ValueError(
            f"{ours.name} and {other.name} differ by {found:.1e} of the loss or of the largest gradient, allowed are "
            f"{TOLERANCE:.0e}: they do not compute the same, and are not timed"
        )
    return found


def _row(shared: dict, variant: str, timing: Timing, scale: float = 1e3, **more: object) -> dict:
    values = {"median": scale * timing.median, "low": scale * timing.low, "high": scale * timing.high}
    return {**shared, "variant": variant, "baseline": not more, **values, **more}


def _speedup(over: str, ratio: Timing) -> dict:
    return {
        "speedup_over": over, "speedup": ratio.median, "speedup_low": ratio.low, "speedup_high": ratio.high,
    }  # fmt: skip


def meta_steps(images: ImageSet, repeats: int) -> Iterator[dict]:
    """A meta-step on 16 tasks of 5-way 1-shot, for both networks and orders, and for few and many queries."""
    for n_query in (1, 15):
        episode = EpisodeSampler(images, N_WAY, 1, n_query, N_TASKS).sample(0)
        for first_order in (False, True):
            torch.manual_seed(0)
            for name, network in networks(images).items():
                other = of_learn2learn(network, first_order, 1)
                shared = {
                    "function": f"meta-step, {'first' if first_order else 'second'} order: loss and gradient",
                    "case": f"{name}, {N_TASKS} tasks, {N_WAY}-way 1-shot, {n_query} queries a class, 1 inner step",
                    "unit": "ms",
                    "repeats": repeats,
                }
                for vectorised in (True, False):
                    ours = of_ours(network, first_order, 1, vectorised)
                    exact = check(ours, other, (network, other.module), episode)
                    mine, theirs, ratio = paired(
                        partial(ours.gradient, episode), partial(other.gradient, episode), repeats
                    )
                    if vectorised:
                        yield _row(shared, other.name, theirs)
                    yield _row(shared, ours.name, mine, **_speedup(other.name, ratio), difference=exact)


def woodbury(repeats: int) -> Iterator[dict]:
    """Ridge regression with 1,600 features and 25 support images, forward and backward: dual against primal."""
    torch.manual_seed(0)
    x = torch.randn(N_TASKS, 25, FEATURES, requires_grad=True)
    y = F.one_hot(torch.arange(25) % 5).float().expand(N_TASKS, -1, -1)

    def primal() -> Tensor:
        gram = x.mT @ x + torch.eye(x.shape[-1])
        return torch.cholesky_solve(x.mT @ y, torch.linalg.cholesky(gram))

    def gradient(solve: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(solve().square().sum(), x)

    def ours() -> Tensor:
        return ridge(x, y, 1.0)

    with torch.no_grad():
        apart = float((ours() - primal()).abs().max() / primal().abs().max())
    if not apart < 1e-3:
        raise ValueError(f"the two solutions differ by {apart:.1e}")
    shared = {
        "function": "ridge regression: solution and gradient",
        "case": f"{N_TASKS} tasks, 25 support images, {FEATURES:,} features",
        "unit": "ms",
        "repeats": repeats,
    }
    mine, theirs, ratio = paired(gradient(ours), gradient(primal), repeats, inner=5)
    name = f"primal, {FEATURES:,} x {FEATURES:,}"
    yield _row(shared, name, theirs)
    yield _row(shared, "ridge (Woodbury, 25 x 25)", mine, **_speedup(name, ratio), difference=apart)


def inner_steps(images: ImageSet, repeats: int) -> Iterator[dict]:
    """Time and memory of a meta-gradient against the number of inner steps: the lecture's table as measurements."""
    episode = EpisodeSampler(images, N_WAY, 1, 1, 4).sample(0)
    torch.manual_seed(0)
    network = networks(images)["strided Conv4"]
    for steps in STEPS:
        learners = {
            "MAML": MAML(network, 0.1, steps),
            f"truncated after {LAST}": MAML(network, 0.1, steps, truncated(steps, LAST)),
            "first-order MAML": MAML(network, 0.1, steps, 1),
            "implicit MAML, 5 CG steps": IMAML(network, 0.1, steps),
        }
        for name, learner in learners.items():

            def gradient(learner=learner) -> object:
                return torch.autograd.grad(learner.loss(None, episode), list(network.parameters()))

            shared = {"case": f"{steps} inner steps", "steps": steps}
            size = peak_bytes(gradient) / 1e6
            yield {"function": "inner steps: memory", **shared, "unit": "MB", "repeats": 1, "variant": name,
                   "baseline": True, "median": size, "low": size, "high": size}  # fmt: skip
            yield _row(
                {"function": "inner steps: time", **shared, "unit": "ms", "repeats": repeats}, name,
                summarise([seconds(gradient) for _ in range(repeats)]),
            )  # fmt: skip


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(images: ImageSet, repeats: int = 11) -> list[dict]:
    """All rows: milliseconds and MB.

    Raises ``ModuleNotFoundError`` without learn2learn, ``ValueError`` where ours and theirs do not agree.
    """
    return [*meta_steps(images, repeats), *woodbury(repeats), *inner_steps(images, 3)]
