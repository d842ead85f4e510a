"""The lecture's few-shot table on Omniglot: baseline classifier, Siamese, matching and relation networks.

All share what the prototypical run has: 1,200 characters (train and validation parts of the Vinyals split) and their
rotations to train on, a Conv4 with 64 channels (convolutions in bfloat16 while training), Adam, a fixed number of steps
chosen beforehand, and 1,000 test episodes a setting from the other 423 characters and their rotations, the same for
every method. Where the table says fine-tuned, each test task trains a copy of the network on its support set.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.backbones import Conv4, MixedPrecision
from utils.claims.statistics import interval
from utils.data import ImageSet, load
from utils.data.batches import ImageBatches
from utils.data.distortions import AffineDistortion
from utils.data.episodes import Episode, EpisodeSampler, mix_seed
from utils.fewshot import classifier
from utils.fewshot.classifier import Classifier, ClassifierNetwork
from utils.fewshot.finetuning import FineTuning, finetuned_classifier, finetuned_logits
from utils.fewshot.matching import Matching, MatchingNetwork
from utils.fewshot.relation import Relation, RelationNetwork, relation_scores
from utils.fewshot.siamese import Siamese, SiameseNetwork
from utils.records import provenance, write_record
from utils.reproduce.runs import check_seeds, in_processes, over_seeds, record
from utils.training import Checkpoint, best_device, embed_images, episode_accuracies, fit, progress

TASKS = ((5, 1), (5, 5), (20, 1), (20, 5))


@dataclass(frozen=True)
class Training:
    """How one network is trained; ``k_shot`` 0 where one network serves all numbers of shots."""

    method: str
    k_shot: int
    n_way: int
    n_query: int
    steps: int
    learning_rate: float = 1e-3
    dataset: str = "omniglot"
    split: str = "trainval"
    width: int = 64
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Evaluation:
    """How all networks are tested."""

    split: str = "test"
    n_query: int = 15
    episodes: int = 1000
    transductive_episodes: int = 200
    finetuned_episodes: int = 200
    tuning_steps: int = 10
    tuning_rate: float = 1e-4
    tuning_head_rate: float = 3e-2
    seed: int = 1_000_003


NETWORKS = {
    "baseline": (Training("baseline", 0, 0, 192, 4000),),
    "siamese": (Training("siamese", 0, 60, 3, 4000),),
    "matching": (Training("matching", 5, 40, 3, 4000), Training("matching", 1, 60, 3, 5000)),
    "relation": (Training("relation", 5, 20, 5, 3000), Training("relation", 1, 20, 5, 5000)),
}
"""What is trained for each method, the longest first. The baseline's batches hold ``n_query`` images of any class."""

RECORDS = {
    "baseline": "Baseline classifier on Omniglot",
    "siamese": "Siamese networks on Omniglot",
    "matching": "Matching networks on Omniglot",
    "relation": "Relation networks on Omniglot",
}
VARIANTS = {
    "baseline-cosine": "Baseline classifier by cosine",
    "baseline-cosine-finetuned": "Baseline classifier by cosine, fine-tuned",
    "baseline-softmax-finetuned": "Baseline classifier by a new softmax layer, fine-tuned",
    "siamese": "Siamese network",
    "siamese-finetuned": "Siamese network, fine-tuned",
    "matching": "Matching network",
    "matching-finetuned": "Matching network, fine-tuned",
    "relation": "Relation network",
}


def untrained(training: Training, images: ImageSet, seed: int):
    """The learner before training and ``loss_at(step)``."""
    torch.manual_seed(seed)
    channels, size = images.image_shape[:2]
    body = Conv4(channels, training.width, size, maps=training.method == "relation")
    embedding = MixedPrecision(body, getattr(torch, training.precision))
    number = 10 * seed + training.k_shot
    if training.method == "baseline":
        batches = ImageBatches(images, training.n_query, rotations=True, seed=number)
        learner = Classifier(ClassifierNetwork(embedding, batches.n_classes).to(images.device))

        def loss_at(step: int) -> Tensor:
            x, y = batches.sample(step)
            return F.cross_entropy(learner.network(x, "batch"), y)

        return learner, loss_at
    sampler = EpisodeSampler(
        images, training.n_way, max(1, training.k_shot), training.n_query, rotations=True, seed=number
    )
    if training.method == "siamese":
        learner = Siamese(SiameseNetwork(embedding).to(images.device))
    elif training.method == "matching":
        learner = Matching(MatchingNetwork(embedding, scale=10.0, learned=True).to(images.device))
    else:
        network = RelationNetwork(body)
        network.embedding = embedding
        learner = Relation(network.to(images.device))
    return learner, lambda step: learner.loss(None, sampler.sample(step))


def train(training: Training, images: ImageSet, seed: int, folder: Path):
    """The trained learner, resumed from ``folder`` where an earlier run stopped."""
    learner, loss_at = untrained(training, images, seed)
    optimizer = torch.optim.Adam(learner.network.parameters(), training.learning_rate)
    name = f"{training.method}_{training.k_shot}shot_seed{seed}"
    fit(
        learner.network,
        loss_at,
        training.steps,
        optimizer,
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps),
        Checkpoint(folder / f"network_{name}.pt", {**asdict(training), "seed": seed}, every=250),
        label=name,
    )
    return learner


def test(training: Training, testing: Evaluation, learner, images: ImageSet) -> list[dict]:
    """A row for each setting and each way of classifying that the table has for this network."""
    embedding = learner.network.embedding
    bank = embed_images(embedding, images, rotations=True)
    embedded = classify_embedded(training.method, learner)
    prefix = "baseline-cosine" if training.method == "baseline" else training.method
    fixed = type(learner)(learner.network, statistics="running")
    transductive = type(learner)(learner.network, statistics="batch")
    rows = []
    for n_way, k_shot in TASKS:
        if training.k_shot not in (0, k_shot):
            continue
        sampler = EpisodeSampler(
            images, n_way, k_shot, testing.n_query, batch_size=10, rotations=True, seed=testing.seed
        )

        def row(variant: str, statistics: str, accuracies: Tensor, n_way: int = n_way, k_shot: int = k_shot) -> None:
            mean, ci95, sd = interval(accuracies)
            rows.append(
                {"variant": variant, "n_way": n_way, "k_shot": k_shot, "statistics": statistics, "mean": 100 * mean,
                 "ci95": 100 * ci95, "sd": 100 * sd, "episodes": len(accuracies)}
            )  # fmt: skip

        row(prefix, "running", episode_accuracies(embedded, sampler, testing.episodes, bank=bank))
        row(
            prefix,
            "batch",
            episode_accuracies(lambda e: transductive.logits(None, e), sampler, testing.transductive_episodes),
        )
        for variant, accuracies in finetuned(training.method, testing, fixed, sampler).items():
            row(variant, "running", accuracies)
    return rows


def classify_embedded(method: str, learner) -> Callable[[Episode], Tensor]:
    """How the learner classifies episodes whose entries are embedded already."""
    if method == "baseline":
        return classifier.classify_embedded
    if method == "relation":
        return lambda e: relation_scores(learner.network, e.support_x, e.support_y, e.query_x, e.n_way)
    return learner.classify_embedded


def finetuned(method: str, testing: Evaluation, learner, sampler: EpisodeSampler) -> dict[str, Tensor]:
    """Accuracies of the first test episodes, each after fine-tuning on its support set; nothing where not in the table.

    The distortions are those of Koch et al. (2015).
    """
    tuning = FineTuning(AffineDistortion(), testing.tuning_steps, testing.tuning_rate, testing.tuning_head_rate)
    if method == "baseline":

        def scores(episode: Episode, generator: torch.Generator) -> dict[str, Tensor]:
            both = finetuned_classifier(learner, tuning, episode, generator)
            return {f"baseline-{matching}-finetuned": value for matching, value in both.items()}
    elif method in ("siamese", "matching"):

        def scores(episode: Episode, generator: torch.Generator) -> dict[str, Tensor]:
            return {f"{method}-finetuned": finetuned_logits(learner, tuning, episode, generator)}
    else:
        return {}
    found: dict[str, list[Tensor]] = {}
    with progress(testing.finetuned_episodes, "fine-tuning") as bar:
        for number in range(testing.finetuned_episodes):
            batch, place = divmod(number, sampler.batch_size)
            episode = sampler.sample(batch).task(place)
            generator = torch.Generator().manual_seed(mix_seed(testing.seed, number))
            for variant, score in scores(episode, generator).items():
                right = score.argmax(-1) == episode.query_y
                found.setdefault(variant, []).append(right.double().mean().cpu())
            bar.update()
    return {variant: torch.stack(values) for variant, values in found.items()}


def run_one(training: Training, testing: Evaluation, seed: int, folder: Path) -> dict:
    """Train and test one network; the result is kept in ``folder`` and read from there the next time."""
    path = folder / f"result_{training.method}_{training.k_shot}shot_seed{seed}.json"
    settings = json.loads(json.dumps({"training": asdict(training), "testing": asdict(testing)}))
    if path.exists() and (stored := json.loads(path.read_text()))["settings"] == settings:
        return stored
    device = best_device()
    started = time.perf_counter()
    learner = train(training, load(training.dataset, training.split).to(device), seed, folder)
    rows = test(training, testing, learner, load(training.dataset, testing.split).to(device))
    result = {
        "settings": settings,
        "seed": seed,
        "rows": [{**row, "seed": seed} for row in rows],
        "seconds": time.perf_counter() - started,
        "provenance": provenance(str(device)),
    }
    write_record(path.stem, result, folder)
    return result


def run(method: str, dataset: str, seeds: list[int], folder: Path, steps: int | None = None, jobs: int = 1) -> dict:
    """All networks and seeds of ``method``, ``jobs`` at a time; finished parts are read from ``folder``."""
    if dataset != "omniglot":
        raise ValueError(f"{method} is recorded on omniglot; got {dataset!r}")
    check_seeds(seeds, steps)
    networks = NETWORKS[method]
    if steps is not None:
        networks = tuple(replace(training, steps=steps) for training in networks)
    testing = Evaluation()
    folder.mkdir(parents=True, exist_ok=True)
    results = in_processes(
        run_one, [(training, testing, seed, folder) for seed in seeds for training in networks], jobs
    )
    config = {"networks": [asdict(training) for training in networks], "testing": asdict(testing)}
    rows = over_seeds(results, dataset, VARIANTS)
    return record(method, dataset, RECORDS[method], results, rows, config, seeds, steps)


METHODS = {method: partial(run, method) for method in NETWORKS}
