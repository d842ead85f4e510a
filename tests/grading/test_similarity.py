"""Similarity: disguised copies are found, unrelated solutions are left alone, and hostile files cost nobody else."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
from pathlib import Path

import pytest
from grading.unrelated import EPISODES, HERDING, PLAIN, PROTOTYPES
from hypothesis import given, settings
from hypothesis import strategies as some

from utils.grading.similarity import (
    LONGEST,
    cohort,
    compare,
    overlap,
    passages,
    prose_cohort,
    read_code,
    read_prose,
    same_results,
    same_sentences,
)

ROOT = Path(__file__).parents[2]
SOLUTIONS = {path.parent.name: path.read_text() for path in sorted(ROOT.glob("solutions/*/exercises.py"))}
UNRELATED = {"01_few_shot_setup": EPISODES, "07_lwf_bic": HERDING, **PLAIN}
UNRELATED["03_prototypical"] = UNRELATED["03_prototypical"] | PROTOTYPES

DEAD = (
    "unused_{n} = {n}",
    "assert {n} == {n}",
    "pass",
    "if False:\n    print('x{n}')\n    y{n} = [i for i in range({n})]",
    "while 0:\n    z{n} = 3",
    "'a note {n}'",
    "print('step {n}')",
    "left_{n} = [{n}, {n}]\nright_{n} = left_{n}",
    "count_{n} = 0\ncount_{n} += 1",
    "typed_{n}: int = {n} * 2",
    "try:\n    pass\nexcept ValueError:\n    print({n})",
    "fed_{n} = {n}\nfed_{n} = fed_{n} + 1",
    "len([{n}])",
)


class Renamed(ast.NodeTransformer):
    """Every chosen name replaced, functions and parameters included; annotations and docstrings removed."""

    def __init__(self, tree):
        bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        self.names = {name: f"q{i}_{name[::-1]}" for i, name in enumerate(sorted(bound))}

    def visit_Name(self, node):
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node):
        node.arg, node.annotation = self.names[node.arg], None
        return node

    def visit_FunctionDef(self, node):
        node.name, node.returns = self.names[node.name], None
        if ast.get_docstring(node):
            node.body = node.body[1:]
        return self.generic_visit(node)

    def visit_Constant(self, node):
        return ast.Constant(node.value + 1) if type(node.value) is int else node


def renamed(source):
    tree = ast.parse(source)
    return ast.unparse(ast.fix_missing_locations(Renamed(tree).visit(tree)))


def reordered(source):
    tree = ast.parse(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    tree.body = [node for node in tree.body if node not in functions] + functions[::-1]
    return ast.unparse(tree)


def reformatted(source):
    return "\n\n# a comment\n\n".join(ast.unparse(ast.parse(source)).replace("    ", "\t").split("\n"))


def padded(source):
    """A statement without effect after every statement, of every kind in turn."""
    tree, count = ast.parse(source), iter(range(10**6))

    def fill(body):
        filled = []
        for node in body:
            for field in ("body", "orelse"):
                if isinstance(inner := getattr(node, field, None), list) and inner:
                    setattr(node, field, fill(inner))
            last = isinstance(node, ast.Return)
            dead = ast.parse(DEAD[(n := next(count)) % len(DEAD)].format(n=n)).body
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            filled += [*dead, node] if last else [node] if future else [node, *dead]
        return filled

    tree.body = fill(tree.body)
    return ast.unparse(tree)


def everything(source):
    return reformatted(padded(reordered(renamed(source))))


def starter(source):
    """What the students got: the same signatures, nothing inside."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = ast.parse("raise NotImplementedError").body
    return read_code("starter", {"exercises.py": ast.unparse(tree)})


def code(name, source, *base):
    return read_code(name, {"exercises.py": source}, base)


# Copies and unrelated work


@pytest.mark.parametrize("disguise", [renamed, reordered, reformatted, padded, everything])
@pytest.mark.parametrize("lab", SOLUTIONS)
def test_disguised_copies_are_found(lab, disguise):
    original, copy = SOLUTIONS[lab], disguise(SOLUTIONS[lab])
    assert copy != original
    pair = compare(code("a", original, starter(original)), code("b", copy, starter(original)))
    assert pair.comparable and pair.by == "tree" and pair.score >= 0.9


@pytest.mark.parametrize("lab", UNRELATED)
def test_unrelated_solutions_of_a_lab_are_not_alike(lab):
    base = starter(SOLUTIONS[lab])
    pairs = cohort([code("reference", SOLUTIONS[lab], base), *(code(n, s, base) for n, s in UNRELATED[lab].items())])
    assert all(pair.comparable and pair.score <= 0.3 for pair in pairs), pairs


@pytest.mark.parametrize("lab", UNRELATED)
def test_copies_of_the_other_solutions_are_found_too(lab):
    for source in UNRELATED[lab].values():
        assert compare(code("a", source), code("b", everything(source))).score >= 0.9


def test_a_copy_inside_much_own_code_is_found():
    own = "\n".join(SOLUTIONS[lab] for lab in ("04_maml", "08_replay", "09_distillation")).replace(
        "from __future__ import annotations", ""
    )
    pair = compare(code("a", SOLUTIONS["07_lwf_bic"]), code("b", everything(SOLUTIONS["07_lwf_bic"]) + "\n" + own))
    assert pair.score >= 0.9


def test_neutral_arithmetic_does_not_hide_a_copy():
    source = EPISODES["matrices"]
    other = source.replace("k_shot + n_query", "(k_shot * 1 + n_query + 0)").replace(
        "    s, q = grid", "    grid += 0\n    grid = grid * 1\n    s, q = grid"
    )
    assert other.count("* 1") == 2 and compare(code("a", source), code("b", other)).score == 1.0


def test_import_style_and_annotations_do_not_hide_a_copy():
    source = SOLUTIONS["07_lwf_bic"]
    other = source.replace("import torch.nn.functional as F", "from torch.nn.functional import cross_entropy as ce")
    other = other.replace("F.cross_entropy", "ce").replace("import torch\n", "import torch as tt\n", 1)
    other = other.replace("torch.", "tt.").replace("from tt.", "from torch.")
    assert "tt.optim" in other and "ce(" in other
    assert compare(code("a", source), code("b", other)).score == 1.0


def test_chains_of_unused_variables_inside_loops_fall_out():
    source = HERDING["newton"]
    chain = "        u = step\n        v = [u]\n        w = [v]\n        pull +="
    assert (other := source.replace("        pull +=", chain)) != source
    assert code("a", other).tree.every == code("a", source).tree.every


def test_code_that_is_never_reached_does_not_count():
    source = HERDING["newton"]
    other = source.replace(
        "    return picked\n", "    return picked\n    for i in range(9):\n        picked[i] = max(i, 3)\n"
    )
    assert other != source
    shares = [overlap(code("a", source).tree, code("b", text).tree)[0] for text in (source, other)]
    assert shares == [1.0, 1.0] and code("a", source).tree.size == code("b", other).tree.size


def test_methods_in_another_order_are_the_same_class():
    head, methods = (
        "class A:\n",
        ["def __init__(self):\n  self.a = [i * i for i in range(9)]\n  self.b = sum(self.a)\n"],
    )
    methods += ["def run(self, x):\n  for i in x:\n    self.b = self.b * i + max(self.a, key=len)\n  return self.b\n"]
    one, two = (head + "".join(" " + m.replace("\n", "\n ") + "\n" for m in ms) for ms in (methods, methods[::-1]))
    assert compare(code("a", one), code("b", renamed_attributes(two))).score == 1.0


def renamed_attributes(source):
    return source.replace("self.a", "self.first").replace("self.b", "self.second")


# Starter code, reference, too little


def test_starter_and_reference_do_not_count():
    reference = code("reference", SOLUTIONS["07_lwf_bic"])
    added = EPISODES["loops"].split("def vote")[0]
    a, b = (code(name, SOLUTIONS["07_lwf_bic"] + own) for name, own in (("a", added), ("b", PROTOTYPES["loop"])))
    assert compare(a, b).score > 0.5
    a, b = (
        code(name, SOLUTIONS["07_lwf_bic"] + own, reference) for name, own in (("a", added), ("b", PROTOTYPES["loop"]))
    )
    assert compare(a, b).comparable and compare(a, b).score <= 0.1


def test_nothing_of_its_own_cannot_be_compared():
    reference = code("reference", SOLUTIONS["02_siamese"])
    copies = [code(name, everything(SOLUTIONS["02_siamese"]), reference) for name in "ab"]
    pair = compare(*copies)
    assert not pair.comparable and pair.score == 0.0
    assert not compare(code("a", ""), code("b", "")).comparable


# Code that does not parse, hostile code


def test_code_that_does_not_parse_is_compared_by_tokens():
    source = SOLUTIONS["07_lwf_bic"]
    broken = renamed(source) + "\n)"
    pair = compare(code("a", source), code("b", broken))
    assert pair.by == "tokens" and pair.score >= 0.6  # annotations are tokens, too
    assert compare(code("a", HERDING["newton"]), code("b", broken)).score <= 0.3


@pytest.mark.parametrize(
    "source",
    [
        "-" * 100_000 + "1",
        "(" * 50_000,
        "a" + ".a" * 100_000,
        "+".join(["1"] * 50_000),
        "lambda:" * 50_000 + "1",
        "a\0b",
        "'''" * 7,
        '"' + "\\" * 10_001,
        "\ud800 = 1",
        "def f():\n" + "".join(" " * i + "if x:\n" for i in range(1, 99)) + " " * 99 + "x(1)",
    ],
    ids=["signs", "brackets", "attributes", "sum", "lambdas", "nul", "quotes", "escapes", "surrogate", "indents"],
)
def test_hostile_sources_are_read_without_harm(source):
    honest = code("a", SOLUTIONS["01_few_shot_setup"])
    assert compare(honest, code("b", source)).score <= 0.3
    assert compare(honest, code("c", everything(SOLUTIONS["01_few_shot_setup"]))).score >= 0.9


def test_too_much_code_is_refused_with_its_name():
    with pytest.raises(ValueError, match=r"anna has 1000001 characters.*leave out data"):
        code("anna", "x" * (LONGEST + 1))
    with pytest.raises(ValueError, match="characters of text"):
        read_prose("x" * (LONGEST + 1))


def test_code_is_never_run(tmp_path):
    trace = tmp_path / "ran"
    code("a", f"open({str(trace)!r}, 'w')\nimport antigravity\n" + SOLUTIONS["02_siamese"])
    assert not trace.exists() and "antigravity" not in sys.modules


@settings(deadline=None, max_examples=60)
@given(some.text(max_size=300))
def test_any_text_has_prints_and_equals_itself(text):
    a, b = code("a", text), code("b", text)
    pair = compare(a, b)
    assert pair.score == (1.0 if pair.comparable else 0.0)
    assert overlap(read_prose(text), read_prose(text))[0] in (0.0, 1.0)


# Evidence


def test_passages_have_the_lines_of_both_sides():
    source = SOLUTIONS["07_lwf_bic"]
    moved = "\n" * 40 + source[source.index("def herding") : source.index("def correction")]
    found = passages(code("a", source).tree, read_code("b", {"mine.py": moved}).tree)
    lines = source.splitlines()
    first = next(i for i, line in enumerate(lines, 1) if "mean, total, chosen" in line)
    last = next(i for i, line in enumerate(lines, 1) if "torch.tensor(chosen)" in line)
    start = next(i for i, line in enumerate(moved.splitlines(), 1) if "mean, total, chosen" in line)
    (passage,) = found
    assert (passage.file_a, passage.file_b) == ("exercises.py", "mine.py")
    assert first <= passage.lines_a[0] <= first + 1 and last - 1 <= passage.lines_a[1] <= last
    assert passage.lines_b[0] - passage.lines_a[0] == start - first


def test_percentile_is_the_share_of_the_cohort_below():
    codes = [code(f"{lab}-{name}", source) for lab in UNRELATED for name, source in UNRELATED[lab].items()]
    pairs = cohort([*codes, code("copy", everything(EPISODES["loops"]))])
    assert {pairs[0].a, pairs[0].b} == {"01_few_shot_setup-loops", "copy"}
    below = sum(pair.score < pairs[0].score for pair in pairs)
    assert pairs[0].percentile == pytest.approx(100 * below / len(pairs))
    assert pairs[-1].percentile == 0.0


def test_a_cohort_of_200_with_planted_copies():
    """19,900 pairs; every student has a few functions of the package, and twenty copied from the student before."""
    functions = []
    for path in sorted((ROOT / "utils").rglob("*.py")):
        tree = ast.parse(path.read_text())
        functions += [ast.unparse(n) for n in tree.body if isinstance(n, ast.FunctionDef) and len(ast.unparse(n)) > 300]
    draw = random.Random(0)
    draw.shuffle(functions)
    size = len(functions) // 180
    assert size >= 2
    sources = {}
    for i in range(180):
        sources[f"s{i:03}"] = "\n\n".join(functions[i * size : (i + 1) * size])
    for i in range(20):
        sources[f"c{i:03}"] = everything(sources[f"s{i * 7:03}"])
    pairs = cohort([code(name, source) for name, source in sources.items()])
    assert len(pairs) == 19_900
    planted = {(f"c{i:03}", f"s{i * 7:03}") for i in range(20)}
    scores = {(pair.a, pair.b): pair for pair in pairs}
    assert all(scores[pair].score >= 0.9 and scores[pair].percentile >= 99 for pair in planted)
    honest = [pair.score for key, pair in scores.items() if key not in planted and pair.comparable]
    assert len(honest) > 19_000 and sum(score > 0.3 for score in honest) <= 0.003 * len(
        honest
    )  # the package shares code


def test_the_same_files_score_the_same_in_every_process_and_order():
    script = (
        "import sys; sys.path.insert(0, 'tests'); from grading.unrelated import EPISODES; "
        "from utils.grading.similarity import cohort, read_code; "
        "print(cohort([read_code(n, {'e.py': s}) for n, s in sorted(EPISODES.items(), reverse={})]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script.replace("{}", str(seed > 1))],
            capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert len(outputs) == 1


def test_names_must_differ():
    with pytest.raises(ValueError, match="same name"):
        cohort([code("a", ""), code("a", "")])


# Prose and results

REPORT = """Prototypical networks classify a query by the nearest class mean.
We trained the embedding with twenty ways and five shots for ten thousand steps on a laptop.

The accuracy falls when batch normalisation uses the statistics of the support set alone.
A second run with another seed gave nearly the same figure, which we did not expect at all.
The longest part of the work was a mistake in the order of the labels within an episode.
"""
OTHER = """Elastic weight consolidation adds a parabola for every earlier task to the loss of the new one.
Its strength was chosen on two held-out tasks, and a wide range of values gave similar results in the end.

Plain training forgets the first digits almost completely after the third task has been learned.
The Fisher information was computed from one thousand images because more changed nothing that we could see.
"""


def test_prose_that_was_copied_into_a_longer_report_is_found():
    pairs = prose_cohort({"a": read_prose(REPORT), "b": read_prose(OTHER + REPORT.upper()), "c": read_prose(OTHER * 2)})
    assert {(pair.a, pair.b): pair.score >= 0.9 for pair in pairs} == {
        ("a", "b"): True, ("b", "c"): True, ("a", "c"): False
    }  # fmt: skip
    (found,) = passages(read_prose(REPORT), read_prose("A title\n\n" + REPORT))
    assert found.lines_a == (1, 6) and found.lines_b == (3, 8)


def test_the_labs_own_text_does_not_count():
    base = read_prose(REPORT)
    a, b = (read_prose(REPORT + own, [base]) for own in (OTHER, "Nothing but the model report and a few words more."))
    assert overlap(a, b)[0] == 0.0


def test_sentences_with_replaced_words_are_found():
    altered = REPORT.replace("laptop", "notebook").replace("mistake", "bug").replace("nearly", "almost")
    found = same_sentences(REPORT, OTHER + altered)
    assert len(found) == 5 and all(ratio >= 85 for _, _, ratio in found)
    assert same_sentences(REPORT, OTHER) == []


def test_results_equal_digit_by_digit():
    assert same_results(["91.37 %", "91", "0.913", "98.80"], ["91,37", "91", "98.80", "77.12"], base=["98.80"]) == (
        "91.37",
    )
    assert same_results(["0.01", "10.0"], ["0.01", "10.0"]) == ("10.0",)
