"""How alike submissions are: code, prose and results. Evidence for a person, never a verdict.

Code is compared by what a copier leaves alone. Names that the author chose, literals, annotations, docstrings and
statements without effect are taken out of the syntax tree; each function is then a row of tokens of its own, so that
their order does not matter. Rows are cut into overlapping runs of tokens, and winnowing (Schleimer, Wilkerson and
Aiken 2003) keeps some of them, chosen by content: copies keep the same ones. Sources are parsed, never run.

The library copydetect does the same from characters, but hashes with Python's ``hash``, which differs between
processes: the same two files scored 0.11, 0.10 and 0.05 in three runs. Here the same files always give the same score.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import keyword
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rapidfuzz import fuzz, process, utils

RUN = 7
"""Tokens in a run: fewer match by chance in unrelated solutions, more miss a copy with a change in every line."""

WINDOW = 3
"""Of so many neighbouring runs at least one is kept, so ``RUN + WINDOW - 1`` common tokens are always found."""

LEAST = 6
"""Runs that a submission must have of its own to be compared: below, a match means nothing."""

WORDS = 5
"""Words in a run of prose."""

ALIKE = 85.0
"""Sentences count as the same from this rapidfuzz ratio on (per cent): one word in eight replaced."""

LONGEST = 1_000_000
"""Characters of a submission that are compared; the parser's memory is some hundred times that."""

Place = tuple[str, int, int]
"""File, first and last line (from 1)."""

Row = list[tuple[str, int]]
"""Tokens with their lines."""


@dataclass(frozen=True)
class Prints:
    """Fingerprints of one text: where each kept run stands, and all runs there are (what base text takes away)."""

    kept: Mapping[int, tuple[Place, ...]]
    every: frozenset[int]

    @property
    def size(self) -> int:
        return sum(map(len, self.kept.values()))


@dataclass(frozen=True)
class Code:
    """A submission's code: by syntax tree where all its files parse, and always by tokens."""

    name: str
    tree: Prints | None
    tokens: Prints


@dataclass(frozen=True)
class Passage:
    """The same text on both sides: file, first and last line of each."""

    file_a: str
    lines_a: tuple[int, int]
    file_b: str
    lines_b: tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """Two submissions: ``score`` in [0, 1] is the larger of the shares of each that are in the other.

    ``comparable`` is False where one of them has too little of its own; the score is then 0. ``percentile`` is the
    share of the cohort's pairs, in per cent, that score less. ``by`` says what was compared: "tree" or "tokens".
    """

    a: str
    b: str
    score: float
    comparable: bool
    by: str
    percentile: float = 0.0


def read_code(name: str, files: Mapping[str, str], base: Sequence[Code] = ()) -> Code:
    """Fingerprints of a submission's Python files, ``{file name: source}``.

    ``base`` is what everyone was given (the starter) or may have arrived at (the reference): its runs do not count.
    Raises ``ValueError`` for more than ``LONGEST`` characters.
    """
    if (length := sum(map(len, files.values()))) > LONGEST:
        raise ValueError(
            f"{name} has {length} characters of code; at most {LONGEST} are compared: leave out data files"
        )
    trees: dict[str, list[Row]] | None = {}
    for file, source in sorted(files.items()):
        try:
            trees[file] = _rows(source)
        # hostile nesting ends in one of the last two
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            trees = None
            break
    given = [code.tree.every for code in base if code.tree is not None]
    tree = None if trees is None else _prints(trees, RUN, given)
    tokens = {file: _token_rows(source) for file, source in sorted(files.items())}
    return Code(name, tree, _prints(tokens, RUN, [code.tokens.every for code in base]))


def read_prose(text: str, base: Sequence[Prints] = (), file: str = "report") -> Prints:
    """Fingerprints of a report's text by runs of words; ``base`` is the lab's own text (task, model report)."""
    if len(text) > LONGEST:
        raise ValueError(f"{file} has {len(text)} characters of text; at most {LONGEST} are compared")
    row = [
        (word, number) for number, line in enumerate(text.splitlines(), 1) for word in re.findall(r"\w+", line.lower())
    ]
    return _prints({file: [row]}, WORDS, [prints.every for prints in base])


def compare(a: Code, b: Code) -> Pair:
    """How much of one submission is in the other: by trees if both parse, else by tokens."""
    by = "tree" if a.tree is not None and b.tree is not None else "tokens"
    score, comparable = overlap(getattr(a, by), getattr(b, by))
    return Pair(a.name, b.name, score, comparable, by)


def overlap(a: Prints, b: Prints) -> tuple[float, bool]:
    """The larger share of one's runs that the other has too, and whether both have enough to mean anything.

    The larger of the two, because padding a copy with more text must not make it less of a copy.
    """
    if min(a.size, b.size) < LEAST:
        return 0.0, False
    common = a.kept.keys() & b.kept.keys()
    return max(sum(len(prints.kept[run]) for run in common) / prints.size for prints in (a, b)), True


def cohort(codes: Sequence[Code]) -> list[Pair]:
    """All pairs, the most alike first, each with its percentile among them; ``ValueError`` for a name twice."""
    if len({code.name for code in codes}) < len(codes):
        raise ValueError("two submissions of the cohort have the same name; give each its own")
    # in the order of names, so that the order in which submissions arrive does not show
    ordered = sorted(codes, key=lambda code: code.name)
    return ranked([compare(a, b) for a, b in combinations(ordered, 2)])


def prose_cohort(reports: Mapping[str, Prints]) -> list[Pair]:
    """As :func:`cohort`, of the reports' texts."""
    pairs = [Pair(a, b, *overlap(reports[a], reports[b]), by="words") for a, b in combinations(sorted(reports), 2)]
    return ranked(pairs)


def ranked(pairs: Iterable[Pair]) -> list[Pair]:
    """Pairs with their percentiles, by falling score, then name; pairs that cannot be compared do not count."""
    pairs = list(pairs)
    scores = sorted(pair.score for pair in pairs if pair.comparable)
    placed = [
        Pair(p.a, p.b, p.score, p.comparable, p.by, 100 * bisect_left(scores, p.score) / len(scores) if scores else 0.0)
        for p in pairs
    ]
    return sorted(placed, key=lambda pair: (-pair.score, pair.a, pair.b))


def passages(a: Prints, b: Prints) -> list[Passage]:
    """What two texts share, as stretches of lines on both sides, in the order of the first."""
    found = []
    for run in a.kept.keys() & b.kept.keys():
        # a run that is there twice on both sides: first with first, second with second
        found += list(zip(a.kept[run], b.kept[run], strict=False))
    merged: list[list[Place]] = []
    for at, to in sorted(set(found)):
        if merged and _touches(merged[-1][0], at) and _touches(merged[-1][1], to):
            merged[-1] = [_joined(merged[-1][0], at), _joined(merged[-1][1], to)]
        else:
            merged.append([at, to])
    return [Passage(at[0], at[1:], to[0], to[1:]) for at, to in merged]


def same_sentences(a: str, b: str) -> list[tuple[str, str, float]]:
    """Sentences of ``a`` of at least eight words with the most alike of ``b``, where the ratio reaches ``ALIKE``.

    Finds passages in which words were replaced, which runs of words miss. Ratio in per cent, by rapidfuzz.
    """
    theirs = _sentences(b)
    best = ((mine, _closest(mine, theirs)) for mine in _sentences(a))
    return [(mine, found[0], found[1]) for mine, found in best if found is not None]


def same_results(a: Iterable[str], b: Iterable[str], base: Iterable[str] = ()) -> tuple[str, ...]:
    """Numbers that both reports print, digit by digit, but those of ``base`` (the lecture's and the paper's).

    Only numbers of at least three significant digits: two runs print 91 % often, and 91.37 % seldom. Numbers as text,
    as they stand in the report; per cent and fractions are told apart by nobody here, so pass them in one unit.
    """
    known = {_digits(number) for number in base}
    other = {_digits(number) for number in b} - known
    return tuple(
        sorted(
            {n for n in map(_digits, a) if n in other and len(n.replace(".", "").lstrip("-0")) >= 3 and n not in known}
        )
    )


# ----------------------------------------------------------------------------------------------------- syntax trees


def _rows(source: str) -> list[Row]:
    """One row of tokens for each function, and one for the statements outside of them; no order among them."""
    tree = _Folded().visit(ast.parse(source))
    names = _Chosen()
    names.visit(tree)
    rows: list[Row] = []
    _body(_Effective().statements(tree.body), names, rows, [])
    return rows


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class _Chosen(ast.NodeVisitor):
    """Which names are the author's: everything bound here except by imports, which are resolved to what they name."""

    def __init__(self) -> None:
        self.own: set[str] = set()
        self.attributes: set[str] = set()
        self.imported: dict[str, str] = {}

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            # ``import torch.nn`` binds torch; any other import binds what its last part names
            last = alias.name if isinstance(node, ast.ImportFrom) or alias.asname else alias.name.split(".")[0]
            self.imported[alias.asname or last] = last.rsplit(".", 1)[-1]

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.own.add(node.name)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.own.add(node.name)
        self.attributes.update(part.name for part in node.body if isinstance(part, _FUNCTIONS))
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self.own.add(node.arg)

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.own.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.attributes.add(node.attr)
        self.generic_visit(node)


_BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)
_NEUTRAL = {ast.Add: 0, ast.Sub: 0, ast.Mult: 1, ast.Div: 1, ast.Pow: 1}
_WITHOUT_EFFECT = {"print", "len", "type", "id", "repr", "str", "int", "float", "bool", "list", "tuple", "abs", "sum"}
_WITHOUT_EFFECT |= {"min", "max", "sorted", "isinstance", "hasattr", "dict", "set", "range", "round"}


class _Folded(ast.NodeTransformer):
    """Sums with zero and products with one are their other side; ``x += 0`` is ``x = x``."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return node.left if self._neutral(node.op, node.right) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(ast.Pass(), node) if self._neutral(node.op, node.value) else node

    def _neutral(self, operator: ast.operator, value: ast.expr) -> bool:
        return isinstance(value, ast.Constant) and value.value == _NEUTRAL.get(type(operator), ...)


class _Effective:
    """Statements that do something: what is left when padding is taken out."""

    def statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The body of a scope, again and again until nothing more falls out: ``a = 1; b = a`` takes two rounds."""
        kept = self._pruned(body, frozenset())
        size = _size(kept)
        while True:
            used = {name for statement in kept for name in _used(statement)}
            kept = self._pruned(kept, frozenset(used), drop_unused=True)
            # counted before and after, because what is inside a statement changes in place
            before, size = size, _size(kept)
            if size == before:
                return kept

    def _pruned(self, body: Sequence[ast.stmt], used: frozenset[str], drop_unused: bool = False) -> list[ast.stmt]:
        kept: list[ast.stmt] = []
        for statement in body:
            for node in self._unfolded(statement):
                if self._idle(node) or (drop_unused and self._unused(node, used)):
                    continue
                for field in ("body", "orelse", "finalbody"):
                    inner = getattr(node, field, None)
                    if isinstance(inner, list) and not isinstance(node, ast.ClassDef):
                        setattr(node, field, self._pruned(inner, used, drop_unused))
                if isinstance(node, _BLOCKS) and not (node.body or getattr(node, "orelse", None)):
                    continue
                kept.append(node)
                if isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
                    return kept  # nothing behind it is ever reached
        return kept

    def _unfolded(self, node: ast.stmt) -> list[ast.stmt]:
        """``if True: x`` is x; ``if False`` and ``while 0`` are nothing."""
        if isinstance(node, ast.If | ast.While) and isinstance(node.test, ast.Constant):
            if not node.test.value:
                return node.orelse
            if isinstance(node, ast.If):
                return node.body
        return [node]

    def _idle(self, node: ast.stmt) -> bool:
        match node:
            case ast.Pass() | ast.Assert() | ast.Global() | ast.Nonlocal() | ast.Delete():
                return True
            case ast.Import() | ast.ImportFrom() | ast.AnnAssign(value=None):
                return True
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=same)) if name == same:
                return True
            case ast.Expr(value=value):  # a docstring, a bare name, something printed
                calls = [n for n in ast.walk(value) if isinstance(n, ast.Call | ast.Await | ast.Yield | ast.YieldFrom)]
                return not calls or (isinstance(value, ast.Call) and getattr(value.func, "id", "") in _WITHOUT_EFFECT)
        return False

    def _unused(self, node: ast.stmt, used: frozenset[str]) -> bool:
        match node:
            case ast.Assign(targets=targets):
                return all(isinstance(t, ast.Name) and t.id not in used for t in targets)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
                return name not in used
        return False


def _size(body: Sequence[ast.stmt]) -> int:
    return sum(1 for statement in body for _ in ast.walk(statement))


def _used(node: ast.AST) -> set[str]:
    """Names that are read below ``node``, but for a variable that only feeds itself: ``i = i + 1``."""
    used = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else set()
    for child in ast.iter_child_nodes(node):
        used |= _used(child)
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        used.discard(node.targets[0].id)
    return used


def _body(body: Sequence[ast.stmt], names: _Chosen, rows: list[Row], rest: Row) -> None:
    """Functions and methods become rows; all else of the module or class goes to ``rest``, which is the last row."""
    for node in body:
        if isinstance(node, _FUNCTIONS):
            row: Row = []
            node.body = _Effective().statements(node.body)
            # without the signature, which the lab gives
            for part in [*node.decorator_list, *node.body]:
                _emit(part, names, node.lineno, row)
            rows.append(row)
        elif isinstance(node, ast.ClassDef):
            for part in node.bases:
                _emit(part, names, node.lineno, rest)
            inner: Row = []
            _body(node.body, names, rows, inner)
        else:
            _emit(node, names, node.lineno, rest)
    rows.append(rest)


def _emit(node: ast.AST, names: _Chosen, line: int, row: Row) -> None:
    """The tree below ``node`` in the order of the text, as tokens; a token that opens a group has a closing one."""
    line = getattr(node, "lineno", line)
    match node:
        case ast.Name(id=name):
            row.append((_named(name, names), line))
        case ast.Attribute(value=value, attr=attr):
            # of a module only the function's own name: ``F.softmax`` is ``torch.nn.functional.softmax``
            if not _is_module(value, names):
                _emit(value, names, line, row)
            row.append(("own" if attr in names.attributes else f".{attr}", line))
        case ast.Constant(value=bool() | None as value):
            row.append((str(value), line))
        case ast.Constant(value=value):
            row.append(("text" if isinstance(value, str | bytes) else "number", line))
        case ast.JoinedStr():
            row.append(("text", line))
        case ast.arg():
            row.append(("own", line))
        case ast.arguments():
            for part in [*node.posonlyargs, *node.args, *node.kwonlyargs, *node.defaults, *node.kw_defaults]:
                if part is not None:
                    _emit(part, names, line, row)
        case ast.AnnAssign(target=target, value=value):  # as if it had no annotation
            _emit(ast.copy_location(ast.Assign([target], value), node), names, line, row)
        case ast.FunctionDef(args=args, body=body) | ast.AsyncFunctionDef(args=args, body=body):
            row.append(("def", line))
            for part in [args, *_Effective().statements(body)]:
                _emit(part, names, line, row)
        case ast.expr_context():
            pass
        case ast.keyword(value=value):
            _emit(value, names, line, row)
        case _:
            if not isinstance(node, ast.operator | ast.unaryop | ast.boolop | ast.cmpop):
                row.append((type(node).__name__, line))
            else:
                row.append((f"op{type(node).__name__}", line))
            for child in ast.iter_child_nodes(node):
                _emit(child, names, line, row)
            if isinstance(node, ast.Call | ast.Tuple | ast.List | ast.stmt):
                row.append(("end", getattr(node, "end_lineno", line)))


def _named(name: str, names: _Chosen) -> str:
    if name in names.imported:
        return f".{names.imported[name]}"
    return "own" if name in names.own or not hasattr(builtins, name) else name


def _is_module(node: ast.expr, names: _Chosen) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in names.imported and node.id not in names.own


# ----------------------------------------------------------------------------------------------------- plain tokens

_TOKEN = re.compile(
    r"""(?P<skip>\#[^\n]*|'''[\s\S]*?(?:'''|\Z)|\"\"\"[\s\S]*?(?:\"\"\"|\Z))"""
    r"""|(?P<text>'(?:\\.|[^'\\\n])*'?|"(?:\\.|[^"\\\n])*"?)"""
    r"""|(?P<number>\d[\w.]*)|(?P<name>\.?\s*[^\W\d]\w*)|(?P<sign>[^\s\w])"""
)


def _token_rows(source: str) -> list[Row]:
    """The whole text as one row, for code that does not parse: chosen names, literals and comments do not count."""
    row, line, last = [], 1, 0
    for match in _TOKEN.finditer(source):
        line += source.count("\n", last, match.start())
        last = match.start()
        kind, word = match.lastgroup, match.group()
        if kind == "name":
            plain = word.lstrip(". \t\n")
            kept = keyword.iskeyword(plain) or word.startswith(".") or hasattr(builtins, plain)
            row.append((word if kept else "own", line))
        elif kind == "sign":
            row.append((word, line))
        elif kind != "skip":
            row.append((kind, line))
    return [row]


# ------------------------------------------------------------------------------------------------------- winnowing


def _prints(rows: Mapping[str, list[Row]], run: int, given: Sequence[frozenset[int]]) -> Prints:
    """Winnowed runs of all rows that are in none of ``given``; a row shorter than a run is none."""
    kept: dict[int, list[Place]] = {}
    every: set[int] = set()
    for file, of_file in rows.items():
        for row in of_file:
            hashes = [_hash(token for token, _ in row[i : i + run]) for i in range(len(row) - run + 1)]
            every.update(hashes)
            for i in _winnow(hashes):
                lines = [line for _, line in row[i : i + run]]
                if not any(hashes[i] in runs for runs in given):
                    kept.setdefault(hashes[i], []).append((file, min(lines), max(lines)))
    return Prints({h: tuple(sorted(places)) for h, places in kept.items()}, frozenset(every))


def _hash(tokens: Iterable[str]) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(tokens).encode(errors="replace"), digest_size=8).digest(), "big")


def _winnow(hashes: Sequence[int]) -> list[int]:
    """Places of the smallest hash of every window, the last one of equals; of a row within one window, its smallest."""
    windows = range(max(1, len(hashes) - WINDOW + 1)) if hashes else range(0)
    least = (min(range(w, min(w + WINDOW, len(hashes))), key=lambda i: (hashes[i], -i)) for w in windows)
    return sorted(set(least))


def _touches(a: Place, b: Place) -> bool:
    """Whether two stretches of one file overlap or follow each other, up to an empty line between."""
    return a[0] == b[0] and b[1] <= a[2] + 2 and a[1] <= b[2] + 2


def _joined(a: Place, b: Place) -> Place:
    return a[0], min(a[1], b[1]), max(a[2], b[2])


# ------------------------------------------------------------------------------------------------------ sentences


def _sentences(text: str) -> list[str]:
    parts = re.split(r"(?<=[.!?])\s+|\n\s*\n", text)
    return [" ".join(part.split()) for part in parts if len(part.split()) >= 8]


def _closest(sentence: str, others: Sequence[str]) -> tuple[str, float, int] | None:
    return process.extractOne(sentence, others, scorer=fuzz.ratio, processor=utils.default_process, score_cutoff=ALIKE)


def _digits(number: str) -> str:
    return number.strip().rstrip("%").strip().replace(",", ".")
