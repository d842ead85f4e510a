"""Measured costs: ours against the alternatives, in one run on one machine."""

from __future__ import annotations

from pathlib import Path

from utils.records import provenance, write_record

NAMES = ("sampler", "episodes")


def run(name: str, folder: Path | None = None) -> tuple[Path, list[dict]]:
    """Measure ``name`` here and now; writes the record ``bench/<name>``, returns its path and rows.

    ``"sampler"``: drawing episodes. ``"episodes"``: loss and gradient of one episode. Raises ``ValueError`` for other
    names.
    """
    if name not in NAMES:
        raise ValueError(f"there is no benchmark {name!r}; there are {NAMES}")
    from utils.bench import episodes, sampler
    from utils.bench.timing import threads
    from utils.data import DataError, load

    try:
        images = load("omniglot", "all")
    except DataError:
        images = load("glyphs", "all")
    with threads(1):  # what is compared is the work; a second thread would sometimes wait for the first
        rows = (sampler if name == "sampler" else episodes).measure(images)
        made = provenance()
    record = {"kind": "bench", "name": name, "command": f"course bench {name}", "rows": rows, "provenance": made}
    return write_record(f"bench/{name}", record, folder), rows
