"""Loss and gradient of one episode: ours against easyfsl and learn2learn, the same images and the same weights.

Before anything is timed, loss and all gradients of the two must agree to ``TOLERANCE``. Where a library computes
something else, one method of it is overridden so that it computes the same; the variant's name says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.backbones import Conv4, EpisodeNorm2d
from utils.bench.memory import peak_bytes
from utils.bench.peers import is_here, learn2learn
from utils.bench.timing import paired
from utils.data import ImageSet
from utils.data.episodes import Episode, EpisodeSampler
from utils.fewshot.matching import Matching, MatchingNetwork
from utils.fewshot.prototypical import Prototypical
from utils.fewshot.relation import Relation, RelationNetwork

CASES = ((5, 1, 15), (20, 1, 15), (20, 5, 15))
"""n_way, k_shot, n_query."""
WIDTH = 64
TOLERANCE = 1e-5
PEERS = ("easyfsl", "learn2learn")
FLOOR = 1e-6
"""What easyfsl's matching networks add to a probability before they take its logarithm."""

Loss = Callable[[Episode], Tensor]


@dataclass(frozen=True)
class Side:
    """One way of computing a loss; ``parameters`` are in the same order on both sides."""

    name: str
    loss: Loss
    parameters: list[Tensor]
    modules: tuple[nn.Module, ...]

    def gradient(self, episode: Episode) -> tuple[Tensor, ...]:
        """The loss and its gradient by each parameter."""
        loss = self.loss(episode)
        return loss.detach(), *torch.autograd.grad(loss, self.parameters)


@dataclass(frozen=True)
class Contest:
    """Ours against a library's. ``mixed`` is the library's method around our network, where it accepts it.

    ``checked`` is what has to agree with the library where ours as it is differs by a trifle.
    """

    function: str
    statistics: str
    ours: Side
    other: Side
    mixed: Side | None = None
    checked: Loss | None = None


# ---------------------------------------------------------------------------------------------------- same networks


def layers(module: nn.Module) -> list[nn.Module]:
    """Convolutions, normalisations and linear layers: what corresponds in two writings of one network."""
    kinds = (nn.Conv2d, (nn.BatchNorm1d, nn.BatchNorm2d), nn.Linear)
    return [layer for kind in kinds for layer in module.modules() if isinstance(layer, kind)]


def parameters(module: nn.Module) -> list[Tensor]:
    return [value for layer in layers(module) for value in layer.parameters()]


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """``target`` with the values of ``source``, without the convolutions' biases if those have none; same mode."""
    for ours, other in zip(layers(source), layers(target), strict=True):
        if ours.bias is None:
            other.bias = None
        other.load_state_dict(ours.state_dict())
    return target.train(source.training)


def _block(channels: int, width: int, pool: bool = True) -> nn.Sequential:
    norm = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*norm, *([nn.MaxPool2d(2)] if pool else []))


def plain(network: Conv4) -> nn.Sequential:
    """The same network as everybody writes it."""
    channels = [conv.in_channels for conv in network.convs]
    blocks = [_block(n, WIDTH, pool=i < 2 or not network.maps) for i, n in enumerate(channels)]
    return copied(network, nn.Sequential(*blocks, *([] if network.maps else [nn.Flatten()])))


def season(network: nn.Module, loss: Loss, episode: Episode) -> None:
    """Weights of the normalisation unlike 1 and 0, and running statistics: those of the episode."""
    norms = [layer for layer in network.modules() if isinstance(layer, EpisodeNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1.0, 0.5)  # some are negative
        nn.init.normal_(norm.bias, 0.0, 0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()
        loss(episode)
    for norm in norms:
        norm.momentum = 0.1


# ------------------------------------------------------------------------------------------------------ the methods


def _in_turn(model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """An episode as easyfsl's tutorials take it: first the support set, then the queries."""

    def loss(episode: Episode) -> Tensor:
        model.process_support_set(episode.support_x[0], episode.support_y[0])
        return criterion(model(episode.query_x[0]), episode.query_y[0])

    return loss


def _in_one(network: nn.Module, classifier: nn.Module) -> Loss:
    """An episode as learn2learn's ``LightningPrototypicalNetworks`` takes it: support and queries in one pass."""

    def loss(episode: Episode) -> Tensor:
        embedding = network(torch.cat([episode.support_x[0], episode.query_x[0]]))
        n_support = episode.support_x.shape[1]
        classifier.fit_(embedding[:n_support], episode.support_y[0])
        return F.cross_entropy(classifier(embedding[n_support:]), episode.query_y[0])

    return loss


def _l2l_network(network: Conv4) -> nn.Module:
    models = learn2learn().vision.models
    return copied(network, models.CNN4Backbone(WIDTH, channels=network.convs[0].in_channels))


def prototypical(images: ImageSet, episode: Episode, peers: tuple[str, ...]) -> Iterator[Contest]:
    network = Conv4(images.image_shape[0], WIDTH, images.image_shape[1])
    season(network, lambda episode: Prototypical(network).loss(None, episode), episode)

    def ours(statistics: str) -> Side:
        learner = Prototypical(network, statistics)
        return Side("Prototypical", lambda episode: learner.loss(None, episode), parameters(network), (network,))

    if "easyfsl" in peers:
        from easyfsl.methods import PrototypicalNetworks

        class Squared(PrototypicalNetworks):
            def l2_distance_to_prototypes(self, samples: Tensor) -> Tensor:
                return -super().l2_distance_to_prototypes(samples).square()

        def theirs(name: str, backbone: nn.Module) -> Side:
            loss = _in_turn(Squared(backbone), F.cross_entropy)
            return Side(name, loss, parameters(backbone), (backbone,))

        network.eval()
        name = "easyfsl PrototypicalNetworks, distances squared"
        mixed = theirs("easyfsl around our Conv4", network)
        yield Contest("prototypical", "running", ours("running"), theirs(name, plain(network)), mixed)
    if "learn2learn" in peers:
        classifier = learn2learn().nn.PrototypicalClassifier

        def theirs(name: str, backbone: nn.Module) -> Side:
            return Side(name, _in_one(backbone, classifier()), parameters(backbone), (backbone,))

        for statistics in ("running", "batch"):
            network.train(statistics == "batch")
            other = theirs("learn2learn PrototypicalClassifier", _l2l_network(network))
            mixed = theirs("learn2learn around our Conv4", network)
            yield Contest("prototypical", statistics, ours(statistics), other, mixed)


def matching(images: ImageSet, episode: Episode, peers: tuple[str, ...]) -> Iterator[Contest]:
    n_support = episode.support_x.shape[1]
    embedding = Conv4(images.image_shape[0], WIDTH, images.image_shape[1])
    season(embedding, lambda episode: Prototypical(embedding).loss(None, episode), episode)
    embedding.eval()

    def ours(steps: int) -> tuple[Side, Loss, MatchingNetwork]:
        network = MatchingNetwork(embedding, context_steps=steps)
        learner = Matching(network, "running")
        values = parameters(embedding) + (list(network.context.parameters()) if steps else [])
        name = f"Matching(context_steps={steps})" if steps else "Matching"

        def checked(episode: Episode) -> Tensor:
            probabilities = learner.logits(None, episode)[0].exp()
            return F.nll_loss((probabilities + FLOOR).log(), episode.query_y[0])

        return Side(name, lambda episode: learner.loss(None, episode), values, (network,)), checked, network

    if "easyfsl" in peers:
        from easyfsl.methods import MatchingNetworks

        class Cosine(MatchingNetworks):
            def process_support_set(self, support_images: Tensor, support_labels: Tensor) -> None:
                super().process_support_set(support_images, support_labels)
                self.one_hot_support_labels = self.one_hot_support_labels.to(support_images.dtype)

            def encode_query_features(self, query_features: Tensor) -> Tensor:
                return F.normalize(super().encode_query_features(query_features))

        class CosineWithoutContext(Cosine):
            def encode_support_features(self, support_features: Tensor) -> Tensor:
                return support_features

            def encode_query_features(self, query_features: Tensor) -> Tensor:
                return F.normalize(query_features)

        side, checked, _ = ours(0)
        backbone = plain(embedding)
        model = CosineWithoutContext(backbone, feature_dimension=embedding.out_features)
        name = "easyfsl MatchingNetworks, cosines, no context"
        other = Side(name, _in_turn(model, F.nll_loss), parameters(backbone), (model,))
        yield Contest("matching", "running", side, other, checked=checked)

        side, checked, network = ours(n_support)  # easyfsl reads as often as there are support images
        backbone = plain(embedding)
        model = Cosine(backbone, feature_dimension=embedding.out_features)
        context = [*model.support_features_encoder.parameters(), *model.query_features_encoding_cell.parameters()]
        with torch.no_grad():
            for mine, value in zip(network.context.parameters(), context, strict=True):
                value.copy_(mine)
        name = "easyfsl MatchingNetworks, cosines"
        other = Side(name, _in_turn(model, F.nll_loss), parameters(backbone) + context, (model,))
        yield Contest("matching, full context", "running", side, other, checked=checked)
    if "learn2learn" in peers and n_support == episode.n_way:  # of more shots it compares with their mean
        side, _, _ = ours(0)
        backbone = _l2l_network(embedding)
        loss = _in_one(backbone, learn2learn().nn.PrototypicalClassifier(distance="cosine"))
        name = "learn2learn PrototypicalClassifier, cosines"
        yield Contest("matching", "running", side, Side(name, loss, parameters(backbone), (backbone,)))


def relation(images: ImageSet, episode: Episode, peers: tuple[str, ...]) -> Iterator[Contest]:
    if "easyfsl" not in peers:
        return
    from easyfsl.methods import RelationNetworks

    class Summed(RelationNetworks):
        def process_support_set(self, support_images: Tensor, support_labels: Tensor) -> None:
            super().process_support_set(support_images, support_labels)
            self.prototypes = len(support_images) // len(self.prototypes) * self.prototypes

    network = RelationNetwork(Conv4(images.image_shape[0], WIDTH, images.image_shape[1], maps=True))
    season(network, lambda episode: Relation(network).loss(None, episode), episode)
    network.eval()
    learner, module = Relation(network, "running"), network.relation
    ours = Side("Relation", lambda episode: learner.loss(None, episode), parameters(network), (network,))
    tail = (nn.Flatten(), nn.Linear(module.hidden.in_features, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    paper = copied(module, nn.Sequential(_block(2 * WIDTH, WIDTH), _block(WIDTH, WIDTH), *tail))
    model = Summed(plain(network.embedding), feature_dimension=WIDTH, relation_module=paper).eval()

    def criterion(scores: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(scores, F.one_hot(labels, episode.n_way).to(scores.dtype))

    name = "easyfsl RelationNetworks, shots summed"
    yield Contest("relation", "running", ours, Side(name, _in_turn(model, criterion), parameters(model), (model,)))


# --------------------------------------------------------------------------------------------------------- measuring


def difference(contest: Contest, episode: Episode) -> float:
    """How far the two are apart: the larger of the loss's difference, by the loss, and the gradients', by their
    largest entry.
    """
    ours = contest.ours if contest.checked is None else replace(contest.ours, loss=contest.checked)
    (loss, *slopes), (expected, *wanted) = ours.gradient(episode), contest.other.gradient(episode)
    largest = max(float(slope.abs().max()) for slope in wanted)
    if not (largest > 0 and abs(float(expected)) > 0):
        raise ValueError(
            f"{contest.other.name}: loss {float(expected)}, largest gradient {largest}: nothing to compare"
        )
    apart = max(float((slope - other).abs().max()) for slope, other in zip(slopes, wanted, strict=True))
    return max(float((loss - expected).abs() / expected.abs()), apart / largest)


def check(contest: Contest, episode: Episode) -> tuple[float, float]:
    """``difference`` in float64 and in float32; ``ValueError`` where the former, or the latter's loss, is too large.

    The gradient is checked in float64. In float32, two entries of a pooling window that nearly coincide may come out
    in either order, and the gradient, which goes to the larger, jumps.
    """
    modules = [module for side in (contest.ours, contest.other) for module in side.modules]
    single = difference(contest, episode)
    for module in modules:
        module.double()
    exact = difference(
        contest, replace(episode, support_x=episode.support_x.double(), query_x=episode.query_x.double())
    )
    for module in modules:
        module.float()
    if not exact <= TOLERANCE:
        raise ValueError(
            f"{contest.function}: {contest.ours.name} and {contest.other.name} differ by {exact:.1e} of the loss or of "
            f"the largest gradient, allowed are {TOLERANCE:.0e}: they do not compute the same, and are not timed"
        )
    return exact, single


def measure(images: ImageSet, repeats: int = 9) -> list[dict]:
    """Rows of milliseconds for loss and gradient of one episode, and of the most memory that a relation network needs.

    A library that is not installed is left out, with a word on stderr. Raises ``ModuleNotFoundError`` without both,
    ``ValueError`` where ours and a library's do not agree.
    """
    peers = tuple(name for name in PEERS if is_here(name))
    if not peers:
        raise ModuleNotFoundError(f"neither of {PEERS} is installed: nothing to compare with", name=PEERS[0])
    for name in sorted({*PEERS} - {*peers}):
        print(f"{name} is not installed: its rows are left out", file=sys.stderr)
    rows = []
    for n_way, k_shot, n_query in CASES:
        episode = EpisodeSampler(images, n_way, k_shot, n_query).sample(0)
        case = f"{n_way}-way {k_shot}-shot, {n_query} queries a class"
        torch.manual_seed(0)
        for method in (prototypical, matching, relation):
            for contest in method(images, episode, peers):
                rows += _rows(contest, episode, case, repeats)
    return rows


def _rows(contest: Contest, episode: Episode, case: str, repeats: int) -> list[dict]:
    for side in (contest.ours, contest.other):
        for module in side.modules:
            module.train(contest.statistics == "batch")
    exact, single = check(contest, episode)
    ours, other = (lambda side=side: side.gradient(episode) for side in (contest.ours, contest.other))
    shared = {
        "function": f"{contest.function}: loss and gradient",
        "case": f"{case}, {contest.statistics} statistics",
        "unit": "ms",
        "repeats": repeats,
    }
    mine, theirs, ratio = paired(ours, other, repeats)
    rows = [
        {**shared, "variant": contest.other.name, "baseline": True, "median": 1e3 * theirs.median,
         "low": 1e3 * theirs.low, "high": 1e3 * theirs.high},
        {**shared, "variant": contest.ours.name, "baseline": False, "median": 1e3 * mine.median,
         "low": 1e3 * mine.low, "high": 1e3 * mine.high, "speedup_over": contest.other.name,
         "speedup": ratio.median, "speedup_low": ratio.low, "speedup_high": ratio.high,
         "difference": exact, "difference_float32": single},
    ]  # fmt: skip
    if contest.mixed is not None:
        mixed, _, ratio = paired(lambda: contest.mixed.gradient(episode), other, repeats)
        rows.append(
            {**shared, "variant": contest.mixed.name, "baseline": False, "median": 1e3 * mixed.median,
             "low": 1e3 * mixed.low, "high": 1e3 * mixed.high, "speedup_over": contest.other.name,
             "speedup": ratio.median, "speedup_low": ratio.low, "speedup_high": ratio.high}
        )  # fmt: skip
    if contest.function == "relation":
        shared |= {"function": "relation: most memory at once", "unit": "MB", "repeats": 1}
        for side, call in ((contest.other, other), (contest.ours, ours)):
            size = peak_bytes(call) / 1e6
            rows.append(
                {**shared, "variant": side.name, "baseline": side is contest.other, "median": size, "low": size,
                 "high": size}
            )  # fmt: skip
    return rows
