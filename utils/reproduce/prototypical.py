"""Prototypical networks with the protocol of Snell, Swersky and Zemel (2017), section 3.1, on Omniglot.

1,200 characters (train and validation parts of the Vinyals split) and their rotations to train on, episodes of 60
classes with 5 queries a class, Adam at 1e-3 halved at regular intervals, one network for 1 shot and one for 5; 1,000
test episodes from the other 423 characters and their rotations. Unlike the paper, which stops by the validation loss,
the number of episodes is fixed beforehand: nothing is selected on validation or test classes.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.backbones import Conv4
from utils.claims.statistics import interval
from utils.data import ImageSet, load
from utils.data.episodes import EpisodeSampler
from utils.fewshot.prototypical import Prototypical, classify_embedded, prototypical_logits
from utils.functional import class_means
from utils.records import provenance, write_record
from utils.reproduce.runs import check_seeds, in_processes, over_seeds, record
from utils.training import Checkpoint, best_device, embed_images, episode_accuracies, fit

TITLE = "Prototypical networks on Omniglot"
TEST_WAYS = (5, 20)
SHOTS = (1, 5)


@dataclass(frozen=True)
class Protocol:
    """The settings of one run.

    ``train_steps``: training episodes of the 1-shot and of the 5-shot network. ``precision``: of the convolutions while
    training (twice as fast in bfloat16 on current CPUs); distances, loss and all testing are in float32.
    """

    dataset: str = "omniglot"
    train_split: str = "trainval"
    test_split: str = "test"
    width: int = 64
    train_way: int = 60
    train_query: int = 5
    train_steps: tuple[int, int] = (7000, 4000)
    learning_rate: float = 1e-3
    halvings: int = 8
    precision: str = "bfloat16"
    test_query: int = 15
    test_episodes: int = 1000
    transductive_episodes: int = 200
    test_seed: int = 1_000_003


def train(protocol: Protocol, images: ImageSet, k_shot: int, seed: int, folder: Path) -> Prototypical:
    """The network of one seed and number of shots, resumed from ``folder`` where an earlier run stopped."""
    torch.manual_seed(seed)
    network = Conv4(images.image_shape[0], protocol.width, images.image_shape[1]).to(images.device)
    sampler = EpisodeSampler(
        images, protocol.train_way, k_shot, protocol.train_query, rotations=True, seed=10 * seed + k_shot
    )
    learner = Prototypical(network, statistics="batch")
    optimizer = torch.optim.Adam(network.parameters(), protocol.learning_rate)
    steps = protocol.train_steps[SHOTS.index(k_shot)]

    def loss_at(step: int) -> Tensor:
        episode = sampler.sample(step)
        with torch.autocast(images.device.type, getattr(torch, protocol.precision)):
            support, query = learner.embed(None, episode.support_x, episode.query_x)
        means = class_means(support.float(), episode.support_y, episode.n_way)
        logits = prototypical_logits(means, query.float())
        return F.cross_entropy(logits.flatten(0, 1), episode.query_y.flatten())

    fit(
        network,
        loss_at,
        steps,
        optimizer,
        torch.optim.lr_scheduler.StepLR(optimizer, max(1, steps // protocol.halvings), 0.5),
        Checkpoint(
            folder / f"network_{k_shot}shot_seed{seed}.pt",
            {**asdict(protocol), "k_shot": k_shot, "seed": seed},
            every=250,
        ),
        label=f"{k_shot}-shot, seed {seed}",
    )
    return learner


def run_one(protocol: Protocol, k_shot: int, seed: int, folder: Path) -> dict:
    """Train and test one network; the result is kept in ``folder`` and read from there the next time.

    Its ``seconds`` are those of the last attempt: what an interrupted one had trained already is not in them.
    """
    path = folder / f"result_{k_shot}shot_seed{seed}.json"
    if path.exists() and (stored := json.loads(path.read_text()))["protocol"] == json.loads(
        json.dumps(asdict(protocol))
    ):
        return stored
    device = best_device()
    started = time.perf_counter()
    learner = train(protocol, load(protocol.dataset, protocol.train_split).to(device), k_shot, seed, folder)
    images = load(protocol.dataset, protocol.test_split).to(device)
    bank = embed_images(learner.network, images, rotations=True)
    rows = []
    for n_way in TEST_WAYS:
        sampler = EpisodeSampler(
            images, n_way, k_shot, protocol.test_query, batch_size=10, rotations=True, seed=protocol.test_seed
        )
        # The same episodes for every seed and both kinds of statistics.
        accuracies = {
            "running": episode_accuracies(classify_embedded, sampler, protocol.test_episodes, bank=bank),
            "batch": episode_accuracies(lambda e: learner.logits(None, e), sampler, protocol.transductive_episodes),
        }
        for statistics, samples in accuracies.items():
            mean, ci95, sd = interval(samples)
            rows.append(
                {"n_way": n_way, "k_shot": k_shot, "statistics": statistics, "seed": seed, "mean": 100 * mean,
                 "ci95": 100 * ci95, "sd": 100 * sd, "episodes": len(samples)}
            )  # fmt: skip
    result = {
        "protocol": asdict(protocol),
        "rows": rows,
        "seconds": time.perf_counter() - started,
        "provenance": provenance(str(device)),
    }
    write_record(path.stem, result, folder)
    return result


def assemble(protocol: Protocol, results: list[dict], seeds: list[int]) -> dict:
    """One record of all seeds: means over seeds with their t-interval, each seed's own numbers below."""
    named = [{"rows": [{"variant": "prototypical", **row} for row in result["rows"]]} for result in results]
    rows = over_seeds(named, protocol.dataset, {"prototypical": "Prototypical network"})
    steps = None if protocol.train_steps == Protocol.train_steps else protocol.train_steps[0]
    return record("prototypical", protocol.dataset, TITLE, results, rows, asdict(protocol), seeds, steps)


def run(dataset: str, seeds: list[int], folder: Path, train_steps: int | None = None, jobs: int = 1) -> dict:
    """All seeds and shots, ``jobs`` at a time in processes of their own; finished parts are read from ``folder``."""
    if dataset != "omniglot":
        raise ValueError(f"prototypical networks are recorded on omniglot; got {dataset!r}")
    check_seeds(seeds, train_steps)
    protocol = Protocol(dataset) if train_steps is None else Protocol(dataset, train_steps=(train_steps, train_steps))
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(protocol, k_shot, seed, folder) for seed in seeds for k_shot in reversed(SHOTS)]  # the longer one first
    return assemble(protocol, in_processes(run_one, parts, jobs), seeds)
