"""What a report says: its sections, figures, tables, claims, team and ranking, from the blocks of any format.

Only what a machine can know is looked for: whether a section is there and holds words of the student's own, which
accuracies are claimed, whether worse results stand beside the better ones. Whether any of it is good is the grader's
to say. A report of which nothing can be read is for a human, not without sections.

As a program, ``python -m utils.grading.report PATH`` prints the blocks of a file as JSON: the part that is run apart
from the grader.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from utils.grading.documents import Block, Document, parsed

# Sections of lecture L0 and the words of their own below which they say nothing.
LAB = {
    "abstract": 40,
    "introduction": 60,
    "problem": 25,
    "method": 50,
    "implementation": 30,
    "experiments": 40,
    "conclusion": 25,
}
PROJECT = {name: words for name, words in LAB.items() if name != "implementation"}
STATES = ("present", "missing", "empty", "too short", "copied", "repetitive", "unreadable")
_FEWEST_WORDS = 20  # below, nothing of the document was read: pictures of text, or a font without an alphabet
_MOST_CLAIMS = 2000
_LONGEST = 20_000  # characters of one block that are searched

# Headings as they are met, after numbering and punctuation are gone: each pattern is matched as a whole.
_HEADINGS = {
    "abstract": r"(extended |executive )?abstract|executive summary|kurzfassung|kurzzusammenfassung"
    r"|überblick|摘要|概要",
    "introduction": r"intro|(general )?introduction( to .*)?|background|motivation|(background"
    r"|motivation) (and|of) .*"
    r"|related (work|works|methods|literature)|prior work|state of the art|literature( review)?|why .*"
    r"|what this is about"
    r"|einleitung|einführung|hintergrund|verwandte arbeiten|stand der (technik|forschung)"
    r"|引言|绪论|导论|介绍|简介|前言|背景|研究背景|相关工作|相关研究",
    "problem": r"(the |research )?problem|(the )?(formal )?(problem|task) (formulation|statement"
    r"|definition|setup|setting"
    r"|description|formalisation|formalization)|formulation( of the problem)?|problem .*|the task|preliminaries"
    r"|what (is|was) asked|formal setting|notation|problemstellung|problemformulierung|problemdefinition"
    r"|aufgabenstellung"
    r"|(formale )?problembeschreibung|(研究)?问题(的)?(定义|描述|表述|形式化|陈述|建模|设定)?|任务定义",
    "method": r"(the |our |proposed )*(methods?|methodology|approach|model|algorithm|idea)s?( description| overview)?"
    r"|(basic |main )?idea( of the method)?|model (structure|architecture|design)"
    r"|(network )?architecture|how it works"
    r"|how the method works|methods? .*|methode|methoden|methodik|methodisches vorgehen|(unser "
    r"|der )?ansatz|verfahren"
    r"|modell|vorgehen|方法|方法论|模型|模型结构|算法|研究方法|(所提|提出的?)(方法|模型|算法)|方法(介绍|概述|描述)",
    "implementation": r"(our )?implementations?( details| notes)?|implementation .*|difficulties( encountered)?"
    r"|difficulties and solutions|what (we|i) (did|built|implemented).*|how (we|i) built it|challenges.*"
    r"|implementierung(sdetails)?|umsetzung|realisierung|schwierigkeiten( und lösungen)?"
    r"|(代码)?实现(细节|过程)?|具体实现",
    "experiments": r"(our |the )?experiments?|(experimental |main |our |the )?results?|experimental (evaluation|setup"
    r"|study)|evaluation|experiments? .*|empirical .*|findings|tests|what (we|i) (measured|found"
    r"|observed).*|measurements"
    r"|experimente|experimentelle .*|ergebnisse|auswertung|evaluierung|versuche|messungen"
    r"|实验|实验(结果|部分|设置|与分析|评估)|(实验)?结果(与?分析)?|评估|测试结果",
    "conclusion": r"(the )?conclusions?|concluding remarks|discussion|summary|conclusions? .*|closing remarks|outlook"
    r"|future work|lessons learned|what (we|i) learned|take-?aways?|fazit|schluss|schlussfolgerung(en)?"
    r"|zusammenfassung"
    r"|ausblick|schlusswort|diskussion|结论|总结|小结|结语|(未来|后续)(工作|展望)|展望",
    "source code": r"(the |our )?(source )?code( availability| listing| repository)?|(source )?code .*"
    r"|repository|sources"
    r"|quell ?code|quelltext|programmcode|code-?verfügbarkeit|(源)?代码(链接|地址)?|源程序",
    "authors": r"(the )?(authors?|names?|students?)|autor(en|innen)?|作者|姓名",
    "team": r"(the |our )?(team|group)( members?)?|members|teammitglieder|mitglieder"
    r"|gruppe(nmitglieder)?|团队(成员)?|成员|小组成员",
    "ranking": r"(our |final |team )?(ranking|rank|leaderboard|standing)s?|platzierung|rangliste|排名|名次",
    "references": r"references|bibliography|literatur(verzeichnis)?|quellen|参考文献",
    "appendix": r"appendix|appendices|anhang|附录|acknowledge?ments?|danksagung|致谢",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _HEADINGS.items()}
# For headings of one word with a slip of the pen.
_ONE_WORD = {
    "abstract": "abstract",
    "introduction": "introduction",
    "background": "introduction",
    "method": "method",
    "methods": "method",
    "methodology": "method",
    "implementation": "implementation",
    "experiments": "experiments",
    "results": "experiments",
    "evaluation": "experiments",
    "conclusion": "conclusion",
    "conclusions": "conclusion",
    "einleitung": "introduction",
    "implementierung": "implementation",
    "experimente": "experiments",
    "ergebnisse": "experiments",
    "schlussfolgerung": "conclusion",
    "zusammenfassung": "conclusion",
}
_NUMBERING = re.compile(
    r"^(?:(?:section|chapter|part|kapitel|abschnitt|teil)\s+)?"
    r"(?:§\s*)?(?:\d{1,2}(?:\.\d{1,2})+[.)]?\s+|[(\[]?(?:\d{1,2}(?:\.\d{1,2})*|[ivxlc]{1,6}|[a-h])[.):\]]+\s*|\d{1,2}(?:\.\d{1,2})*\s+"
    r"|[ivx]{1,5}\s+"
    r"|第[一二三四五六七八九十\d]+[章节部分]+\s*[、:.]?\s*|[(]?[一二三四五六七八九十]{1,3}[、.)]\s*)",
    re.IGNORECASE,
)
_RUN_IN = re.compile(r"^\s*(abstract|kurzfassung|zusammenfassung|摘要)\s*[.:—–-]+\s*(\S.*)$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A section that is asked for. ``own`` is the number of its words that are not the template's."""

    name: str
    state: str  # one of STATES
    heading: str = ""
    where: str = ""
    words: int = 0
    own: int = 0
    why: str = ""


@dataclass(frozen=True)
class ClaimedResult:
    """A number that the report states as a result.

    Parameters
    ----------
    metric : ``accuracy``, ``error``, ``forgetting``, ``backward transfer`` or ``forward transfer``.
    value, interval : per cent; the interval is the half-width behind ±, None where none is given.
    step : one unit of the value's last printed digit: 1 for "91 %", 0.1 for "91.4 %" and for 0.914.
    n, over : how many ``episodes``, ``seeds`` or ``runs`` it is a mean of, as far as the report says.
    n_way, k_shot, scenario, dataset, method : the setting, as far as the report says.
    cited : whether it is somebody else's (the paper's, the lecture's).
    label : of a table's cell: its row and its column.
    """

    metric: str
    value: float
    interval: float | None
    step: float
    n: int | None
    over: str
    n_way: int | None
    k_shot: int | None
    scenario: str
    dataset: str
    method: str
    cited: bool
    label: str
    where: str
    text: str


@dataclass(frozen=True)
class Ranking:
    """``5th of 120``: ``possible`` is False for the 121st of 120."""

    rank: int
    of: int
    possible: bool
    where: str


@dataclass(frozen=True)
class Worse:
    """Whether worse results stand beside the better: numbers below the best, and words about them."""

    numbers: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def reported(self) -> bool:
        return bool(self.numbers and self.words)


@dataclass(frozen=True)
class Source:
    """Source code that the report names; ``absent`` are the files that were not handed in."""

    files: tuple[str, ...]
    links: tuple[str, ...]
    blocks: int
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All of it. ``readable`` False: a human has to look; nothing follows from what was not found."""

    kind: str
    format: str
    verdict: str
    reason: str
    readable: bool
    title: str
    people: tuple[str, ...]
    sections: tuple[Section, ...]
    figures: tuple[Block, ...]
    tables: tuple[Block, ...]
    claims: tuple[ClaimedResult, ...]
    worse: Worse
    rankings: tuple[Ranking, ...]
    source: Source
    hidden: tuple[Block, ...]
    notes: tuple[str, ...]

    def as_json(self) -> str:
        """The same as JSON, with the same bytes for the same report."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=True)


def examine(
    document: Document, kind: str = "lab", templates: Sequence[str] = (), handed_in: Iterable[str] | None = None
) -> Report:
    """What a document says, as a report on a lab or on a course project.

    Parameters
    ----------
    document : see ``documents.read_document``.
    kind : ``"lab"`` or ``"project"``.
    templates : texts that were given to the students (the template, the model report); what is theirs is nobody's own.
    handed_in : names of the files of the submission, to see whether the source code that is named is there.

    Raises
    ------
    ValueError : another kind.
    """
    if kind not in ("lab", "project"):
        raise ValueError(f"a report is on a 'lab' or a 'project'; got {kind!r}")
    blocks = _with_line_tables(document.blocks)
    hidden = tuple(block for block in blocks if block.kind == "hidden" and block.text)
    given = frozenset(piece for template in templates for piece in _shingles(_tokens(template)))
    given_comments = {
        " ".join(_tokens(text)) for t in templates for text in re.findall(r"<!--(.{0,5000}?)-->", t, re.S)
    }
    hidden = tuple(b for b in hidden if " ".join(_tokens(b.text.removeprefix("comment:"))) not in given_comments)
    seen = [block for block in blocks if block.kind != "hidden"]
    words = sum(count_words(_all_text(block)) for block in seen if block.kind not in ("code", "output"))
    readable = document.verdict == "ok" and words >= _FEWEST_WORDS
    opened = _sections_at(seen)
    first = min((at for at, *_ in opened), default=len(seen))
    title = _title(seen, first, opened)
    people = _people(seen, first, opened, title)
    source = _source(seen, handed_in)
    claims = tuple(_claims(seen, opened))[:_MOST_CLAIMS]
    wanted = LAB if kind == "lab" else PROJECT
    front = (_said("title", title, given), _said("authors" if kind == "lab" else "team", ", ".join(people), given))
    sections = (*front, *_judged(seen, opened, wanted, given), _source_section(seen, opened, source))
    rankings = tuple(_rankings(seen))
    if not readable:
        sections = tuple(Section(section.name, "unreadable", why="a human looks") for section in sections)
    notes = list(_notes(seen, hidden, claims))
    if document.verdict == "ok" and not readable:
        notes.insert(0, f"only {words} words could be read: pictures of text, or a damaged file; a human looks")
    if kind == "project" and readable and not rankings:
        notes.append("no ranking of the team is given")
    return Report(
        kind,
        document.format,
        document.verdict,
        document.reason,
        readable,
        title,
        people,
        sections,
        _figures(seen),
        tuple(block for block in seen if block.kind == "table"),
        claims,
        _worse(seen, opened, claims),
        rankings,
        source,
        hidden,
        tuple(notes),
    )


def sections_of_heading(heading: str) -> tuple[str, ...]:
    """The names of the sections that a heading opens: numbered, translated, combined, misspelt; none for others."""
    text = _bare(heading)
    if not text or len(text) > 80:
        return ()
    parts = [part.strip(" .:") for part in re.split(r"\s+(?:and|und|&|\+|/)\s+|\s*[&/,，、]\s*|与|和|及", text)]
    names = [_named(part) for part in parts if part]
    if len(names) > 1 and all(names):
        return tuple(dict.fromkeys(names))
    if whole := _named(text) or _named(text.partition(":")[0].strip()):
        return (whole,)
    if len(names) == 2 and any(names):
        return tuple(name for name in names if name)
    close = get_close_matches(text, _ONE_WORD, 1, 0.82) if " " not in text and len(text) > 5 else []
    return (_ONE_WORD[close[0]],) if close else ()


def count_words(text: str) -> int:
    """Words of a text. Chinese and Japanese have no spaces: there ten signs count as six words."""
    signs = len(_CJK.findall(text))
    return len(re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", _CJK.sub(" ", text))) + (signs * 6) // 10


def main(arguments: Sequence[str]) -> None:
    """Print the blocks of a file as JSON. Exit status 3: it needs more memory than there is."""
    try:
        answer = json.dumps(parsed(Path(arguments[0])))
    except MemoryError:
        sys.exit(3)
    sys.stdout.write(answer)


# ------------------------------------------------------------------------------------------------------- sections

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")


def _bare(heading: str) -> str:
    text = unicodedata.normalize("NFKC", heading).casefold().strip().strip("*_#:. \t")
    if re.fullmatch(r"(?:\w ){4,}\w", text):  # letters set apart
        text = text.replace(" ", "")
    without = _NUMBERING.sub("", text, 1).strip()
    return re.sub(r"\s+", " ", (without or text).strip(" .:*_—–-"))


def _named(text: str) -> str:
    return next((name for name, pattern in _PATTERNS.items() if pattern.fullmatch(text)), "")


def _tokens(text: str) -> list[str]:
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff]+", text.casefold())


def _shingles(tokens: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(tokens[n : n + 5]) for n in range(len(tokens) - 4)]


def _all_text(block: Block) -> str:
    return " ".join([block.text, *(cell for row in block.rows for cell in row)])


def _sections_at(blocks: Sequence[Block]) -> list[tuple[int, tuple[str, ...], int]]:
    """(index of the heading, names, level) of the headings that open sections, in order."""
    found: list[tuple[int, tuple[str, ...], int]] = []
    for at, block in enumerate(blocks):
        if block.kind == "heading":
            names = sections_of_heading(block.text)
            if names and (block.level > 0 or len(names) == 1):
                found.append((at, names, block.level))
        elif block.kind in ("text", "line") and len(block.text) <= 60 and block.text[:1] not in ("-", "|"):
            names = sections_of_heading(block.text)
            # a line of a paragraph may be one word long by chance, but seldom begins with a capital
            start = _NUMBERING.sub("", block.text.strip("*_ "), 1).strip()[:1]
            if names and not start.islower() and not re.search(r"[,;!?]$", block.text):
                found.append((at, names, -1))
        elif block.kind in ("text", "line") and (run_in := _RUN_IN.match(block.text)):
            found.append((at, sections_of_heading(run_in[1]), -1))
    top = min((level for _, _, level in found if level > 0), default=1)
    found = [(at, names, top if level < 0 else level) for at, names, level in found]
    # "Summary" stands at the end, and "Zusammenfassung" at either end
    if not any("abstract" in names for _, names, _ in found):
        for n, (at, names, level) in enumerate(found):
            if names == ("conclusion",) and not any("experiments" in other for _, other, _ in found[:n]):
                found[n] = (at, ("abstract",), level)
                break
    highest = {name: min(lv for _, names, lv in found if name in names) for _, ns, _ in found for name in ns}
    return [
        (at, kept, level)
        for at, names, level in found
        if (kept := tuple(name for name in names if highest[name] == level))
    ]


def _bodies(blocks: Sequence[Block], opened: Sequence[tuple[int, tuple[str, ...], int]]) -> dict[str, list[list[int]]]:
    """Section -> for each of its headings the indices of its blocks, its subsections' included; [0] is the heading."""
    bodies: dict[str, list[list[int]]] = {}
    for n, (at, names, level) in enumerate(opened):
        end = next((other for other, _, lv in opened[n + 1 :] if lv <= level), len(blocks))
        for name in names:
            bodies.setdefault(name, []).append(list(range(at, end)))
    return bodies


def _body_text(blocks: Sequence[Block], indices: Sequence[int]) -> str:
    texts = []
    for n, index in enumerate(indices):
        block = blocks[index]
        if n == 0:
            run_in = _RUN_IN.match(block.text) if block.kind != "heading" else None
            texts.append(run_in[2] if run_in else "")
        elif block.kind in ("text", "line", "table"):
            texts.append(_all_text(block))
    return " ".join(texts)


def _judged(
    blocks: Sequence[Block],
    opened: Sequence[tuple[int, tuple[str, ...], int]],
    wanted: dict[str, int],
    given: frozenset[tuple[str, ...]],
) -> Iterator[Section]:
    bodies = _bodies(blocks, opened)
    earlier: dict[str, tuple[set[int], set[tuple[str, ...]]]] = {}
    for name, fewest in wanted.items():
        spans = bodies.get(name)
        if not spans:
            yield Section(name, "missing", why="no heading that opens it was found")
            continue
        heading = blocks[spans[0][0]]
        title, where = heading.text[:80], heading.where
        text = " ".join(_body_text(blocks, span) for span in spans)
        tokens = _tokens(text)
        pieces = _shingles(tokens)
        words = count_words(text)
        own = count_words(" ".join(_not_given(tokens, given)))
        indices = {index for span in spans for index in span}
        # a subsection repeats its section, and a heading with two names opens one body twice: that is no copy
        copied = [
            other
            for other, (theirs, said) in earlier.items()
            if not theirs & indices and len(said) > 10 and sum(p in said for p in pieces) > 0.6 * max(len(pieces), 1)
        ]
        earlier[name] = (indices, set(pieces))
        if words == 0:
            state, why = "empty", "there is a heading and nothing below it"
        elif "lorem" in tokens and "ipsum" in tokens:
            state, why = "copied", "filled with lorem ipsum"
        elif words >= fewest and own < fewest:
            state, why = "copied", f"only {own} of its {words} words are not the template's"
        elif own < fewest:
            state, why = "too short", f"{own} words; at least {fewest} are expected"
        elif copied:
            state, why = "copied", f"says the same as {copied[0]}"
        elif len(set(pieces)) < 0.5 * len(pieces):
            state, why = "repetitive", "the same words again and again"
        else:
            state, why = "present", ""
        yield Section(name, state, title, where, words, own, why)


def _not_given(tokens: Sequence[str], given: frozenset[tuple[str, ...]]) -> list[str]:
    covered = [False] * len(tokens)
    for n, piece in enumerate(_shingles(tokens)):
        if piece in given:
            covered[n : n + 5] = [True] * 5
    return [token for token, is_given in zip(tokens, covered, strict=True) if not is_given]


def _said(name: str, text: str, given: frozenset[tuple[str, ...]]) -> Section:
    tokens = _tokens(text)
    if not tokens:
        return Section(name, "missing", why="not found before the first section")
    if len(tokens) >= 5 and all(piece in given for piece in _shingles(tokens)):
        return Section(name, "copied", text[:80], why="as in the template")
    return Section(name, "present", text[:80], words=count_words(text), own=count_words(text))


def _title(blocks: Sequence[Block], first: int, opened: Sequence[tuple[int, tuple[str, ...], int]]) -> str:
    before = blocks[:first]
    heading = next((block.text for block in before if block.kind == "heading"), "")
    plain = next((block.text for block in before if block.kind in ("line", "text")), "")
    return heading or ("" if _PEOPLE.match(plain) else plain[:200])


_PEOPLE = re.compile(
    r"^\W*(?:(?:by|von)\s+(?=[A-ZÄÖÜ])|(?:authors?|names?|students?|team(?: members?)?|group(?: members)?|members"
    r"|autor(?:en|innen)?|teammitglieder|mitglieder|gruppe|作者|姓名|团队(?:成员)?|成员"
    r"|小组成员)\s*\W{0,3}[::]\W{0,3}\s*)(?P<names>.*)$",
    re.IGNORECASE | re.DOTALL,
)


def _people(
    blocks: Sequence[Block], first: int, opened: Sequence[tuple[int, tuple[str, ...], int]], title: str
) -> tuple[str, ...]:
    bodies = _bodies(blocks, opened)
    texts = []
    for name in ("team", "authors"):
        for span in bodies.get(name, []):
            texts += [_all_text(blocks[n]) for n in span[1:]]
    names = [
        match["names"] for b in blocks[:400] if b.kind in ("text", "line") and (match := _PEOPLE.match(b.text[:400]))
    ]
    before = [b.text for b in blocks[:first] if b.kind in ("text", "line") and b.text != title and len(b.text) < 200]
    for found in (texts, names, before):
        split = [part for text in found for part in re.split(r"[,;、，；\n·•|]|\s+(?:and|und|&)\s+|\s\*\s|\s-\s", text)]
        people = [re.sub(r"\(.*?\)|\S+@\S+|\d+", "", part).strip(" .:*-_[]()") for part in split]
        kept = [p for p in people if 2 <= len(p) <= 50 and len(p.split()) <= 5 and re.search(r"[^\W\d_]", p)]
        if kept:
            return tuple(dict.fromkeys(kept))[:20]
    return ()


# -------------------------------------------------------------------------------------- figures, source, ranking

_FIGURE = re.compile(r"^\s*(?:figure|fig\.?|abbildung|abb\.?|图)\s*\d+", re.IGNORECASE)
_TABLE = re.compile(r"^\s*(?:table|tab\.|tabelle|表)\s*\d+", re.IGNORECASE)
_FILE = re.compile(r"(?<![\w/.])[\w][\w./-]{0,100}\.(?:py|ipynb)\b")
_LINK = re.compile(r"https?://[^\s<>\"')\]]{3,300}")
_RANKS = (
    re.compile(
        r"\b(\d{1,4})(?:st|nd|rd|th)\b(?:\W+\w+){0,3}?\W+(?:out of|of|among|from)\W+(?:\w+\W+){0,2}?(\d{1,5})\b", re.I
    ),
    re.compile(r"\b(\d{1,4})\.?\s+(?:platz\s+)?(?:von|unter|aus)\s+(?:den\s+)?(\d{1,5})\b", re.I),
    re.compile(
        r"\b(?:rank(?:ed|ing)?|place[d]?|position|leaderboard|platz|rang)\b[^\d\n]{0,30}(\d{1,4})(?:st|nd|rd|th|\.)?"
        r"\s*(?:/|out of|of|among|von|unter)\s*(?:\w+\s+)?(\d{1,5})\b",
        re.I,
    ),
    re.compile(r"排名[^\d\n]{0,8}第?\s*(\d{1,4})\s*(?:名|位)?\s*[/(（,，]?\s*(?:共|总共|of)?\s*(\d{1,5})"),
    re.compile(r"第\s*(\d{1,4})\s*名[^\d\n]{0,6}(\d{1,5})"),
)


def _figures(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Figures with their captions. A drawn figure of a PDF has no image: its caption is all that is found of it."""
    drawn = [block for block in blocks if block.kind == "figure"]
    captions = [b for b in blocks if b.kind in ("text", "line") and _FIGURE.match(b.text) and len(b.text) < 1000]
    result = []
    for block in drawn:
        near = next((caption for caption in captions if caption.where == block.where), None)
        if not block.text and near is not None:
            captions.remove(near)
            block = replace(block, text=near.text)
        result.append(block)
    numbered = [caption for caption in captions if re.match(r"^\S+\s*\d+\s*[.:—–-]", caption.text)]
    if any(block.kind == "line" for block in blocks):
        result += [Block("figure", caption.text, caption.where) for caption in numbered]
    return tuple(result)


def _source(blocks: Sequence[Block], handed_in: Iterable[str] | None) -> Source:
    text = [block for block in blocks if block.kind in ("text", "line", "table", "heading")]
    files = {name for block in text for name in _FILE.findall(_all_text(block)[:_LONGEST]) if "//" not in name}
    links = {link.rstrip(".,;") for block in text for link in _LINK.findall(_all_text(block)[:_LONGEST])}
    hosts = ("github", "gitlab", "gitee", "bitbucket", "codeberg", "colab", "huggingface")
    links = {link for link in links if any(host in link.split("/")[2].lower() for host in hosts)}
    absent: set[str] = set()
    if handed_in is not None:
        there = {PurePosixPath(name).name.casefold() for name in handed_in}
        absent = {name for name in files if PurePosixPath(name).name.casefold() not in there}
    code = sum(block.kind == "code" for block in blocks)
    return Source(tuple(sorted(files)), tuple(sorted(links)), code, tuple(sorted(absent)))


def _source_section(
    blocks: Sequence[Block], opened: Sequence[tuple[int, tuple[str, ...], int]], source: Source
) -> Section:
    spans = _bodies(blocks, opened).get("source code")
    there = bool(source.files or source.links or source.blocks)
    if not spans:
        state = "present" if there else "missing"
        return Section("source code", state, why="named in the text" if there else "no file, link or listing is named")
    heading, words = blocks[spans[0][0]], count_words(" ".join(_body_text(blocks, span) for span in spans))
    state = "present" if there else ("too short" if words else "empty")
    why = "" if there else "names no file, link or listing"
    return Section("source code", state, heading.text[:80], heading.where, words, words, why)


def _rankings(blocks: Sequence[Block]) -> Iterator[Ranking]:
    found = set()
    for block in _paragraphs(blocks):
        text = unicodedata.normalize("NFKC", _all_text(block)[:_LONGEST])
        for pattern in _RANKS:
            for match in pattern.finditer(text):
                rank, of = int(match[1]), int(match[2])
                if (rank, of) not in found and of > 1:
                    found.add((rank, of))
                    yield Ranking(rank, of, 1 <= rank <= of, block.where)


_TO_GRADER = re.compile(
    r"ignore (?:all |any |the |your )*(?:previous |above |prior )*(?:instructions|rules|rubric)|(?:give"
    r"|award|assign) (?:\w+ )?"
    r"(?:full|maximum|all|top) (?:marks|points|score|grade)s?|you are (?:a|an|the) (?:grader|language model|ai)\b"
    r"|(?:volle|maximale) punktzahl|满分",
    re.IGNORECASE,
)


def _notes(blocks: Sequence[Block], hidden: Sequence[Block], claims: Sequence[ClaimedResult]) -> Iterator[str]:
    if hidden:
        shown = f"{hidden[0].text[:120]} ({hidden[0].where})"
        yield f"{len(hidden)} pieces of text that a reader does not see; the first: {shown}"
    for block in (*blocks, *hidden):
        if block.kind != "code" and (match := _TO_GRADER.search(_all_text(block)[:_LONGEST])):
            yield f"text that speaks to a grader: {match[0]} ({block.where})"
    for claim in claims:
        if claim.metric == "accuracy" and not 0 <= claim.value <= 100:
            yield f"an accuracy of {claim.value:g} % is claimed ({claim.where})"


# --------------------------------------------------------------------------------------------------------- claims

_N = r"(?:\d{1,3}(?:\.\d{1,4})?|\.\d{1,4})"
_VALUE = re.compile(
    rf"(?<![\w.\-/±])(?P<v>{_N})\s*(?P<p>%)?"
    rf"(?:\s*±\s*(?P<ci>{_N})\s*(?P<q>%)?|\s*[\[(]\s*(?P<lo>{_N})\s*%?\s*[,;–-]\s*(?P<hi>{_N})\s*%?\s*[\])])?(?![\w/]|\.\d|-\w)"
)
_FRACTION = re.compile(
    r"(?:accuracy|accuracies|acc\.?|genauigkeit|trefferquote|准确率|正确率|精度)"
    r"(?:(?!rate|lambda|temperature|momentum|margin|threshold)[^.;]){0,60}?(?<![\w.])(0?\.\d{2,4})"
    r"(?:\s*±\s*(0?\.\d{1,4}))?(?!\w)",
    re.IGNORECASE,
)
_METRICS = (
    ("forgetting", re.compile(r"forget(?:ting|s)|vergess\w*|遗忘", re.I)),
    ("backward transfer", re.compile(r"backward transfer|\bbwt\b|rückwärtstransfer|后向迁移", re.I)),
    ("forward transfer", re.compile(r"forward transfer|\bfwt\b|vorwärtstransfer|前向迁移", re.I)),
    ("error", re.compile(r"error rates?|\berror\b|fehlerrate|错误率", re.I)),
    ("accuracy", re.compile(r"accurac\w+|\bacc\b|genauigkeit\w*|trefferquote|准确率|正确率|精度|test score", re.I)),
)
_NOT_RESULT_AFTER = re.compile(
    r"\s*(?:-?\s*(?:confidence|ci\b|konfidenz\w*|ki\b|interval\w*|-?intervall)|置信"
    r"|(?:percentage )?points?\b|pp\b|prozentpunkt"
    r"|个百分点|(?:of|der|des) (?:the |all |our |its |this )?(?:data|classes|images|examples|samples"
    r"|weights|parameters|time|daten)"
    r"|(?:less|fewer|more|lower|higher|better|worse|faster|slower|dropout|chance|weniger|mehr|besser|schlechter)\b)",
    re.IGNORECASE,
)
_NOT_RESULT_BEFORE = re.compile(
    r"(?:\bby|\bum|\bchance(?: level)?(?: is| of| at| would be|:)?|random(?: guess\w*)?(?: gives| is| of"
    r"| at|:)?|zufall\w*(?: ist| von|:)?"
    r"|dropout(?: of| rate of)?|\bwithin|提高了?|提升了?|下降了?|随机\w{0,4})[\s(]*(?:about |only |etwa |约)?[\s(]*$",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:the |original |their )*(?:paper|lecture|authors|literature|published)\b|\bet al\b"
    r"|\bvorlesung\b|\blaut\b|原文|论文中|讲义",
    re.I,
)
_OURS = re.compile(r"\b(?:we|our|ours|us|i|my|mine|wir|unser\w*|ich|mein\w*)\b|我们|本文|我的", re.I)
_PAIR = re.compile(r"(\d{1,3})[\s-]*(?:ways?|wege?|w)[\s,/_-]*(\d{1,3})[\s-]*(?:shots?|s)(?![a-z])", re.I)
_TURNED = re.compile(r"(\d{1,3})[\s-]*shots?[\s,/(-]*(\d{1,3})[\s-]*ways?\b", re.I)
_SIGNS = re.compile(r"(\d{1,3})\s*(?:类|路)\s*(\d{1,3})\s*(?:样本|样例|次)")
_SHOT = re.compile(r"(\d{1,3})[\s-]*shots?\b|\bk(?:_shot)?\s*=\s*(\d{1,3})", re.I)
_WAY = re.compile(r"(\d{1,3})[\s-]*(?:ways?|wege)\b|\bn(?:_way)?\s*=\s*(\d{1,3})", re.I)
_SCENARIOS = (
    ("class-incremental", re.compile(r"class[\s-]*(?:incremental|il)\b|klasseninkrementell\w*|类增量", re.I)),
    ("task-incremental", re.compile(r"task[\s-]*(?:incremental|il)\b|aufgabeninkrementell\w*|任务增量", re.I)),
    ("domain-incremental", re.compile(r"domain[\s-]*(?:incremental|il)\b|domäneninkrementell\w*|域增量", re.I)),
)
_DATASETS = re.compile(
    r"\b(?:(?:split|permuted|rotated)[\s-]*(?:mnist|digits|cifar-?\s?10{1,2})|glyphs?|digits|omniglot"
    r"|mini-?\s?imagenet|tiered-?\s?imagenet"
    r"|fashion-?mnist|mnist|cifar-?\s?fs|cifar-?\s?10{1,2}|fc-?100|imagenet)\b",
    re.I,
)
# The long names and the short ones that claims have in their place.
_SHORT = (
    ("EWC", re.compile(r"elastic[\s-]+weight[\s-]+consolidation", re.I)),
    ("MAS", re.compile(r"memory[\s-]+aware[\s-]+synapses", re.I)),
    ("LwF", re.compile(r"learning[\s-]+without[\s-]+forgetting", re.I)),
    ("BiC", re.compile(r"bias[\s-]+correction", re.I)),
    ("iMAML", re.compile(r"implicit[\s-]+(?:maml|model[\s-]+agnostic[\s-]+meta[\s-]+learning)", re.I)),
    ("MAML", re.compile(r"model[\s-]+agnostic[\s-]+meta[\s-]+learning", re.I)),
    ("experience replay", re.compile(r"replay|rehearsal", re.I)),
    ("joint training", re.compile(r"joint(?:ly)?[\s-]+(?:trained|training|learning)", re.I)),
    ("plain training", re.compile(r"(?:plain|naive|sequential)[\s-]+(?:sgd|training|fine-?tuning|learning)", re.I)),
    ("distillation", re.compile(r"knowledge[\s-]+distillation", re.I)),
)
_METHODS = re.compile(
    r"\b(?:elastic[\s-]+weight[\s-]+consolidation|memory[\s-]+aware[\s-]+synapses|bias[\s-]+correction"
    r"|learning[\s-]+without[\s-]+forgetting|(?:implicit[\s-]+)?model[\s-]+agnostic[\s-]+meta[\s-]+learning"
    r"|implicit[\s-]+maml|rehearsal|joint(?:ly)?[\s-]+(?:trained|training|learning)"
    r"|(?:plain|naive|sequential)[\s-]+(?:sgd|training|fine-?tuning|learning)|proto(?:typical)?[\s-]*net(?:work)?s?|matching[\s-]*net(?:work)?s?"
    r"|relation[\s-]*net(?:work)?s?|siamese(?: net(?:work)?s?)?"
    r"|imaml|fomaml|maml|anil|reptile|r2-?d2|online ewc|ewc|mas|lwf|bic|icarl|(?:experience|generative) replay|replay"
    r"|(?:knowledge )?distillation|fine-?tuning|nearest neighbou?rs?|baseline)\b",
    re.I,
)
_COUNT = re.compile(
    r"(\d{1,3}(?:[,. ]\d{3})+|\d{1,6})\s+(?:(?:random|test|different|new|independent|sampled|zufällige"
    r"|verschiedene)\s+){0,3}"
    r"(episod\w+|seeds?|runs?|durchläufe\w*|läufe\w*)|(\d{1,6})\s*个?(?:不同的?)?(?:测试)?(随机种子|种子"
    r"|任务片段|回合|情节)",
    re.I,
)
_SKIP = re.compile(
    r"epochs?|steps?|iterations?|(?:inner |outer )?(?:lr|learning rate)|.*\b(?:time|seconds?|minutes"
    r"|zeit|memory|mb|gb|params?|parameters"
    r"|loss|size|layers?|temperature|margin|dropout)\b.*|λ|lambda|alpha|beta|tau|t|seed|task|#|no\.?"
    r"|nr\.?|id|year|page|points?|rank"
    r"|chance|random|zufall|.*loss.*|delta|Δ|difference",
    re.I,
)
_SPREAD = re.compile(
    r"(?:±|\+/-)?\s*(?:95\s*%?\s*)?(?:ci|ki|interval|intervall|std\.?(?: ?dev\.?)?|sd|stderr"
    r"|±)(?:\s*95)?(?: ?\(?%\)?)?",
    re.I,
)


def _claims(blocks: Sequence[Block], opened: Sequence[tuple[int, tuple[str, ...], int]]) -> Iterator[ClaimedResult]:
    last = next((at for at, names, _ in opened if set(names) & {"references"}), len(blocks))
    body = _paragraphs(blocks[:last])
    for at, block in enumerate(body):
        if block.kind == "text":
            yield from _claims_of_text(block)
        elif block.kind == "table":
            around = [b.text for b in body[max(0, at - 1) : at] if b.kind in ("text", "heading") and len(b.text) < 400]
            around += [b.text for b in body[at + 1 : at + 2] if _TABLE.match(b.text) and len(b.text) < 400]
            yield from _claims_of_table(block, _normalised(" ".join(around)))


def _normalised(text: str) -> str:
    text = unicodedata.normalize("NFKC", text[:_LONGEST])
    text = re.sub(r"\\pm\b|\+/-|\+-|\(\+/-\)", "±", text).replace("\\%", "%").replace("$", "").replace("−", "-")
    text = re.sub(r"\\(?:mathbf|textbf|mathrm|text)\{([^{}]{0,40})\}", r"\1", text).replace("*", "").replace("~", " ")
    text = re.sub(r"(?<=\d)\s*(?:per ?cent|prozent)\b(?! ?point|punkt)", " %", text, flags=re.I)
    return re.sub(r"(?<![\d,])(\d{1,3}),(\d{1,2})(?![\d,]|\s*-?\s*shot)", r"\1.\2", text)


def _paragraphs(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with consecutive lines of a page put together to texts."""
    result: list[Block] = []
    joined: list[Block] = []

    def close() -> None:
        if joined:
            result.append(Block("text", " ".join(block.text for block in joined), joined[0].where))
            joined.clear()

    for block in blocks:
        if block.kind == "line":
            # a caption, a heading and a paragraph that has grown long begin a new one
            if _TABLE.match(block.text) or sections_of_heading(block.text) or len(joined) > 60:
                close()
            joined.append(block)
        else:
            close()
            result.append(block)
    close()
    return result


def _settings(text: str) -> list[tuple[int, int | None, int | None]]:
    """(position, n_way, k_shot) of every setting in a text; "1-shot" takes the way of the others where there is one."""
    found: list[tuple[int, int | None, int | None]] = []
    taken: list[tuple[int, int]] = []
    for pattern, way, shot in ((_PAIR, 1, 2), (_SIGNS, 1, 2), (_TURNED, 2, 1), (_SHOT, 0, 1)):
        for match in pattern.finditer(text):
            if any(start < match.end() and match.start() < end for start, end in taken):
                continue
            taken.append(match.span())
            k_shot = match[shot] if shot != 1 or way else match[1] or match[2]
            found.append((match.start(), int(match[way]) if way else None, int(k_shot)))
    ways = {way for _, way, _ in found if way} | {int(m[1] or m[2]) for m in _WAY.finditer(text)}
    only = next(iter(ways)) if len(ways) == 1 else None
    return sorted((at, way or only, shot) for at, way, shot in found)


def _nearest(found: Sequence[tuple], at: int, number: int, count: int) -> tuple | None:
    """What belongs to the value at a position: in order if there are as many, else the last before, else the next."""
    if not found:
        return None
    if len(found) == count:
        return found[number]
    before = [item for item in found if item[0] <= at]
    return before[-1] if before else found[0]


def _sentences(text: str) -> list[str]:
    parts = re.split(r"(?<=[.!?;])\s+(?=[A-ZÄÖÜ])|(?<=[。！？；])|(?<=!)(?=[^\s\x00-\x7f])", text)
    whole: list[str] = []
    for part in parts:
        if whole and re.search(r"(?:\bal|\bvs|\bFig|\bTab|\bEq|\bapprox|\bca|\be\.g|\bi\.e|\bz\.B)\.\s*$", whole[-1]):
            whole[-1] += " " + part
        elif part:
            whole.append(part)
    return whole


def _first(patterns: Sequence[tuple[str, re.Pattern]], text: str) -> str:
    return next((name for name, pattern in patterns if pattern.search(text)), "")


def _mean_of(*texts: str) -> tuple[int | None, str]:
    for text in texts:
        if match := _COUNT.search(text):
            number = int(re.sub(r"\D", "", match[1] or match[3]))
            word = (match[2] or match[4]).lower()
            over = (
                "seeds"
                if "seed" in word or "种子" in word
                else "runs"
                if re.match("run|durch|läuf", word)
                else "episodes"
            )
            return number, over
    return None, ""


def _claims_of_text(block: Block) -> Iterator[ClaimedResult]:
    text = _normalised(block.text)
    carried: tuple | None = None
    dataset = match[0] if (match := _DATASETS.search(text)) else ""
    for sentence in _sentences(text):
        settings = _settings(sentence)
        methods = [(m.start(), _short(m[0])) for m in _METHODS.finditer(sentence)]
        metrics = sorted((m.start(), name) for name, pattern in _METRICS for m in pattern.finditer(sentence))
        values = list(_values(sentence))
        if not (metrics or settings or methods or carried):
            continue
        kinds = [_nearest(metrics, at, n, -1) for n, (at, *_) in enumerate(values)]
        for n, (at, value, interval, step, explicit) in enumerate(values):
            metric = kinds[n][1] if kinds[n] else "accuracy"
            # a bare percentage is a result only where a setting or a metric says of what
            if not kinds[n] and not (settings or carried) and not explicit:
                continue
            setting = _nearest(settings, at, n, len(values)) or carried or (0, None, None)
            method = _nearest(methods, at, n, len(values))
            before = sentence[:at]
            others = max((m.end() for m in _OTHERS.finditer(before)), default=-1)
            ours = max((m.end() for m in _OURS.finditer(before)), default=-1)
            number, over = _mean_of(sentence, text)
            data = [(m.start(), m[0]) for m in _DATASETS.finditer(sentence)]
            named = _nearest(data, at, n, len(values))
            yield ClaimedResult(
                metric,
                value,
                interval,
                step,
                number,
                over,
                setting[1],
                setting[2],
                _first(_SCENARIOS, sentence) or _first(_SCENARIOS, text),
                named[1].lower() if named else dataset.lower(),
                method[1] if method else "",
                others > ours,
                "",
                block.where,
                sentence.strip()[:300],
            )
        if settings:
            carried = settings[-1]


def _values(sentence: str) -> Iterator[tuple[int, float, float | None, float, bool]]:
    """(position, value, interval, step, whether it is a result by its form) in per cent."""
    seen: set[int] = set()
    fractions = {m.start(1): m for m in _FRACTION.finditer(sentence)}
    for match in _VALUE.finditer(sentence):
        at = match.start("v")
        if _NOT_RESULT_BEFORE.search(sentence[max(0, at - 60) : at]) or _NOT_RESULT_AFTER.match(sentence, match.end()):
            continue
        low, high = match["lo"], match["hi"]
        spread = float(match["ci"]) if match["ci"] else (float(high) - float(low)) / 2 if low and high else None
        if match["p"] or match["q"] or (match["ci"] and "." in match["v"]):
            share = not (match["p"] or match["q"]) and float(match["v"]) <= 1
            scale = 100 if share else 1
            seen.add(at)
            interval = None if spread is None else round(spread * scale, 6)
            yield at, _rounded(match["v"], scale), interval, _step(match["v"], scale), spread is not None
        elif at in fractions and at not in seen:
            spread_of = fractions[at][2]
            interval = _rounded(spread_of, 100) if spread_of else None
            yield at, _rounded(match["v"], 100), interval, _step(match["v"], 100), True


def _step(text: str, scale: int) -> float:
    return round(scale * 10.0 ** -len(text.partition(".")[2]), 6)


def _rounded(text: str, scale: int) -> float:
    return round(float(text) * scale, 6)


def _claims_of_table(block: Block, around: str) -> Iterator[ClaimedResult]:
    rows = [[_normalised(cell).strip() for cell in row] for row in block.rows]
    width = max(len(row) for row in rows)
    rows = [row + [""] * (width - len(row)) for row in rows]
    header = rows[0] if not any(_cell(cell) for cell in rows[0]) else [""] * width
    data = rows[1:] if header is rows[0] else rows
    if not (_METHODS.search(around) or any(p.search(around) for _, p in _METRICS) or _telling(rows)):
        return
    for row in data:
        label = " ".join(dict.fromkeys(cell for cell in row if cell and not _cell(cell)))
        ways = [
            int(c)
            for h, c in zip(header, row, strict=True)
            if re.fullmatch(r"n[_ ]?ways?|ways?|n", h, re.I) and c.isdigit()
        ]
        shots = [
            int(c)
            for h, c in zip(header, row, strict=True)
            if re.fullmatch(r"k[_ ]?shots?|shots?|k", h, re.I) and c.isdigit()
        ]
        counts = [
            (h, c) for h, c in zip(header, row, strict=True) if re.search(r"episodes|seeds|runs|episoden", h, re.I)
        ]
        claims: list[ClaimedResult] = []
        for column, cell in enumerate(row):
            match, head = _cell(cell), header[column]
            if not match or re.search(
                r"^(?:n[_ ]?ways?|ways?|k[_ ]?shots?|shots?|n|k)$|^#|episodes|seeds|runs|episoden", head, re.I
            ):
                continue
            if _SPREAD.fullmatch(head.strip()):
                if claims and claims[-1].interval is None:
                    share = 100 if _shares([other[column] for other in data]) and "%" not in head else 1
                    claims[-1] = replace(claims[-1], interval=_rounded(match["v"], share))
                continue
            if _SKIP.fullmatch(head.strip()) or _SKIP.fullmatch(_METHODS.sub("", label).strip()):
                continue
            context = f"{head} {label}"
            metric = _first(_METRICS, head) or _first(_METRICS, label) or _first(_METRICS, around) or "accuracy"
            scale = 100 if "%" not in cell + head and _shares([other[column] for other in data]) else 1
            low, high = match["lo"], match["hi"]
            spread = float(match["ci"]) if match["ci"] else (float(high) - float(low)) / 2 if low and high else None
            setting = (_settings(context) or _settings(around) or [(0, None, None)])[0]
            ways_around = [int(m[1] or m[2]) for m in _WAY.finditer(f"{context} {around}")]
            count = _mean_of(context, *(f"{c} {h}" for h, c in counts), around)
            method = _METHODS.search(label) or _METHODS.search(head)
            dataset = _DATASETS.search(context) or _DATASETS.search(around)
            claims.append(
                ClaimedResult(
                    metric,
                    _rounded(match["v"], scale),
                    None if spread is None else round(spread * scale, 6),
                    _step(match["v"], scale),
                    *count,
                    ways[0] if ways else setting[1] or (ways_around[0] if ways_around else None),
                    shots[0] if shots else setting[2],
                    _first(_SCENARIOS, context) or _first(_SCENARIOS, around),
                    dataset[0].lower() if dataset else "",
                    _short(method[0]) if method else "",
                    bool(_OTHERS.search(head) or _OTHERS.search(label)),
                    f"{label} | {head}".strip(" |")[:200],
                    block.where,
                    cell[:100],
                )
            )
        yield from claims


def _short(method: str) -> str:
    """The name under which a lab asks for a method."""
    return next((name for name, pattern in _SHORT if pattern.fullmatch(method)), method)


def _cell(cell: str) -> re.Match | None:
    return _VALUE.fullmatch(cell.strip(" *"))


def _shares(cells: Sequence[str]) -> bool:
    values = [float(match["v"]) for cell in cells if (match := _cell(cell))]
    return bool(values) and max(values) <= 1 and any("." in cell for cell in cells)


def _telling(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table says of itself that it holds results."""
    text = " ".join([*rows[0], *(row[0] for row in rows)])
    return bool(
        _settings(text) or _METHODS.search(text) or "%" in text or any(pattern.search(text) for _, pattern in _METRICS)
    )


def _with_line_tables(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with rows of numbers on consecutive lines of a page put together to tables."""
    result: list[Block] = []
    at = 0
    while at < len(blocks):
        rows, end = [], at
        while end < len(blocks) and blocks[end].kind == "line" and (row := _row(blocks[end].text)):
            if rows and len(row) != len(rows[0]):
                break
            rows.append(row)
            end += 1
        if not rows or (len(rows) == 1 and len(rows[0]) < 3):
            result.append(blocks[at])
            at += 1
            continue
        columns = len(rows[0]) - 1
        header: tuple[str, ...] = ("",) * (columns + 1)
        if result and result[-1].kind == "line" and (found := _header(result[-1].text, columns)):
            header = found
            result.pop()
        result.append(Block("table", "", blocks[at].where, 0, (header, *rows)))
        at = end
    return result


def _row(line: str) -> tuple[str, ...]:
    """A label and numbers, of a line that is nothing else; else ()."""
    text = _normalised(line[:300]).strip()
    if text.endswith(".") or not text[:1].isalnum():
        return ()
    cells: list[str] = []
    matches = list(_VALUE.finditer(text))
    end = len(text)
    for match in reversed(matches):
        if text[match.end() : end].strip():
            break
        cells.insert(0, match[0].strip())
        end = match.start()
    label = text[:end].strip()
    if (
        not cells
        or not label
        or len(label) > 60
        or len(label.split()) > 6
        or not any("." in c or "%" in c for c in cells)
    ):
        return ()
    return (label, *cells)


def _header(line: str, columns: int) -> tuple[str, ...]:
    text = _normalised(line[:300]).strip()
    settings = _settings(text)
    if len(settings) == columns:
        starts = [setting[0] for setting in settings]
        cells = [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        return (text[: starts[0]].strip(), *cells)
    words = text.split()
    return tuple(words) if len(words) == columns + 1 and not _TABLE.match(text) else ()


# -------------------------------------------------------------------------------------------------- worse results

_WORSE = re.compile(
    r"\b(?:worse|worst|lower than|below|fail(?:s|ed|ure)?|did not (?:help|work|improve|converge)"
    r"|does not (?:help|work|improve)|no better"
    r"|drop(?:s|ped)?|degrad\w+|decreas\w+|collaps\w+|unstable|forgets|schlechter\w*|sinkt|sank|gesunken"
    r"|scheiter\w+|versagt\w*"
    r"|half nicht|hilft nicht|instabil\w*)\b|较差|更差|下降|失败|不如|不理想|没有提升|低于",
    re.I,
)


def _worse(
    blocks: Sequence[Block], opened: Sequence[tuple[int, tuple[str, ...], int]], claims: Sequence[ClaimedResult]
) -> Worse:
    own = [claim for claim in claims if claim.metric == "accuracy" and not claim.cited]
    groups: dict[tuple, list[ClaimedResult]] = {}
    for claim in own:
        groups.setdefault((claim.n_way, claim.k_shot, claim.scenario, claim.dataset), []).append(claim)
    numbers = []
    for group in groups.values():
        best = max(claim.value for claim in group)
        numbers += [f"{claim.value:g} < {best:g} ({claim.where})" for claim in group if claim.value < best]
    bodies = _bodies(blocks, opened)
    texts = [
        (_body_text(blocks, span)[:_LONGEST], blocks[span[0]].where)
        for name in ("experiments", "implementation", "conclusion")
        for span in bodies.get(name, [])
    ]
    words = [f"{match[0]} ({where})" for text, where in texts for match in _WORSE.finditer(text)]
    return Worse(tuple(numbers[:20]), tuple(dict.fromkeys(words))[:20])


if __name__ == "__main__":
    main(sys.argv[1:])
