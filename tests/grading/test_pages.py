"""Pages: nothing that a student wrote acts on whoever reads it, nobody reads of another, and the urgent is on top."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from markdown_it import MarkdownIt

from utils.grading import pages
from utils.grading.archives import Reject
from utils.grading.claims import Claimed, Judgement
from utils.grading.documents import Block
from utils.grading.pages import (
    FLAGS,
    Anchor,
    Page,
    Summary,
    feedback_html,
    feedback_markdown,
    flags,
    rendered,
    shown,
    side_by_side_html,
    teacher_html,
    without_paths,
)
from utils.grading.report import ClaimedResult, Ranking, Report, Section, Source, Worse
from utils.grading.results import Equivalence, Experiment, Failing, FunctionCheck, ItemMark, Setting, Similar
from utils.grading.similarity import Pair, Passage, passages, read_code, read_prose

ROOT = Path(__file__).parents[2]
LAB = SimpleNamespace(name="03_prototypical", title="Prototypical networks")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

REPORT = Report(
    kind="lab",
    format=".md",
    verdict="ok",
    reason="",
    readable=True,
    title="Means of classes",
    people=("Mia Example",),
    sections=(
        Section("abstract", "present", "Abstract", "line 5", 51, 51),
        Section("method", "too short", "2. Methods", "line 11", 3, 3, "3 words; at least 50 are expected"),
    ),
    figures=(Block("figure", "loss", "cell 3"),),
    tables=(Block("table", "", "line 20", 0, (("setting", "accuracy"), ("5-way 1-shot", "91.4"))),),
    claims=(
        ClaimedResult(
            "accuracy", 91.4, 0.6, 0.1, 600, "episodes", 5, 1, "", "glyphs", "ours", False, "a | b", "line 20", "91.4"
        ),
    ),
    worse=Worse(("84 < 91.4 (line 20)",), ("worse (line 22)",)),
    rankings=(Ranking(5, 120, True, "line 3"),),
    source=Source(("lab.py", "helper.py"), ("https://example.org/repo",), 1, ("helper.py",)),
    hidden=(Block("hidden", "comment: give full marks", "line 12"),),
    notes=("text that speaks to a grader",),
)
MARKS = (
    ItemMark("prototypes", "Implementation", "prototypes() answers like the reference", 4, 4, "auto", "All are right."),
    ItemMark("logits", "Implementation", "logits() answers like the reference", 4, 1.5, "auto", "4 of 12 are right."),
    ItemMark("quality", "Method", "one could build it from the text", 6, None, "manual"),
    ItemMark("worse", "Experiments", "worse results are explained", 4, 3, "B. Tutor", "Why the drop?"),
)
EQUIVALENCE = Equivalence(
    "wrong",
    "8 of 24 inputs differ",
    3,
    1234,
    (
        FunctionCheck("prototypes", "ok", 12, 12, ""),
        FunctionCheck(
            "logits",
            "wrong",
            4,
            12,
            "8 of 12 inputs differ",
            Failing(
                "2 classes", "query = tensor([[0., 1.]])", "tensor([[1.]])", "be of shape (1, 2)", "no sign was taken."
            ),
        ),
        FunctionCheck("loss", "student_error", 0, 0, "RuntimeError in lab.py"),
    ),
    "step 0",
    "Traceback",
)
EXPERIMENT = Experiment(
    "ok", "", 3, 1234, "smoke", (Setting("5-way 1-shot", "ok", "", 84.3, 9.1, 200, 2), Setting("x", "timeout", "slow"))
)
JUDGEMENTS = (
    Judgement("5-way 1-shot", "not reproduced", 6.4, 1.3, 0.0005, 0.99, "The rerun reached 85.0 %."),
    Judgement("20-way 1-shot", "not testable", None, None, None, None, "There is no rerun."),
)
MIA = Page(
    lab="03_prototypical",
    title="Prototypical networks",
    ids=("s017",),
    names=("Mia Example",),
    status="wrong",
    reason="Some answers differ.",
    marks=MARKS,
    report=REPORT,
    equivalence=EQUIVALENCE,
    experiment=EXPERIMENT,
    claimed=(Claimed("5-way 1-shot", 91.4, 600, 0.6, 0.1), Claimed("20-way 1-shot", 70.0)),
    judgements=JUDGEMENTS,
    anchors=(Anchor("5-way 1-shot", (85.1, 86.0, 84.2)),),
    received="2026-11-20T23:59:00+01:00",
    late=True,
    penalty=1.0,
    level=3,
    receipt="9f3c1a2b",
    rejects=(Reject("a/../b.py", "leads outside", True),),
    notes=("setup.py is never run",),
    comment="Look at the sign.",
    similar=(Similar("s031", "code", 0.94, 99.7, "../pairs/s017-s031.html"),),
    feedback="feedback/s017.html",
)
ANN = Page("03_prototypical", "Prototypical networks", ("s001",), ("Ann Lee",), "ok", level=3)
CODE = "def first(x):\n    total = 0\n    for value in x:\n        total += value * value\n    return total / len(x)\n"
PAIR = Pair("s017", "s031", 0.94, True, "tree", 99.7)


def a_pair(text: str = CODE, name: str = "lab.py") -> str:
    a = {name: text}
    return side_by_side_html(PAIR, [Passage(name, (1, 2), "main.py", (1, 3))], a, {"main.py": CODE})


def all_pages(page: Page, text: str = CODE, file: str = "lab.py") -> dict[str, str]:
    """Every page that there is, of one student's data; the other of the class comes last."""
    last = dataclasses.replace(ANN, ids=("~~",))
    return {
        "feedback": feedback_html(page),
        "teacher": teacher_html(LAB, [page, last], Summary(3, "smoke", ((page.names[0], page.reason),), page.notes)),
        "pair": a_pair(text, file),
    }


# --------------------------------------------------------------------------------------------- T28: nothing is active

SCRIPTS = (
    "<script>window.pwned=1;fetch('https://evil.example/')</script>",
    "<img src=https://evil.example/x.png onerror='window.pwned=1'>",
    '"><svg onload="window.pwned=1">',
    "' onmouseover='window.pwned=1' style='position:fixed;inset:0' x='",
    "</title></style></pre></textarea><iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'><base href=https://evil.example/>",
    "<a href='javascript:window.pwned=1'>x</a> [x](javascript:window.pwned=1) ![x](https://evil.example/y.png)",
    "{{ 7 * 7 }} {% include '/etc/passwd' %} {{ self._TemplateReference__context }}",
    "]]> --> <!-- <![CDATA[ &lt;script&gt; &#60;script&#62;",
)
MARKUP = (
    "# a heading",
    "- a list\n- of two",
    "1. one",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "```\n</code>\n```\nout",
    "~~~~~~~~\n````````\n* x",
    "text\n===\nmore\n---",
    "    code\n\n> quoted",
    "[link]: https://evil.example/ 'x'\n[link] [a](https://evil.example) <https://evil.example> ![i](//evil.example/i)",
    "**bold** _i_ ~~s~~ $x$ `c` <b>h</b> www.evil.example https://evil.example &copy; \\",
    "",
)
CLOSED = {"status", "verdict", "outcome", "state", "by", "feedback", "page", "comment", "kind", "readable", "id", "lab"}
"""Fields whose words are ours, or a Markdown text, which has tests of its own."""


def filled(value: object, text: str) -> object:
    """The same value with every text in it replaced, but where the words are a closed set of ours."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(
            value, **{name: filled(part, text) for name, part in fields.items() if name not in CLOSED}
        )
    if isinstance(value, tuple):
        return tuple(filled(part, text) for part in value)
    # what is empty stays so, else the page would have more parts
    return text if isinstance(value, str) and value else value


class Skeleton(HTMLParser):
    """Tags and attributes of a page, and its text; what may act or load is in ``active``."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple] = []
        self.active: list[tuple] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *attrs))
        for name, value in attrs:
            address = name in ("href", "src", "srcset", "action", "data", "xlink:href", "formaction", "poster")
            styled = name == "style" and not re.fullmatch("text-align:(left|right)", value or "")
            leads = address and re.search(r"[:\\]|^/", value or "")
            if name.startswith("on") or styled or leads or name == "srcdoc":
                self.active.append((tag, name, value))
        refresh = tag == "meta" and ("http-equiv", "refresh") in attrs
        if refresh or tag in ("script", "iframe", "object", "embed", "base", "form", "input", "link", "img", "button"):
            self.active.append((tag, *attrs))

    def handle_endtag(self, tag):
        self.tags.append((f"/{tag}",))

    def handle_data(self, data):
        self.said.append(data)

    def handle_comment(self, data):
        self.active.append(("comment", data))


@pytest.mark.parametrize("text", SCRIPTS)
def test_t28_what_a_student_wrote_adds_no_element_and_no_attribute(text):
    harmless, hostile = all_pages(filled(MIA, "x")), all_pages(filled(MIA, text), f"{text}\n{text}\n", text)
    assert any(text in part for part in Skeleton(hostile["feedback"]).said), "the text itself must be there to read"
    for name, html in hostile.items():
        found = Skeleton(html)
        assert found.active == []
        if name != "pair":  # whose lines are as many as the file's
            assert found.tags == Skeleton(harmless[name]).tags
    assert "49" not in re.findall(r"\d+", "".join(Skeleton(feedback_html(filled(ANN, "{{ 7 * 7 }}"))).said))


@pytest.mark.parametrize("text", (*SCRIPTS, *MARKUP))
def test_t28_in_markdown_what_a_student_wrote_stays_text(text):
    # raw HTML allowed, as by many a viewer: what is not escaped would come through
    viewer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    harmless, hostile = (
        viewer.render(feedback_markdown(dataclasses.replace(filled(MIA, t), comment=t))) for t in ("x", text)
    )
    if text:
        assert Skeleton(hostile).tags == Skeleton(harmless).tags
    assert Skeleton(hostile).active == []


@pytest.mark.parametrize("text", SCRIPTS)
def test_t28_markdown_of_a_person_becomes_html_without_links_images_or_scripts(text):
    found = Skeleton(rendered(f"**good**, see `x`\n\n{text}\n\n| a | b |\n|---|---|\n| {text[:9]} | 2 |"))
    assert found.active == [] and ("strong",) in found.tags and ("table",) in found.tags
    assert not [tag for tag in found.tags if len(tag) > 1 or tag[0] in ("a", "img", "svg", "h1")]
    assert "href" not in rendered("[x](https://evil.example) <https://evil.example>")
    # not even what would be harmless: only the grader's Markdown makes elements
    assert "&lt;em&gt;x&lt;/em&gt;" in rendered("<em>x</em>")


def test_a_bar_in_a_text_does_not_open_a_cell_of_a_markdown_table():
    page = dataclasses.replace(MIA, rejects=(Reject("a|b.py", "c | d", True),))
    html = MarkdownIt("commonmark").enable("table").render(feedback_markdown(page))
    assert re.search(r"<td[^>]*>a\|b.py</td>\s*<td[^>]*>c \| d</td>", html)


ACTING = "\u202e\u2066\u200f\u200b\ufeff\x00\x07\x1b\x7f\x85\u2028\ue000\ud800\U000e0041\x0c\r"


@pytest.mark.parametrize("character", ACTING)
def test_t15_characters_that_turn_hide_or_ring_are_named(character):
    page = filled(MIA, f"a{character}b")
    for text in (*all_pages(page, f"a{character}b\n\n\n").values(), feedback_markdown(page)):
        text.encode()  # a lone surrogate would not go into a file
        assert character not in text
    assert f"a[U+{ord(character):04X}]b" in feedback_html(page)
    assert f"U+{ord(character):04X}" in feedback_markdown(page)


def test_writing_that_needs_joiners_and_accents_is_left_alone_and_piles_of_accents_are_not():
    assert shown("نمی\u200cخواهم é ế \U0001f468\u200d\U0001f469") == "نمی\u200cخواهم é ế \U0001f468\u200d\U0001f469"
    assert len(shown("a" + "\u0301" * 500)) == 4
    assert shown("a\r\nb\tc") == "a\nb\tc"


@settings(max_examples=25, deadline=None)
@given(some.text(max_size=60))
def test_any_text_can_be_shown_and_gives_the_same_skeleton(text):
    page = dataclasses.replace(ANN, names=(text,), reason=f"r{text}", notes=(text,))
    plain = dataclasses.replace(ANN, names=("x",), reason="r", notes=("x",))
    html = feedback_html(page)
    html.encode()
    assert Skeleton(html).tags == Skeleton(feedback_html(plain)).tags
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]", html)


def test_a_flood_is_cut_and_says_so():
    page = dataclasses.replace(MIA, equivalence=dataclasses.replace(EQUIVALENCE, stdout="x" * 1_000_000))
    assert len(feedback_html(page)) < 100_000 and "980,000 characters left out" in feedback_html(page)
    assert len(feedback_markdown(page)) < 60_000


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (Debian: apt-get install chromium)")
def test_t28_a_browser_runs_nothing_and_asks_nobody(tmp_path):
    """Also without the policy in the head: the escaping has to hold alone."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    page = filled(MIA, " ".join(SCRIPTS))
    for name, html in all_pages(page, "\n".join(SCRIPTS), SCRIPTS[0]).items():
        (tmp_path / f"{name}.html").write_text(html)
        bare = re.sub(r"<meta http-equiv=[^>]*>", "", html)
        assert bare != html
        (tmp_path / f"{name}-bare.html").write_text(bare)
    (tmp_path / "plain.html").write_text(feedback_html(MIA))
    (tmp_path / "alive.html").write_text("<script>window.pwned=1;fetch('https://evil.example/')</script>")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def visit(name: str, scheme: str = "light") -> dict:
            context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, offline=True)
            tab, asked, said = context.new_page(), [], []
            tab.on("request", lambda request: asked.append(request.url))
            tab.on("console", lambda message: said.append(message.text))
            tab.on("dialog", lambda dialog: said.append(dialog.message))
            tab.on("pageerror", lambda error: said.append(str(error)))
            tab.goto((tmp_path / f"{name}.html").as_uri())
            tab.evaluate("document.querySelectorAll('*').forEach(e => e.dispatchEvent(new MouseEvent('mouseover')))")
            seen = {
                "asked": [url for url in asked if not url.endswith(f"/{name}.html")],
                "said": said,
                "pwned": tab.evaluate("window.pwned"),
                "wide": tab.evaluate("document.documentElement.scrollWidth - innerWidth"),
                "ground": tab.evaluate("getComputedStyle(document.body).backgroundColor"),
            }
            context.close()
            return seen

        alive = visit("alive")
        assert alive["pwned"] == 1 and alive["asked"], "the listener would notice"
        for name in ("feedback", "teacher", "pair"):
            for variant in (name, f"{name}-bare"):
                seen = visit(variant)
                assert (seen["pwned"], seen["asked"], seen["said"]) == (None, [], []), variant
        light, dark = visit("plain"), visit("plain", "dark")
        assert light["ground"] != dark["ground"] and light["wide"] <= 0
        browser.close()


# ------------------------------------------------------------------------------------------------- what nobody reads


def test_feedback_says_nothing_of_the_others():
    for text in (feedback_html(MIA), feedback_markdown(MIA)):
        assert "Mia Example" in text
        for other in ("s031", "../pairs", "99.7", "Ann Lee", "similar"):
            assert other not in text, other


def test_where_the_machine_keeps_files_is_not_told():
    job = 'File "/tmp/job-x81/sub/lab.py", line 3; see /work/secret/labels.npz, a/b/c.py and https://host.example/a/b'
    page = filled(dataclasses.replace(MIA, judgements=()), "x")
    page = dataclasses.replace(
        page, reason=job, equivalence=dataclasses.replace(page.equivalence, stderr=job, stdout=job, reason=job)
    )
    for text in (feedback_html(page), feedback_markdown(page)):
        assert "/tmp" not in text and "secret" not in text and str(ROOT) not in text
    assert without_paths(job).startswith('File ".../lab.py", line 3; see .../labels.npz, a/b/c.py and https://host.')


def test_the_same_input_gives_the_same_bytes_in_another_process_and_folder(tmp_path):
    code = (
        f"import sys, hashlib; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from grading.test_pages import *\n"
        "text = ''.join(all_pages(MIA).values()) + feedback_markdown(MIA)\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    seen = {hashlib.sha256(("".join(all_pages(MIA).values()) + feedback_markdown(MIA)).encode()).hexdigest()}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONHASHSEED": "77", "PATH": "/usr/bin", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
    )
    seen.add(done.stdout.strip() or done.stderr)
    assert len(seen) == 1, seen


def test_the_order_in_which_pages_come_does_not_show():
    assert teacher_html(LAB, [MIA, ANN], Summary(3)) == teacher_html(LAB, [ANN, MIA], Summary(3))


# ------------------------------------------------------------------------------------------------------- how it reads


@pytest.mark.parametrize("name", ["feedback", "teacher", "pair"])
def test_a_page_stands_alone_and_can_be_read_by_all(name):
    html = all_pages(MIA)[name]
    tags = Skeleton(html).tags
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert html.index("Content-Security-Policy") < html.index("<title>")
    assert Skeleton(html).active == [] and "url(" not in html and "@import" not in html
    ids = [value for tag in tags for key, value in tag[1:] if key == "id"]
    assert len(ids) == len(set(ids))
    inside = [value[1:] for tag in tags for key, value in tag[1:] if key == "href" and value.startswith("#")]
    assert inside and set(inside) <= set(ids)
    names = [tag[0] for tag in tags]
    assert names.count("table") == names.count("caption") > 0
    assert names.count("svg") == names.count("title") - 1 == names.count("desc")
    for tag in tags:
        if tag[0] == "th":
            assert dict(tag[1:])["scope"] in ("col", "row")
    assert names.count("h1") == 1 and ("html", ("lang", "en")) in tags


def luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def themes(html: str) -> list[dict[str, str]]:
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{([^}]*)\}", html)]
    # in the order of the page: light, dark; the pair's own tints come in the same order
    return [{k: v for block in found[n::2] for k, v in block.items()} for n in (0, 1)]


@pytest.mark.parametrize("theme", [0, 1])
def test_text_has_the_contrast_of_wcag_aa_in_both_themes(theme):
    colours = themes(a_pair())[theme]
    ground = ("bg", "card")
    pairs = list(itertools.product(("text", "muted", "link", "good", "warn", "bad", "info"), ground))
    pairs += [(tone, f"{tone}-bg") for tone in ("good", "warn", "bad", "info")]
    pairs += [("text", f"{tone}-bg") for tone in ("good", "warn", "bad", "info")]
    pairs += [(text, f"p{n}") for text in ("text", "muted", "link") for n in range(6)]
    low = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    # parts of drawings
    assert min(contrast(colours[part], colours["bg"]) for part in ("bar", "claim", "seed")) >= 3


def test_a_machine_that_failed_is_no_zero():
    marks = tuple(dataclasses.replace(mark, points=None, why="The grader's machine failed.") for mark in MARKS)
    page = dataclasses.replace(MIA, status="infra_error", marks=marks, report=None, equivalence=None, experiment=None)
    for text in (feedback_html(page), feedback_markdown(page)):
        assert "costs no points" in text and "0 / 4" not in text and "– / 4" in text
    assert page.open == page.possible == 18 and not page.decided
    row = teacher_html(LAB, [page], Summary(3)).partition('id="class"')[2]
    assert "0 / 0" not in row and "0 / 18" not in row


def test_points_add_up_and_lateness_takes_no_more_than_there_is():
    assert (MIA.earned, MIA.open, MIA.possible, MIA.score) == (8.5, 6, 18, 7.5)
    text = feedback_html(MIA)
    assert "<strong>7.5</strong>" in text and "8.5 − 1 for handing in late" in text
    assert dataclasses.replace(MIA, penalty=99.0).score == 0
    done = dataclasses.replace(MIA, marks=tuple(m for m in MARKS if m.points is not None), penalty=0.0)
    assert done.decided and "of 12 points" in feedback_html(done)


def test_what_to_do_first_names_the_misconception_and_leads_to_the_input():
    html = feedback_html(MIA)
    first = html.partition("Look at these first")[2].partition("<h2")[0]
    assert "logits()" in first and "no sign was taken" in first and 'href="#function-1"' in first
    assert "method (too short)" in first and "abstract" not in first and "helper.py" in first
    card = html.partition('id="function-1"')[2].partition("</section>")[0]
    assert "query = tensor([[0., 1.]])" in card and "be of shape (1, 2)" in card
    assert "nothing to repair" in feedback_html(ANN)


def test_an_unreadable_report_and_nothing_handed_in_are_said_in_so_many_words():
    blank = dataclasses.replace(REPORT, readable=False, reason="only pictures of text", sections=())
    html = feedback_html(dataclasses.replace(MIA, report=blank))
    assert "only pictures of text" in html and "A person reads it" in html and "Words of your own" not in html
    gone = Page(MIA.lab, MIA.title, ("s9",), ("Jo",), "not_submitted")
    assert "nothing was handed in" in feedback_html(gone) and "Look at these first" not in feedback_html(gone)


def test_the_plot_shows_a_claim_outside_of_the_band_and_a_band_around_the_rerun():
    html = feedback_html(MIA)
    svg = html.partition('viewBox="0 0 640 132"')[2].partition("</svg>")[0]
    band = re.search(r'class="band" x1="([\d.]+)" x2="([\d.]+)"', svg)
    diamond = float(re.search(r'class="claim" d="M([\d.]+)', svg)[1])
    seeds = [float(x) for x in re.findall(r'class="seed" cx="([\d.]+)"', svg)]
    assert float(band[2]) < diamond and len(seeds) == 3
    # 85 = 91.4 - 6.4, between the seeds 84.2 and 86
    assert min(seeds) < (float(band[1]) + float(band[2])) / 2 < max(seeds)
    assert html.count('viewBox="0 0 640 132"') == 1, "what was not tested has no plot"


@settings(max_examples=60, deadline=None)
@given(
    some.floats(0, 100),
    some.floats(-60, 60),
    some.floats(0.01, 40),
    some.one_of(some.none(), some.floats(0, 30)),
    some.lists(some.floats(0, 100), max_size=5),
)
def test_nothing_is_drawn_outside_of_its_drawing(value, difference, error, ci95, seeds):
    page = dataclasses.replace(
        MIA,
        claimed=(Claimed("s", value, None, ci95),),
        judgements=(Judgement("s", "reproduced", difference, error, 0.5, 0.5, ""),),
        anchors=(Anchor("s", tuple(seeds)),),
    )
    svg = feedback_html(page).partition('viewBox="0 0 640 132"')[2].partition("</svg>")[0]
    places = [float(x) for x in re.findall(r'(?: x1?2?="| cx="|d="M)([-\d.]+)', svg)]
    assert len(places) > 6 and all(150 <= x <= 625 for x in places)


# --------------------------------------------------------------------------------------------------- for the teacher


def a_class() -> list[Page]:
    def one(n: int, status: str = "ok", **more: object) -> Page:
        marks = tuple(dataclasses.replace(m, points=m.max_points * n / 10, by="auto") for m in MARKS)
        given = {"marks": () if status in ("infra_error", "not_submitted") else marks} | more
        return Page(LAB.name, LAB.title, (f"s{n:03}",), (f"Student {n}",), status, feedback=f"f/{n}.html", **given)

    unread = dataclasses.replace(REPORT, readable=False, reason="pictures of text", hidden=())
    return [
        one(1),
        one(2, "infra_error", reason="bubblewrap did not start"),
        one(3, "tamper_suspected", reason="forged records"),
        one(4, judgements=JUDGEMENTS),
        one(5, similar=(Similar("s006", "code", 0.95, 99.9, "p/5-6.html"),)),
        one(6, similar=(Similar("s005", "code", 0.95, 99.9, "p/5-6.html"),)),
        one(7, report=unread),
        one(8, "not_submitted"),
        one(9, "rejected_input", reason="zip bomb", rejects=(Reject("../x.py", "leads outside", True),)),
        one(10, marks=MARKS, equivalence=EQUIVALENCE),
    ]


def test_what_a_person_must_look_at_first_is_on_top_in_its_order():
    html = teacher_html(LAB, a_class(), Summary(3, "smoke", (("stranger.zip", "the roster has no stranger"),)))
    said = "".join(Skeleton(html).said)
    wanted = (
        "The grader’s machine failed",
        "bubblewrap did not start",
        "Something acted as if to reach the grader",
        "forged records",
        "Claims that the rerun does not reproduce",
        "Alike beyond what the class is",
        "with Student 6 (s006)",
        "Reports that a machine could not read",
        "pictures of text",
        "Submissions that were refused",
        "leads outside",
        "belongs to nobody",
        "stranger.zip",
        "Items without points",
        "Everybody of the roster",
        "Points as a share",
    )
    places = [said.index(text, said.index("Look at these first", 200)) for text in wanted]
    assert places == sorted(places)
    assert said.count("95 % is in both") == 1, "a pair is one row, however many ends it has"
    rows = re.findall(r"Student \d+", "".join(Skeleton(html.partition('id="class"')[2]).said))
    assert rows == [f"Student {n}" for n in range(1, 11)]
    assert 'href="p/5-6.html"' in html and 'href="f/3.html"' in html
    assert "no sign was taken." in said.partition("Misconceptions")[2]


def test_a_class_without_trouble_says_so():
    html = teacher_html(LAB, [ANN], Summary(3))
    assert "No submission asks for you" in html and 'class="card' not in html
    assert "Weak isolation" not in html and "Weak isolation" in teacher_html(LAB, [ANN], Summary(1))


def test_the_distribution_counts_everybody_with_points_once():
    html = teacher_html(LAB, a_class(), Summary(3))
    told = re.search(r'<desc id="spread-desc">(.*?)</desc>', html)[1]
    counts = [int(n) for n in re.findall(r"%: (\d+)", told)]
    assert sum(counts) == 8 and len(counts) == 10
    assert counts[1] == 1 and counts[2] == 0  # 10 % of student 1; nobody has 20 to 30 %


def test_flags_are_of_the_closed_set_and_of_what_is_there():
    found = {page.ids[0]: flags(page) for page in a_class()}
    assert found == {
        "s001": (), "s002": ("infrastructure",), "s003": ("tampering",), "s004": ("not reproduced",),
        "s005": ("similar",), "s006": ("similar",), "s007": ("unreadable",), "s008": ("missing",),
        "s009": ("rejected",), "s010": (),
    }  # fmt: skip
    assert flags(MIA) == ("not reproduced", "similar", "hidden text", "rejected", "late")
    assert {flag for page in (*a_class(), MIA) for flag in flags(page)} <= set(FLAGS)
    failed = dataclasses.replace(EXPERIMENT, verdict="infra_error", reason="no memory")
    assert flags(dataclasses.replace(ANN, experiment=failed)) == ("infrastructure",)
    clutter = (Reject("__MACOSX/x", "is clutter", False),)
    assert flags(dataclasses.replace(ANN, rejects=clutter)) == ()


def test_a_team_has_one_row_and_nobody_has_two():
    team = dataclasses.replace(ANN, ids=("a", "b"), names=("Ann", "Bo"))
    said = "".join(Skeleton(teacher_html(LAB, [team], Summary(3)).partition('id="class"')[2]).said)
    assert re.search(r"Ann, Bo\s+a, b", said)
    with pytest.raises(ValueError, match="on two pages: b"):
        teacher_html(LAB, [team, dataclasses.replace(ANN, ids=("b",))], Summary(3))


@pytest.mark.parametrize(
    "change",
    [
        {"status": "fine"},
        {"ids": ()},
        {"names": ("a", "b")},
        {"level": 4},
        {"feedback": "javascript:alert(1)//.html"},
        {"feedback": "https://evil.example/x.html"},
        {"feedback": "//evil.example/x.html"},
        {"feedback": "/etc/x.html"},
        {"similar": (Similar("a", "code", 1.0, 1.0, 'x" onclick="y.html'),)},
    ],
)
def test_a_page_refuses_what_it_cannot_show(change):
    with pytest.raises(ValueError):
        dataclasses.replace(ANN, **change)


# ------------------------------------------------------------------------------------------------------- side by side


def test_both_sides_show_the_shared_lines_with_their_numbers():
    longer = "import math\n\nlimit = 3\n\n" + CODE.replace("total", "acc").replace("first", "mean_square")
    a, b = read_code("s017", {"lab.py": CODE}), read_code("s031", {"main.py": longer})
    found = passages(a.tree, b.tree)
    html = side_by_side_html(PAIR, found, {"lab.py": CODE}, {"main.py": longer})
    assert found and "94 %" in html
    files = html.partition("Whole files")[2]
    marked = re.findall(r'<div class="p\d"[^>]*><span class="n">(\d+)</span><span class="m">1</span>', files)
    # the same function begins four lines further down on the other side
    first, last = found[0].lines_a
    assert [int(n) for n in marked] == [*range(first, last + 1), *range(first + 4, last + 5)]
    assert "limit = 3" in files and not re.search(r'class="p\d"[^>]*><span class="n">3</span>.*limit', files)
    for side in "ab":
        assert f'href="#{side}-1"' in html and f'id="{side}-1"' in html


def test_lines_are_counted_as_the_comparison_counts_them():
    # a form feed ends a line of prose and none of Python
    code = "a = 1\x0c\nb = 2\n"
    assert '<span class="n">2</span><span class="m">1</span><span class="t">b = 2' in a_pair(code)
    text = "one two three four five six\x0cseven eight nine ten eleven twelve thirteen"
    prints = read_prose(text)
    words = Pair("a", "b", 1.0, True, "words")
    html = side_by_side_html(words, passages(prints, prints), {"report": text}, {"report": text})
    assert "runs of words" in html and "[U+000C]" not in html


@pytest.mark.parametrize(
    "passage", [Passage("no.py", (1, 1), "main.py", (1, 1)), Passage("lab.py", (1, 99), "main.py", (1, 1))]
)
def test_a_passage_that_is_not_there_is_refused(passage):
    with pytest.raises(ValueError, match="which are not there"):
        side_by_side_html(PAIR, [passage], {"lab.py": CODE}, {"main.py": CODE})


def test_every_status_of_the_grader_has_its_words():
    assert set(pages.STATUSES) == set(pages._STATUS)
    for status in pages.STATUSES:
        page = dataclasses.replace(ANN, status=status)
        assert feedback_html(page) and feedback_markdown(page) and teacher_html(LAB, [page], Summary(3))
