"""What a stored chapter must be like, as pure functions: a page in, a list of what is wrong with it out.

Nothing is executed here. Rerunning is the work of ``nbval_claims``; it compares what is stored with what comes out
again, and so it needs to be sure that something is stored, and that it is what the page says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from utils.chapters import claims_of
from utils.claims import CHECK_MIME, CLAIM_MIME, Claim, agreement
from utils.claims.claim import GLUE_PREFIX

LINES = 25
CODE_IN_A_ROW = 2
SEEDS = 5
IMAGE_BYTES = 900_000
TEXT_BYTES = 300_000
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = {"tags", "mystnb", "timeout"}
MAY_DIFFER = {"nbval-ignore-output", "pytest-validate-ignore-output"}
UNCOMPARED = {*MAY_DIFFER, "nbval-skip", "raises-exception", "nbval-raises-exception"}

DECIMALS = {"3.11": "the oldest version of Python that works"}
"""Decimals that prose may carry, with the reason: constants, never measurements."""

PERCENTAGES = {"95": "the confidence level of all intervals"}


@dataclass(frozen=True)
class Page:
    """A chapter and what it is compared with: its record, and the repository and tag of ``_config.yml``."""

    name: str
    notebook: dict[str, Any]
    record: dict[str, Any] | None
    url: str
    tag: str

    def code(self) -> list[tuple[int, dict[str, Any]]]:
        """The code cells with their place among all cells."""
        return [(i, cell) for i, cell in enumerate(self.notebook["cells"]) if cell["cell_type"] == "code"]

    def claims(self) -> dict[str, dict[str, Any]]:
        """The claims by id; of one made twice (which :func:`makes_claims` reports) the last."""
        return {o["data"][CLAIM_MIME]["id"]: o["data"][CLAIM_MIME] for o in self.outputs() if CLAIM_MIME in data_of(o)}

    def outputs(self) -> Iterator[dict[str, Any]]:
        for _, cell in self.code():
            yield from cell["outputs"]

    def glue(self) -> list[tuple[str, str]]:
        """Name and text of everything glued, in order."""
        return [
            (output.get("metadata", {}).get("scrapbook", {}).get("name", ""), joined(data_of(output)[kind]))
            for output in self.outputs()
            for kind in data_of(output)
            if kind.startswith(GLUE_PREFIX)
        ]


def page(path: Path, url: str, tag: str, results: Path) -> Page:
    """Read a chapter and its record."""
    record = results / "claims" / f"{path.stem}.json"
    stored = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
    return Page(path.stem, json.loads(path.read_text(encoding="utf-8")), stored, url, tag)


def joined(text: str | Sequence[str]) -> str:
    """Notebooks store long texts as lists of lines."""
    return text if isinstance(text, str) else "".join(text)


def source(cell: dict[str, Any]) -> str:
    return joined(cell["source"])


def data_of(output: dict[str, Any]) -> dict[str, Any]:
    return output.get("data", {})


# Executed, and nothing but the chapter in the outputs


def was_executed(page: Page) -> list[str]:
    problems = []
    for number, (i, cell) in enumerate(page.code(), 1):
        if cell["execution_count"] != number:
            problems.append(f"cell {i}: execution count {cell['execution_count']}, not {number}: run the whole chapter")
        if not source(cell).strip():
            problems.append(f"cell {i}: no code")
        problems += [f"cell {i}: raises {o.get('ename')}" for o in cell["outputs"] if o["output_type"] == "error"]
    return problems


def outputs_are_clean(page: Page) -> list[str]:
    problems = []
    for i, cell in page.code():
        for output in cell["outputs"]:
            if output.get("name") == "stderr":
                problems.append(f"cell {i}: text on stderr: {joined(output['text'])[:80]!r}")
            problems += [f"cell {i}: a widget, which no page can show" for kind in data_of(output) if "widget" in kind]
    if "widgets" in page.notebook["metadata"]:
        problems.append("the state of widgets is stored")
    return problems


# Not after letters or slashes: https://host/home/ is an address, not a place on this machine.
MACHINE_PATH = re.compile(r"(?<![\w.~/:-])/(?:tmp|home|root|work|Users|mnt|opt|usr|var)\b\S*|file://\S+")
WINDOWS_PATH = re.compile(r"\b[A-Z]:\\\w\S*")


def names_no_machine(page: Page) -> list[str]:
    problems = []
    for i, cell in enumerate(page.notebook["cells"]):
        texts = [source(cell), *_texts(cell.get("outputs", []))]
        found = [path for text in texts for path in MACHINE_PATH.findall(text)]
        if cell["cell_type"] == "code":  # in prose, A:\quad is TeX
            found += [path for text in texts for path in WINDOWS_PATH.findall(text)]
        problems += [f"cell {i}: a path of one machine: {path}" for path in found]
    return problems


def _texts(value: Any) -> Iterator[str]:
    """All texts in outputs; not pictures, whose base64 is full of slashes."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            if not key.startswith("image/"):
                yield from _texts(entry)
    elif isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            yield "".join(value)
        else:
            for entry in value:
                yield from _texts(entry)


def outputs_are_small(page: Page) -> list[str]:
    images = sum(len(joined(data[kind])) for data in map(data_of, page.outputs()) for kind in data if "image/" in kind)
    rest = len(json.dumps([cell["outputs"] for _, cell in page.code()], ensure_ascii=False).encode()) - images
    problems = [f"{images} bytes of pictures, at most {IMAGE_BYTES}"] if images > IMAGE_BYTES else []
    return problems + ([f"{rest} bytes of other outputs, at most {TEXT_BYTES}"] if rest > TEXT_BYTES else [])


# Claims


def makes_claims(page: Page) -> list[str]:
    try:
        return [] if claims_of(page.notebook) else ["no claim: nothing of this chapter can be checked"]
    except ValueError as error:
        return [str(error)]


def claims_are_shown_as_stored(page: Page) -> list[str]:
    """What a reader sees is what is compared: text, html and glued texts are those of the stored numbers."""
    problems, wanted = [], {}
    for output in page.outputs():
        if CLAIM_MIME not in data_of(output):
            continue
        claim = Claim(**output["data"][CLAIM_MIME])
        shown = {kind: joined(text) for kind, text in output["data"].items() if kind != CLAIM_MIME}
        if shown != {kind: text for kind, text in claim.bundle().items() if kind != CLAIM_MIME}:
            problems.append(f"claim {claim.id}: the page shows something else than the stored {claim.value()}")
        wanted |= {key: repr(text) for key, text in claim.glue().items()}
    glued = page.glue()
    problems += [f"{name!r} is glued twice" for name in _repeated(name for name, _ in glued)]
    problems += [f"{name!r} is glued, but is no claim's" for name, _ in glued if name not in wanted]
    problems += [f"{key!r} should be glued as {text}" for key, text in wanted.items() if (key, text) not in glued]
    return problems


def claims_are_recorded(page: Page) -> list[str]:
    if page.record is None:
        return ["no record: `course run --spread` makes it"]
    problems, made, stored = [], page.claims(), page.record["claims"]
    problems += [f"claim {id}: in the record, not in the chapter" for id in stored if id not in made]
    for id, claim in made.items():
        if id not in stored:
            problems.append(f"claim {id}: in the chapter, not in the record")
        elif claim != stored[id]:
            fields = sorted(key for key in claim.keys() | stored[id].keys() if claim.get(key) != stored[id].get(key))
            problems.append(f"claim {id}: chapter and record differ in {', '.join(fields)}")
        if claim["spread"] != page.record["spread"].get(id):
            problems.append(f"claim {id}: its seed-to-seed spread is not that of the record")
    if page.record["chapter"] != page.name:
        problems.append(f"the record is that of {page.record['chapter']}")
    return problems


def claims_have_a_spread(page: Page) -> list[str]:
    problems = []
    for id, claim in page.claims().items():
        spread = claim["spread"] or {"sd": math.nan, "seeds": [], "means": []}
        seeds, means = spread["seeds"], spread["means"]
        if len(set(seeds)) < SEEDS or len(means) != len(seeds) or not all(map(math.isfinite, [spread["sd"], *means])):
            problems.append(f"claim {id}: no seed-to-seed spread over at least {SEEDS} seeds")
    return problems


def claims_agree_with_themselves(page: Page) -> list[str]:
    """A claim too imprecise to notice its resolution, or not better than chance, disagrees even with itself."""
    found = {id: agreement(claim, claim) for id, claim in page.claims().items()}
    return [f"claim {id}: {'; '.join(agreed.reasons)}" for id, agreed in found.items() if not agreed.ok]


def nothing_escapes_the_rerun(page: Page) -> list[str]:
    """nbval lets marked cells pass: none may be skipped or fail, and those that show claims must be compared."""
    problems = []
    for i, cell in page.code():
        comments = {line.strip(" #").lower().replace("_", "-") for line in source(cell).splitlines() if "#" in line}
        marks = (set(cell["metadata"].get("tags", [])) | comments) & UNCOMPARED
        checked = any({CLAIM_MIME, CHECK_MIME} & data_of(output).keys() for output in cell["outputs"])
        if marks - MAY_DIFFER or (marks and checked):
            problems.append(f"cell {i}: {', '.join(sorted(marks))}: a rerun would not compare it")
    return problems


def ids_are_unique(pages: Iterable[Page]) -> list[str]:
    """Over all chapters together: the book's table of numbers and the prose know a claim by its id alone."""
    return [f"claim {id}: made more than once" for id in _repeated(id for page in pages for id in page.claims())]


def _repeated(names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    return sorted({first for first, second in pairwise(ordered) if first == second})


# Cells


def cells_are_short(page: Page) -> list[str]:
    lengths = [(i, len(source(cell).splitlines())) for i, cell in page.code()]
    return [f"cell {i}: {n} lines, at most {LINES}" for i, n in lengths if n > LINES]


def prose_stands_between_code(page: Page) -> list[str]:
    problems, row = [], 0
    for i, cell in enumerate(page.notebook["cells"]):
        row = row + 1 if cell["cell_type"] == "code" else 0
        if row > CODE_IN_A_ROW:
            problems.append(f"cell {i}: the {row}th code cell in a row without prose")
    return problems


def installs_first(page: Page) -> list[str]:
    first, wanted = page.notebook["cells"][0], f"git+{page.url}@{page.tag}"
    if first["cell_type"] != "code":
        return ["the first cell does not install the package"]
    named = re.findall(r"git\+[^\s\"']+", source(first))
    return [] if named == [wanted] else [f"the first cell installs {named or 'nothing'}, not {wanted}"]


def checks_last(page: Page) -> list[str]:
    _, last = page.code()[-1]
    if not re.search(r"\.check\(\)\s*;?\s*$", source(last)):
        return ["the last code cell does not compare the claims: `book.check()`"]
    shown = [data_of(o)[CHECK_MIME] for o in last["outputs"] if CHECK_MIME in data_of(o)]
    if [check.get("shows") for check in shown] != ["claims"]:
        return ["the last code cell does not show the claims"]
    problems = []
    if shown[0]["chapter"] != page.name:
        problems.append(f"the claims are those of chapter {shown[0]['chapter']!r}")
    if shown[0]["disagree"]:
        problems.append(f"stored with claims that disagree: {shown[0]['disagree']}")
    return problems


def imports_nothing_of_the_book(page: Page) -> list[str]:
    """A chapter runs in Colab, where only the package is installed."""
    return [f"cell {i}: myst_nb belongs to the book's build" for i, cell in page.code() if "myst_nb" in source(cell)]


def metadata_is_plain(page: Page) -> list[str]:
    book, problems = page.notebook, []
    if book["metadata"] != METADATA:
        problems.append(f"the notebook's metadata are {book['metadata']}")
    if (book["nbformat"], book["nbformat_minor"] >= 5) != (4, True):
        problems.append(f"format {book['nbformat']}.{book['nbformat_minor']}, not 4.5 or newer")
    for i, cell in enumerate(book["cells"]):
        if junk := set(cell["metadata"]) - CELL_METADATA:
            problems.append(f"cell {i}: metadata that nobody reads: {sorted(junk)}")
        if "attachments" in cell:
            problems.append(f"cell {i}: an attachment; pictures are drawn by code")
    problems += [f"two cells have the id {id}" for id in _repeated(cell.get("id", "none") for cell in book["cells"])]
    return problems


# Figures


def figures_are_described(page: Page) -> list[str]:
    problems = []
    for i, cell in page.code():
        kinds = {kind for output in cell["outputs"] for kind in data_of(output)}
        if not any(kind.startswith("image/") for kind in kinds):
            continue
        about = cell["metadata"].get("mystnb", {})
        figure, alt = about.get("figure", {}), about.get("image", {}).get("alt")
        given = {"caption": figure.get("caption"), "name": figure.get("name"), "alt": alt}
        problems += [f"cell {i}: a figure without {key}" for key, text in given.items() if not (text or "").strip()]
        if any(kind == CLAIM_MIME or kind.startswith(GLUE_PREFIX) for kind in kinds):
            problems.append(f"cell {i}: a claim beside a figure would become part of the figure")
    undescribed = [i for i, text in markdown(page) if re.search(r"!\[\s*\]\(|<img(?![^>]*alt=)", text)]
    return problems + [f"cell {i}: a picture without a description" for i in undescribed]


# Numbers in prose


def typed_decimals(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", text)


def typed_percentages(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])(\d+)(?:\\?[\s~]*%|[\s~-]+per\s?cent\b)", text)


def prose(text: str) -> str:
    """What of a markdown cell a reader reads as text: no code, formulas, roles, options, comments or addresses."""
    text = _without_code_blocks(text)
    for pattern in (
        r"<!--.*?-->",
        r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
        r"\$\$.*?\$\$",
        r"(?<!\\)\$(?!\s)[^$\n]+(?:\n[^$\n]+)*?\$",
        r"\{[\w:+-]+\}`[^`]*`",  # a role: glued text, citation, reference, term
        r"(`+)(?!`).+?(?<!`)\1(?!`)",
        r"(?<=\])\([^()\s]*(?:\([^()]*\)[^()\s]*)*\)",  # where a link leads
        r"<?https?://[^\s>)]+>?",
    ):
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


PROSE_DIRECTIVES = {"admonition", "note", "warning", "tip", "seealso", "hint", "important", "exercise"}


def _without_code_blocks(text: str) -> str:
    """Leaves out fenced blocks, except the lines of admonitions: those are prose."""
    kept, fence = [], None
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:-]+)\})?", line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" `~:"):
                fence = None
        elif mark and mark[2] in PROSE_DIRECTIVES:
            kept.append(line.partition("}")[2])
        elif mark and line.strip(" `~:"):
            fence = mark[1]
        elif not mark and not re.match(r"\s*:[\w-]+:", line):
            kept.append(line)
    return "\n".join(kept)


def markdown(page: Page) -> Iterator[tuple[int, str]]:
    return ((i, source(cell)) for i, cell in enumerate(page.notebook["cells"]) if cell["cell_type"] == "markdown")


def numbers_are_glued(page: Page) -> list[str]:
    """Measured numbers in prose, captions and descriptions come from claims; what is typed would rot unseen."""
    texts = [(i, prose(text)) for i, text in markdown(page)]
    for i, cell in page.code():
        about = cell["metadata"].get("mystnb", {})
        texts += [(i, prose(about.get("figure", {}).get("caption", ""))), (i, about.get("image", {}).get("alt", ""))]
    problems = []
    for i, text in texts:
        typed = [number for number in typed_decimals(text) if number not in DECIMALS]
        typed += [f"{number} %" for number in typed_percentages(text) if number not in PERCENTAGES]
        problems += [
            f"cell {i}: {number} is typed: glue a claim (constants: DECIMALS, PERCENTAGES)" for number in typed
        ]
    return problems


def glue_exists(page: Page) -> list[str]:
    known = {name for name, _ in page.glue()}
    used = [(i, key) for i, text in markdown(page) for key in glue_keys(text)]
    return [f"cell {i}: nothing is glued as {key!r}" for i, key in used if key not in known]


def glue_keys(text: str) -> list[str]:
    roles = re.findall(r"\{glue(?::\w+)?\}`([^`]*)`", text)
    return [key.strip() for key in roles + re.findall(r"^\s*[`:]{3,}\{glue(?::\w+)?\}\s*(\S+)", text, re.MULTILINE)]


CHECKS: tuple[Callable[[Page], list[str]], ...] = (
    was_executed,
    outputs_are_clean,
    names_no_machine,
    outputs_are_small,
    makes_claims,
    claims_are_shown_as_stored,
    claims_are_recorded,
    claims_have_a_spread,
    claims_agree_with_themselves,
    nothing_escapes_the_rerun,
    cells_are_short,
    prose_stands_between_code,
    installs_first,
    checks_last,
    imports_nothing_of_the_book,
    metadata_is_plain,
    figures_are_described,
    numbers_are_glued,
    glue_exists,
)
