"""One reported number: what it is, how sure it is, and how it is shown to people and to machines."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from utils.claims.statistics import interval
from utils.records import SCHEMA

CLAIM_MIME = "application/vnd.course.claim+json"
CHECK_MIME = "application/vnd.course.check+json"
GLUE_PREFIX = "application/papermill.record/"

RESOLUTION = 5.0
"""Points that a rerun must be able to notice, unless a claim says otherwise."""

KINDS = ("accuracy", "difference", "value")


@dataclass(frozen=True)
class Claim:
    """A measured number with its 95 % interval.

    ``mean``, ``ci95`` (half-width) and ``sd`` are in ``unit``; ``n`` is the number of samples, which are ``over``
    "episodes", "seeds" or "images". ``chance`` is what the interval must lie above: guessing for an accuracy, zero for
    a comparison, ``None`` where nothing of the kind exists. ``statistics`` says whose batch-norm statistics were used.
    ``spread`` is the seed-to-seed spread measured when the chapter was written. ``resolution`` is the difference that
    a rerun must be able to notice.
    """

    id: str
    title: str
    kind: str
    unit: str
    mean: float
    ci95: float
    sd: float
    n: int
    over: str
    chance: float | None
    dataset: str
    scale: str
    statistics: str | None
    seed: int
    device: str
    torch: str
    seconds: float
    resolution: float
    spread: Mapping[str, Any] | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id):
            raise ValueError(f"a claim's id is made of a-z, 0-9 and single hyphens; got {self.id!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}; got {self.kind!r}")
        if self.resolution <= 0:
            raise ValueError(f"resolution must be positive; got {self.resolution}")

    def _format(self, with_interval: bool) -> str:
        digits = 1 if self.ci95 >= 0.095 else 2
        unit = " points" if (self.kind, self.unit) == ("difference", "%") else f" {self.unit}".rstrip()
        sign = "+" if self.kind == "difference" else ""
        mean = f"{self.mean:{sign}.{digits}f}".replace("-", "−")
        return f"{mean} ± {self.ci95:.{digits}f}{unit}" if with_interval else f"{mean}{unit}"

    def value(self) -> str:
        """``91.2 ± 0.4 %``; a difference with its sign and in points; digits that the interval supports."""
        return self._format(with_interval=True)

    def conditions(self) -> str:
        parts = [f"95 % interval over {self.n} {self.over}", self.dataset]
        if self.statistics:
            parts.append(f"{self.statistics} statistics")
        if self.spread:
            parts.append(f"seed-to-seed sd {self.spread['sd']:.1f}")
        if self.resolution != RESOLUTION:
            parts.append(f"resolution {self.resolution:g}")
        return ", ".join(parts)

    def bundle(self) -> dict[str, Any]:
        """What a notebook stores: text and HTML for people, the whole claim as JSON for machines."""
        return {
            "text/plain": f"{self.title}: {self.value()} ({self.conditions()})",
            "text/html": (
                f'<p class="course-claim"><span>{html.escape(self.title)}</span> '
                f"<strong>{html.escape(self.value())}</strong> <small>{html.escape(self.conditions())}</small></p>"
            ),
            CLAIM_MIME: asdict(self),
        }

    def glue(self) -> dict[str, str]:
        """Texts for prose by key: the value with its interval under the id, the mean alone under ``<id>-mean``, the
        seed-to-seed spread under ``<id>-spread``."""
        texts = {self.id: self.value(), f"{self.id}-mean": self._format(with_interval=False)}
        if self.spread:
            unit = "points" if self.unit == "%" else self.unit
            texts[f"{self.id}-spread"] = f"{self.spread['sd']:.1f} {unit}".rstrip()
        return texts


def summarise(samples: Sequence[float] | np.ndarray, factor: float = 1.0) -> dict[str, float | int]:
    """``mean``, ``ci95``, ``sd`` and ``n`` of samples, multiplied by ``factor`` (100 turns fractions to per cent)."""
    mean, ci95, sd = interval(samples)
    return {"mean": factor * mean, "ci95": factor * ci95, "sd": factor * sd, "n": len(samples)}
