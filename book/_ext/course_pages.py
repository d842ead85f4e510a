"""Tables of numbers, built from stored files: nothing in them is typed.

Three directives: ``claims-table`` (what the chapters measured), ``results-table`` (recorded benchmark runs beside the
lecture's and the paper's numbers) and ``costs-table`` (timings). Each reads files, turns them into rows and rows into
an ordinary docutils table, so that search and every builder see it. A file that cannot be read is a build warning, and
the book is built with warnings as errors.

This module runs inside the book's build only. It imports neither torch nor ``utils``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOGGER = logging.getLogger(__name__)

CLAIM = "application/vnd.course.claim+json"
SCHEMA = 1
NOTHING = "Nothing recorded yet."
MISSING = "–"
DATASETS = {
    "omniglot": "Omniglot",
    "omniglot-one-shot-runs": "Omniglot, Lake's 20 one-shot runs, error",
    "miniimagenet": "miniImageNet",
    "cifar_fs": "CIFAR-FS",
    "split-mnist": "MNIST, five tasks of two digits",
    "permuted-mnist": "MNIST, ten orders of the pixels",
    "cifar100-incremental": "CIFAR-100, classes added 20 at a time",
    "mnist-distillation": "MNIST, a large network teaches a small one",
    "temperature": "no data: two logits",
}
# What MathJax may fetch while it draws: the program, its fonts, and the TeX extensions that it loads when a formula
# asks for one (\boldsymbol, \cancel, \color). The other 22 MB are other input and output formats.
MATHJAX_KEPT = ("tex-chtml.js", "output/chtml/fonts/woff-v2/*", "input/tex/extensions/*")

# None: the cell above goes on.
Cell = str | Sequence[nodes.Node] | None
Row = Sequence[Cell]


class BookDataError(ValueError):
    """A stored file that a table needs is missing, broken, or lacks a field."""


# Reading


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or say which file is broken and where."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BookDataError(f"{path.name}: cannot be read as JSON ({error})") from error


def need(record: Any, keys: Iterable[str], where: str) -> None:
    """Raise unless ``record`` is a mapping that holds every one of ``keys``."""
    if not isinstance(record, dict):
        raise BookDataError(f"{where}: expected an object, found {type(record).__name__}")
    if absent := [key for key in keys if key not in record]:
        raise BookDataError(f"{where}: lacks {', '.join(absent)}")


def need_numbers(record: dict, keys: Iterable[str], where: str) -> None:
    """Raise unless each of ``keys`` is a finite number: a NaN must not become a number in the book."""
    for key in keys:
        value = record[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BookDataError(f"{where}: {key} is {value!r}, not a finite number")


def read_claims(notebook: Path) -> list[dict]:
    """Return the claims stored in the outputs of a chapter, in the order of its cells."""
    book = read_json(notebook)
    need(book, ["cells"], notebook.name)
    claims = []
    for cell in book["cells"]:
        for output in cell.get("outputs", []):
            if CLAIM in output.get("data", {}):
                claim = output["data"][CLAIM]
                where = f"{notebook.name}: claim {claim.get('id') if isinstance(claim, dict) else claim!r}"
                need(claim, ["schema", "id", "title", "unit", "mean", "ci95", "n", "over", "kind", "dataset"], where)
                if claim["schema"] != SCHEMA:
                    raise BookDataError(f"{where}: schema {claim['schema']!r}, this book reads {SCHEMA}")
                need_numbers(claim, ["mean", "ci95", "n"], where)
                if claim.get("spread"):
                    need(claim["spread"], ["sd", "seeds"], where)
                claims.append(claim)
    seen: set[str] = set()
    for claim in claims:
        if claim["id"] in seen:
            raise BookDataError(f"{notebook.name}: claim {claim['id']} occurs twice")
        seen.add(claim["id"])
    return claims


def read_runs(folder: Path, kind: str) -> list[dict]:
    """Return the recorded runs of one kind ("reproduction" or "bench") in a folder, oldest file name first."""
    runs = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "published.json":
            continue
        run = read_json(path)
        need(run, ["schema", "kind", "name", "rows", "provenance"], path.name)
        if run["schema"] != SCHEMA or run["kind"] != kind:
            found = f"{run['kind']!r} of schema {run['schema']!r}"
            raise BookDataError(f"{path.name}: {found}, expected {kind!r} of schema {SCHEMA}")
        need(run["provenance"], [], f"{path.name}: provenance")
        if not isinstance(run["rows"], list):
            raise BookDataError(f"{path.name}: rows is not a list")
        runs.append(run)
        for index, row in enumerate(run["rows"]):
            where = f"{path.name}: row {index}"
            if kind == "reproduction":
                need(run, ["dataset", "command"], path.name)
                need(row, ["id", "title", "mean", "ci95", "n", "over"], where)
                need_numbers(row, ["mean", "ci95", "n"], where)
            else:
                need(row, ["function", "variant", "case", "unit", "median"], where)
                if row["median"] is not None or row.get("status", "ok") == "ok":
                    need_numbers(row, ["median"], where)
    return runs


def read_published(path: Path) -> list[dict]:
    """Return the numbers that the lectures and the papers print."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise BookDataError(f"{path.name}: expected a list of numbers")
    for index, row in enumerate(rows):
        need(
            row,
            ["id", "method", "title", "dataset", "setting", "value", "printed", "source", "where", "cite"],
            f"{path.name}: row {index}",
        )
        if row["source"] not in ("lecture", "paper"):
            raise BookDataError(f"{path.name}: {row['id']}: source is {row['source']!r}, not lecture or paper")
    return rows


# Rows


def digits(interval: float) -> int:
    """Return the decimals that a value with this half-width supports (the rule of ``utils.claims.Claim.value``)."""
    return 1 if interval >= 0.095 else 2


def recorded_value(row: dict) -> str:
    """Format a recorded value with its interval; what follows from a formula has none, and four significant digits."""
    return f"{row['mean']:.4g}" if row["over"] == "formula" else with_interval(row["mean"], row["ci95"])


def with_interval(mean: float, ci95: float, sign: str = "") -> str:
    """Format "91.2 ± 0.4"."""
    return f"{mean:{sign}.{digits(ci95)}f} ± {ci95:.{digits(ci95)}f}".replace("-", "−")


def claim_cells(claim: dict, link: nodes.Node | None = None) -> list[Cell]:
    """Return the cells of one claim; ``link`` is a reference to its chapter, around the claim's title."""
    difference = claim["kind"] == "difference"
    unit = " points" if difference and claim["unit"] == "%" else f" {claim['unit']}".rstrip()
    spread, floor = claim.get("spread"), claim.get("chance")
    return [
        [link or nodes.Text(claim["title"]), nodes.Text(" "), nodes.literal(text=claim["id"])],
        with_interval(claim["mean"], claim["ci95"], "+" if difference else "") + unit,
        f"{claim['n']} {claim['over']}",
        f"{spread['sd']:.2f} ({len(spread['seeds'])} seeds)" if spread else MISSING,
        MISSING if floor is None else f"{floor:g}{unit}" + ("" if difference else " (chance)"),
        claim["dataset"],
        claim.get("statistics") or MISSING,
        claim.get("device") or MISSING,
    ]


CLAIM_HEADER = (
    "Claim",
    "Value ± 95 % interval",
    "Over",
    "Seed-to-seed sd",
    "Has to exceed",
    "Data",
    "Batch norm",
    "Device",
)


def setting_of(row: dict) -> str:
    """Return what a number was measured at, the heading of its column: "5-way 1-shot"."""
    return row.get("setting") or f"{row.get('n_way')}-way {row.get('k_shot')}-shot"


def dataset_of(run: dict, row: dict) -> str:
    """Return the table that a recorded row stands in: a protocol of its own on the run's data is named by the id."""
    return max((name for name in DATASETS if row["id"].startswith(f"{name}-")), key=len, default=run["dataset"])


def our_label(run: dict, row: dict) -> str:
    """Return what stands in the column "Source" beside a value of ours; it says that the value was recorded."""
    parts = [f"ours, recorded {recorded_on(run)}"]
    if row["over"] != "formula":
        parts.append(f"{row['n']} {row['over']}")
    if row.get("statistics"):
        parts.append(f"{row['statistics']} statistics")
    return ", ".join(parts)


def result_tables(published: Sequence[dict], runs: Sequence[dict]) -> list[tuple[str, list[str], list[Row]]]:
    """Return a table for each data set: its name, its header, and for each method our rows above the printed ones.

    A recorded value belongs to the printed one of the same id; else to that of the id without the batch-norm statistics
    at its end ("omniglot-prototypical-5w1s-batch"). A method without a recorded run gets a row that says so.
    """
    about = {row["id"]: row for row in published}
    # data set -> method -> source -> setting -> value
    values: dict[str, dict[str, dict[str, dict[str, str]]]] = {}

    def put(dataset: str, method: str, source: str, setting: str, value: str) -> None:
        row = values.setdefault(dataset, {}).setdefault(method, {}).setdefault(source, {})
        if setting in row:
            raise BookDataError(f"{method}, {setting} on {dataset}: two values from {source!r}")
        row[setting] = value

    for row in published:
        put(row["dataset"], row["title"], row["source"], setting_of(row), row["printed"])
    for run in runs:
        for row in run["rows"]:
            bare = row["id"].removesuffix(f"-{row.get('statistics')}")
            printed = about.get(row["id"]) or about.get(bare, {})
            setting = setting_of(printed or row)
            title = printed.get("title") or row["title"].replace(f", {setting}", "")
            put(dataset_of(run, row), title, our_label(run, row), setting, recorded_value(row))

    tables = []
    for dataset, methods in values.items():
        settings = list(
            dict.fromkeys(setting for sources in methods.values() for row in sources.values() for setting in row)
        )
        rows: list[Row] = []
        for title, sources in methods.items():
            ours = [source for source in sources if source.startswith("ours")]
            others = [source for source in sources if source not in ours]
            printed = {setting for source in others for setting in sources[source]}
            for index, source in enumerate((ours or ["ours"]) + others):
                absent = {} if source in others else dict.fromkeys(printed, "not run")
                known = {**absent, **sources.get(source, {})}
                rows.append([None if index else title, source, *(known.get(setting, MISSING) for setting in settings)])
        tables.append((DATASETS.get(dataset, dataset), ["Method", "Source", *settings], rows))
    return tables


def short_commit(commit: str | None) -> str:
    """Return the first seven digits of a commit; a "+" behind it says that files differed from it."""
    return f"{commit[:7]}{'+' if commit.endswith('+') else ''}" if commit else "unknown"


def recorded_on(run: dict) -> str:
    """Return the day of a recorded run."""
    source = run["provenance"]
    day = source.get("started") or source.get("date")
    if not day:
        raise BookDataError(f"recorded run {run['name']}: its provenance has no date")
    return day[:10]


def run_note(run: dict) -> str:
    """Say, in MyST, where recorded numbers come from: what has to be known to repeat them."""
    source = run["provenance"]
    parts = [f"recorded on {source.get('device') or source.get('machine') or 'an unknown device'}"]
    if source.get("cpu_count") and run["kind"] == "bench":
        threads = source.get("threads", source["cpu_count"])
        parts.append(f"{source['cpu_count']} cores, {threads} thread{'' if threads == 1 else 's'}")
    parts += [recorded_on(run), f"commit `{short_commit(source.get('commit'))}`"]
    if source.get("torch"):
        parts.append(f"torch {source['torch'].split('+')[0]}")
    if run.get("command"):
        parts.append(f"with `{run['command']}`")
    return f"{run.get('title') or run['name'].capitalize()}: {', '.join(parts)}."


def published_note(published: Iterable[dict]) -> list[str]:
    """Name the places that the printed numbers come from, each once, in MyST."""
    places = dict.fromkeys((row["source"], row["where"], row["cite"]) for row in published)
    return [
        f"{source.capitalize()}: {where}{f' {{cite:p}}`{cite}`' if cite else ''}." for source, where, cite in places
    ]


def three_digits(value: float) -> str:
    """Format a measurement with three significant digits and no exponent: 0.159, 15.9, 15900."""
    if not value:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):.{max(0, decimals)}f}"


def cost_rows(runs: Sequence[dict]) -> list[list[Cell]]:
    """Return one row for each timing; what could not be measured says why.

    A baseline is called one where something is compared with it.
    """
    rows = []
    for run in runs:
        compared = {(row["function"], row["case"]) for row in run["rows"] if row.get("speedup") is not None}
        for row in run["rows"]:
            if row["median"] is None:
                rows.append([row["function"], row["variant"], row["case"], row["status"], MISSING, MISSING])
                continue
            spread = MISSING
            if row.get("low") is not None and row.get("high") is not None and row["low"] < row["high"]:
                spread = f"{three_digits(row['low'])} to {three_digits(row['high'])}"
            faster = MISSING
            if row.get("speedup") is not None:
                faster = f"{three_digits(row['speedup'])} times {row.get('speedup_over') or 'the baseline'}"
                if row.get("speedup_low") is not None and row.get("speedup_high") is not None:
                    faster += f" ({three_digits(row['speedup_low'])} to {three_digits(row['speedup_high'])})"
            baseline = row.get("baseline") and (row["function"], row["case"]) in compared
            variant = f"{row['variant']} (baseline)" if baseline else row["variant"]
            unit = f"µ{row['unit'][1:]}" if row["unit"].startswith("us") else row["unit"]
            median = f"{three_digits(row['median'])} {unit}"
            rows.append([row["function"], variant, row["case"], median, spread, faster])
    return rows


COST_HEADER = ("Function", "Variant", "Case", "Median", "Low to high", "Speed")


# Nodes


def table_node(header: Sequence[str], rows: Iterable[Row], kind: str) -> nodes.table:
    """Return a docutils table; ``kind`` is its class in the style sheet."""
    table = nodes.table(classes=["course-table", kind])
    group = nodes.tgroup(cols=len(header))
    table += group
    for _ in header:
        group += nodes.colspec(colwidth=1)
    head, body = nodes.thead(), nodes.tbody()
    group += head
    group += body
    above: dict[int, nodes.entry] = {}
    for section, lines in ((head, [header]), (body, rows)):
        for line in lines:
            if len(line) != len(header):
                raise ValueError(f"a row of {len(line)} cells in a table of {len(header)} columns")
            row = nodes.row()
            section += row
            for column, cell in enumerate(line):
                if cell is None:
                    above[column]["morerows"] = above[column].get("morerows", 0) + 1
                    continue
                paragraph = nodes.paragraph()
                paragraph += [nodes.Text(cell)] if isinstance(cell, str) else list(cell)
                # "91.2 ± 0.4 %" is one thing; the style sheet keeps it on one line.
                whole = section is body and isinstance(cell, str) and " ± " in cell
                above[column] = nodes.entry("", paragraph, classes=["course-value"] if whole else [])
                row += above[column]
    return table


class StoredTable(SphinxDirective):
    """What the three tables share: where the files are, broken files as warnings, notes under the table."""

    has_content = False

    @property
    def root(self) -> Path:
        return Path(self.env.srcdir)

    def run(self) -> list[nodes.Node]:
        # A new results file belongs on the page even if no page changed.
        self.env.note_reread()
        try:
            return self.build() or [nodes.paragraph(text=NOTHING, classes=["course-nothing"])]
        except BookDataError as error:
            LOGGER.warning("%s: %s", self.name, error, location=self.get_location(), type="course", subtype="data")
            return [nodes.paragraph(text=f"This table cannot be shown: {error}")]

    def build(self) -> list[nodes.Node]:
        raise NotImplementedError

    def note(self, texts: Sequence[str]) -> list[nodes.Node]:
        """Return a small list under the table, each item written in MyST."""
        listing = nodes.bullet_list(classes=["course-provenance"])
        for text in texts:
            inline, messages = self.state.inline_text(text, self.lineno)
            listing += nodes.list_item("", nodes.paragraph("", "", *inline), *messages)
        return [listing] if texts else []


class ClaimsTable(StoredTable):
    """``{claims-table}``: every claim of every chapter of the book, or of one (``:chapter: 03_prototypical``)."""

    option_spec = {"chapter": str}  # noqa: RUF012 (docutils reads this attribute)

    def build(self) -> list[nodes.Node]:
        wanted = self.options.get("chapter")
        pages = sorted(page for page in self.env.found_docs if page.startswith("chapters/"))
        if wanted is not None:
            pages = [page for page in pages if page == f"chapters/{wanted}"]
            if not pages:
                raise BookDataError(f"no chapter {wanted} in the book")
        made: list[nodes.Node] = []
        for page in pages:
            rows = [
                claim_cells(claim, None if wanted else self.link(page, claim["title"]))
                for claim in read_claims(self.root / f"{page}.ipynb")
            ]
            if rows and wanted is None:
                made.append(nodes.rubric("", "", self.link(page)))
            if rows:
                made.append(table_node(CLAIM_HEADER, rows, "course-claims"))
        return made

    def link(self, page: str, text: str = "") -> nodes.Node:
        """Return a link to a chapter, by default with its title; Sphinx refuses the build if it leads nowhere."""
        link = addnodes.pending_xref(
            "", nodes.inline(text=text), refdomain="std", reftype="doc", reftarget=f"/{page}", refexplicit=bool(text)
        )
        link["refdoc"] = self.env.docname
        link["refwarn"] = True
        return link


class ResultsTable(StoredTable):
    """``{results-table}``: recorded runs beside printed numbers, of one method (``:name:``) or data (``:dataset:``)."""

    option_spec = {"name": str, "dataset": str}  # noqa: RUF012

    def build(self) -> list[nodes.Node]:
        folder = self.root / "book" / "results"
        name, dataset = self.options.get("name"), self.options.get("dataset")
        published = [
            row
            for row in read_published(folder / "published.json")
            if name in (None, row["method"]) and dataset in (None, row["dataset"])
        ]
        runs = [
            {**run, "rows": [row for row in run["rows"] if dataset in (None, dataset_of(run, row))]}
            for run in read_runs(folder, "reproduction")
            if name in (None, run["name"])
        ]
        runs = [run for run in runs if run["rows"]]
        notes = [run_note(run) for run in runs] + published_note(published)
        tables = result_tables(published, runs)
        result: list[nodes.Node] = []
        for title, header, rows in tables:
            if len(tables) > 1:
                result.append(nodes.rubric(text=title))
            result.append(table_node(header, rows, "course-results"))
        return [*result, *self.note(notes)] if tables else []


class CostsTable(StoredTable):
    """``{costs-table}``: recorded timings, all or of one benchmark (``:name:``), on whatever machines it ran."""

    option_spec = {"name": str}  # noqa: RUF012

    def build(self) -> list[nodes.Node]:
        name = self.options.get("name")
        runs = [
            run
            for run in read_runs(self.root / "book" / "results" / "bench", "bench")
            if name in (None, run["name"]) or run["name"].startswith(f"{name}_")
        ]
        rows = cost_rows(runs)
        notes = [run_note(run) for run in runs]
        if name == "kernels" and all(run["provenance"]["device"].startswith("CPU") for run in runs):
            notes.append("On a GPU: not measured yet. On a machine with one, `course bench kernels` does it.")
        return [table_node(COST_HEADER, rows, "course-costs"), *self.note(notes)] if rows else []


# The rest of the book


def repository_substitutions(url: str, tag: str) -> dict[str, str]:
    """Return the texts that name the repository, so that ``_config.yml`` stays the only place that does."""
    name = url.rstrip("/").rsplit("/", 1)[-1]
    return {
        "repository_link": f"[{name}]({url})",
        "release": tag,
        "clone": f"```bash\ngit clone --branch {tag} {url}\ncd {name}\n```",
    }


def add_substitutions(app: Sphinx, config: Any) -> None:
    theme = config.html_theme_options
    own = repository_substitutions(theme.get("repository_url", ""), theme.get("repository_branch", ""))
    config.myst_substitutions = {**config.myst_substitutions, **own}


def drop_thebe(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Leave out the script for live code: it is off, and it carries the one outside address of a default page."""
    scripts = context.get("script_files", [])
    context["script_files"] = [script for script in scripts if "thebe" not in f"{script} {vars(script)}".lower()]


def trim_mathjax(folder: Path, kept: Sequence[str] = MATHJAX_KEPT) -> None:
    """Delete from the copied MathJax all that no page of the book can ask for."""
    if not folder.is_dir():
        return
    keep = {path for pattern in kept for path in folder.glob(pattern)}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path not in keep:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)


def drop_source_maps(folder: Path) -> None:
    """Delete the themes' source maps, 3.5 MB that only who debugs a theme would ask for."""
    for path in folder.rglob("*.map"):
        path.unlink()


def finish(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        static = Path(app.outdir) / "_static"
        trim_mathjax(static / "mathjax")
        drop_source_maps(static)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("results-table", ResultsTable)
    app.add_directive("costs-table", CostsTable)
    app.connect("config-inited", add_substitutions)
    app.connect("html-page-context", drop_thebe, priority=900)
    # After sphinx-mathjax-offline has copied its files, which it does at the default priority, 500.
    app.connect("build-finished", finish, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
