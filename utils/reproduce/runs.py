"""What reproduction runs share: parts in processes of their own, and one record of all seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from utils.claims.statistics import interval
from utils.data import ImageSet


def check_seeds(seeds: Sequence[int], steps: int | None) -> None:
    """``ValueError`` for no seeds, a seed twice, or fewer than one step."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"at least one seed is needed, and all different; got {seeds}")
    if steps is not None and steps < 1:
        raise ValueError(f"a network is trained for at least 1 step; got {steps}")


def as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file has them: tuples are lists."""
    return json.loads(json.dumps(settings))


def stored_part(path: Path, settings: Mapping[str, Any]) -> dict | None:
    """The result in ``path`` if it was made with these settings; ``None`` for others, or where there is none."""
    if path.exists() and (stored := json.loads(path.read_text()))["settings"] == as_stored(settings):
        return stored
    return None


def finished_alone(networks: Sequence, parts: Callable[[Any], Sequence[tuple[Path, Mapping]]], name: str) -> tuple:
    """The networks of which all ``parts`` (path, settings) are stored; ``ValueError`` where there is none."""
    found = tuple(network for network in networks if all(stored_part(*part) is not None for part in parts(network)))
    if not found:
        raise ValueError(f"no network of {name} is finished")
    return found


def held_out(images: ImageSet, part: float = 1 / 6) -> tuple[ImageSet, ImageSet]:
    """The set without the last images of every class, and those."""
    kept = (images.counts * (1 - part)).long()
    rest = images.counts - kept
    validation = torch.zeros_like(images.images[:, : int(rest.max())])
    for label, (first, n) in enumerate(zip(kept.tolist(), rest.tolist(), strict=True)):
        validation[label, :n] = images.images[label, first : first + n]
    return replace(images, counts=kept), replace(images, images=validation, split="validation", counts=rest)


def in_processes(function: Callable[..., dict], parts: Sequence[tuple], jobs: int) -> list[dict]:
    """``function(*part)`` of every part, ``jobs`` at a time in processes of their own."""
    if jobs == 1:
        return [function(*part) for part in parts]
    # CUDA cannot be used again after a fork, so the processes start afresh.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(function, *zip(*parts, strict=True)))


def over_seeds(results: Sequence[Mapping[str, Any]], dataset: str, titles: Mapping[str, str]) -> list[dict]:
    """One row for each variant, setting and kind of statistics: the mean over seeds with its t-interval.

    Rows of ``results`` are ``{variant, n_way, k_shot, statistics, seed, mean, ci95, sd, episodes}``, in per cent, each
    seed's own; they are kept below the mean. A single seed has no interval over seeds; its row carries that over its
    test episodes and says so. ``titles`` names the variants, in the order of the table.
    """
    found: dict[tuple, list[dict]] = {}
    for result in results:
        for row in result["rows"]:
            found.setdefault((row["variant"], row["n_way"], row["k_shot"], row["statistics"]), []).append(row)
    order = list(titles)
    rows = []
    for key in sorted(found, key=lambda key: (order.index(key[0]), key[1], key[2], key[3] != "running")):
        variant, n_way, k_shot, statistics = key
        suffix = "" if statistics == "running" else f"-{statistics}"
        rows.append(
            {
                "id": f"{dataset}-{variant}-{n_way}w{k_shot}s{suffix}",
                "method": variant,
                "title": f"{titles[variant]}, {n_way}-way {k_shot}-shot",
                "n_way": n_way,
                "k_shot": k_shot,
                **pooled(found[key], "episodes"),
                "statistics": statistics,
                "chance": 100 / n_way,
            }
        )
    return rows


def pooled(per_seed: Sequence[Mapping[str, Any]], over: str) -> dict[str, Any]:
    """Mean over the seeds with its t-interval; of a single seed, its own over what it was tested on, named ``over``."""
    if len(per_seed) == 1:
        (only,) = per_seed
        mean, ci95, sd, n = only["mean"], only["ci95"], only["sd"], only[over]
    else:
        mean, ci95, sd = interval([row["mean"] for row in per_seed])
        n, over = len(per_seed), "seeds"
    return {
        "mean": mean,
        "ci95": ci95,
        "sd": sd,
        "n": n,
        "over": over,
        "seeds": [row["seed"] for row in per_seed],
        "per_seed": list(per_seed),
    }


def record(
    name: str,
    dataset: str,
    title: str,
    results: Sequence[Mapping[str, Any]],
    rows: list[dict],
    config: object,
    seeds: Sequence[int],
    steps: int | None,
) -> dict:
    """The record of a whole run, with the command that repeats it. ``steps`` only where they are not the protocol's."""
    command = f"course reproduce {name} --dataset {dataset} --seeds {' '.join(map(str, seeds))}"
    if steps is not None:
        command += f" --steps {steps}"
    return {
        "kind": "reproduction",
        "name": name,
        "dataset": dataset,
        "title": title,
        "command": command,
        "rows": rows,
        "config": config,
        "provenance": {**results[0]["provenance"], "seconds": sum(result["seconds"] for result in results)},
        # resumed parts may come from other commits or machines
        "parts": [result["provenance"] for result in results],
    }
