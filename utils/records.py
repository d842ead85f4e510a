"""Recorded numbers on disk: JSON files with everything needed to repeat them, written atomically.

They live in ``book/results`` of the project and travel with the installed package, so that a chapter opened alone
still shows them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from utils.data.cache import write_atomically

SCHEMA = 1
_PACKAGE = Path(__file__).resolve().parent


def results_dir() -> Path:
    """``book/results`` of a checkout, else the copy inside the installed package."""
    checkout = _PACKAGE.parent / "book" / "results"
    return checkout if checkout.is_dir() else _PACKAGE / "_recorded"


def read_record(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The record ``name`` (a path below the results folder without ``.json``).

    Raises ``FileNotFoundError`` when nothing of that name was recorded, ``ValueError`` for a broken file.
    """
    path = (folder or results_dir()) / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"nothing is recorded under {name!r} ({path.name} is not in {path.parent.name}/)")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is no valid JSON: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} is no record of schema {SCHEMA}")
    return record


def write_record(name: str, record: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Write ``record`` under ``name``; the old file stays whole until the new one is."""
    path = (folder or results_dir()) / f"{name}.json"
    text = json.dumps({"schema": SCHEMA, **record}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def commit() -> str | None:
    """The checkout's commit, with ``+`` behind it where files differ from it; ``COURSE_COMMIT`` where git is absent."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(_PACKAGE.parent), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain", "--", "utils") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COURSE_COMMIT")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def provenance(device: str | None = None) -> dict[str, Any]:
    """What a number depends on besides its settings: code, versions, machine, date."""
    import torch

    if device is None:
        device = "cpu"
    cuda = str(device).startswith("cuda")
    return {
        "commit": commit(),
        "date": now(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
