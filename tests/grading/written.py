"""Lab reports as students write them: in words of their own, with headings of their own, in any of the four formats.

A sentence is written with its alternatives, ``{one|another}``, and drawn by a seeded generator, so that no two reports
say the same in the same words. The numbers are handed in.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import textwrap
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FORMATS = (".md", ".ipynb", ".docx", ".pdf")

HEADINGS = {
    "plain": (
        "Abstract", "Introduction", "Problem formulation", "Method", "Implementation", "Experiments", "Conclusion",
        "Source code",
    ),
    "numbered": (
        "Abstract", "1. Introduction", "2. Problem formulation", "3. Method", "4. Implementation", "5. Experiments",
        "6. Conclusion", "7. Source code",
    ),
    "roman": (
        "Abstract", "I. Background", "II. Problem statement", "III. Proposed method", "IV. Implementation details",
        "V. Results", "VI. Conclusions", "VII. Code",
    ),
    "german": (
        "Kurzfassung", "1 Einleitung", "2 Problemstellung", "3 Methode", "4 Implementierung", "5 Experimente",
        "6 Fazit", "7 Quellcode",
    ),
    "chinese": ("摘要", "一、引言", "二、问题定义", "三、方法", "四、实现", "五、实验", "六、结论", "七、代码"),
    "own words": (
        "Executive summary", "What this is about", "What was asked", "How it works", "What I did", "What I measured",
        "What I learned", "The code",
    ),
}  # fmt: skip
"""Abstract, introduction, problem, method, implementation, experiments, conclusion, source code."""

TITLES = (
    "{Prototypical networks on glyphs|Learning characters from one example|Few-shot recognition of characters}",
    "{Means of classes|Prototypes} {as a classifier|for few-shot learning}{|: a lab report}",
    "{Lab report|Report on the lab}: prototypical {networks|learning} {on small images|with few examples|in practice}",
)

# For each section its sentences, each with ways of saying it that share no words where that was possible.
ABSTRACT = (
    (
        "{Recognising|Telling apart} {a character|glyphs} {after seeing|from} {it once|a single example} is "
        "{easy|natural} for people and {hard|difficult} for networks, {which memorise|since they memorise} what "
        "little they get.",
        "{Classifiers|Deep networks} {usually|as a rule} {want|ask for} thousands of images of {every|each} class; "
        "{here|in this lab} there {are|is} one to five, and {fitting|training on} them directly {overfits|fails} at"
        " once.",
        "{Our|The} problem is {classification|naming} of {unknown|unseen} characters when {hardly any|only a few} "
        "labelled {drawings|samples} exist, {so|and} ordinary training {breaks down|cannot work}.",
    ),
    (
        "{The idea|What helps} is to {learn|train} an embedding in which {every class|a class} {gathers|clusters} "
        "around {the average|its mean} of its examples, {and to|then} answer with the {closest|nearest} such "
        "{mean|average}.",
        "{I|We} {average|take the mean of} the {features|embeddings} of each class and {let|have} a query "
        "{choose|pick} the {prototype|centre} that lies {nearest|at the smallest distance}; {training|learning} "
        "{copies|imitates} that test.",
    ),
    (
        "{Key result|The outcome}: {one_shot} with {one example|a single shot} of five {classes|characters}, and "
        "{five_shot} with five of each.",
        "With {one example|a single image} a class the {network|model} {reaches|arrives at} {one_shot} at 5-way "
        "1-shot, with five it {reaches|gets} {five_shot} at 5-way 5-shot.",
    ),
)
INTRODUCTION = (
    (
        "{Rare|New} {diseases|species|products} {appear|turn up} with a handful of {photographs|pictures}, "
        "{and|yet} a {useful|practical} system should {name|recognise} them {tomorrow|without delay}.",
        "{Archives|Libraries} {hold|keep} scripts that {nobody|hardly anybody} {has|ever} transcribed; "
        "{labelling|annotating} thousands of {signs|letters} by hand {costs|takes} {years|too long}.",
        "{A robot|A phone} that {meets|sees} a new {object|tool} {cannot|should not have to} {wait for|collect} a "
        "data set {first|before it can name it}.",
    ),
    (
        "{Few-shot learning|This setting} {splits|divides} the {classes|categories} {instead of|rather than} the "
        "images: what is {tested|asked} at the end {was never|has not been} {seen|shown} while {learning|training}.",
        "{The research question|What is asked} is {therefore|thus} how to {carry over|transfer} "
        "{experience|knowledge} from {known|old} classes to {fresh|new} ones {that share|with} {no image|nothing} "
        "with them.",
    ),
    (
        "{Matching networks|Vinyals and others} {compare|weigh} a query {with|against} {all|single} support images "
        "by attention, {while|whereas} Siamese {nets|networks} {judge|score} pairs.",
        "{Earlier|Related} {work|methods} {include|are} nearest neighbours on {fixed|frozen} features and networks "
        "that {adapt|change} their weights {in a few|by some} gradient steps, {such as MAML|which MAML made "
        "popular}.",
        "{MAML|Gradient-based meta-learning} {fine-tunes|adjusts} {every|the} weight for {each|a} task, which is "
        "{slow|expensive}; {metric|distance} learning {leaves|keeps} the {net|weights} as {it is|they are}.",
    ),
    (
        "{Snell|The paper by Snell}, Swersky and Zemel {propose|suggests} {one|a single} {vector|point} per class, "
        "{the|a} mean, {and|which} {shows|they show} that {simple|little} is {enough|sufficient}.",
        "{Prototypical|These} networks {replace|swap} all {comparisons|pairs} by {one|a single one} with a class "
        "{mean|average}, {a choice|something} that {Bregman divergences|squared distances} {justify|make optimal}.",
    ),
    (
        "{In short|Summing up}, the {approach|model} {generalises|carries over} to {unseen|other} scripts, and the "
        "{number|count} of {examples|shots} {matters|counts} more than the {choice|kind} of {optimiser|schedule}.",
        "{I find|We find} that {training with|using} more classes {at once|in an episode} {than|as} the test "
        "{has|uses} {pays|helps}, {as|just as} the paper {says|reports}.",
    ),
)
PROBLEM = (
    (
        "{An episode|A task} {consists of|has} a support set S of N classes with K {labelled|known} "
        "{images|examples} each, and {queries|a query set} Q of the same classes {without|whose} labels{| are "
        "hidden}.",
        "{Given|Let there be} N K pairs (x, y) with y in {0 to N - 1|1 to N}, {find|we seek} {a function|a rule} "
        "that {maps|sends} {any|every} query to {one|the right one} of the N {labels|names}.",
    ),
    (
        "{Training|Learning} {minimises|lowers} the expected {negative log-likelihood|cross-entropy} of the "
        "{right|true} label over {random|drawn} episodes; {test|evaluation} classes are {disjoint|others}.",
        "{We|I} {want|look for} the parameters that {maximise|give the largest} {mean|average} log p(y | x, S) over"
        " episodes {of|from} the training classes, {and measure|measuring} accuracy on {new ones|held-out ones}.",
    ),
)
METHOD = (
    (
        "{A network|An encoder} f {maps|takes} {an image|each picture} to a vector. The prototype c of {class k|a "
        "class} is the {mean|arithmetic mean} of f over {its|the} support {images|examples}{, nothing more|}.",
        "{First|To begin with} {all|the} support images are embedded; {averaging|the average of} those of {one|a} "
        "label {gives|yields} {its prototype|a point that stands for the class}.",
    ),
    (
        "{Probabilities|Scores} {are|come from} a softmax over {minus|negative} squared {Euclidean|straight-line} "
        "distances {from|of} the query {to|from} {all|the} prototypes.",
        "{For|Given} a query q {the model|it} {says|sets} p(k | q) proportional to exp(-|f(q) - c_k|^2), {a|which "
        "is a} {linear|log-linear} model in f(q){| with shared weights}.",
    ),
    (
        "{My|The} {encoder|network} is {small|shallow}: {convolutions|conv layers} of three by three with "
        "{batch|batch-wise} normalisation and {pooling|subsampling}, {and|with} some hundred outputs.",
        "{As|For the} {embedding|encoder} {I use|serves} a {few|couple of} convolution blocks, {each|all} "
        "{normalised|followed by normalisation} and {halved|reduced} by pooling, {flattened|made a vector} at the "
        "end.",
    ),
    (
        "{The loss|What is minimised} is the {mean|average} of -log p over the queries, {and|so} gradients "
        "{flow|pass} through {queries and prototypes alike|both sides}.",
        "{Each|Every} step draws {an episode|one task}, {computes|works out} {the|its} prototypes {anew|again} and "
        "{moves|shifts} the weights {against|down} the gradient of the {cross-entropy|log loss}.",
    ),
)
IMPLEMENTATION = (
    (
        "{Everything|All of it} is written {in|with} PyTorch {by hand|without further libraries}: "
        "{sampling|drawing} of episodes, {prototypes|class means}, distances, {the loop|training} and "
        "{evaluation|the test}.",
        "{I wrote|We wrote} the {four|asked-for} functions {first|at the start}, {checked|compared} them "
        "{with|against} tiny {examples|inputs} {on paper|by hand}, and {built|put together} the experiment "
        "{from|out of} them.",
    ),
    (
        "{Labels|Classes} that {arrive|come} {in any order|shuffled} {cost|took} me {an evening|some hours}: {I "
        "had|my first version} {assumed|relied on} sorted {ones|labels}; {a mask|comparing with each label} "
        "{solved|fixed} it.",
        "{A difficulty|One trouble} was {overflow|infinity} in the exponential when distances {grow|get large}; "
        "{taking|using} the logarithm {inside|within} the softmax {cured|removed} that.",
        "{Batch normalisation|Normalising} {behaves|acts} differently {while|during} testing; {forgetting|leaving "
        "out} eval mode {made|gave} {odd|strange} answers, {which|that} {a look|printing} {at|of} single episodes "
        "{revealed|showed}.",
    ),
)
EXPERIMENTS = (
    (
        "{I|We} {trained|fitted} {on|with} three hundred classes {and|then} {tested|evaluated} on "
        "{classes|characters} of other scripts, {always|each time} over {episodes} episodes; {intervals|the "
        "intervals} {cover|are of} 95 %.",
        "{Test|All} {accuracies|numbers} are means over {episodes} episodes with {their|the} 95 % "
        "{interval|confidence interval}, {classes|scripts} {never|not} seen in training.",
    ),
    (
        "{Worse|Weaker} results{ too|}: {with|using} the plain distance {instead of|in place of} its square the "
        "accuracy was worse, {worse_shot} at 5-way 1-shot{, and half the steps cost as much|}.",
        "{Not everything|Not all} {helped|worked}: {without|leaving out} the square of the distance the "
        "{result|network} drops to {worse_shot} at 5-way 1-shot, {probably|I think} because {far|distant} classes "
        "{weigh|count} too much.",
    ),
    (
        "{More|Additional} classes {make|render} the {task|question} harder: {going from|between} five {to|and} "
        "twenty {ways|classes} {costs|takes} far more than {four|some} extra {shots|examples} {give back|return}.",
        "{Why|The reason}: with {one|a single} example the {prototype|mean} is {noisy|a lottery}, {and|so} "
        "averaging five {removes|cuts} {most|a good part} of the {variance|noise}, {as|like} {theory|one over K} "
        "{says|predicts}.",
    ),
)
CONCLUSION = (
    (
        "{A mean|An average} in a {learned|trained} space is {enough|all that is needed} to {name|recognise} "
        "{characters|signs} from {few|very few} {examples|drawings}, {provided|if} training {looks like|resembles} "
        "the test.",
        "{Prototypes|Class means} {are|make} a {strong|good} and {cheap|fast} baseline: no {weight|parameter} "
        "{changes|moves} at test time, {and|while} the accuracy {stays|remains} high.",
    ),
    (
        "{What this does not show|Open}: {whether|if} the {same|result} holds for {photographs|natural images} or "
        "{under|with} a {strong|large} shift of the domain{, which would be next|}.",
        "{Next|In future} {I would|one could} {try|test} {other|learned} distances and {more|several} "
        "{prototypes|centres} per class, {since|because} one mean cannot {cover|describe} a class of two "
        "{shapes|forms}.",
    ),
)


@dataclass(frozen=True)
class Numbers:
    """What a student states: setting -> (accuracy, half-width) in per cent, a worse variant's, and episodes of each."""

    settings: Mapping[str, tuple[float, float]]
    worse: float
    episodes: int = 600


@dataclass(frozen=True)
class Piece:
    """A part of a report: ``kind`` is title, authors, heading, text, table, figure or code."""

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def drawn(pattern: str, rng: random.Random, values: Mapping[str, str]) -> str:
    """A sentence from its alternatives; ``{name}`` of ``values`` is filled in."""
    while found := re.search(r"\{([^{}]*)\}", pattern):
        chosen = values.get(found[1]) or rng.choice(found[1].split("|"))
        pattern = pattern[: found.start()] + chosen + pattern[found.end() :]
    return pattern


def report(author: str, numbers: Numbers, style: str, seed: int, files: Sequence[str] = ("lab.py",)) -> list[Piece]:
    """A report that has all that L0 asks for, with these numbers. Raises ``KeyError`` for a style of no headings."""
    rng = random.Random(seed)
    (one, half_one), (five, half_five) = numbers.settings["5-way 1-shot"], numbers.settings["5-way 5-shot"]
    values = {
        "one_shot": f"{one:.2f} ± {half_one:.2f} %",
        "five_shot": f"{five:.2f} ± {half_five:.2f} %",
        "worse_shot": f"{numbers.worse:.2f} %",
        "episodes": str(numbers.episodes),
    }

    def text(sentences: Sequence[Sequence[str]]) -> Piece:
        return Piece("text", " ".join(drawn(rng.choice(ways), rng, values) for ways in sentences))

    rows = [("Setting", "Accuracy in %"), *((n, f"{v:.2f} ± {h:.2f}") for n, (v, h) in numbers.settings.items())]
    sections = (ABSTRACT, INTRODUCTION, PROBLEM, METHOD, IMPLEMENTATION, EXPERIMENTS, CONCLUSION)
    pieces = [Piece("title", drawn(rng.choice(TITLES), rng, {})), Piece("authors", author)]
    for heading, sentences in zip(HEADINGS[style], sections, strict=False):
        pieces += [Piece("heading", heading), text(sentences)]
        if sentences is EXPERIMENTS:
            caption = drawn("{Loss|Training loss} {over|against} the steps{, smoothed|}", rng, {})
            pieces += [Piece("table", "", tuple(rows)), Piece("figure", f"Figure 1: {caption}")]
    source = drawn("{All|The whole} {source|code} {is|lies} in {files}{.|, which is handed in with this.}", rng, {
        "files": " and ".join(files)
    })  # fmt: skip
    return [*pieces, Piece("heading", HEADINGS[style][-1]), Piece("text", source)]


# ------------------------------------------------------------------------------------------------------------ formats


def written(pieces: Sequence[Piece], ending: str) -> dict[str, bytes]:
    """The report's file, ``report`` with its ending, and the figure beside it where the format has it outside."""
    write: dict[str, Callable[[Sequence[Piece]], bytes]] = {
        ".md": lambda p: markdown(p).encode(), ".ipynb": notebook, ".docx": docx_file, ".pdf": pdf,
    }  # fmt: skip
    files = {f"report{ending}": write[ending](pieces)}
    return files | ({"loss.png": picture()} if ending == ".md" else {})


def markdown(pieces: Sequence[Piece]) -> str:
    return "\n\n".join(map(_markdown, pieces)) + "\n"


def _markdown(piece: Piece) -> str:
    if piece.kind == "table":
        head, *body = (" | ".join(row) for row in piece.rows)
        return "\n".join(f"| {line} |" for line in (head, " | ".join("---" for _ in piece.rows[0]), *body))
    marks = {"title": "# {}", "authors": "Authors: {}", "heading": "## {}", "figure": "![{}](loss.png)"}
    return marks.get(piece.kind, "{}").format(piece.text)


def notebook(pieces: Sequence[Piece], code: str = "") -> bytes:
    """A notebook with the report in Markdown cells, the figure as an output, and the code where there is any."""
    cells: list[dict] = []
    for number, piece in enumerate(pieces):
        if piece.kind == "figure":
            output = {"output_type": "display_data", "metadata": {}, "data": {"image/png": _base64(picture())}}
            output["data"]["text/plain"] = [piece.text]
            cells.append(_cell(number, "code", "plot(history)", [output]))
        cells.append(_cell(number + 100, "markdown", piece.text if piece.kind == "figure" else _markdown(piece)))
    if code:
        cells.append(_cell(99, "code", code))
    data = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(data, ensure_ascii=False, indent=1).encode()


def _cell(number: int, kind: str, source: str, outputs: Sequence[dict] = ()) -> dict:
    cell = {"cell_type": kind, "id": f"c{number}", "metadata": {}, "source": source}
    return cell | ({"execution_count": None, "outputs": list(outputs)} if kind == "code" else {})


def docx_file(pieces: Sequence[Piece]) -> bytes:
    import docx

    document = docx.Document()
    for piece in pieces:
        if piece.kind in ("title", "heading"):
            document.add_heading(piece.text, 0 if piece.kind == "title" else 1)
        elif piece.kind == "table":
            table = document.add_table(rows=0, cols=len(piece.rows[0]))
            for row in piece.rows:
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.text = text
        else:
            if piece.kind == "figure":
                document.add_picture(io.BytesIO(picture()))
            document.add_paragraph(f"Authors: {piece.text}" if piece.kind == "authors" else piece.text)
    made = io.BytesIO()
    document.save(made)
    # without the times of the parts, which are those of the clock
    with zipfile.ZipFile(made) as archive:
        return packed({info.filename: archive.read(info) for info in archive.infolist()})


def pdf(pieces: Sequence[Piece], lines_a_page: int = 48) -> bytes:
    """A PDF of lines in Helvetica, which has no signs beyond those of Western Europe."""
    lines: list[str] = []
    for piece in pieces:
        text = f"Authors: {piece.text}" if piece.kind == "authors" else piece.text
        lines += [" ".join(row) for row in piece.rows] or textwrap.wrap(text, 88)
    pages = [lines[at : at + lines_a_page] for at in range(0, len(lines), lines_a_page)]
    return pdf_of([_drawn(page) for page in pages])


def _drawn(lines: Sequence[str]) -> bytes:
    escaped = (re.sub(r"([()\\])", r"\\\1", line).encode("cp1252", "replace") for line in lines)
    return b"BT /F 11 Tf 15 TL 60 790 Td\n" + b"\n".join(b"(%s) Tj T*" % line for line in escaped) + b"\nET\n"


def pdf_of(contents: Sequence[bytes]) -> bytes:
    """A PDF with a page for each content stream."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(contents)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources "
    page += b"<< /Font << /F 3 0 R >> >> >>"
    for number, content in enumerate(contents):
        objects += [page % (5 + 2 * number), b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)]
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    rows = b"".join(b"%010d 00000 n \n" % place for place in places)
    count, start = len(objects) + 1, len(out)
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (count, start)
    return bytes(out + b"xref\n0 %d\n0000000000 65535 f \n%s" % (count, rows) + end)


def picture() -> bytes:
    """A grey PNG of 8 by 8."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\x00" + b"\x80" * 8) * 8)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def packed(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files with times that are always the same."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 11, 20, 12, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _base64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()
