"""Pages: what a student reads, what the teacher looks at first, and two submissions side by side.

Each page is one file that needs nothing else: no script, no font, no image from elsewhere, and a policy in its head
that forbids them. All that comes from a student passes through one place before it is escaped (``shown``), so that
what would turn, hide or overprint text is seen as what it is. The same input gives the same bytes.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nh3
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from utils.grading.archives import Reject
from utils.grading.claims import Claimed, Judgement
from utils.grading.exports import STATUSES
from utils.grading.report import Report
from utils.grading.results import Equivalence, Experiment, FunctionCheck, ItemMark, Similar
from utils.grading.similarity import Pair, Passage

if TYPE_CHECKING:
    from utils.grading.labs import Lab

FLAGS = (
    "infrastructure",
    "tampering",
    "not reproduced",
    "similar",
    "unreadable",
    "hidden text",
    "rejected",
    "under-claimed",
    "late",
    "missing",
)
"""What a person should see about a submission, the most pressing first."""

LONGEST = 20_000
"""Characters of one text on a page; what is left out is counted."""

_HERE = Path(__file__).parent / "templates"
_LINK = re.compile(r"(?:(?:\.\./)*|(?:\./)?)(?:[\w-][\w.-]*/)*[\w-][\w.-]*\.html(?:#[\w-]+)?")
_PATH = re.compile(r"(?<![\w/:])(?:/[\w.+@~-]+){2,}/(?=[\w.+@~-])")

# Status -> its colour, what happened, and what follows.
_STATUS = {
    "ok": ("good", "ran as asked", ""),
    "wrong": ("warn", "ran; some answers are wrong", "The smallest inputs that show it are below."),
    "student_error": ("bad", "stopped with an error", "The error is below; it came from the code that was handed in."),
    "timeout": ("bad", "ran out of time", "Look for a loop that could be one operation on a whole tensor."),
    "memory": ("bad", "ran out of memory", "Look for a tensor that grows with the square of its input."),
    "output_limit": ("bad", "returned or printed too much", "Take out prints inside of loops and look at the shapes."),
    "process_limit": ("bad", "started too many processes", "The task needs none: use one process and no workers."),
    "rejected_input": ("bad", "could not be taken in", "Hand in the files below again, as plain files or one zip."),
    "tamper_suspected": (
        "warn",
        "a person looks at this first",
        "Something in it acted as if to reach the grader. No points were given or taken for that by a machine.",
    ),
    "infra_error": (
        "info",
        "the grader’s machine failed",
        "This is not your doing and costs no points: it is graded again.",
    ),
    "not_submitted": ("bad", "nothing was handed in", "If you did hand in something, write to your grader."),
}
_OUTCOMES = {"reproduced": "good", "not reproduced": "warn", "not testable": "info", "under-claimed": "info"}
_LEVELS = (
    "nothing was executed",
    "level 1 of 3: limits of time and memory only",
    "level 2 of 3: no files but its own, no network, limits (Landlock, seccomp)",
    "level 3 of 3: namespaces of its own, no files but its own, no network, limits (bubblewrap)",
)


@dataclass(frozen=True)
class Anchor:
    """What the reference reaches in a setting, in per cent, one value a seed, at the budget of the claims."""

    setting: str
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Page:
    """All that is known of one submission.

    Parameters
    ----------
    ids, names : of the student, or of the team; nobody else's.
    status, reason : one of ``exports.STATUSES``, and one sentence.
    claimed : the claims that were judged, for the plot of each.
    level : isolation under which the code ran; 0 where none did.
    receipt : what the grader needs to repeat the marking.
    rejects : what was not taken in. ``notes`` are sentences for the student.
    comment : the grader's, in Markdown.
    similar, feedback : for the teacher's eyes: pairs, and the relative address of the student's own page.

    Raises
    ------
    ValueError : a status that there is not, no id, as many names as ids, or an address that leads elsewhere.
    """

    lab: str
    title: str
    ids: tuple[str, ...]
    names: tuple[str, ...]
    status: str
    reason: str = ""
    marks: tuple[ItemMark, ...] = ()
    report: Report | None = None
    equivalence: Equivalence | None = None
    experiment: Experiment | None = None
    claimed: tuple[Claimed, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    received: str = ""
    late: bool | None = None
    penalty: float = 0.0
    level: int = 0
    receipt: str = ""
    rejects: tuple[Reject, ...] = ()
    notes: tuple[str, ...] = ()
    comment: str = ""
    similar: tuple[Similar, ...] = ()
    feedback: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.ids}: the status is one of {', '.join(STATUSES)}; got {self.status!r}")
        if not self.ids or len(self.ids) != len(self.names):
            raise ValueError(f"a page is of students with an id and a name each; got {self.ids} and {self.names}")
        if not 0 <= self.level < len(_LEVELS):
            raise ValueError(f"{self.ids}: the level of isolation is 0 .. {len(_LEVELS) - 1}; got {self.level}")
        for link in (self.feedback, *(pair.page for pair in self.similar)):
            if link and not _LINK.fullmatch(link):
                raise ValueError(f"{self.ids}: a page is named by a relative address ending in .html; got {link!r}")

    @property
    def earned(self) -> float:
        """Points so far, before the penalty."""
        return sum(mark.points for mark in self.marks if mark.points is not None)

    @property
    def open(self) -> float:
        """Points that nobody has decided on yet."""
        return sum(mark.max_points for mark in self.marks if mark.points is None)

    @property
    def possible(self) -> float:
        return sum(mark.max_points for mark in self.marks)

    @property
    def score(self) -> float:
        """Points so far after the penalty, which takes no more than there is."""
        return max(0.0, self.earned - self.penalty)

    @property
    def decided(self) -> bool:
        return bool(self.marks) and all(mark.points is not None for mark in self.marks)

    @property
    def failing(self) -> tuple[FunctionCheck, ...]:
        return tuple(c for c in self.equivalence.checks if c.verdict != "ok") if self.equivalence else ()


@dataclass(frozen=True)
class Summary:
    """What holds for the class: the lowest isolation, the budget, and what came in and belongs to nobody."""

    level: int
    budget: str = ""
    unassigned: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def flags(page: Page) -> tuple[str, ...]:
    """Which of ``FLAGS`` hold for a submission."""
    verdicts = {page.status, *(part.verdict for part in (page.equivalence, page.experiment) if part is not None)}
    verdicts |= {check.verdict for check in page.equivalence.checks} if page.equivalence else set()
    outcomes = {judgement.outcome for judgement in page.judgements}
    found = {
        "infrastructure": "infra_error" in verdicts
        or (page.report is not None and page.report.verdict == "infra_error"),
        "tampering": "tamper_suspected" in verdicts,
        "not reproduced": "not reproduced" in outcomes,
        "similar": bool(page.similar),
        "unreadable": page.report is not None and not page.report.readable,
        "hidden text": page.report is not None and bool(page.report.hidden),
        "rejected": page.status == "rejected_input" or any(reject.hostile for reject in page.rejects),
        "under-claimed": "under-claimed" in outcomes,
        "late": page.late is True,
        "missing": page.status == "not_submitted",
    }
    return tuple(flag for flag in FLAGS if found[flag])


def feedback_html(page: Page) -> str:
    """The student's page. Of the class it says nothing: no name, no pair, no distribution."""
    return _html().get_template("feedback.html").render(_feedback(page))


def feedback_markdown(page: Page) -> str:
    """The same as Markdown, in which nothing that a student wrote becomes markup."""
    return _markdown().get_template("feedback.md").render(_feedback(page))


def teacher_html(lab: Lab, pages: Sequence[Page], summary: Summary) -> str:
    """The class: what a person must look at first, then everybody, then how the points are spread.

    Raises ``ValueError`` for a student on two pages.
    """
    pages = sorted(pages, key=lambda page: page.ids)
    counted = Counter(id for page in pages for id in page.ids)
    if twice := sorted(id for id, count in counted.items() if count > 1):
        raise ValueError(f"these students are on two pages: {', '.join(twice)}; each belongs to one submission")
    context = {
        "lab": lab,
        "pages": pages,
        "summary": summary,
        "concerns": _concerns(pages, summary),
        "histogram": _histogram(pages),
        "items": _items(pages),
        "hints": _hints(pages),
        "count": Counter(page.status for page in pages),
    }
    return _html().get_template("teacher.html").render(context)


def side_by_side_html(
    pair: Pair, passages: Sequence[Passage], text_a: Mapping[str, str], text_b: Mapping[str, str]
) -> str:
    """Two submissions next to each other with what they share marked on both sides; for the teacher only.

    Parameters
    ----------
    text_a, text_b : the texts that were compared, by file name, as ``similarity.read_code`` had them.

    Raises
    ------
    ValueError : a passage in a file, or on lines, that the texts do not have.
    """
    # the numbers of lines are those of the parser, or of ``read_prose``
    split = str.splitlines if pair.by == "words" else (lambda text: re.split(r"\r\n|\r|\n", text))
    sides = [{file: split(text) for file, text in sorted(texts.items())} for texts in (text_a, text_b)]
    shared = []
    for number, passage in enumerate(passages, 1):
        places = ((passage.file_a, passage.lines_a), (passage.file_b, passage.lines_b))
        excerpts = []
        for files, (file, (first, last)) in zip(sides, places, strict=True):
            if not 1 <= first <= last <= len(files.get(file, ())):
                raise ValueError(f"passage {number} is on lines {first} to {last} of {file!r}, which are not there")
            excerpts.append((file, first, last, files[file][first - 1 : last]))
        shared.append((number, excerpts))
    whole = []
    for side, files in enumerate(sides):
        listings = []
        for file, lines in files.items():
            marks: dict[int, int] = {}
            for number, excerpts in shared:
                if excerpts[side][0] == file:
                    for line in range(excerpts[side][1], excerpts[side][2] + 1):
                        marks.setdefault(line, number)
            listings.append((file, [(n, line, marks.get(n, 0)) for n, line in enumerate(lines, 1)]))
        whole.append(listings)
    context = {"pair": pair, "shared": shared, "whole": whole, "names": (pair.a, pair.b)}
    return _html().get_template("side_by_side.html").render(context)


# ------------------------------------------------------------------------------------------------- texts of strangers


def shown(text: str) -> str:
    """The text as a reader sees it: characters that would act on a page instead of standing on it are named.

    Controls (but tab and line end), characters that turn the direction or that nobody sees, and all but three of a
    pile of accents. Longer than ``LONGEST`` it is cut, and says so.
    """
    text = text.replace("\r\n", "\n")
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"
    out, pile = [], 0
    for character in text:
        kind = unicodedata.category(character)
        pile = pile + 1 if kind in ("Mn", "Me") else 0
        # the two joiners are needed to write Persian, Hindi and families of emoji
        acts = kind in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp") and character not in "\n\t\u200c\u200d"
        if acts:
            out.append(f"[U+{ord(character):04X}]")
        elif pile <= 3:
            out.append(character)
    return "".join(out)


def without_paths(text: str) -> str:
    """Where on the machine a file lay is nobody's business, and differs between two runs: its name is enough."""
    return _PATH.sub(".../", text)


def rendered(text: str) -> Markup:
    """Markdown as HTML without anything that acts or loads: no raw HTML, no images, no links."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(shown(text))
    tags = {"p", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "br", "hr", "table", "thead", "tbody"}
    tags |= {"tr", "th", "td", "h3", "h4", "h5", "h6"}
    return Markup(nh3.clean(html, tags=tags, attributes={}, link_rel=None))


class _Plain(str):
    """Markdown that is meant as such."""


def _escaped(value: Any) -> Any:
    """A value inside a line of Markdown; the templates see to it that none begins a line."""
    if not isinstance(value, str) or isinstance(value, _Plain):
        return value
    text = re.sub(r"\s+", " ", shown(value)).strip()
    return re.sub(r"[\\`*_{}\[\]<>&|~$]|:(?=//)|(?<=www)\.", r"\\\g<0>", text, flags=re.IGNORECASE)


def _fenced(text: str) -> _Plain:
    """Lines between fences that are longer than any in them."""
    text = shown(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return _Plain(f"{fence}text\n{text.strip(chr(10))}\n{fence}")


def _number(value: float | None, digits: int = 2) -> str:
    """At most so many decimals, none that are zero; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if digits > 1 else text
    return ("0" if text in ("-0", "-0.0") else text).replace("-", "−")


@cache
def _html() -> Environment:
    def finalize(value: Any) -> Any:
        return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return _environment(True, finalize)


@cache
def _markdown() -> Environment:
    return _environment(False, _escaped)


def _environment(autoescape: bool, finalize: Callable[[Any], Any]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": _number,
        "fenced": _fenced,
        "rendered": rendered,
        "without_paths": without_paths,
        "signed": lambda value: "–" if value is None else f"{'+' if value > 0 else ''}{_number(value, 1)}",
    }
    environment.globals |= {"status_of": _STATUS, "level_of": _LEVELS, "tone_of": _OUTCOMES, "flags": flags}
    return environment


# ---------------------------------------------------------------------------------------------------- the student's


@dataclass(frozen=True)
class _Step:
    """One thing to do, the most telling first; ``to`` is its place on the page."""

    tone: str
    what: str
    more: str
    to: str


def _feedback(page: Page) -> dict[str, Any]:
    return {
        "page": page,
        "steps": _steps(page),
        "bar": _bar(page),
        "claims": _claims(page),
        "rerun": page.experiment.settings if page.experiment else (),
        "cited": sum(claim.cited for claim in page.report.claims) if page.report else 0,
    }


def _steps(page: Page) -> tuple[_Step, ...]:
    steps = []
    for number, check in enumerate(page.failing, 1):
        right = f"{check.passed} of {check.cases} inputs are right" if check.cases else check.reason
        hint = (
            f"{right}. A known mistake answers the same: {check.failing.hint}"
            if check.failing and check.failing.hint
            else right
        )
        steps.append(_Step("bad", f"{check.function}()", hint, f"function-{number}"))
    for judgement in page.judgements:
        if judgement.outcome in ("not reproduced", "under-claimed"):
            steps.append(_Step("warn", judgement.setting, judgement.reason, "claims"))
    report = page.report
    if report is not None and not report.readable:
        steps.append(_Step("warn", "The report could not be read", report.reason or "A person looks at it.", "report"))
    elif report is not None:
        if short := [f"{section.name} ({section.state})" for section in report.sections if section.state != "present"]:
            steps.append(_Step("warn", "Sections of the report", f"not as asked for: {', '.join(short)}", "report"))
        if not report.worse.reported:
            why = "L0 asks for all tests, the worse results too: say what you tried and what it reached."
            steps.append(_Step("warn", "No worse results beside the better ones", why, "report"))
        if report.source.absent:
            steps.append(
                _Step(
                    "warn", "Files that the report names were not handed in", ", ".join(report.source.absent), "report"
                )
            )
    steps += [_Step("bad", f"{r.name} was not taken in", r.reason, "rejects") for r in page.rejects if r.hostile]
    return tuple(steps)


@dataclass(frozen=True)
class _Claim:
    """A claim beside its rerun; ``plot`` is None where there is nothing to draw."""

    judgement: Judgement
    value: float | None
    ci95: float | None
    rerun: float | None
    plot: _Plot | None


@dataclass(frozen=True)
class _Plot:
    """Places in a drawing 640 wide: of the ticks (with their values), the reference's seeds, the rerun, the claim."""

    ticks: tuple[tuple[float, float], ...]
    seeds: tuple[float, ...]
    rerun: tuple[float, float, float]
    claim: tuple[float, float, float]


def _claims(page: Page) -> tuple[_Claim, ...]:
    claimed = {claim.setting: claim for claim in page.claimed}
    anchors = {anchor.setting: anchor.seeds for anchor in page.anchors}
    found = []
    for judgement in page.judgements:
        claim = claimed.get(judgement.setting)
        value = None if claim is None else claim.value
        # what the rerun lets one expect of the report, at the report's own budget
        known = value is not None and judgement.difference is not None
        rerun = value - judgement.difference if known else None
        plot = _plot(value, claim.ci95, rerun, judgement.error, anchors.get(judgement.setting, ())) if known else None
        found.append(_Claim(judgement, value, claim.ci95 if claim else None, rerun, plot))
    return tuple(found)


_LEFT, _RIGHT = 170.0, 620.0


def _plot(value: float, ci95: float | None, rerun: float, error: float | None, seeds: Sequence[float]) -> _Plot:
    half, band = ci95 or 0.0, 1.96 * (error or 0.0)
    ends = (value - half, value + half, rerun - band, rerun + band, *seeds)
    low, high = min(ends), max(ends)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 25, 50) if (high - low) / s <= 6 or s == 50)
    low = max(0.0, step * math.floor(low / step - 0.25))
    high = min(100.0, step * math.ceil(high / step + 0.25))
    low, high = (low, high) if high > low else (high - step, high)

    def at(x: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (min(max(x, low), high) - low) / (high - low), 1)

    ticks = tuple((at(low + n * step), low + n * step) for n in range(round((high - low) / step) + 1))
    return _Plot(
        ticks,
        tuple(at(seed) for seed in seeds),
        (at(rerun - band), at(rerun), at(rerun + band)),
        (at(value - half), at(value), at(value + half)),
    )


def _bar(page: Page) -> tuple[float, float, float]:
    """Widths in a drawing 100 wide: points that are there, that are lost, and that nobody has decided on."""
    if not page.possible:
        return 0.0, 0.0, 100.0
    earned, left = 100 * page.score / page.possible, 100 * page.open / page.possible
    return round(earned, 2), round(max(0.0, 100 - earned - left), 2), round(left, 2)


# ---------------------------------------------------------------------------------------------------- the teacher's


@dataclass(frozen=True)
class _Row:
    """Whom something is about (``page`` None: nobody of the roster) and what it is; ``link`` shows more."""

    page: Page | None
    what: str
    more: str
    link: str = ""


@dataclass(frozen=True)
class _Concern:
    tone: str
    title: str
    then: str
    rows: tuple[_Row, ...]


def _concerns(pages: Sequence[Page], summary: Summary) -> tuple[_Concern, ...]:
    """What asks for a person, the most pressing first; what nobody needs to look at is not listed."""
    by_id = {id: page for page in pages for id in page.ids}
    pairs: dict[tuple, _Row] = {}
    for page in pages:
        for pair in page.similar:
            other = by_id.get(pair.other)
            with_whom = f"{', '.join(other.names)} ({', '.join(other.ids)})" if other else pair.other
            key = (pair.kind, *sorted((page.ids, other.ids if other else (pair.other,))))
            text = f"{pair.kind}: {100 * pair.score:.0f} % is in both; above {pair.percentile:.1f} % of the pairs"
            pairs.setdefault(key, _Row(page, f"with {with_whom}", text, pair.page))
    alike = sorted(pairs.items(), key=lambda item: (item[0][0] != "code", item[0]))
    all_concerns = (
        _Concern(
            "bad",
            "The grader’s machine failed",
            "No points were given or taken. Run the step again; if it fails again, look at the reason.",
            tuple(
                _Row(p, "no result", _trouble(p, "infra_error"), p.feedback) for p in _having(pages, "infrastructure")
            ),
        ),
        _Concern(
            "bad",
            "Something acted as if to reach the grader",
            "Read the code before you talk to the student; a strange library can look the same.",
            tuple(
                _Row(p, "tampering", _trouble(p, "tamper_suspected"), p.feedback) for p in _having(pages, "tampering")
            ),
        ),
        _Concern(
            "warn",
            "Claims that the rerun does not reproduce",
            "Ask for the seeds and the exact command. Nothing was taken off.",
            tuple(
                _Row(page, judgement.setting, judgement.reason, page.feedback)
                for page in pages
                for judgement in page.judgements
                if judgement.outcome == "not reproduced"
            ),
        ),
        _Concern(
            "warn",
            "Alike beyond what the class is",
            "Evidence, not a verdict: compare both sides. A copy has two ends.",
            tuple(row for _, row in alike),
        ),
        _Concern(
            "warn",
            "Reports that a machine could not read",
            "Nothing follows from what was not found: read them yourself and mark their items.",
            tuple(
                _Row(page, page.report.format, page.report.reason or "; ".join(page.report.notes[:1]), page.feedback)
                for page in _having(pages, "unreadable")
            ),
        ),
        _Concern(
            "warn",
            "Text in a report that its reader does not see",
            "White, tiny or commented out. It counted for nothing.",
            tuple(
                _Row(page, page.report.hidden[0].where, page.report.hidden[0].text[:300], page.feedback)
                for page in _having(pages, "hidden text")
            ),
        ),
        _Concern(
            "warn",
            "Submissions that were refused, or parts of them",
            "Ask for a plain zip, or look at the files yourself, on a machine that may break.",
            tuple(
                _Row(page, reject.name, reject.reason, page.feedback)
                for page in _having(pages, "rejected")
                for reject in [r for r in page.rejects if r.hostile] or (Reject("the submission", page.reason, True),)
            ),
        ),
        _Concern(
            "warn",
            "Came in and belongs to nobody of the roster",
            "Correct the roster or the file's name, and collect again.",
            tuple(_Row(None, name, reason) for name, reason in summary.unassigned),
        ),
        _Concern(
            "info",
            "Items without points",
            "For you to mark; points that you give stay through any re-grade.",
            tuple(
                _Row(
                    None, f"{item.id}: {item.text}", f"{item.left} submissions, {_number(item.max_points)} points each"
                )
                for item in _items(pages)
                if item.left
            ),
        ),
    )
    return tuple(concern for concern in all_concerns if concern.rows)


def _having(pages: Sequence[Page], flag: str) -> list[Page]:
    return [page for page in pages if flag in flags(page)]


def _trouble(page: Page, verdict: str) -> str:
    """Why, from the part of a submission that has the verdict."""
    parts: list[Any] = [page, page.equivalence, page.experiment, page.report]
    parts += page.equivalence.checks if page.equivalence else ()
    said = [part.reason for part in parts if part and getattr(part, "verdict", page.status) == verdict and part.reason]
    return said[0] if said else "no reason was given"


@dataclass(frozen=True)
class _Item:
    """A line of the rubric over the class: how many have no points yet, and the mean of the others."""

    id: str
    text: str
    max_points: float
    left: int
    marked: int
    mean: float | None


def _items(pages: Sequence[Page]) -> tuple[_Item, ...]:
    marks: dict[str, list[ItemMark]] = {}
    for page in pages:
        for mark in page.marks:
            marks.setdefault(mark.id, []).append(mark)
    items = []
    for id, group in marks.items():
        points = [mark.points for mark in group if mark.points is not None]
        mean = math.fsum(points) / len(points) if points else None
        items.append(_Item(id, group[0].text, group[0].max_points, len(group) - len(points), len(points), mean))
    return tuple(items)


def _hints(pages: Sequence[Page]) -> tuple[tuple[str, str, int], ...]:
    """Function, misconception and how many submissions answer like it, the most frequent first."""
    met = Counter(
        (check.function, check.failing.hint)
        for page in pages
        for check in page.failing
        if check.failing and check.failing.hint
    )
    return tuple((*what, count) for what, count in sorted(met.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class _Histogram:
    """Bars (x, top, width, height, count, from, to) in a drawing 640 by 180, and what is told of them."""

    bars: tuple[tuple[float, float, float, float, int, float, float], ...]
    possible: float
    count: int
    median: float | None
    quartiles: tuple[float, float] | None


_BINS = 10


def _histogram(pages: Sequence[Page]) -> _Histogram:
    """Of the points so far as a share of those that somebody has decided on."""
    shares = sorted(
        page.score / (page.possible - page.open) for page in pages if page.marks and page.possible - page.open > 0
    )
    counts = [0] * _BINS
    for share in shares:
        counts[min(_BINS - 1, int(share * _BINS + 1e-9))] += 1
    most, width = max([*counts, 1]), (620 - 40) / _BINS
    bars = tuple(
        (round(40 + n * width + 2, 1), round(145 - 115 * c / most, 1), round(width - 4, 1), round(115 * c / most, 1), c,
         100 * n / _BINS, 100 * (n + 1) / _BINS)
        for n, c in enumerate(counts)
    )  # fmt: skip

    def quantile(q: float) -> float:
        at = q * (len(shares) - 1)
        low = math.floor(at)
        return 100 * (shares[low] + (at - low) * (shares[min(low + 1, len(shares) - 1)] - shares[low]))

    spread = (quantile(0.25), quantile(0.75)) if shares else None
    return _Histogram(bars, 100.0, len(shares), quantile(0.5) if shares else None, spread)
