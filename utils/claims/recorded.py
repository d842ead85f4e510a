"""Numbers that a page did not compute: recorded benchmark-scale runs beside what lectures and papers print."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.claims.tables import html_table, text_table
from utils.records import results_dir

COLUMNS = {f"{n_way}w{k_shot}s": f"{n_way}-way {k_shot}-shot" for n_way in (5, 20) for k_shot in (1, 5)}
"""Endings of the ids of the few-shot table, and the headings of its columns."""


def recorded_runs(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Every row of every recorded run by its id, with the record it belongs to under ``record``."""
    rows = {}
    for path in sorted((folder or results_dir()).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("kind") == "reproduction":
            rows |= {row["id"]: {**row, "record": record} for row in record["rows"]}
    return rows


def printed_numbers(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Every number that a lecture or a paper prints, by id."""
    path = (folder or results_dir()) / "published.json"
    return {row["id"]: row for row in json.loads(path.read_text(encoding="utf-8"))}


def table_bundle(
    methods: Sequence[tuple[str, str]],
    columns: Mapping[str, str] | None = None,
    quantity: str = "accuracy (%)",
    folder: Path | None = None,
) -> dict[str, str]:
    """For each (name, id prefix) rows of printed numbers and a row of our recorded ones.

    ``columns`` maps the rest of an id, after a hyphen, to the heading of its column; "" stands for an id without rest.
    What is not printed or not recorded stays empty. Below stands where the recorded numbers come from.
    """
    columns = COLUMNS if columns is None else columns
    ours, printed = recorded_runs(folder), printed_numbers(folder)
    rows, records = [], {}
    for name, prefix in methods:
        ids = [f"{prefix}-{rest}" if rest else prefix for rest in columns]
        sources = sorted({printed[id]["source"] for id in ids if id in printed})
        for source in sources:
            cells = [printed[id]["printed"] if printed.get(id, {}).get("source") == source else "–" for id in ids]
            rows.append([name, f"printed in the {source}", *cells])
        mine = [ours[id] for id in ids if id in ours]
        if mine:
            cells = [f"{ours[id]['mean']:.1f} ± {ours[id]['ci95']:.1f}" if id in ours else "–" for id in ids]
            rows.append([name, f"ours, recorded ({mine[0]['n']} {mine[0]['over']})", *cells])
            records[mine[0]["record"]["command"]] = mine[0]["record"]["provenance"]
    head = [quantity, "", *columns.values()]
    notes = [
        f"Recorded with: {command} ({made['date'][:10]}, {made['device']}, torch {made['torch'].split('+')[0]})."
        for command, made in records.items()
    ]
    small = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in notes)
    return {
        "text/plain": "\n".join([text_table([head, *rows]), "", *notes]),
        "text/html": f'<div class="course-recorded">{html_table([head, *rows])}{small}</div>',
    }
