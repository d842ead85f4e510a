"""Documents of strangers: Markdown, notebook, PDF or DOCX becomes a list of blocks, the same for all four.

``parsed`` reads a file and is meant for a process that may die (``python -m utils.grading.report PATH``, in the
sandbox where there is one). ``read_document`` is the host's side: it looks at the size, has the file parsed elsewhere,
and believes nothing of what comes back but its form. A PDF or DOCX of half a megabyte can ask for gigabytes and hours.

What the reader of a page would not see (white, tiny, hidden, in a comment) goes into blocks of its own kind and counts
for nothing else.
"""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

FORMATS = (".md", ".ipynb", ".pdf", ".docx")
KINDS = ("heading", "text", "line", "table", "figure", "code", "output", "hidden")
MOST_BYTES = 32 << 20  # of a file
MOST_PAGES = 400
MOST_BLOCKS = 20_000
MOST_CHARACTERS = 2_000_000  # in all blocks together
_DOCX_BYTES, _DOCX_PART, _DOCX_RATIO, _DOCX_ENTRIES = 96 << 20, 24 << 20, 150, 3000
_SECONDS, _MEMORY, _MOST_ANSWERED = 30, 2 << 30, 64 << 20
_WHITE = re.compile(
    r"(?i)^\s*(white|#fff|#ffffff|#f{3}f|#f{8}|rgba?\(\s*255\s*,\s*255\s*,\s*255[^)]*\)|transparent)\s*$"
)
_VOID = {"br", "img", "hr", "input", "meta", "link", "wbr", "col", "source"}
_PARTS = {"p", "div", "li", "ul", "ol", "blockquote", "section", "article", "dd", "dt", "figcaption", "caption", "pre"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_UNSEEN = {"script", "style", "template", "noscript", "head"}


@dataclass(frozen=True)
class Block:
    """A piece of a document.

    Parameters
    ----------
    kind : one of ``KINDS``. ``line`` is a line of a page whose paragraphs are not known, ``output`` what code printed.
    text : what is read; of a figure its caption or alternative text.
    where : page, line, cell or paragraph.
    level : of a heading: 0 the document's title, then 1, 2, ...
    rows : of a table: its cells, the header first.
    """

    kind: str
    text: str
    where: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Document:
    """What a file holds. ``verdict`` is of the grader's closed set, ``reason`` says why it is not ``"ok"``."""

    format: str
    verdict: str
    reason: str
    pages: int
    blocks: tuple[Block, ...]


def read_document(path: Path | str, parse: Callable[[Path], tuple[str, str]] | None = None) -> Document:
    """A report's blocks. The file is parsed by ``parse``, elsewhere, after its size was looked at.

    Parameters
    ----------
    parse : path -> (verdict, what ``python -m utils.grading.report PATH`` printed); ``parse_in_process`` where none
        is given. The sandbox is plugged in here.

    Raises
    ------
    ValueError : the file's ending is none of ``FORMATS``; anything that is wrong inside the file is a verdict.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"a report is one of {', '.join(FORMATS)}; got {path.name!r}")
    if trouble := trouble_before_parsing(path):
        return Document(ending, "rejected_input", trouble, 0, ())
    verdict, printed = (parse or parse_in_process)(path)
    if verdict != "ok":
        return Document(ending, verdict, printed[:500], 0, ())
    try:
        found = json.loads(printed)
        blocks = tuple(_checked(block) for block in found["blocks"])
        verdict, reason, pages = found["verdict"], str(found["reason"])[:500], int(found["pages"])
        if verdict not in ("ok", "rejected_input") or len(blocks) > MOST_BLOCKS:
            raise ValueError("an answer that no parser of ours gives")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Document(ending, "tamper_suspected", f"the parser's answer is not of its form: {error}"[:500], 0, ())
    return Document(ending, verdict, reason, pages, blocks)


def trouble_before_parsing(path: Path) -> str:
    """Why a file is not worth parsing, or ``""``. Only sizes are looked at, so this is safe on the host."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        return "is a link or a device"
    if not 0 < status.st_size <= MOST_BYTES:
        return f"holds {status.st_size:,} bytes; between 1 and {MOST_BYTES:,} are read"
    if path.suffix.lower() != ".docx":
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        return f"is no DOCX: {error}"
    unpacked = sum(info.file_size for info in infos)
    largest = max((i.file_size for i in infos if i.filename.lower().endswith((".xml", ".rels"))), default=0)
    bomb = any(i.file_size > (1 << 20) and i.file_size > _DOCX_RATIO * max(i.compress_size, 1) for i in infos)
    if len(infos) > _DOCX_ENTRIES or unpacked > _DOCX_BYTES or largest > _DOCX_PART or bomb:
        return (
            f"unpacks to {unpacked:,} bytes in {len(infos):,} parts, like a bomb; save it again from the word processor"
        )
    return ""


def parse_in_process(path: Path, seconds: float = _SECONDS, memory: int = _MEMORY) -> tuple[str, str]:
    """``(verdict, what was printed)`` of the parser in a process of its own, under limits but not in a sandbox.

    Parameters
    ----------
    seconds : of wall time and of processor time.
    memory : bytes of address space.
    """

    root = str(Path(__file__).resolve().parents[2])
    # the child limits itself before it sees the file: what runs between fork and exec is unsafe where there are threads
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: _MOST_ANSWERED,  # of the answer; nothing else is written
        resource.RLIMIT_CORE: 0,
    }
    code = (
        f"import resource, sys; [resource.setrlimit(kind, (most, most)) for kind, most in {limits}.items()];"
        f" sys.path.insert(0, {root!r}); from utils.grading.report import main; main(sys.argv[1:])"
    )
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", code, str(Path(path).resolve())],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return "timeout", f"was not parsed in {seconds:g} seconds"
        answer.seek(0)
        printed = answer.read(_MOST_ANSWERED).decode("utf-8", "replace")
    if status == 0:
        return "ok", printed
    if status == 3:
        return "memory", f"could not be parsed in {memory >> 20:,} MiB of memory"
    if status in (-24, -9):  # SIGXCPU, or killed after it
        return "timeout", f"was not parsed in {seconds:g} seconds"
    if status == -25:
        return "output_limit", "gives more text than is read"
    if status > 0:  # it catches all that a file can do to it: this is ours
        return (
            "infra_error",
            f"the parser did not start or stopped with status {status}; see that its libraries are there",
        )
    return "rejected_input", f"the parser was ended by signal {-status}"


def parsed(path: Path) -> dict[str, Any]:
    """``{"verdict", "reason", "pages", "blocks"}`` of a file, in this process: only for one that may die."""
    read = {".md": _markdown_file, ".ipynb": _notebook, ".pdf": _pdf, ".docx": _docx}[path.suffix.lower()]
    try:
        pages, found = read(path)
        blocks, characters = [], 0
        for block in found:
            characters += len(block.text) + sum(len(cell) for row in block.rows for cell in row)
            if len(blocks) >= MOST_BLOCKS or characters > MOST_CHARACTERS:
                reason = f"holds more than {MOST_BLOCKS:,} pieces or {MOST_CHARACTERS:,} characters"
                return {"verdict": "rejected_input", "reason": reason, "pages": pages, "blocks": []}
            blocks += [asdict(piece) for piece in _shown(block)]
    except (MemoryError, ImportError):
        raise  # the grader's machine, not the file
    except Exception as error:  # whatever a damaged file does to a library, it is a damaged file
        reason = f"cannot be read: {type(error).__name__}: {error}"[:300]
        return {"verdict": "rejected_input", "reason": reason, "pages": 0, "blocks": []}
    return {"verdict": "ok", "reason": "", "pages": pages, "blocks": blocks}


def markdown_blocks(text: str, prefix: str = "") -> list[Block]:
    """Blocks of a Markdown text, HTML in it included; it is taken apart, never rendered for anybody to see."""
    from markdown_it import MarkdownIt

    blocks: list[Block] = []
    offset = 0
    # the metadata at the top of a page are no Markdown
    if matter := re.match(r"---[ \t]*\n(.{0,5000}?)\n(---|\.\.\.)[ \t]*\n", text, re.DOTALL):
        offset = matter[0].count("\n")
        for name, value in re.findall(r"(?m)^(title|authors?)[ \t]*:[ \t]*(\S.*)$", matter[1]):
            value = value.strip().strip("\"'")
            blocks.append(Block("heading" if name == "title" else "text", value, "metadata", 0))
        text = text[matter.end() :]
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.map and token.nesting == 1 and not prefix:
            token.attrSet("data-where", f"line {token.map[0] + 1 + offset}")
    reader = _Html(prefix)
    reader.feed(parser.renderer.render(tokens, parser.options, {}))
    reader.close()
    return blocks + reader.finished()


# ----------------------------------------------------------------------------------------------------- the answer


def _checked(found: Any) -> Block:
    block = Block(**{field.name: found[field.name] for field in fields(Block)})
    rows = tuple(tuple(row) for row in block.rows)
    texts = [block.text, block.where, *(cell for row in rows for cell in row)]
    if block.kind not in KINDS or type(block.level) is not int or not all(type(text) is str for text in texts):
        raise ValueError("a block of another form")
    return replace(block, rows=rows)


def _shown(block: Block) -> Iterator[Block]:
    """The block without characters that nobody sees; those that can hide a message are told of."""
    odd = {c for c in block.text if unicodedata.category(c) in ("Cf", "Co") and c not in "\u00ad\u200c\u200d\ufeff"}
    if odd and block.kind != "hidden":
        names = ", ".join(sorted(unicodedata.name(c, f"U+{ord(c):04X}") for c in odd)[:3])
        tags = "".join(chr(ord(c) - 0xE0000) for c in block.text if 0xE0020 <= ord(c) <= 0xE007E)
        yield Block("hidden", f"invisible characters: {names} {tags}".strip(), block.where)
    rows = tuple(tuple(_plain(cell) for cell in row) for row in block.rows)
    yield replace(block, text=_plain(block.text, block.kind in ("code", "output")), rows=rows)


def _plain(text: str, lines: bool = False) -> str:
    kept = "".join(" " if c in "\r\t\u00a0\u202f" else c for c in text)
    kept = "".join(c for c in kept if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs"))
    return kept.strip("\n") if lines else re.sub(r"\s+", " ", kept).strip()


# ------------------------------------------------------------------------------------------------ Markdown and HTML


def _markdown_file(path: Path) -> tuple[int, list[Block]]:
    return 1, markdown_blocks(path.read_bytes().decode("utf-8-sig"))


class _Html(HTMLParser):
    """HTML to blocks, with a stack of what is open."""

    def __init__(self, where: str) -> None:
        super().__init__(convert_charrefs=True)
        self.where, self.prefix = where, where
        self.blocks: list[Block] = []
        self.text: list[str] = []
        self.unseen: list[str] = []
        self.open: list[tuple[str, bool]] = []  # tag, and whether it hides
        self.level = -1
        self.code = 0
        self.rows: list[list[str]] | None = None

    def finished(self) -> list[Block]:
        self._flush()
        return self.blocks

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self.open.append((tag, _hides(tag, own)))
        if tag in _HEADINGS or tag in _PARTS or tag in ("table", "hr"):
            if self.rows is None:
                self._flush()
            if not self.prefix and re.fullmatch(r"line \d+", own.get("data-where", "")):
                self.where = own["data-where"]
        if tag in _HEADINGS:
            self.level = int(tag[1])
        elif tag == "pre":
            self.code += 1
        elif tag == "table" and self.rows is None:
            self.rows = []
        elif tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag == "br":
            self.text.append("\n" if self.code else " ")
        elif tag in ("img", "svg", "canvas", "video"):
            self.blocks.append(Block("figure", own.get("alt", "") or own.get("title", ""), self.where))
        elif tag == "a" and own.get("href", "").startswith(("http://", "https://")):
            self.text.append(f" {own['href'][:500]} ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID or tag not in [name for name, _ in self.open]:
            return
        while self.open and self.open.pop()[0] != tag:
            pass
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("".join(self.text))
            self.text = []
        elif tag == "table" and self.rows is not None:
            rows = tuple(tuple(row) for row in self.rows if row)
            self.rows, self.text = None, []
            if rows:
                self.blocks.append(Block("table", "", self.where, 0, rows))
        elif (tag in _HEADINGS or tag in _PARTS) and self.rows is None:
            self._flush()
        if tag in _HEADINGS:
            self.level = -1
        elif tag == "pre":
            self.code = max(0, self.code - 1)

    def handle_data(self, data: str) -> None:
        if any(tag in _UNSEEN for tag, _ in self.open):
            return
        if any(hides for _, hides in self.open):
            self.unseen.append(data)
        else:
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        if data.strip():
            self.blocks.append(Block("hidden", f"comment: {data.strip()}", self.where))

    def unknown_decl(self, data: str) -> None:
        """A marked section, which browsers do not show either."""

    def _flush(self) -> None:
        text, unseen = "".join(self.text).strip(), "".join(self.unseen).strip()
        self.text, self.unseen = [], []
        if unseen:
            self.blocks.append(Block("hidden", f"not shown: {unseen}", self.where))
        if text and self.level > 0:
            self.blocks.append(Block("heading", text, self.where, self.level))
        elif text:
            self.blocks.append(Block("code" if self.code else "text", text, self.where))


def _hides(tag: str, attributes: dict[str, str]) -> bool:
    style = dict(part.split(":", 1) for part in attributes.get("style", "").lower().split(";") if ":" in part)
    style = {name.strip(): value.strip() for name, value in style.items()}
    size = re.match(r"([\d.]+)\s*(px|pt|em|rem|%)?", style.get("font-size", "9999"))
    small = bool(size) and float(size[1] if re.fullmatch(r"\d+(\.\d+)?", size[1]) else 9) < (
        0.15 if size[2] in ("em", "rem") else 2
    )
    return (
        "hidden" in attributes
        or style.get("display") == "none"
        or style.get("visibility") == "hidden"
        or style.get("opacity", "").rstrip("%") in ("0", "0.0")
        or bool(_WHITE.match(style.get("color", "")) and "background" not in " ".join(style))
        or (tag == "font" and bool(_WHITE.match(attributes.get("color", ""))))
        or small
    )


# -------------------------------------------------------------------------------------------------------- notebook


def _notebook(path: Path) -> tuple[int, list[Block]]:
    import nbformat

    # as_version also takes the notebooks of 2013; nothing is executed, and no output is trusted
    notebook = nbformat.reads(path.read_bytes().decode("utf-8-sig"), as_version=4)
    blocks: list[Block] = []
    for number, cell in enumerate(notebook.cells, 1):
        where = f"cell {number}"
        if cell.cell_type == "markdown":
            blocks += markdown_blocks(cell.source, where)
        elif cell.cell_type == "code":
            if cell.source.strip():
                blocks.append(Block("code", cell.source, where))
            for output in cell.outputs:
                blocks += _output(output, where)
    return len(notebook.cells), blocks


def _output(output: Any, where: str) -> list[Block]:
    if output.output_type == "stream":
        return [Block("output", "".join(output.text)[:20_000], where)]
    data = output.get("data", {})
    if any(kind.startswith("image/") for kind in data):
        return [Block("figure", "".join(data.get("text/plain", "")) if "text/html" in data else "", where)]
    if "text/html" in data:
        reader = _Html(where)
        reader.feed("".join(data["text/html"]))
        reader.close()
        return [block for block in reader.finished() if block.kind in ("table", "figure", "hidden")]
    if "text/markdown" in data:
        return markdown_blocks("".join(data["text/markdown"]), where)
    return [Block("output", "".join(data.get("text/plain", ""))[:20_000], where)]


# ------------------------------------------------------------------------------------------------------------- PDF


def _pdf(path: Path) -> tuple[int, list[Block]]:
    from pypdf import PdfReader
    from pypdf.generic import ContentStream, NameObject

    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is locked with a password")
    pages = reader.get_num_pages()
    if pages > MOST_PAGES:
        raise ValueError(f"it has {pages:,} pages; at most {MOST_PAGES} are read")
    blocks: list[Block] = []
    for number, page in enumerate(reader.pages, 1):
        where = f"page {number}"
        blocks += [Block("figure", "", where) for kind in _drawn(page) if kind == "/Image"]
        contents = page.get_contents()
        if contents is None:
            continue
        # as bytes, which the fonts of the page turn into signs; anything else would guess an alphabet here
        seen, unseen = _split(ContentStream(contents, reader, "bytes").operations)
        for operations, kind in ((seen, "line"), (unseen, "hidden")):
            if kind == "hidden" and not any(operator in _SHOWING for _, operator in operations):
                continue
            stream = ContentStream(None, reader)
            stream.operations = operations
            page[NameObject("/Contents")] = stream
            text = page.extract_text()
            if kind == "line":
                blocks += [Block("line", line, where) for line in text.split("\n") if line.strip()]
            elif text.strip():
                blocks.append(Block("hidden", f"drawn so that nobody sees it: {text.strip()}", where))
    return pages, blocks


def _drawn(page: Any) -> list[str]:
    from pypdf.generic import DictionaryObject

    none = DictionaryObject()
    objects = page.get("/Resources", none).get_object().get("/XObject", none).get_object()
    return [str(objects[name].get_object().get("/Subtype")) for name in objects]


_SHOWING = (b"Tj", b"TJ", b"'", b'"')


def _split(operations: list) -> tuple[list, list]:
    """A page's operations without the text that nobody sees, and with only that text."""
    white = {b"g": ((1.0,),), b"rg": ((1.0, 1.0, 1.0),), b"k": ((0.0, 0.0, 0.0, 0.0),)}
    white[b"sc"] = white[b"scn"] = ((1.0,), (1.0, 1.0, 1.0))
    state, saved = (False, 0.0, 12.0), []  # white, rendering mode, font size
    seen, unseen = [], []
    for operands, operator in operations:
        if operator == b"q":
            saved.append(state)
        elif operator == b"Q" and saved:
            state = saved.pop()
        elif operator in white:
            numbers = tuple(float(x) for x in operands if isinstance(x, (int, float)))
            state = (numbers in white[operator], *state[1:])
        elif operator == b"Tr" and operands:
            state = (state[0], float(operands[0]), state[2])
        elif operator == b"Tf" and len(operands) > 1:
            state = (*state[:2], float(operands[1]))
        # a size below 1 is usual where the matrix enlarges it; none enlarges 0
        hidden = state[0] or state[1] in (3.0, 7.0) or state[2] == 0
        if operator in _SHOWING or operator == b"Do":
            (unseen if hidden and operator != b"Do" else seen).append((operands, operator))
        else:
            seen.append((operands, operator))
            unseen.append((operands, operator))
    return seen, unseen


# ------------------------------------------------------------------------------------------------------------ DOCX


def _docx(path: Path) -> tuple[int, list[Block]]:
    import docx
    from docx.table import Table

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.lower().endswith((".xml", ".rels")) and b"<!DOCTYPE" in archive.read(name).replace(b"\0", b""):
                raise ValueError(f"its part {name} defines a document type, which no word processor writes")
    document = docx.Document(str(path))
    blocks: list[Block] = []
    for number, item in enumerate(document.iter_inner_content(), 1):
        where = f"paragraph {number}"
        if isinstance(item, Table):
            rows = tuple(tuple(cell.text for cell in row.cells) for row in item.rows)
            blocks.append(Block("table", "", where, 0, rows))
            continue
        text, unseen = _runs(item)
        if unseen:
            blocks.append(Block("hidden", f"not shown: {unseen}", where))
        style = (item.style.name or "") if item.style is not None else ""
        heading = re.fullmatch(r"(?:heading|überschrift|titre|标题) ?(\d)", style, re.IGNORECASE)
        if text and (heading or style.lower() in ("title", "titel", "标题")):
            blocks.append(Block("heading", text, where, int(heading[1]) if heading else 0))
        elif text:
            blocks.append(Block("text", text, where))
        drawings = item._p.xpath(".//w:drawing | .//w:pict")
        blocks += [Block("figure", _described(drawing), where) for drawing in drawings]
    return 1, blocks


def _described(drawing: Any) -> str:
    return " ".join(text for text in drawing.xpath(".//*[local-name()='docPr']/@descr"))


def _runs(paragraph: Any) -> tuple[str, str]:
    seen, unseen = [], []
    for piece in paragraph.iter_inner_content():
        for run in getattr(piece, "runs", [piece]):
            font = run.font
            white = font.color is not None and font.color.type is not None and str(font.color.rgb) == "FFFFFF"
            small = font.size is not None and font.size.pt < 2
            (unseen if font.hidden or white or small else seen).append(run.text)
        if getattr(piece, "address", ""):
            seen.append(f" {piece.address} ")
    return "".join(seen).strip(), "".join(unseen).strip()
