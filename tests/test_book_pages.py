"""The book without a browser: its configuration, its tables made from stored files, and the html that was built."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys

import pytest
from book_fixtures import ROOT, build, built_book, config, source_of, toc_pages
from notebook_checks import typed_decimals

import utils

pytest.importorskip("sphinx", reason="the book's packages are not installed")
bs4 = pytest.importorskip("bs4", reason="beautifulsoup4 is not installed")
nodes = pytest.importorskip("docutils.nodes")

_spec = importlib.util.spec_from_file_location("course_pages", ROOT / "book" / "_ext" / "course_pages.py")
pages = sys.modules["course_pages"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pages)

MIME_SHOWN = {"text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg", "image/svg+xml"}


@pytest.fixture(scope="session")
def html():
    return built_book()


def soup(path):
    return bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


# Configuration and sources


def test_colab_opens_the_release_that_the_page_shows():
    assert config()["repository"]["branch"] == f"v{utils.__version__}"


def test_the_repository_is_named_in_one_place():
    url = config()["repository"]["url"]
    name = url.removeprefix("https://github.com/")
    named = [
        path.relative_to(ROOT).as_posix()
        for path in [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "book").rglob("*")]
        if path.is_file() and path.suffix in {".yml", ".md", ".py", ".js", ".css"} and name in path.read_text()
    ]
    assert named == ["_config.yml"]
    assert (ROOT / "_config.yml").read_text().count(name) == 1


@pytest.mark.parametrize("path", ["README.md", "chapters"])
def test_whoever_else_names_the_repository_names_this_one(path):
    """Chapters and README cannot read the configuration; what they say has to agree with it."""
    url, tag = config()["repository"]["url"], config()["repository"]["branch"]
    files = sorted((ROOT / path).glob("*.ipynb")) if path == "chapters" else [ROOT / path]
    for file in filter(lambda file: file.is_file(), files):
        text = file.read_text(encoding="utf-8")
        for found in re.findall(r"https://github\.com/[\w.-]+/" + url.rsplit("/", 1)[-1], text):
            assert found == url, f"{file.name} names {found}"
        for found in re.findall(re.escape(url) + r"(?:\.git)?(?:@|/blob/|/tree/|/archive/refs/tags/)([\w.-]*\w)", text):
            assert found.removesuffix(".zip").removesuffix(".tar.gz") == tag, f"{file.name} leads to {found}"


def test_no_page_runs_code_or_loads_live_code():
    settings = config()
    assert settings["execute"]["execute_notebooks"] == "off"
    assert settings["launch_buttons"]["thebe"] is False
    assert not settings["launch_buttons"]["binderhub_url"]


@pytest.mark.parametrize("page", toc_pages())
def test_every_page_of_the_contents_has_a_source(page):
    assert source_of(page), f"{page} is in _toc.yml and has neither .md nor .ipynb"


def test_every_page_is_in_the_contents():
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "book").glob("*.md")}
    written |= {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "chapters").glob("*.ipynb")}
    assert written == set(toc_pages())


def test_the_map_of_chapters_is_honest():
    """A chapter is "finished" on the first page if and only if it is in the book."""
    for line in (ROOT / "book" / "intro.md").read_text(encoding="utf-8").splitlines():
        if not re.match(r"\| \d+ \|", line):
            continue
        linked = re.search(r"\{doc\}`/(chapters/\w+)`", line)
        assert line.rstrip("| ").endswith("finished" if linked else "in preparation"), line
        if linked:
            assert linked[1] in toc_pages()
    text = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\{doc\}`/(chapters/\w+)`", text)) == {p for p in toc_pages() if p.startswith("chapters/")}


DECIMALS = {
    "1.645": "the 95 % point of the standard normal distribution, by which the resolution rule is defined",
    "3.11": "the oldest version of Python that works",
}


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem)
def test_no_page_carries_a_typed_measurement(path):
    typed = [number for number in typed_decimals(path.read_text(encoding="utf-8")) if number not in DECIMALS]
    assert not typed, f"{path.name}: {typed}: measured numbers come from a directive; constants belong in DECIMALS"


def test_typed_decimals_are_found():
    assert typed_decimals("reaches 91.2 % and, at 20-way, $97.25$; see 3.1.4") == ["91.2", "97.25"]


def test_chapters_show_something_for_every_output():
    """The warning about unknown output types is off, because claims have one of their own; this stands in for it."""
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        for index, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            for output in cell.get("outputs", []):
                kinds = {kind.removeprefix("application/papermill.record/") for kind in output.get("data", {})}
                assert not kinds or kinds & MIME_SHOWN, f"{path.name}, cell {index}: nothing to show in {kinds}"


# The printed numbers

PUBLISHED = ROOT / "book" / "results" / "published.json"


def bib_keys() -> set[str]:
    return set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M))


def test_printed_numbers_are_well_formed():
    rows = pages.read_published(PUBLISHED)
    assert len({(row["id"], row["source"]) for row in rows}) == len(rows)
    for row in rows:
        value, _, interval = row["printed"].partition(" ± ")
        assert float(value) == row["value"], row["id"]
        assert (float(interval) if interval else None) == row["ci95"], row["id"]
        assert 0 <= row["value"] <= 100
        assert row["dataset"] in pages.DATASETS
        assert row["cite"] is None or row["cite"] in bib_keys()
        assert row["source"] == "paper" or row["where"].startswith(("L0", "L4"))
        if row["n_way"]:
            assert row["setting"] == f"{row['n_way']}-way {row['k_shot']}-shot"
            assert re.search(rf"-{row['n_way']}w{row['k_shot']}s(-batch|-support)?$", row["id"])


def test_all_printed_tables_are_there():
    count = {}
    for row in pages.read_published(PUBLISHED):
        count[row["dataset"], row["source"]] = count.get((row["dataset"], row["source"]), 0) + 1
    assert count == {
        ("omniglot", "lecture"): 9 * 4 - 2,  # two dashes in the row of MANN
        ("omniglot", "paper"): 4 + 4 + 6 * 4,
        ("omniglot-one-shot-runs", "paper"): 2 + 4 + 4 + 2 + 1,
        ("miniimagenet", "lecture"): 6 * 2,
        ("cifar_fs", "paper"): 6 * 2,
        ("split-mnist", "paper"): 8 * 3,
        ("permuted-mnist", "paper"): 8 * 3,
        ("cifar100-incremental", "lecture"): 4 * 5,
        ("mnist-distillation", "paper"): 5,
        ("temperature", "lecture"): 3 * 2,
    }


def test_printed_temperatures_follow_from_the_formula():
    for row in pages.read_published(PUBLISHED):
        if found := re.fullmatch(r"temperature-logits-t(\d+)c([12])", row["id"]):
            powers = [math.exp(logit / int(found[1])) for logit in (3, 10)]
            share = 100 * powers[int(found[2]) - 1] / sum(powers)
            digits = len(row["printed"].partition(".")[2])
            assert f"{share:.{digits}f}" == row["printed"]


def test_what_follows_from_a_formula_has_no_interval(course_pages):
    row = {"mean": 0.0911051, "ci95": 0.0, "n": 1, "over": "formula"}
    assert course_pages.recorded_value(row) == "0.09111"
    assert course_pages.recorded_value({**row, "over": "seeds"}) == "0.09 ± 0.00"
    run = {"name": "temperature", "provenance": {"date": "2026-11-22T04:00:00Z"}}
    assert course_pages.our_label(run, row) == "ours, recorded 2026-11-22"
    assert course_pages.our_label(run, {**row, "over": "seeds"}) == "ours, recorded 2026-11-22, 1 seeds"


def test_printed_prototypical_numbers():
    found = {row["id"]: row["value"] for row in pages.read_published(PUBLISHED) if row["method"] == "prototypical"}
    assert [found[f"omniglot-prototypical-{task}"] for task in ("5w1s", "5w5s", "20w1s", "20w5s")] == [
        98.8, 99.7, 96.0, 98.9,
    ]  # fmt: skip


def test_recorded_one_shot_runs_stand_in_their_own_table(course_pages):
    folder = ROOT / "book" / "results"
    runs = course_pages.read_runs(folder, "reproduction")
    tables = course_pages.result_tables(course_pages.read_published(folder / "published.json"), runs)
    of = {title: (header, rows) for title, header, rows in tables}
    header, rows = of[course_pages.DATASETS["omniglot-one-shot-runs"]]
    ours = [row for row in rows if row[1].startswith("ours, recorded")]
    assert {row[0] for row in ours} >= {"Siamese network", "Modified Hausdorff distance"}
    assert "5 alphabets, first set" in header
    assert not any("alphabets" in column for column in of[course_pages.DATASETS["omniglot"]][0])


def test_printed_errors_of_the_one_shot_runs():
    """Lake et al. (2015) print both reduced background sets, Lake et al. (2019) their mean."""
    prefix = "omniglot-one-shot-runs-"
    found = {row["id"].removeprefix(prefix): row["value"] for row in pages.read_published(PUBLISHED)}
    assert [found[name] for name in ("people", "bpl-background", "siamese-40", "convnet-background", "hausdorff")] == [
        4.5, 3.3, 8.0, 13.5, 38.8,
    ]  # fmt: skip
    for method in ("bpl", "convnet"):
        mean = (found[f"{method}-small1"] + found[f"{method}-small2"]) / 2
        assert found[f"{method}-small"] == pytest.approx(mean, abs=0.0501)


def test_bibliography_is_complete():
    pybtex = pytest.importorskip("pybtex.database")
    entries = pybtex.parse_file(str(ROOT / "book" / "references.bib")).entries
    for key, entry in entries.items():
        assert entry.persons.get("author") and entry.fields.get("title"), key
        assert re.fullmatch(r"(19|20)\d\d", entry.fields["year"]) and entry.fields["year"] in key, key
    cited = set()
    for path in [*(ROOT / "book").glob("*.md"), *(ROOT / "chapters").glob("*.ipynb")]:
        found = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", path.read_text(encoding="utf-8"))
        cited |= {key.strip() for keys in found for key in keys.split(",")}
    assert cited <= set(entries)


# The directives: files to rows

CLAIM = {
    "schema": 1, "id": "proto-5w1s", "title": "Prototypical, 5-way 1-shot", "kind": "accuracy", "unit": "%",
    "mean": 91.234, "ci95": 0.41, "sd": 6.1, "n": 1000, "over": "episodes", "chance": 20.0, "dataset": "glyphs/test",
    "scale": "lecture", "statistics": "running", "seed": 0, "device": "cpu", "torch": "2.15.0", "seconds": 12.3,
    "resolution": 5.0, "spread": {"sd": 0.31, "seeds": [1, 2, 3, 4, 5], "means": [91, 91, 91, 92, 91]},
}  # fmt: skip
RUN = {
    "schema": 1, "kind": "reproduction", "name": "prototypical", "dataset": "omniglot", "title": "Prototypical",
    "command": "course reproduce prototypical",
    "rows": [
        {"id": "omniglot-prototypical-5w1s", "method": "prototypical", "title": "Prototypical network, 5-way 1-shot",
         "n_way": 5, "k_shot": 1, "mean": 98.53, "ci95": 0.12, "n": 5, "over": "seeds", "statistics": "running"},
        {"id": "omniglot-prototypical-5w1s-batch", "method": "prototypical", "n_way": 5, "k_shot": 1,
         "title": "Prototypical network, 5-way 1-shot", "mean": 98.7, "ci95": 0.1, "n": 5, "over": "seeds",
         "statistics": "batch"},
    ],
    "provenance": {"commit": "0123456789abcdef+", "date": "2026-11-21T12:00:00Z", "device": "H200", "torch": "2.11.0"},
}  # fmt: skip
PRINTED = [
    {"id": f"omniglot-prototypical-{task}", "method": "prototypical", "title": "Prototypical networks",
     "dataset": "omniglot", "setting": setting, "value": value, "printed": str(value), "source": "paper",
     "where": "Table 1", "cite": None}
    for task, setting, value in (("5w1s", "5-way 1-shot", 98.8), ("20w1s", "20-way 1-shot", 96.0))
]  # fmt: skip


def notebook(path, *claims):
    outputs = [{"output_type": "display_data", "data": {"text/plain": "", pages.CLAIM: claim}} for claim in claims]
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_claims_are_read_in_order(tmp_path):
    other = {**CLAIM, "id": "a-second"}
    assert [c["id"] for c in pages.read_claims(notebook(tmp_path / "03.ipynb", CLAIM, other))] == [
        "proto-5w1s", "a-second",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        ({key: value for key, value in CLAIM.items() if key != "ci95"}, "lacks ci95"),
        ({**CLAIM, "schema": 2}, "schema 2"),
        ({**CLAIM, "mean": float("nan")}, "not a finite number"),
        ({**CLAIM, "ci95": "0.4"}, "not a finite number"),
        ({**CLAIM, "spread": {"sd": 1.0}}, "lacks seeds"),
        ("91.2", "expected an object"),
    ],
)
def test_a_broken_claim_is_refused(tmp_path, claim, complaint):
    with pytest.raises(pages.BookDataError, match=complaint):
        pages.read_claims(notebook(tmp_path / "03.ipynb", claim))


def test_a_claim_made_twice_is_refused(tmp_path):
    with pytest.raises(pages.BookDataError, match="occurs twice"):
        pages.read_claims(notebook(tmp_path / "03.ipynb", CLAIM, CLAIM))


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\x00"])
def test_broken_json_is_refused_by_name(tmp_path, text):
    (tmp_path / "03.ipynb").write_text(text)
    with pytest.raises(pages.BookDataError, match=r"03\.ipynb: cannot be read"):
        pages.read_claims(tmp_path / "03.ipynb")
    with pytest.raises(pages.BookDataError, match="cannot be read"):
        pages.read_json(tmp_path / "absent.json")


def test_claim_cells():
    cells = pages.claim_cells(CLAIM)
    assert [node.astext() for node in cells[0]] == ["Prototypical, 5-way 1-shot", " ", "proto-5w1s"]
    assert cells[1:] == [
        "91.2 ± 0.4 %", "1000 episodes", "0.31 (5 seeds)", "20 % (chance)", "glyphs/test", "running", "cpu",
    ]  # fmt: skip
    difference = {**CLAIM, "kind": "difference", "chance": 0.0, "mean": 1.234, "spread": None, "statistics": None}
    assert pages.claim_cells(difference)[1] == "+1.2 ± 0.4 points"
    assert pages.claim_cells(difference)[3:5] == ["–", "0 points"]
    assert pages.claim_cells(difference)[6] == "–"


@pytest.mark.parametrize("kind", ["accuracy", "difference", "value"])
@pytest.mark.parametrize("ci95", [0.004, 0.0949, 0.095, 0.41, 3.7])
def test_table_and_prose_print_a_claim_alike(kind, ci95):
    """The chapter's prose shows ``Claim.value()``; the table must not show other digits of the same claim."""
    claims = pytest.importorskip("utils.claims")
    claim = {**CLAIM, "kind": kind, "ci95": ci95, "mean": -1.25 if kind == "difference" else 91.25}
    assert pages.claim_cells(claim)[1] == claims.Claim(**claim).value()


def test_runs_are_read(tmp_path):
    (tmp_path / "prototypical.json").write_text(json.dumps(RUN))
    (tmp_path / "published.json").write_text("[]")
    assert pages.read_runs(tmp_path, "reproduction") == [RUN]
    assert pages.read_runs(tmp_path / "absent", "bench") == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "bench"}, "expected 'reproduction'"),
        ({"schema": 9}, "of schema 9"),
        ({"rows": [{"id": "x"}]}, "row 0: lacks title"),
        ({"rows": {}}, "not a list"),
        ({"provenance": None}, "expected an object"),
        ({"rows": [{**RUN["rows"][0], "mean": None}]}, "not a finite number"),
    ],
)
def test_a_broken_run_is_refused(tmp_path, change, complaint):
    (tmp_path / "run.json").write_text(json.dumps({**RUN, **change}))
    with pytest.raises(pages.BookDataError, match=complaint):
        pages.read_runs(tmp_path, "reproduction")


def test_results_stand_beside_printed_numbers():
    [(title, header, rows)] = pages.result_tables(PRINTED, [RUN])
    assert title == "Omniglot"
    assert header == ["Method", "Source", "5-way 1-shot", "20-way 1-shot"]
    assert rows == [
        ["Prototypical networks", "ours, recorded 2026-11-21, 5 seeds, running statistics", "98.5 ± 0.1", "not run"],
        [None, "ours, recorded 2026-11-21, 5 seeds, batch statistics", "98.7 ± 0.1", "not run"],
        [None, "paper", "98.8", "96.0"],
    ]


def test_what_was_not_run_is_said():
    [(_, _, rows)] = pages.result_tables(PRINTED, [])
    assert rows[0] == ["Prototypical networks", "ours", "not run", "not run"]


def test_a_run_without_a_printed_number_is_shown():
    [(_, header, rows)] = pages.result_tables([], [RUN])
    assert header[2:] == ["5-way 1-shot"]
    assert [row[0] for row in rows] == ["Prototypical network", None]


def test_two_values_for_one_place_are_refused():
    with pytest.raises(pages.BookDataError, match="two values"):
        pages.result_tables(PRINTED, [RUN, RUN])


def test_a_recorded_run_says_where_it_is_from():
    assert pages.run_note(RUN) == (
        "Prototypical: recorded on H200, 2026-11-21, commit `0123456+`, torch 2.11.0, "
        "with `course reproduce prototypical`."
    )
    with pytest.raises(pages.BookDataError, match="no date"):
        pages.run_note({**RUN, "provenance": {}})


def test_costs():
    row = {"function": "sampler", "variant": "ours", "case": "20-way", "unit": "us/episode", "median": 159.4}
    fast = {**row, "low": 150.0, "high": 170.0, "speedup_over": "learn2learn", "speedup": 62.04, "speedup_low": 58.0,
            "speedup_high": 66.0}  # fmt: skip
    slow = {**row, "variant": "learn2learn", "baseline": True, "median": 9858.0, "low": 5, "high": 5}
    assert pages.cost_rows([{"rows": [fast, slow]}]) == [
        ["sampler", "ours", "20-way", "159 µs/episode", "150 to 170", "62.0 times learn2learn (58.0 to 66.0)"],
        ["sampler", "learn2learn (baseline)", "20-way", "9860 µs/episode", "–", "–"],
    ]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.01594, "0.0159"), (1.5, "1.50"), (99.96, "100"),
                                             (159.4, "159"), (12345.0, "12300"), (-2.345, "-2.35")])  # fmt: skip
def test_three_digits(value, text):
    assert pages.three_digits(value).rstrip("0").rstrip(".") in (text, text.rstrip("0").rstrip("."))


# The directives: rows to nodes


def test_table_is_an_ordinary_table():
    table = pages.table_node(["a", "b"], [["x", "91.2 ± 0.4"], [None, [nodes.literal(text="y")]]], "course-claims")
    assert table["classes"] == ["course-table", "course-claims"]
    head, body = table.next_node(nodes.thead), table.next_node(nodes.tbody)
    assert [entry.astext() for entry in head.findall(nodes.entry)] == ["a", "b"]
    entries = list(body.findall(nodes.entry))
    assert [entry.astext() for entry in entries] == ["x", "91.2 ± 0.4", "y"]
    assert entries[0]["morerows"] == 1
    assert entries[1]["classes"] == ["course-value"]
    with pytest.raises(ValueError, match="a row of 1 cells"):
        pages.table_node(["a", "b"], [["x"]], "course-claims")


def small_book(folder, page, files=()):
    """Build one page with the three directives; return its html and its warnings."""
    import io

    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    folder.mkdir(exist_ok=True)
    (folder / "index.md").write_text(f"# Title\n\n{page}\n")
    for name, content in {"book/results/published.json": [], **dict(files)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    warnings = io.StringIO()
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    try:
        with docutils_namespace():
            settings = {"extensions": ["myst_parser", "course_pages"], "html_theme": "basic"}
            out = folder / "out"
            app = Sphinx(folder, None, out, out, "html", settings, status=None, warning=warnings)
            app.build()
    finally:
        sys.path.remove(str(ROOT / "book" / "_ext"))
    return soup(out / "index.html"), warnings.getvalue()


@pytest.mark.parametrize("name", ["claims-table", "results-table", "costs-table"])
def test_nothing_recorded_is_said_plainly(tmp_path, name):
    html, warnings = small_book(tmp_path / "book", f"```{{{name}}}\n```")
    assert not warnings
    assert pages.NOTHING in html.get_text()
    assert not html.find("table")


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("results-table", "book/results/published.json", "{"),
        ("results-table", "book/results/published.json", "{}"),
        ("results-table", "book/results/prototypical.json", "[1,"),
        ("results-table", "book/results/prototypical.json", {**RUN, "rows": [{"id": "x"}]}),
        ("costs-table", "book/results/bench/sampler.json", "nonsense"),
        ("costs-table", "book/results/bench/sampler.json", RUN),
    ],
)
def test_a_broken_file_is_a_warning_of_the_build(tmp_path, name, file, content):
    _, warnings = small_book(tmp_path / "book", f"```{{{name}}}\n```", {file: content})
    assert f"WARNING: {name}: " in warnings and file.rsplit("/", 1)[1] in warnings


def test_an_unknown_chapter_is_a_warning_of_the_build(tmp_path):
    _, warnings = small_book(tmp_path / "book", "```{claims-table}\n:chapter: 99_absent\n```")
    assert "no chapter 99_absent" in warnings


def test_results_become_a_table(tmp_path):
    files = {"book/results/published.json": PRINTED, "book/results/run.json": RUN}
    html, warnings = small_book(tmp_path / "book", "```{results-table}\n:name: prototypical\n```", files)
    assert not warnings
    assert html.find("td", rowspan="3").get_text(strip=True) == "Prototypical networks"
    assert "98.5 ± 0.1" in html.find("table").get_text()
    assert "recorded on H200" in html.find("ul", class_="course-provenance").get_text()


# The rest of the extension


def test_mathjax_is_trimmed(tmp_path):
    kept = ["tex-chtml.js", "output/chtml/fonts/woff-v2/Main.woff", "input/tex/extensions/boldsymbol.js"]
    for name in [*kept, "tex-svg.js", "sre/mathmaps/en.json", "output/svg/fonts/tex.js"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    pages.trim_mathjax(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        kept
    )
    assert not (tmp_path / "sre").exists()
    pages.trim_mathjax(tmp_path / "absent")


def test_substitutions_name_the_release():
    texts = pages.repository_substitutions("https://host/org/name", "v1")
    assert texts["repository_link"] == "[name](https://host/org/name)"
    assert "git clone --branch v1 https://host/org/name\ncd name" in texts["clone"]


# What was built


def test_the_book_builds_without_a_warning(tmp_path):
    done = build(tmp_path)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", toc_pages())
def test_every_page_is_built_and_reachable(html, page):
    assert (html / f"{page}.html").is_file()
    start = html / f"{toc_pages()[0]}.html"
    links = {a["href"].partition("#")[0] for a in soup(start).select("nav a[href], .bd-links a[href]")}
    targets = {(start.parent / link).resolve() for link in links if link and "://" not in link}
    assert (html / f"{page}.html").resolve() in targets | {start.resolve()}


def test_the_folder_opens_at_the_first_page(html):
    assert f"url={toc_pages()[0]}.html" in (html / "index.html").read_text()


def external_resources(page) -> list[str]:
    """What a browser would fetch from another machine for this page, without a click."""
    found = []
    for tag, attribute in (("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"),
                           ("video", "src"), ("audio", "src"), ("object", "data"), ("embed", "src")):  # fmt: skip
        found += [str(t[attribute]) for t in page.find_all(tag) if re.match(r"(https?:)?//", t.get(attribute, ""))]
    found += [str(t["srcset"]) for t in page.find_all(srcset=True) if "//" in t["srcset"]]
    for script in page.find_all("script", src=False):
        found += re.findall(r"https?://[^\"'\s]*\.js", script.get_text())
    for style in page.find_all("style"):
        found += re.findall(r"(?:@import|url\()[^;)]*//[^;)]*", style.get_text())
    return found


def test_no_page_needs_another_machine(html):
    files = sorted(html.rglob("*.html"))
    assert files
    for path in files:
        if "_static" not in path.parts:
            assert external_resources(soup(path)) == [], path.name
    for path in html.rglob("*.css"):
        text = re.sub(r"url\(\s*[\"']?data:[^)]*\)", "", path.read_text(encoding="utf-8"))
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//", text), path.name


def test_external_resources_are_found():
    planted = bs4.BeautifulSoup(
        '<script src="https://x/a.js"></script><link href="//x/b.css"><img src="http://x/c.png">'
        '<script>const U = "https://unpkg.com/d.js"</script><style>@import "https://x/e.css";</style>'
        '<a href="https://fine">a link is no resource</a><img src="local.png">',
        "html.parser",
    )
    assert len(external_resources(planted)) == 5


@pytest.mark.parametrize("page", [page for page in toc_pages() if page.startswith("chapters/")])
def test_a_chapter_opens_in_colab_and_downloads(html, page):
    repository, links = config()["repository"], [a["href"] for a in soup(html / f"{page}.html").select("a[href]")]
    name = repository["url"].removeprefix("https://github.com/")
    assert f"https://colab.research.google.com/github/{name}/blob/{repository['branch']}/{page}.ipynb" in links
    assert (html / "_sources" / f"{page}.ipynb").is_file()
    assert any(link.endswith(f"_sources/{page}.ipynb") for link in links)


def test_all_claims_are_among_the_numbers(html):
    shown = {code.get_text() for code in soup(html / "book" / "numbers.html").select("table.course-claims code")}
    chapters = [page for page in toc_pages() if page.startswith("chapters/")]
    assert shown == {claim["id"] for page in chapters for claim in pages.read_claims(ROOT / f"{page}.ipynb")}


def test_all_printed_numbers_are_among_the_numbers(html):
    text = " ".join(
        table.get_text(" ") for table in soup(html / "book" / "numbers.html").select("table.course-results")
    )
    for row in pages.read_published(PUBLISHED):
        assert row["printed"] in text and row["title"] in text, row["id"]


def test_the_book_is_light(html):
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6  # noqa: E731
    assert size(html / "_static" / "mathjax") <= 3
    assert not list(html.rglob("*.map"))
    assert size(html) <= 20


def test_no_figure_or_cell_lost_its_reference(html):
    """References that MyST could not resolve stay as text; with -n -W they also stop the build."""
    for page in toc_pages():
        text = soup(html / f"{page}.html").select_one("article").get_text()
        assert not re.search(r"\{(?:doc|ref|eq|cite|term|numref|glue)[:\w]*\}`", text), page
        assert "This table cannot be shown" not in text
