"""Numbers that a page did not compute: recorded benchmark-scale runs beside what lectures and papers print."""

from __future__ import annotations

import html
import json
import math
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
    What is not printed or not recorded stays empty; a method of which there is nothing yet says so. Below stands where
    the recorded numbers come from.
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
            over = "from the formula" if mine[0]["over"] == "formula" else f"{mine[0]['n']} {mine[0]['over']}"
            rows.append([name, f"ours, recorded ({over})", *(_recorded(ours[id]) if id in ours else "–" for id in ids)])
            records[mine[0]["record"]["command"]] = mine[0]["record"]["provenance"]
        elif not sources:
            rows.append([name, "not run yet", *["–"] * len(ids)])
    head = [quantity, "", *columns.values()]
    notes = [
        f"Recorded with: {command} ({made['date'][:10]}, {made['device']}, torch {made['torch'].split('+')[0]})."
        for command, made in records.items()
    ]
    return _bundle(head, rows, notes)


def _recorded(row: Mapping[str, Any]) -> str:
    """With its interval; what follows from a formula has none, and four significant digits."""
    return f"{row['mean']:.4g}" if row["over"] == "formula" else f"{row['mean']:.1f} ± {row['ci95']:.1f}"


def _bundle(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> dict[str, str]:
    """A table and, below it, where its numbers come from."""
    small = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in notes)
    return {
        "text/plain": "\n".join([text_table([head, *rows]), "", *notes]),
        "text/html": f'<div class="course-recorded">{html_table([head, *rows])}{small}</div>',
    }


def measured_kernels(folder: Path | None = None) -> list[dict[str, Any]]:
    """The records of ``course bench kernels``, one a kind of machine, the CPU first."""
    paths = sorted(((folder or results_dir()) / "bench").glob("kernels_*.json"))
    return sorted(
        (json.loads(path.read_text(encoding="utf-8")) for path in paths), key=lambda r: r["name"] != "kernels_cpu"
    )


VARIANTS = {
    "naive": "as the formula",
    "eager": "best plain PyTorch",
    "chunked": "in slices",
    "compiled": "torch.compile",
    "ours": "ours",
}


def costs_bundle(function: str, shape: Mapping[str, int] | None = None, folder: Path | None = None) -> dict[str, str]:
    """What ``function`` costs, written in several ways: recorded times, memory, and share of what the machine could do.

    ``shape`` chooses one of the recorded sizes. Where no GPU was at hand yet, the table says so.
    """
    rows, notes, records = [], [], measured_kernels(folder)
    for record in records:
        mine = [row for row in record["rows"] if row["function"] == function and shape in (None, row["shape"])]
        made = record["provenance"]
        for size in dict.fromkeys(_size(row) for row in mine):
            of_size = [row for row in mine if _size(row) == size]
            rows.append([size, *[""] * 5])
            for variant in dict.fromkeys(row["variant"] for row in of_size):
                by_mode = {row["mode"]: row for row in of_size if row["variant"] == variant}
                rows.append([VARIANTS.get(variant, variant), *_cost_cells(by_mode)])
        if mine:
            threads = f"{made['threads']} thread{'s' * (made['threads'] != 1)}"
            torch = made["torch"].split("+")[0]
            notes.append(f"{record['command']} ({made['date'][:10]}, {made['device']}, {threads}, torch {torch}).")
    if all(record["provenance"]["device"].startswith("CPU") for record in records):
        notes.append("On a GPU: not measured yet.")
    head = [function, "forward (ms)", "with gradient (ms)", "times as fast", "memory (MB)", "% of roofline"]
    return _bundle(head, rows, [f"Recorded with: {' '.join(notes)}"])


def _size(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {size:,}" for name, size in row["shape"].items())


def machine_code_bundle(folder: Path | None = None) -> dict[str, str]:
    """Instructions, exchanges and registers of the two layouts, for each GPU that was compiled for."""
    record = json.loads(((folder or results_dir()) / "bench" / "machine_code.json").read_text(encoding="utf-8"))
    layouts = dict.fromkeys(row["case"] for row in record["rows"])
    head = ["compiled for"] + [f"{layout}: {what}" for layout in layouts for what in ("instructions", "exchanges")]
    rows = []
    for gpu in dict.fromkeys(row["variant"] for row in record["rows"]):
        mine = {row["case"]: row for row in record["rows"] if row["variant"] == gpu}
        cells = [text for layout in layouts for text in _code_cells(mine[layout])]
        rows.append([gpu, *cells])
    made = record["provenance"]
    return _bundle(
        head,
        rows,
        [f"Recorded with: {record['command']} ({made['date'][:10]}, Triton {record['triton']}, no GPU needed)."],
    )


def _code_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """Instructions a triple, and exchanges between threads in the whole program."""
    return f"{row['median']:.1f}", str(row["shuffles"])


def _cost_cells(of: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Times of a variant by mode; ratio, memory and roofline with the gradient where there is one."""
    whole = of.get("both", of["forward"])
    if whole["median"] is None:
        return [whole["status"], "–", "–", "–", "–"]
    cells = [_digits(of["forward"]["median"]), _digits(of["both"]["median"]) if "both" in of else "–"]
    cells.append(_digits(whole["speedup"], 2) if "speedup" in whole else "–")
    cells.append("–" if whole["peak_bytes"] is None else _digits(whole["peak_bytes"] / 1e6))
    return [*cells, _digits(whole["roofline_percent"], 2)]


def _digits(value: float, n: int = 3) -> str:
    """``n`` significant digits without an exponent: 0.159, 15.9, 15900."""
    decimals = n - 1 - math.floor(math.log10(value)) if value else 0
    return f"{round(value, decimals):.{max(0, decimals)}f}"
