"""Planted errors turn the tests red: each is made on purpose, and the test that should find it is seen to find it.

The tests of numbers are only as good as what they can refuse. Stored chapters are spoiled in copies; the package is
mutated in copies, which a run then finds before the installed one. Every run is made without the error too.
"""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import notebook_checks as checks
import pytest
import small_book
from small_book import ROOT, cell, copy_of_package, run_tests, write_notebook
from test_notebooks import stored

from utils.chapters import claims_of
from utils.claims import CLAIM_MIME

pytest.importorskip("nbval")

CHAPTER = ROOT / "chapters" / "03_prototypical.ipynb"


# Errors in what a chapter stores: found without running it


def notebook_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def claim_outputs(notebook: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Cells and outputs that show a claim."""
    return [(c, o) for c in notebook["cells"] for o in c.get("outputs", []) if CLAIM_MIME in o.get("data", {})]


def move_first_claim(notebook: dict[str, Any], points: float = 6.0) -> None:
    claim_outputs(notebook)[0][1]["data"][CLAIM_MIME]["mean"] += points


def remove_first_claim(notebook: dict[str, Any]) -> None:
    shown_in, output = claim_outputs(notebook)[0]
    shown_in["outputs"].remove(output)


def strip(notebook: dict[str, Any]) -> None:
    for one in notebook["cells"]:
        if one["cell_type"] == "code":
            one.update(execution_count=None, outputs=[])


def type_a_decimal(notebook: dict[str, Any]) -> None:
    text = next(one for one in notebook["cells"] if one["cell_type"] == "markdown")
    text["source"] = [*text["source"], "\nPrototypes reach 91.2 on scripts that they have not seen.\n"]


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (move_first_claim, checks.claims_are_recorded),
        (move_first_claim, checks.claims_are_shown_as_stored),
        (remove_first_claim, checks.claims_are_recorded),
        (strip, checks.was_executed),
        (strip, checks.makes_claims),
        (strip, checks.claims_are_recorded),
        (type_a_decimal, checks.numbers_are_glued),
    ],
)
def test_a_spoiled_chapter_is_found(plant: Callable, check: Callable):
    page = stored(CHAPTER)
    spoiled = replace(page, notebook=copy.deepcopy(page.notebook))
    plant(spoiled.notebook)
    assert set(check(spoiled)) - set(check(page)), f"{check.__name__} finds nothing new after {plant.__name__}"


def test_a_claim_removed_from_chapter_and_record_is_missed_by_the_prose():
    """Where all stored traces of a claim are gone, the prose still asks for it."""
    page = stored(CHAPTER)
    id = next(key for _, text in checks.markdown(page) for key in checks.glue_keys(text))
    spoiled = replace(page, notebook=copy.deepcopy(page.notebook))
    for one in spoiled.notebook["cells"]:
        one["outputs"] = [
            o for o in one.get("outputs", []) if o.get("metadata", {}).get("scrapbook", {}).get("name") != id
        ]
    assert set(checks.glue_exists(spoiled)) - set(checks.glue_exists(page))


# Errors that a rerun finds: in a chapter of a few cells

SMALL = [
    cell("import numpy as np\n\nfrom utils.claims import Chapter\n\nbook = Chapter('01_small')\nbook.cost()", 1),
    cell("generator = np.random.default_rng(book.seed)\nprint('shape', generator.normal(size=(2, 3)).shape)", 2),
    cell("easy, hard = (np.clip(generator.normal(mean, 0.05, 500), 0, 1) for mean in (0.8, 0.6))", 3),
    *(
        cell(f"book.claim('small-{name}', '{name}', {name}, chance=0.2, dataset='made up');", 4 + i)
        for i, name in enumerate(("easy", "hard"))
    ),
    cell("book.compare('small-gain', 'Gain', easy, hard, dataset='made up');", 6),
    cell("book.check()", 7),
]
EASY, HARD, GAIN, CLOSING = 3, 4, 5, 6


RETURNED_TWO = {"output_type": "execute_result", "execution_count": 1, "data": {"text/plain": "2"}, "metadata": {}}
OUTSIDE = "192.0.2.1"  # an address that belongs to nobody (RFC 5737)
KERNEL = [
    cell("import os\nassert os.environ['COURSE_QUIET'] == os.environ['OMP_NUM_THREADS'] == '1'", 1),
    cell("assert not {'COURSE_WRITING', 'COURSE_SEED'} & set(os.environ) and os.environ['MPLBACKEND'] != 'Agg'", 2),
    cell("1 + 1", 3, [RETURNED_TWO]),
    cell("1 + 1;", 4),
    cell(f"import urllib.request\nurllib.request.urlopen('http://{OUTSIDE}/', timeout=5)", 5),
    cell("import socket\nsocket.create_connection(('localhost', 9), timeout=5)", 6),
    cell("import time\ntime.sleep(60)", 7, timeout=1),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A project with one executed chapter, 01_small, and its record."""
    project = copy_of_package(tmp_path_factory.mktemp("small"))
    # The chapter asks torch for no more than this; importing the real one would take most of the time.
    (project / "torch.py").write_text("__version__ = '2.0.0'\n\n\ndef get_num_threads():\n    return 1\n")
    (project / "chapters").mkdir()
    chapter = write_notebook(project / "chapters" / "01_small.ipynb", SMALL)
    spread = {"sd": 0.1, "seeds": [1, 2, 3, 4, 5], "means": [80.0, 80.1, 79.9, 80.2, 79.8]}
    ids = ("small-easy", "small-hard", "small-gain")
    record = {"schema": 1, "kind": "claims", "chapter": "01_small", "spread": dict.fromkeys(ids, spread)}
    path = project / "book" / "results" / "claims" / "01_small.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**record, "claims": {}, "cost": None, "provenance": {}}))
    done = small_book.python(project, "-m", "utils.cli", "run", "01")
    assert done.returncode == 0, done.stderr
    assert list(claims_of(notebook_of(chapter))) == list(ids)
    return project


def plant_errors(notebook: dict[str, Any]) -> None:
    """Errors in cells that know nothing of each other: one run shows which of them are found."""
    cells = notebook["cells"]
    cells[1]["outputs"][0]["text"] = "shape (3, 2)\n"
    cells[EASY]["outputs"][0]["data"][CLAIM_MIME]["mean"] += 6.0
    del cells[HARD]["outputs"][0]
    cells[GAIN]["source"] = "pass"


@pytest.fixture(scope="module")
def reruns(small) -> small_book.Run:
    """One nbval run, without a network, over the chapter as it is, with errors, and stripped."""
    book = notebook_of(small / "chapters" / "01_small.ipynb")
    write_notebook(small / "chapters" / "kernel.ipynb", KERNEL)
    for name, plant in (("planted", plant_errors), ("stripped", strip)):
        spoiled = copy.deepcopy(book)
        plant(spoiled)
        write_notebook(small / "chapters" / f"{name}.ipynb", spoiled["cells"])
    unwanted = {"MPLBACKEND": "Agg", "COURSE_WRITING": "1", "COURSE_SEED": "3"}
    return run_tests(small, "chapters", "--sockets-blocked", **unwanted)


def failure(run: small_book.Run, cell: int) -> str:
    return run.failures[f"planted::Cell {cell}"] or ""


def test_the_unspoiled_chapter_is_green(reruns):
    assert reruns.red("01_small") == [], reruns.text
    assert len([name for name in reruns.failures if "01_small" in name]) == len(SMALL)


def test_the_planted_cells_and_no_others_are_red(reruns):
    assert reruns.red("planted") == [f"planted::Cell {i}" for i in (1, EASY, HARD, GAIN, CLOSING)], reruns.text


def test_what_is_no_claim_is_compared_exactly(reruns):
    assert "mismatch 'stdout'" in failure(reruns, 1)


def test_a_claim_moved_by_six_points_is_red(reruns):
    text = failure(reruns, EASY)
    assert "claim small-easy: stored 8" in text and ", this run " in text
    assert "standard errors from the stored" in text


def test_a_claim_removed_from_the_outputs_is_red(reruns):
    assert "claim small-hard: this run " in failure(reruns, HARD) and "not stored" in failure(reruns, HARD)


def test_a_claim_removed_from_the_code_is_red(reruns):
    assert "claim small-gain: stored +" in failure(reruns, GAIN) and "does not make it" in failure(reruns, GAIN)
    assert "this run lacks ['small-gain', 'small-gain-mean'" in failure(reruns, GAIN)


def test_the_closing_table_says_so_too(reruns):
    assert "do not agree with its record: ['small-gain']" in failure(reruns, CLOSING)


def test_a_stripped_chapter_is_red(reruns):
    """nbval alone lets it pass."""
    assert len(reruns.red("stripped")) == len(SMALL)
    assert "was not executed" in reruns.failures["stripped::Cell 1"]


def test_a_kernel_runs_in_its_own_environment(reruns):
    """Quiet, on one thread, comparing, with figures, whatever the environment of the tests is."""
    assert [reruns.failures[f"kernel::Cell {i}"] for i in (0, 1)] == [None, None], reruns.text


def test_a_semicolon_hides_a_value_as_in_jupyter(reruns):
    assert [reruns.failures[f"kernel::Cell {i}"] for i in (2, 3)] == [None, None], reruns.text


def test_a_cell_cannot_reach_another_machine(reruns):
    assert f"the network is blocked in this test run: {OUTSIDE}" in reruns.failures["kernel::Cell 4"]
    assert "ConnectionRefusedError" in reruns.failures["kernel::Cell 5"], "this machine itself is not blocked"


def test_a_cell_has_a_timeout_of_its_own(reruns):
    assert "Timeout of 1 seconds exceeded" in reruns.failures["kernel::Cell 6"]


# Errors in the package: found by the chapter's own cells and by the unit tests


def code_cells() -> list[dict[str, Any]]:
    return [one for one in notebook_of(CHAPTER)["cells"] if one["cell_type"] == "code"]


def names(one: dict[str, Any], kind: type) -> set[str]:
    """Names that a cell uses (``ast.Load``) or makes (``ast.Store``), functions and imports among them."""
    nodes = list(ast.walk(ast.parse(checks.source(one))))
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}
    if kind is ast.Store:
        found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        found |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        found |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return found


def cells_for(*tags: str) -> list[dict[str, Any]]:
    """The cells with these tags and those before them that make the names they need: what can be run in seconds."""
    code, needed, chosen = code_cells(), set(), []
    for one in reversed(code):
        made = names(one, ast.Store) & needed
        if made or set(tags) & set(one["metadata"].get("tags", [])):
            chosen.append(one)
            needed = (needed - made) | (names(one, ast.Load) - names(one, ast.Store))
    return chosen[::-1]


# What is changed: file, old text, new text.
UNSQUARED = (
    "utils/fewshot/prototypical.py",
    "-squared_distances(query_embedding, prototypes)",
    "-squared_distances(query_embedding, prototypes).sqrt()",
)
LEAK = ("utils/data/glyphs.py", 'if split in (script.split, "all")]', 'if split in (script.split, "all", "train")]')
SWAPPED_SETS = (
    "utils/data/episodes.py",
    "support, query = gather_support_and_query(",
    "query, support = gather_support_and_query(",
)
SWAPPED_EMBEDDINGS = (
    "utils/fewshot/embedding.py",
    "return embedding[:, :n_support], embedding[:, n_support:]",
    "return embedding[:, n_support:], embedding[:, :n_support]",
)
DOT_PRODUCT = (
    "utils/functional/distances.py",
    "return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT",
    "return a @ b.mT",
)
MEAN_OF_SHOTS = (
    "utils/fewshot/relation.py",
    "return (one_hot(labels, n_way, maps.dtype) @ maps.flatten(2))",
    "return (F.normalize(one_hot(labels, n_way, maps.dtype), p=1, dim=-1) @ maps.flatten(2))",
)
FLIPPED_TARGETS = ("utils/fewshot/relation.py", "same = labels[..., None] == ", "same = labels[..., None] != ")
# Who notices: tagged cells of the chapter, and unit tests.
CELLS = ("leak-check", "equality")
SETS_TEST = "test_episodes.py::test_the_images_are_those_that_the_indices_name"
EMBEDDINGS_TEST = "test_prototypical.py::test_support_and_query_embeddings_come_back_in_their_places"
COSINE_TEST = "test_matching.py::test_loss_and_gradient_are_those_of_the_paper"
SUMS_TEST = "test_relation.py::test_a_class_is_the_sum_of_its_maps"
TARGETS_TEST = "test_relation.py::test_scores_loss_and_gradient_are_those_of_the_paper"


def run_with(folder: Path, mutations: Sequence[tuple[str, str, str]], with_cells: bool, *tests: str) -> small_book.Run:
    """Run the chapter's cells and unit tests with a mutated copy of the package."""
    copy_of_package(folder)
    for path, old, new in mutations:
        small_book.replace(folder / path, old, new)
    find = "import utils\nassert utils.__file__.startswith({!r}), utils.__file__"  # not the installed package
    sure = small_book.python(folder, "-c", find.format(str(folder)))
    assert sure.returncode == 0, sure.stderr
    if with_cells:
        write_notebook(folder / "cells.ipynb", [cell(find.format(str(folder)), 1), *cells_for(*CELLS)])
    notebooks = ["cells.ipynb"] if with_cells else []
    return run_tests(folder, *notebooks, *(str(ROOT / "tests" / test) for test in tests))


@pytest.fixture(scope="module")
def unmutated(tmp_path_factory) -> small_book.Run:
    return run_with(tmp_path_factory.mktemp("unmutated") / "copy", [], True, SETS_TEST, EMBEDDINGS_TEST)


@pytest.fixture(scope="module")
def mutated(tmp_path_factory) -> small_book.Run:
    """Three mutations in places that know nothing of each other: one run shows which of them are found."""
    mutations = [UNSQUARED, LEAK, SWAPPED_SETS]
    return run_with(tmp_path_factory.mktemp("mutated") / "copy", mutations, True, SETS_TEST)


def outcome_of(run: small_book.Run, tag: str, text: str = "") -> str | None:
    """How the cell with a tag, and with that text in it, failed."""
    cells = enumerate(cells_for(*CELLS), 1)
    place = [i for i, one in cells if tag in one["metadata"].get("tags", []) and text in checks.source(one)]
    assert len(place) == 1, f"{CHAPTER.name} has {len(place)} cells tagged {tag!r} with {text!r}"
    return run.failures[f"cells::Cell {place[0]}"]


def test_without_a_mutation_all_is_green(unmutated):
    assert unmutated.red() == [], unmutated.text
    assert len(unmutated.failures) == 1 + len(cells_for(*CELLS)) + 2


def test_the_mutated_package_is_the_one_that_kernels_import(mutated):
    assert mutated.failures["cells::Cell 0"] is None, mutated.text


def test_a_distance_without_its_square_is_red(mutated):
    assert "Tensor-likes are not close" in (outcome_of(mutated, "equality", "naive_log") or ""), mutated.text


def test_test_classes_in_training_are_red(mutated):
    assert "AssertionError" in (outcome_of(mutated, "leak-check") or ""), mutated.text


def test_support_and_query_swapped_in_episodes_is_red(mutated):
    assert mutated.red(SETS_TEST.partition("::")[2]), mutated.text


def test_support_and_query_swapped_after_embedding_is_red(tmp_path):
    run = run_with(tmp_path / "copy", [SWAPPED_EMBEDDINGS], False, EMBEDDINGS_TEST)
    assert len(run.failures) == len(run.red()) == 1, run.text


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> small_book.Run:
    """Two mutations of methods by comparison, in places that know nothing of each other."""
    folder = tmp_path_factory.mktemp("compared") / "copy"
    return run_with(folder, [DOT_PRODUCT, MEAN_OF_SHOTS], True, COSINE_TEST, SUMS_TEST)


def test_a_dot_product_instead_of_the_cosine_is_red(compared):
    assert compared.red(COSINE_TEST.partition("::")[2]), compared.text
    assert "Tensor-likes are not close" in (outcome_of(compared, "equality", "naive_matching") or ""), compared.text


def test_means_instead_of_sums_of_shots_are_red(compared):
    assert compared.red(SUMS_TEST.partition("::")[2]), compared.text


def test_flipped_relation_targets_are_red(tmp_path):
    run = run_with(tmp_path / "copy", [FLIPPED_TARGETS], False, TARGETS_TEST)
    assert len(run.failures) == len(run.red()) > 1, run.text
