"""The claims of one chapter: made in its cells, shown, kept, and compared with the book's at the end."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from utils.claims.claim import CHECK_MIME, GLUE_PREFIX, RESOLUTION, Claim, summarise
from utils.claims.recorded import costs_bundle, machine_code_bundle, table_bundle
from utils.claims.statistics import Agreement, agreement
from utils.claims.tables import html_table, text_table
from utils.records import read_record


def _display(bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    """Show a bundle in a notebook, print its text elsewhere."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        get_ipython = lambda: None  # noqa: E731
    if get_ipython() is not None:
        display(bundle, raw=True, metadata=metadata or {})
    elif "text/plain" in bundle:
        print(bundle["text/plain"])


def _samples(values: Any) -> np.ndarray:
    """Samples as float64, from a list, an array or a tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()  # numpy has no bfloat16
    return np.asarray(values, dtype=np.float64)


class Chapter:
    """The claims of chapter ``name`` (its file name without ``.ipynb``), in the order in which they are made.

    ``seed`` is the seed that the chapter's cells are to use. It is 0 unless ``COURSE_SEED`` says otherwise, which is
    how the seed-to-seed spread is measured.
    """

    def __init__(self, name: str, scale: str = "lecture") -> None:
        self.name = name
        self.scale = scale
        self.seed = int(os.environ.get("COURSE_SEED", "0"))
        self.claims: dict[str, Claim] = {}
        try:
            self._record: dict[str, Any] | None = read_record(f"claims/{name}")
        except FileNotFoundError:
            self._record = None
        self._last = time.perf_counter()

    def _make(self, id: str, title: str, values: dict[str, Any], **fields: Any) -> Claim:
        import torch

        if id in self.claims:
            raise ValueError(f"this chapter already claims {id!r}: every claim needs an id of its own")
        now = time.perf_counter()
        spread = (self._record or {}).get("spread", {}).get(id)
        claim = Claim(
            id=id,
            title=title,
            **values,
            **fields,
            scale=self.scale,
            seed=self.seed,
            torch=torch.__version__.split("+")[0],
            seconds=round(now - self._last, 1),
            spread=spread,
        )
        self._last = now
        self.claims[id] = claim
        _display(claim.bundle())
        for key, text in claim.glue().items():
            # A prefixed output is invisible in Jupyter; the book takes it out and offers it to the prose.
            _display({f"{GLUE_PREFIX}text/plain": repr(text)}, {"scrapbook": {"name": key, "mime_prefix": GLUE_PREFIX}})
        return claim

    def claim(
        self,
        id: str,
        title: str,
        accuracies: Sequence[float],
        *,
        chance: float | None,
        dataset: str,
        statistics: str | None = None,
        over: str = "episodes",
        device: str = "cpu",
        resolution: float = RESOLUTION,
    ) -> Claim:
        """Claim the mean of ``accuracies`` (fractions in [0, 1], one a sample), shown in per cent.

        ``chance`` is a fraction too; ``resolution`` is in points. Raises ``ValueError`` for values outside [0, 1],
        too few samples, or an id used twice.
        """
        samples = _samples(accuracies)
        if samples.size and not (samples.min() >= 0 and samples.max() <= 1):
            raise ValueError(f"accuracies are fractions in [0, 1]; got {samples.min():g} to {samples.max():g}")
        return self._make(
            id, title, summarise(samples, 100.0), kind="accuracy", unit="%", over=over, statistics=statistics,
            chance=None if chance is None else 100.0 * chance, dataset=dataset, device=str(device),
            resolution=resolution,
        )  # fmt: skip

    def compare(
        self,
        id: str,
        title: str,
        better: Sequence[float],
        worse: Sequence[float],
        *,
        dataset: str,
        statistics: str | None = None,
        over: str = "episodes",
        device: str = "cpu",
        resolution: float = RESOLUTION,
        at_least: float | None = 0.0,
    ) -> Claim:
        """Claim that ``better`` beats ``worse`` on the same samples, by the mean of the paired differences (points).

        Paired, because two methods find the same episodes hard: their difference is far more certain than the
        difference of two separate accuracies. ``at_least`` (points) is what the interval must lie above; ``None`` for
        a difference that is reported without a direction. Raises ``ValueError`` for samples that are not pairs of
        fractions, too few of them, or an id used twice.
        """
        first, second = _samples(better), _samples(worse)
        if first.shape != second.shape:
            raise ValueError(f"a paired comparison needs as many samples of each; got {first.shape}, {second.shape}")
        difference = first - second
        if difference.size and not np.abs(difference).max() <= 1:
            raise ValueError(
                f"differences of fractions lie in [-1, 1]; got {difference.min():g} to {difference.max():g}"
            )
        return self._make(
            id, title, summarise(difference, 100.0), kind="difference", unit="%", over=over, chance=at_least,
            statistics=statistics, dataset=dataset, device=str(device), resolution=resolution,
        )  # fmt: skip

    def recorded(
        self,
        methods: Sequence[tuple[str, str]],
        columns: Mapping[str, str] | None = None,
        quantity: str = "accuracy (%)",
    ) -> None:
        """Show recorded benchmark-scale numbers of (name, id prefix) beside the lecture's and the paper's.

        ``columns`` maps endings of ids to headings; by default those of the few-shot table.
        """
        _display(table_bundle(methods, columns, quantity))

    def costs(self, function: str, shape: Mapping[str, int] | None = None) -> None:
        """Show what ``function`` was measured to cost, written in several ways; ``shape`` chooses one size."""
        _display(costs_bundle(function, shape))

    def machine_code(self) -> None:
        """Show what the two layouts of the page "From formula to kernel" compile to."""
        _display(machine_code_bundle())

    def agreements(self) -> dict[str, Agreement]:
        """Each claim of this run against the book's; a claim that only one of the two has does not agree."""
        stored = (self._record or {}).get("claims", {})
        result = {}
        for id in [*stored, *(id for id in self.claims if id not in stored)]:
            if id not in self.claims:
                result[id] = Agreement(False, float("nan"), ("not claimed by this run",))
            elif id not in stored:
                result[id] = Agreement(False, float("nan"), ("not among the book's claims",))
            else:
                result[id] = agreement(stored[id], asdict(self.claims[id]))
        return result

    def cost(self) -> None:
        """Show what the chapter cost in time and memory when the book was made. First output of every chapter."""
        _display(cost_bundle(self._record or {}))

    def check(self) -> None:
        """Show all claims of this run beside the book's and say which agree. Last cell of every chapter."""
        writing = self._record is None or "COURSE_WRITING" in os.environ
        _display(check_bundle(self, None if writing else self.agreements()))


def cost_bundle(record: Mapping[str, Any]) -> dict[str, Any]:
    """One sentence on the recorded cost of a chapter."""
    cost, made = record.get("cost"), record.get("provenance", {})
    if cost:
        text = (
            f"Running this chapter took {cost['seconds']:.0f} s and {cost['peak_bytes'] / 1e9:.1f} GB of memory on "
            f"{made['threads']} thread of a {made['device']} with torch {made['torch'].split('+')[0]} "
            f"({made['date'][:10]})."
        )
    else:
        text = "The cost of this chapter has not been recorded yet."
    return {
        "text/plain": text,
        "text/html": f'<p class="course-cost">{html.escape(text)}</p>',
        CHECK_MIME: {"shows": "cost", "disagree": []},
    }


def check_bundle(chapter: Chapter, agreements: dict[str, Agreement] | None) -> dict[str, Any]:
    """The table at a chapter's end; without ``agreements`` (while the book is written) its own numbers alone."""
    stored = (chapter._record or {}).get("claims", {})
    rows = [["claim", "this run"] if agreements is None else ["claim", "this run", "the book", "agrees"]]
    for id in agreements if agreements is not None else chapter.claims:
        mine = chapter.claims.get(id)
        title = mine.title if mine else stored[id]["title"]
        row = [title, mine.value() if mine else "–"]
        if agreements is not None:
            book = Claim(**stored[id]).value() if id in stored else "–"
            found = agreements[id]
            row += [book, "yes" if found.ok else "NO: " + "; ".join(found.reasons)]
        rows.append(row)
    if agreements is None:
        summary = (
            "These are the book's own numbers. When you run the chapter, this cell compares yours with them and says "
            "which agree."
        )
    else:
        bad = [id for id, found in agreements.items() if not found.ok]
        summary = f"{len(agreements) - len(bad)} of {len(agreements)} claims agree with the book."
        if bad:
            summary += " Not: " + ", ".join(bad) + "."
    return {
        "text/plain": f"{summary}\n\n{text_table(rows)}",
        "text/html": f'<div class="course-check"><p>{html.escape(summary)}</p>{html_table(rows)}</div>',
        CHECK_MIME: {
            "shows": "claims",
            "chapter": chapter.name,
            "disagree": None if agreements is None else [id for id, found in agreements.items() if not found.ok],
        },
    }
