"""Executing chapters and keeping what they claim: notebooks in, stored outputs and recorded claims out."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from utils.claims.chapter import cost_bundle
from utils.claims.claim import CHECK_MIME, CLAIM_MIME
from utils.claims.statistics import training_sd
from utils.data.cache import write_atomically
from utils.records import provenance, read_record, write_record

SPREAD_SEEDS = (1, 2, 3, 4, 5)
"""Seeds that the seed-to-seed spread is measured over; the stored outputs are those of seed 0."""


def claims_of(notebook: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All claims in the stored outputs of a notebook (the parsed JSON), by id, in order.

    Raises ``ValueError`` for an id claimed twice.
    """
    claims: dict[str, dict[str, Any]] = {}
    for output in _outputs(notebook):
        payload = output.get("data", {}).get(CLAIM_MIME)
        if payload is None:
            continue
        if payload["id"] in claims:
            raise ValueError(f"the claim {payload['id']!r} is made twice")
        claims[payload["id"]] = payload
    return claims


def _outputs(notebook: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in notebook["cells"]:
        yield from cell.get("outputs", [])


def execute(path: Path, seed: int = 0) -> tuple[dict[str, Any], dict[str, float]]:
    """Run a chapter from top to bottom in a fresh kernel, in its own folder, with one thread and ``seed``.

    Returns the notebook (parsed JSON, format 4) with outputs, and its cost: seconds, and the peak memory of the
    kernel in bytes. Raises ``nbclient.exceptions.CellExecutionError`` where a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    environment = {
        **os.environ,
        "COURSE_SEED": str(seed),
        "COURSE_WRITING": "1",  # there is no book to compare with yet
        "COURSE_QUIET": "1",
        "OMP_NUM_THREADS": "1",  # as under test: two chapters at a time use two cores best
    }
    environment.pop("MPLBACKEND", None)  # would take the figures away from the kernel
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    client.execute(env=environment)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # Linux counts in KiB
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return json.loads(nbformat.writes(notebook)), {"seconds": seconds, "peak_bytes": float(peak)}


def _means(path: Path, seed: int) -> dict[str, tuple[float, float]]:
    """Mean and standard error of each claim of one seed."""
    claims = claims_of(execute(path, seed)[0])
    return {id: (claim["mean"], claim["sd"] / math.sqrt(claim["n"])) for id, claim in claims.items()}


def measure_spread(path: Path, seeds: Sequence[int] = SPREAD_SEEDS, jobs: int = 2) -> dict[str, dict[str, Any]]:
    """Seed-to-seed spread of every claim of a chapter: the chapter is run once a seed, ``jobs`` at a time.

    Returns by claim id: ``sd`` (what training adds, the episodes' own sampling error taken off), ``seeds``, ``means``.
    """
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(_means, [path] * len(seeds), seeds))
    if any(run.keys() != runs[0].keys() for run in runs):
        raise ValueError(f"{path.name} makes other claims with other seeds: a claim must not depend on luck")
    spread = {}
    for id in runs[0]:
        means = [run[id][0] for run in runs]
        error = math.sqrt(sum(run[id][1] ** 2 for run in runs) / len(runs))
        spread[id] = {"sd": training_sd(means, error), "seeds": list(seeds), "means": means}
    return spread


def write_chapter(path: Path, spread: bool = False) -> dict[str, Any]:
    """Execute a chapter, store its outputs in place and record its claims; with ``spread``, measure that first.

    The record goes to ``claims/<chapter>`` of the results folder. Returns it.
    """
    name = f"claims/{path.stem}"
    try:
        record = read_record(name)
    except FileNotFoundError:
        record = {"kind": "claims", "chapter": path.stem, "claims": {}, "spread": {}, "cost": None, "provenance": {}}
    if spread:
        record["spread"] = measure_spread(path)
        write_record(name, record)  # the chapter reads it: every claim then carries its own spread
    # In a process of its own, because the system remembers the largest of all children: with the other seeds or another
    # chapter before, the peak would be theirs.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        notebook, cost = pool.submit(execute, path).result()
    record["claims"] = claims_of(notebook)
    record["spread"] = {id: value for id, value in record["spread"].items() if id in record["claims"]}
    record["cost"] = {"seconds": round(cost["seconds"], 1), "peak_bytes": int(cost["peak_bytes"])}
    record["provenance"] = {**provenance(), "threads": 1}
    _show_cost(notebook, record)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    write_record(name, record)
    return record


def _show_cost(notebook: dict[str, Any], record: Mapping[str, Any]) -> None:
    """The cell that shows the chapter's cost ran before it was known: put the cost of this very run there."""
    for output in _outputs(notebook):
        if output.get("data", {}).get(CHECK_MIME, {}).get("shows") == "cost":
            output["data"] = cost_bundle(record)
