"""Learning to adapt on Omniglot: MAML and its family, implicit MAML, and the closed-form inner learners.

All share what the other runs on Omniglot have: 1,200 characters (train and validation parts of the Vinyals split) and
their rotations to train on, Adam with a cosine schedule, a fixed number of steps chosen beforehand, and 1,000 test
episodes a setting from the other 423 characters and their rotations, the same for every method. Networks that adapt all
their parameters are the strided Conv4 of Finn et al. (2017), one for each setting; those with a closed-form inner
learner are the pooled one, trained with 20 classes, one for each number of shots.

Every network is tested twice: with batch-norm statistics of the queries themselves (``"batch"``: transductive, as most
papers do without saying so) and of the support set (``"support"``), or where nothing but a head adapts, with running
averages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.backbones import Conv4, MixedPrecision
from utils.claims.statistics import interval
from utils.data import ImageSet, load
from utils.data.episodes import Episode, EpisodeSampler, mix_seed
from utils.fewshot.classifier import ClassifierNetwork
from utils.meta.imaml import IMAML
from utils.meta.lr_d2 import LRD2, LRD2Network
from utils.meta.maml import MAML
from utils.meta.maml_plus_plus import StepNorms, average_statistics, step_loss_weights
from utils.meta.metaoptnet import MetaOptNet, MetaOptNetwork
from utils.meta.r2d2 import R2D2, R2D2Network
from utils.meta.rates import LearnedRates
from utils.meta.reptile import Reptile, all_as_support
from utils.records import provenance, write_record
from utils.reproduce.runs import check_seeds, finished_alone, in_processes, over_seeds, record, stored_part
from utils.training import Checkpoint, best_device, embed_images, episode_accuracies, fit

TEST_WAYS = (5, 20)


@dataclass(frozen=True)
class Training:
    """How one network is trained: on ``n_way``-way ``k_shot`` tasks with ``n_query`` queries a class, ``tasks`` a step.

    ``inner_steps`` steps with rate ``inner_lr`` in training and ``test_steps`` in testing; the closed-form learners
    have neither.
    """

    method: str
    n_way: int
    k_shot: int
    n_query: int
    tasks: int
    steps: int
    inner_lr: float = 0.0
    inner_steps: int = 0
    test_steps: int = 0
    learning_rate: float = 1e-3
    dataset: str = "omniglot"
    split: str = "trainval"
    width: int = 64


@dataclass(frozen=True)
class Evaluation:
    """How all networks are tested. ``statistics_tasks``: training tasks from which running statistics are averaged."""

    split: str = "test"
    n_query: int = 15
    episodes: int = 1000
    statistics_tasks: int = 200
    seed: int = 1_000_003


ADAPTING = ("maml", "fomaml", "reptile", "maml-plus-plus", "imaml")
CLOSED_FORM = ("r2d2", "lr-d2", "metaoptnet-ridge", "metaoptnet-svm")
FIRST_ORDER_PART = 0.3
MULTI_STEP_PART = 0.15
"""MAML++: the part of the training with first-order gradients, and that over which the multi-step loss is annealed."""


def _settings(method: str, common: dict[str, object], *own: tuple[int, int, dict[str, object]]) -> tuple[Training, ...]:
    return tuple(Training(method, n_way, k_shot, **(common | values)) for n_way, k_shot, values in own)


_ONE_STEP = {"n_query": 10, "tasks": 4, "steps": 12000, "learning_rate": 2e-3,
             "inner_lr": 0.4, "inner_steps": 1, "test_steps": 3}  # fmt: skip
_REPTILE = {"n_query": 9, "tasks": 5, "steps": 12000, "learning_rate": 1.0,
            "inner_lr": 1e-3, "inner_steps": 5, "test_steps": 50}  # fmt: skip
_PLUS_PLUS = {"n_query": 5, "tasks": 4, "steps": 6000, "learning_rate": 2e-3,
              "inner_lr": 0.4, "inner_steps": 3, "test_steps": 3}  # fmt: skip
_IMPLICIT = {"n_query": 10, "tasks": 4, "steps": 5000, "learning_rate": 2e-3,
             "inner_lr": 0.1, "inner_steps": 16, "test_steps": 16}  # fmt: skip
_CLOSED_FORM = {"n_query": 5, "tasks": 1, "steps": 3000}
_MORE_CLASSES = {"n_query": 3, "tasks": 2}

NETWORKS: dict[str, tuple[Training, ...]] = {
    **{
        method: _settings(method, {}, (5, 1, five), (5, 5, five), (20, 1, twenty), (20, 5, twenty))
        for method, five, twenty in (
            ("maml", _ONE_STEP, _ONE_STEP | _MORE_CLASSES),
            ("fomaml", _ONE_STEP, _ONE_STEP | _MORE_CLASSES),
            ("reptile", _REPTILE, _REPTILE),
            ("maml-plus-plus", _PLUS_PLUS, _PLUS_PLUS | _MORE_CLASSES),
            ("imaml", _IMPLICIT, _IMPLICIT | _MORE_CLASSES),
        )
    },
    **{method: _settings(method, _CLOSED_FORM, (20, 1, {}), (20, 5, {})) for method in CLOSED_FORM},
}
"""What is trained for each method."""

TITLES = {
    "maml": "MAML",
    "fomaml": "First-order MAML",
    "reptile": "Reptile",
    "maml-plus-plus": "MAML++",
    "imaml": "Implicit MAML",
    "r2d2": "R2-D2",
    "lr-d2": "LR-D2",
    "metaoptnet-ridge": "MetaOptNet, ridge head",
    "metaoptnet-svm": "MetaOptNet, SVM head",
}


@dataclass(frozen=True)
class Untrained:
    """A learner before training, the module that holds all that is trained, and the loss of every step."""

    learner: object
    trained: nn.Module
    loss_at: Callable[[int], Tensor]
    sampler: EpisodeSampler
    norms: StepNorms | None = None


def untrained(training: Training, images: ImageSet, seed: int) -> Untrained:
    """The learner of ``training`` with the weights of ``seed``."""
    torch.manual_seed(seed)
    number = 100 * seed + 10 * training.k_shot + training.n_way
    sampler = EpisodeSampler(
        images, training.n_way, training.k_shot, training.n_query, training.tasks, rotations=True, seed=number
    )
    channels, size = images.image_shape[:2]
    embedding = Conv4(channels, training.width, size, "stride" if training.method in ADAPTING else "pool")
    if training.method in CLOSED_FORM:
        embedding = MixedPrecision(embedding)
        learner = closed_form(training.method, embedding, images.device)
        return Untrained(learner, learner.network, lambda step: learner.loss(None, sampler.sample(step)), sampler)
    network = ClassifierNetwork(embedding, training.n_way).to(images.device)
    if training.method == "maml-plus-plus":
        return _maml_plus_plus(training, network, sampler)
    if training.method == "reptile":
        reptile = Reptile(
            network, training.inner_lr, training.inner_steps, inner_batch=2 * training.n_way,
            test_steps=training.test_steps,
        )  # fmt: skip
        return Untrained(
            reptile,
            network,
            lambda step: reptile.loss(None, all_as_support(sampler.sample(step)), seed=mix_seed(number, step)),
            sampler,
        )
    if training.method == "imaml":
        learner = IMAML(network, training.inner_lr, training.inner_steps)
    else:
        order = 1 if training.method == "fomaml" else 2
        learner = MAML(network, training.inner_lr, training.inner_steps, order)
    return Untrained(learner, network, lambda step: learner.loss(None, sampler.sample(step)), sampler)


def closed_form(method: str, embedding: nn.Module, device: torch.device):
    """The learner of one of :data:`CLOSED_FORM` around an embedding."""
    if method == "r2d2":
        return R2D2(R2D2Network(embedding).to(device))
    if method == "lr-d2":
        return LRD2(LRD2Network(embedding).to(device))
    return MetaOptNet(MetaOptNetwork(embedding).to(device), head=method.removeprefix("metaoptnet-"))


def _maml_plus_plus(training: Training, network: ClassifierNetwork, sampler: EpisodeSampler) -> Untrained:
    params = dict(network.named_parameters())
    norms = StepNorms(network, training.inner_steps)
    adapted = norms.adapted(params)
    rates = LearnedRates({name: params[name] for name in adapted}, training.inner_lr, "tensor", training.inner_steps)
    trained = nn.ModuleList([network, norms, rates]).to(sampler.images.device)
    learner = MAML(network, rates, training.inner_steps, adapted=adapted, at_step=norms)

    def loss_at(step: int) -> Tensor:
        progress = step / training.steps
        weights = step_loss_weights(training.inner_steps, min(1.0, progress / MULTI_STEP_PART))
        return learner.loss(None, sampler.sample(step), 1 if progress < FIRST_ORDER_PART else 2, weights)

    return Untrained(learner, trained, loss_at, sampler, norms)


def train(training: Training, images: ImageSet, seed: int, folder: Path) -> Untrained:
    """The trained learner, resumed from ``folder`` where an earlier run stopped."""
    made = untrained(training, images, seed)
    name = f"{training.method}_{training.n_way}way{training.k_shot}shot_seed{seed}"
    if training.method == "reptile":  # its gradient is a distance that it goes part of the way: from all to none
        optimizer = torch.optim.SGD(made.trained.parameters(), training.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, training.steps)
    else:
        optimizer = torch.optim.Adam(made.trained.parameters(), training.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    checkpoint = Checkpoint(folder / f"network_{name}.pt", {**asdict(training), "seed": seed}, every=250)
    fit(made.trained, made.loss_at, training.steps, optimizer, schedule, checkpoint, label=name)
    return made


def test(training: Training, testing: Evaluation, made: Untrained, images: ImageSet) -> list[dict]:
    """A row for each kind of statistics and, for the closed-form learners, each number of classes."""
    rows = []

    def measure(n_way: int, statistics: str, predict: Callable[[Episode], Tensor], bank: Tensor | None = None) -> None:
        sampler = EpisodeSampler(
            images, n_way, training.k_shot, testing.n_query, batch_size=10, rotations=True, seed=testing.seed
        )
        mean, ci95, sd = interval(episode_accuracies(predict, sampler, testing.episodes, bank=bank))
        rows.append(
            {"variant": training.method, "n_way": n_way, "k_shot": training.k_shot, "statistics": statistics,
             "mean": 100 * mean, "ci95": 100 * ci95, "sd": 100 * sd, "episodes": testing.episodes}
        )  # fmt: skip

    if training.method in CLOSED_FORM:
        bank = embed_images(made.learner.network.embedding, images, rotations=True)
        transductive = replace(made.learner, statistics="batch")
        for n_way in TEST_WAYS:
            measure(n_way, "running", made.learner.classify_embedded, bank)
            measure(n_way, "batch", lambda e: transductive.logits(None, e))
        return rows
    choices = ["support", "batch"]
    if made.norms is not None:
        tasks = (made.sampler.sample(training.steps + i) for i in range(testing.statistics_tasks))
        average_statistics(made.learner, made.norms, tasks)
        choices.insert(0, "running")
    for statistics in choices:
        learner = replace(made.learner, statistics=statistics)
        measure(training.n_way, statistics, lambda e, f=learner: f.logits(None, e, training.test_steps))
    return rows


def _part(training: Training, testing: Evaluation, seed: int, folder: Path) -> tuple[Path, dict]:
    """Where the result is kept, and the settings that it belongs to."""
    name = f"result_{training.method}_{training.n_way}way{training.k_shot}shot_seed{seed}.json"
    return folder / name, {"training": asdict(training), "testing": asdict(testing)}


def run_one(training: Training, testing: Evaluation, seed: int, folder: Path) -> dict:
    """Train and test one network; the result is kept in ``folder`` and read from there the next time."""
    path, settings = _part(training, testing, seed, folder)
    if (stored := stored_part(path, settings)) is not None:
        return stored
    device = best_device()
    started = time.perf_counter()
    made = train(training, load(training.dataset, training.split).to(device), seed, folder)
    rows = test(training, testing, made, load(training.dataset, testing.split).to(device))
    result = {
        "settings": settings,
        "seed": seed,
        "rows": [{**row, "seed": seed} for row in rows],
        "seconds": time.perf_counter() - started,
        "provenance": provenance(str(device)),
    }
    write_record(path.stem, result, folder)
    return result


def run(
    method: str,
    dataset: str,
    seeds: list[int],
    folder: Path,
    steps: int | None = None,
    jobs: int = 1,
    finished: bool = False,
) -> dict:
    """All networks and seeds of ``method``, ``jobs`` at a time; finished parts are read from ``folder``.

    With ``finished``, nothing is trained: the record is of the networks that are finished for all seeds.
    """
    if dataset != "omniglot":
        raise ValueError(f"{method} is recorded on omniglot; got {dataset!r}")
    check_seeds(seeds, steps)
    networks = NETWORKS[method]
    if steps is not None:
        networks = tuple(replace(training, steps=steps) for training in networks)
    testing = Evaluation()
    folder.mkdir(parents=True, exist_ok=True)
    if finished:
        networks = finished_alone(networks, lambda one: [_part(one, testing, seed, folder) for seed in seeds], method)
    results = in_processes(
        run_one, [(training, testing, seed, folder) for seed in seeds for training in networks], jobs
    )
    config = {"networks": [asdict(training) for training in networks], "testing": asdict(testing)}
    rows = over_seeds(results, dataset, TITLES)
    return record(method, dataset, f"{TITLES[method]} on Omniglot", results, rows, config, seeds, steps)


METHODS = {method: partial(run, method) for method in (*ADAPTING, *CLOSED_FORM)}
