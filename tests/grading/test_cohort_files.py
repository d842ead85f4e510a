"""The made class is what it says: sixty students of nine kinds, each with what was planned for them and no more."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from grading import honest
from grading.cohort import DUE, INFLATED, KINDS, LMS, MOST, Cohort, Planned, claims, make
from grading.written import FORMATS

from utils.grading import similarity
from utils.grading.contents import code_files, notebook_code, report_files
from utils.grading.documents import parsed, read_document
from utils.grading.experiment import claims_of, judge_claims
from utils.grading.exports import Mark, fill_lms
from utils.grading.intake import collect, read_roster
from utils.grading.labs import read_lab, starter
from utils.grading.report import Report, examine
from utils.grading.results import Experiment, Setting

ROOT = Path(__file__).parents[2]
LAB = read_lab(ROOT / "solutions" / "03_prototypical")
FULL = {"5-way 1-shot": 94.1, "5-way 5-shot": 98.8, "20-way 1-shot": 81.8}
POINTS = sum(item.points for item in LAB.rubric)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make(LAB, tmp_path_factory.mktemp("class"), FULL)


@pytest.fixture(scope="module")
def collected(made: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    target = tmp_path_factory.mktemp("submitted")
    roster = read_roster(made.roster)
    return collect(made.download, target, roster, LAB.name, "moodle", DUE), target


def by_student(manifest: dict) -> dict[str, dict]:
    return {record["students"][0]: record for record in manifest["submissions"]}


@pytest.fixture(scope="module")
def codes(collected: tuple[dict, Path]) -> dict[str, str]:
    """The code of everybody whose files were taken in."""
    manifest, target = collected
    found = {}
    for student, record in by_student(manifest).items():
        names = code_files([file["name"] for file in record["files"]])
        # the module where there is one, else what the notebook defines
        for name in sorted(names, key=lambda name: not name.endswith(".py"))[:1]:
            path = target / record["uuid"] / "files" / name
            found[student] = path.read_text() if name.endswith(".py") else notebook_code(path)
    return found


@pytest.fixture(scope="module")
def reports(collected: tuple[dict, Path]) -> dict[str, Report]:
    """The reports, read in this process because they are our own."""
    manifest, target = collected
    found = {}
    for student, record in by_student(manifest).items():
        names = [file["name"] for file in record["files"]]
        if chosen := report_files(names):
            path = target / record["uuid"] / "files" / chosen[0]
            document = read_document(path, lambda file: ("ok", json.dumps(parsed(file))))
            found[student] = examine(document, "lab", [], names)
    return found


def of_kind(made: Cohort, *kinds: str) -> list[Planned]:
    return [planned for planned in made.planned if planned.kind in kinds]


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = (f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------- the class


def test_there_are_sixty_of_the_kinds_that_were_promised_in_no_order(made):
    assert Counter(planned.kind for planned in made.planned) == KINDS and sum(KINDS.values()) == 60
    ids = [planned.id for planned in made.planned]
    assert ids == sorted(set(ids))
    runs = [kind for kind, _ in itertools.groupby(planned.kind for planned in made.planned)]
    assert len(runs) > 25, "kinds would be told apart by their ids"
    assert {s.id for s in read_roster(made.roster)} == set(ids)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(made, tmp_path):
    make(LAB, tmp_path / "again", FULL)
    make(LAB, tmp_path / "other", FULL, seed=2)
    assert digest(made.roster.parent) == digest(tmp_path / "again") != digest(tmp_path / "other")


@pytest.mark.parametrize("lms", LMS)
def test_every_download_is_collected_with_the_planned_rejects_late_and_missing(lms, tmp_path, made):
    made = make(LAB, tmp_path / "class", FULL, lms)
    roster = read_roster(made.roster)
    manifest = collect(made.download, tmp_path / "submitted", roster, LAB.name, lms, DUE)
    assert manifest["unassigned"] == []
    assert manifest["missing"] == [planned.id for planned in of_kind(made, "missing")]
    found = by_student(manifest)
    for planned in made.planned:
        if planned.kind == "missing":
            continue
        record = found[planned.id]
        rejected = planned.verdict == "rejected_input"
        assert record["verdict"] == ("rejected_input" if rejected else "ok"), (planned, record["rejects"])
        assert bool(record["late"]) == (planned.kind == "late")
        names = [file["name"] for file in record["files"]]
        assert rejected or code_files(names), planned
        assert bool([r for r in record["rejects"] if r["hostile"]]) == rejected


def test_the_lms_takes_its_own_export_back_with_a_mark_for_everybody(tmp_path):
    for lms, column in (("moodle", None), ("canvas", "Lab 3")):
        made = make(LAB, tmp_path / lms, FULL, lms)
        roster = read_roster(made.export, "UTC")
        assert {s.id for s in roster} == {planned.id for planned in made.planned}
        marks = [Mark(s.id, "ok", POINTS, 50.0, lms_id=s.lms_id) for s in roster]
        filled = fill_lms(made.export.read_bytes(), marks, lms, column)
        assert len(filled.changes) == 60 and not filled.without
        if lms == "moodle":
            times = {s.id: s.received for s in read_roster(made.roster)}
            assert {s.id: s.received for s in roster} == times
    with pytest.raises(ValueError, match="moodle, canvas, plain"):
        make(LAB, tmp_path / "x", FULL, "ilias")
    with pytest.raises(ValueError, match="has the settings"):
        make(LAB, tmp_path / "x", {"5-way 1-shot": 90.0})


# ------------------------------------------------------------------------------------------------------------ the code


def answers(text: str, cases) -> list[list[torch.Tensor]]:
    """What functions of ours give, with the gradients that are asked for."""
    module: dict = {}
    exec(compile(text, "lab.py", "exec"), module)
    found = []
    for case in cases:
        arguments = [torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for a in case.arguments]
        floating = [a for a in arguments if torch.is_tensor(a) and a.is_floating_point()]
        for argument in floating if case.cotangent is not None else ():
            argument.requires_grad_()
        result = module[case.function](*arguments)
        parts = [result.detach()]
        if case.cotangent is not None:
            given = torch.from_numpy(np.asarray(case.cotangent))
            # what no gradient reaches has the gradient 0
            result = result + sum(0 * argument.sum() for argument in floating)
            parts += torch.autograd.grad(result, floating, given)
        found.append(parts)
    return found


def agree(case, got: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    double = any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in case.arguments)
    allowed = LAB.function(case.function).tolerance * (1e-3 if double else 1)
    pairs = list(zip(got, wanted, strict=True))
    return all(a.shape == b.shape and (a - b).abs().max() <= allowed * b.abs().max() for a, b in pairs)


@pytest.fixture(scope="module")
def cases() -> tuple:
    return LAB.inputs.cases(5)


@pytest.fixture(scope="module")
def wanted(cases) -> list[list[torch.Tensor]]:
    return answers(LAB.text_of(), cases)


def test_every_honest_solution_gives_what_the_reference_gives(cases, wanted, codes, made):
    right = of_kind(made, "honest", "late", "plagiarised", "over-claiming", "under-claiming")
    assert len(right) == 39
    for planned in [*right, *(p for p in made.planned if p.what == "a PDF without text")]:
        for case, got, ours in zip(cases, answers(codes[planned.id], cases), wanted, strict=True):
            assert agree(case, got, ours), (planned, case.function, case.name)


def test_every_buggy_one_answers_wrongly_as_its_mistake_does_and_runs(cases, wanted, codes, made):
    buggy = of_kind(made, "buggy")
    assert {planned.what for planned in buggy} == set(honest.MISTAKES.values()) <= set(LAB.mutants)
    for planned in buggy:
        mutant = LAB.mutants[planned.what].read_text()
        changed = {node.name for node in ast.parse(mutant).body if isinstance(node, ast.FunctionDef)}
        found = answers(codes[planned.id], cases)
        wrong = {
            case.function for case, got, ours in zip(cases, found, wanted, strict=True) if not agree(case, got, ours)
        }
        assert changed & wrong, planned


def test_any_two_honest_students_share_one_part(made):
    everybody = [honest.ways(n) for n in range(49)]
    for a, b in itertools.combinations(everybody, 2):
        assert sum(x == y for x, y in zip(a, b, strict=True)) == 1
    for part, texts in zip(honest.PARTS, zip(*everybody, strict=True), strict=True):
        assert len(part) == len(set(part)) == len(set(texts)) == honest.WAYS
    with pytest.raises(ValueError, match="49 honest"):
        honest.ways(49)


def test_what_they_reach_was_recorded_with_the_budget_as_it_is():
    record = json.loads(honest.RECORD.read_text())
    assert record["numbers"] == dict(LAB.experiment.budgets["smoke"].numbers), (
        "record it anew: python -m grading.honest"
    )
    assert set(record["reached"]) == {"reference", *map(str, range(49))}
    for target in LAB.experiment.settings:
        assert all(settings[target.name] > target.floor for settings in record["reached"].values())


def test_copies_are_alike_and_nobody_else_is(made, codes):
    planned = {p.id: p for p in made.planned}
    given = LAB.text_of()
    base = [similarity.read_code("r", {"r": given}), similarity.read_code("s", {"s": starter(given)})]
    kinds = {"hostile", "broken"}
    compared = [similarity.read_code(n, {"lab.py": t}, base) for n, t in codes.items() if planned[n].kind not in kinds]
    copies = {frozenset((p.id, p.source)) for p in made.planned if p.source}
    by_code = {frozenset((p.id, p.source)) for p in made.planned if p.source and p.what != "prose copied"}
    assert len(copies) == 4 and len(by_code) == 3
    for pair in similarity.cohort(compared):
        both = frozenset((pair.a, pair.b))
        assert (pair.score >= 0.9) if both in by_code else (pair.score < 0.5), pair
    hostile = {p.id for p in made.planned if p.kind == "hostile" and p.what != "zip-slip"}  # they have one source
    flagged = {p.id for p in made.planned if "similar" in p.flags}
    assert flagged == set().union(*copies) | hostile


# --------------------------------------------------------------------------------------------------------- the reports


def test_every_report_that_is_meant_to_be_whole_is_whole(made, reports):
    for planned in made.planned:
        if planned.id not in reports or planned.kind == "broken":
            continue
        report = reports[planned.id]
        assert report.readable and report.verdict == "ok"
        assert {section.name: section.state for section in report.sections if section.state != "present"} == {}, planned
        assert report.worse.reported and report.figures and report.tables and not report.source.absent, planned
        assert not report.hidden
    formats = Counter(report.format for report in reports.values())
    assert set(formats) == set(FORMATS) and min(formats.values()) >= 6
    headings = {s.heading for report in reports.values() for s in report.sections if s.name == "method"}
    assert {"Method", "3. Method", "III. Proposed method", "3 Methode", "三、方法", "How it works"} <= headings
    (unread,) = (planned for planned in made.planned if "unreadable" in planned.flags)
    assert not reports[unread.id].readable


def test_claims_are_what_the_code_reaches_but_for_those_who_claim_otherwise(made, reports):
    stated_of_honest = []
    for planned in made.planned:
        if planned.id not in reports or planned.kind in ("hostile", "broken"):
            continue
        stated = {claim.setting: claim.value for claim in claims_of(LAB, reports[planned.id])}
        own = claims(FULL, str(planned.solution))
        more = {"over-claiming": 1, "under-claiming": -1}.get(planned.kind, 0) * float(
            (planned.what or "0").split()[0] if planned.kind.endswith("claiming") else 0
        )
        for name, value in own.items():
            assert abs(stated[name] - min(MOST, value + more)) < 0.8, planned
        if planned.kind == "honest":
            stated_of_honest.append(stated["20-way 1-shot"])
    # the reference's, as the parameter gave it, is in the middle of the honest
    assert abs(np.median(stated_of_honest) - FULL["20-way 1-shot"]) < 4
    assert {p.what for p in of_kind(made, "over-claiming")} == {f"{more:g} points too much" for more in INFLATED}


def test_the_grader_would_judge_the_claims_as_planned(made, reports):
    """With a rerun that reaches what was recorded; how far one rerun lies from another is for the end-to-end test."""
    sd = {"5-way 1-shot": 9.0, "5-way 5-shot": 4.0, "20-way 1-shot": 7.0}
    recorded = honest.reached()
    for planned in made.planned:
        if planned.solution is None:
            continue
        reached = recorded[str(planned.solution)]
        again = tuple(Setting(name, "ok", "", value, sd[name], 60, 2) for name, value in reached.items())
        judged = judge_claims(LAB, reports[planned.id], Experiment("ok", "", 3, 0, "smoke", again))
        outcomes = {judgement.outcome for judgement in judged}
        assert ("not reproduced" in outcomes) == ("not reproduced" in planned.flags), (planned, judged)
        assert ("under-claimed" in outcomes) == ("under-claimed" in planned.flags), (planned, judged)


def test_no_two_report_the_same_numbers(made, reports):
    stated = {name: {f"{claim.value:.2f}" for claim in report.claims} for name, report in reports.items()}
    assert len(stated) >= 54
    for a, b in itertools.combinations(stated, 2):
        assert len(similarity.same_results(stated[a], stated[b])) < 3, (a, b)


def test_prose_is_copied_by_one_and_by_nobody_else(made, collected):
    manifest, target = collected
    planned = {p.id: p for p in made.planned}
    prose = {}
    for student, record in by_student(manifest).items():
        names = report_files([file["name"] for file in record["files"]])
        if names and planned[student].kind != "broken":
            blocks = parsed(target / record["uuid"] / "files" / names[0])["blocks"]
            text = "\n".join(block["text"] for block in blocks if block["kind"] in ("text", "line"))
            prose[student] = similarity.read_prose(text)
    (copier,) = (p for p in made.planned if p.what == "prose copied")
    first, second, *_ = similarity.prose_cohort(prose)
    assert {first.a, first.b} == {copier.id, copier.source} and first.score > 0.6
    assert second.score < 0.5, "threshold of the step that looks for copies"


# -------------------------------------------------------------------------------------------------------- the hostile


def test_hostile_code_is_python_and_is_never_run_here(made, codes):
    hostile = of_kind(made, "hostile")
    assert {planned.verdict for planned in hostile} == {"wrong", "process_limit", "student_error", "rejected_input"}
    marks = {
        "fork bomb": "os.fork()",
        "leaves with os._exit": "os._exit(0)",
        "patches numpy and torch": "torch.allclose",
    }
    marks |= {"writes results.json and prints a score": "results.json", "looks for labels and the network": "socket"}
    for planned in hostile:
        if planned.what == "zip-slip":
            continue
        ast.parse(codes[planned.id])
        assert marks[planned.what] in codes[planned.id]


def test_names_of_the_class_need_quoting(made):
    rows = list(csv.DictReader(io.StringIO(made.roster.read_text())))
    assert any("'" in row["name"] for row in rows) and any(not row["name"].isascii() for row in rows)


def test_a_plan_has_only_flags_that_the_grader_knows():
    with pytest.raises(ValueError, match="sleepy"):
        Planned("s1", "honest", "ok", ("sleepy",))
