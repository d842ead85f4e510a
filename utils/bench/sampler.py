"""The episode sampler against learn2learn's ``TaskDataset`` on the same images, all in memory."""

from __future__ import annotations

import torch

from utils.bench.peers import learn2learn
from utils.bench.timing import paired
from utils.data import ImageSet
from utils.data.episodes import EpisodeSampler

CASES = ((5, 1, 1, 128), (5, 1, 15, 16), (20, 1, 19, 8), (20, 5, 15, 8))
"""n_way, k_shot, n_query and tasks a batch: a meta-batch as it is used, of at most a few thousand images."""
INNER = 8
"""Batches of ours in a row for each one of the other."""


def task_dataset(images: ImageSet, n_way: int, per_class: int):
    """learn2learn's usual pipeline (NWays, KShots, LoadData, RemapLabels, ConsecutiveLabels) on float tensors."""
    l2l = learn2learn()
    from learn2learn.data.transforms import ConsecutiveLabels, KShots, LoadData, NWays, RemapLabels

    x, y = images.flat()
    dataset = l2l.data.MetaDataset(torch.utils.data.TensorDataset(x.float() / 255, y))
    steps = [
        NWays(dataset, n_way),
        KShots(dataset, per_class),
        LoadData(dataset),
        RemapLabels(dataset),
        ConsecutiveLabels(dataset),
    ]
    return l2l.data.TaskDataset(dataset, task_transforms=steps, num_tasks=-1)


def measure(images: ImageSet, repeats: int = 21) -> list[dict]:
    """Rows of microseconds an episode, ours in batches of tasks, and of the resident size."""
    rows = []
    for n_way, k_shot, n_query, batch in CASES:
        sampler = EpisodeSampler(images, n_way, k_shot, n_query, batch_size=batch)
        tasks = task_dataset(images, n_way, k_shot + n_query)
        step = iter(range(10**9))

        def ours(sampler: EpisodeSampler = sampler, step=step) -> None:
            sampler.sample(next(step))

        def other(tasks=tasks, batch: int = batch) -> None:
            for _ in range(batch):
                tasks.sample()

        mine, theirs, ratio = paired(ours, other, repeats, images.device, INNER)
        case = f"{n_way}-way {k_shot}-shot, {n_query} queries a class, {batch} tasks"
        scale = 1e6 / batch
        shared = {"function": "episode sampler", "case": case, "unit": "us/episode", "repeats": repeats}
        rows.append(
            {**shared, "variant": "learn2learn TaskDataset", "baseline": True, "median": scale * theirs.median,
             "low": scale * theirs.low, "high": scale * theirs.high}
        )  # fmt: skip
        rows.append(
            {**shared, "variant": "EpisodeSampler", "baseline": False, "median": scale * mine.median,
             "low": scale * mine.low, "high": scale * mine.high, "speedup_over": "learn2learn TaskDataset",
             "speedup": ratio.median, "speedup_low": ratio.low, "speedup_high": ratio.high}
        )  # fmt: skip
    size = images.images.numel() * images.images.element_size() / 1e6
    rows.append(
        {"function": "resident images", "variant": "ImageSet", "baseline": False, "unit": "MB",
         "case": f"{images.name}/{images.split}: {int(images.counts.sum())} images", "median": size, "low": size,
         "high": size, "repeats": 1}
    )  # fmt: skip
    return rows
