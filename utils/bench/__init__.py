"""Measured costs: ours against the alternatives, in one run on one machine."""

from __future__ import annotations

from pathlib import Path

from utils.records import provenance, write_record


def run(name: str, folder: Path | None = None) -> tuple[Path, list[dict]]:
    """Measure ``name`` ("sampler") here and now; writes the record ``bench/<name>``, returns its path and rows."""
    if name != "sampler":
        raise ValueError(f'there is no benchmark {name!r}; there is "sampler"')
    from utils.bench.sampler import measure
    from utils.bench.timing import threads
    from utils.data import DataError, load

    try:
        images = load("omniglot", "all")
    except DataError:
        images = load("glyphs", "all")
    with threads(1):  # what is compared is Python and indexing; a second thread would only wait for the first
        rows = measure(images)
        made = provenance()
    record = {"kind": "bench", "name": name, "command": f"course bench {name}", "rows": rows, "provenance": made}
    return write_record(f"bench/{name}", record, folder), rows
