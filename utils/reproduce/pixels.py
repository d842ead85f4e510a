"""Nearest neighbour on pixels, the first row of the lecture's few-shot table."""

from __future__ import annotations

import time
from pathlib import Path

from utils.claims.statistics import interval
from utils.data import load
from utils.data.episodes import EpisodeSampler
from utils.fewshot.baselines import pixel_nearest_neighbour
from utils.records import provenance
from utils.training import best_device, episode_accuracies

TASKS = ((5, 1), (5, 5), (20, 1), (20, 5))
EPISODES = 1000


def run(dataset: str, seeds: list[int], folder: Path, steps: int | None = None, jobs: int = 1) -> dict:
    """1,000 episodes a task with 15 queries a class, by cosine, from Lake's 659 evaluation characters.

    Nothing is trained, so ``seeds`` only name the episodes; ``folder``, ``steps`` and ``jobs`` are not needed.
    """
    if dataset != "omniglot":
        raise ValueError(f"pixels are recorded on omniglot; got {dataset!r}")
    device = best_device()
    images = load("omniglot", "evaluation").to(device)
    start = time.perf_counter()
    rows = []
    for n_way, k_shot in TASKS:
        sampler = EpisodeSampler(images, n_way, k_shot, 15, batch_size=10, seed=seeds[0])
        mean, ci95, sd = interval(episode_accuracies(pixel_nearest_neighbour, sampler, EPISODES))
        rows.append(
            {"id": f"omniglot-pixels-{n_way}w{k_shot}s", "method": "pixels",
             "title": f"Pixel nearest neighbour, {n_way}-way {k_shot}-shot", "n_way": n_way, "k_shot": k_shot,
             "mean": 100 * mean, "ci95": 100 * ci95, "sd": 100 * sd, "n": EPISODES, "over": "episodes",
             "seeds": seeds[:1], "statistics": None, "chance": 100 / n_way}
        )  # fmt: skip
    return {
        "kind": "reproduction",
        "name": "pixels",
        "dataset": dataset,
        "title": "Nearest neighbour on the pixels of Omniglot",
        "command": f"course reproduce pixels --dataset {dataset} --seeds {seeds[0]}",
        "rows": rows,
        "config": {"split": "evaluation", "size": 28, "metric": "cosine", "queries": 15, "episodes": EPISODES},
        "provenance": {**provenance(str(device)), "seconds": time.perf_counter() - start},
    }
