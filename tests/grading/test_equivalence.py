"""A student's functions against the reference: what is wrong fails, what is right passes, feedback says on what."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lab import LEVEL, MUTANTS, REFERENCE, handed_in, needs_sandbox, tiny_lab

from utils.grading import sandbox, worker
from utils.grading.equivalence import answers, check, compared, numbered
from utils.grading.labs import Case, find_labs
from utils.grading.limits import Limits
from utils.grading.sandbox import Call, Job, run
from utils.grading.wire import Record

LABS = find_labs(Path(__file__).parents[2] / "solutions")
each_lab = pytest.mark.parametrize("lab", LABS.values(), ids=LABS)


@pytest.fixture
def lab(tmp_path):
    return tiny_lab(tmp_path)


def looked_at(lab, tmp_path, text, **options):
    return check(lab, handed_in(tmp_path / "student", text), 3, level=LEVEL, **options)


def by_name(checks):
    return {each.function: each for each in checks}


# In the sandbox


@needs_sandbox
def test_the_reference_is_right(lab, tmp_path):
    found = looked_at(lab, tmp_path, lab.text_of())
    assert (found.verdict, found.level, found.seed) == ("ok", LEVEL, 3)
    assert [(c.function, c.verdict, c.passed, c.cases) for c in found.checks] == [
        ("means", "ok", 2, 2), ("nearest", "ok", 2, 2),
    ]  # fmt: skip


@needs_sandbox
def test_a_wrong_function_is_shown_where_it_fails_first(lab, tmp_path):
    found = looked_at(lab, tmp_path, lab.text_of("sums"))
    means, nearest = found.checks
    assert (found.verdict, found.reason) == ("wrong", "not as asked: means")
    assert (means.verdict, means.passed, nearest.verdict) == ("wrong", 0, "ok")
    assert means.failing.case == "2 classes"
    assert means.failing.hint == "Sums where means belong."
    assert "row k is the mean of the rows with label k" in means.failing.wanted
    x, y, n_way = lab.inputs.cases(3)[0].arguments
    typed = {"np": np}
    exec(means.failing.given.rpartition("\n")[0], typed)  # the last line is the call
    assert np.array_equal(typed["x"].astype(np.float32), x) and np.array_equal(typed["y"], y)
    assert typed["n_way"] == n_way and means.failing.given.endswith("\nmeans(x, y, n_way)")


@needs_sandbox
def test_each_function_is_judged_by_itself(lab, tmp_path):
    broken = REFERENCE + "\n\ndef means(x, y, n_way):\n    raise KeyError('\x1b[31mno\u202e')\n"
    found = looked_at(lab, tmp_path, broken)
    means, nearest = found.checks
    assert (found.verdict, means.verdict, nearest.verdict) == ("student_error", "student_error", "ok")
    assert means.reason.startswith("KeyError: ") and "\x1b" not in means.failing.got
    todo = looked_at(lab, tmp_path, REFERENCE + "\n\ndef means(*a):\n    raise NotImplementedError\n")
    assert todo.checks[0].reason == "not written yet"
    gone = looked_at(lab, tmp_path, REFERENCE + "\n\ndel means\n")
    assert gone.checks[0].verdict == "student_error" and "means" in gone.checks[0].reason


@needs_sandbox
def test_what_is_not_answered_is_not_right(lab, tmp_path):
    ends = "\n\ndef nearest(x, centres):\n    import os\n    os._exit(0)\n"
    found = looked_at(lab, tmp_path, REFERENCE + ends)
    means, nearest = found.checks
    assert (means.verdict, nearest.verdict, nearest.passed) == ("ok", "student_error", 0)
    hangs = "\n\ndef nearest(x, centres):\n    while True:\n        pass\n"
    found = looked_at(lab, tmp_path, REFERENCE + hangs, limits=Limits(wall=3.0, cpu=2))
    assert (found.verdict, found.checks[0].verdict, found.checks[1].verdict) == ("timeout", "ok", "timeout")


@needs_sandbox
def test_a_function_that_never_ends_leaves_those_behind_it_alone(lab, tmp_path):
    hangs = "\n\ndef means(x, y, n_way):\n    while True:\n        pass\n"
    found = looked_at(lab, tmp_path, REFERENCE + hangs, limits=Limits(wall=3.0, cpu=2))
    assert (found.verdict, [each.verdict for each in found.checks]) == ("timeout", ["timeout", "ok"])


@needs_sandbox
def test_a_file_that_never_ends_is_tried_twice(lab, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr("utils.grading.equivalence.run", lambda *given: jobs.append(given) or sandbox.run(*given))
    found = looked_at(lab, tmp_path, "while True:\n    pass\n", limits=Limits(wall=3.0, cpu=2))
    assert [each.verdict for each in found.checks] == ["timeout", "timeout"] and len(jobs) == 2


def test_a_machine_that_fails_is_nobodys_mistake(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "_python", lambda: ["/bin/false"])
    found = looked_at(lab, tmp_path, lab.text_of())
    assert {found.verdict, *(each.verdict for each in found.checks)} == {"infra_error"}
    assert all(each.failing is None and each.cases == 2 for each in found.checks)


@needs_sandbox
def test_comparing_happens_where_the_student_is_not(lab, tmp_path):
    """T03: whatever is patched inside, the arrays are compared outside."""
    patched = lab.text_of("sums") + (
        "\n\nimport builtins, numpy\nfor name in ('allclose', 'isclose', 'array_equal'):\n"
        "    setattr(numpy, name, lambda *a, **k: True)\nbuiltins.all = builtins.any = lambda *a: True\n"
    )
    found = looked_at(lab, tmp_path, patched)
    assert [each.verdict for each in found.checks] == ["wrong", "ok"]


def asks_for_gradients(lab):
    return any(case.cotangent is not None for case in lab.inputs.cases(1))


def wrong_gradients_alone(checks):
    wrong = [each for each in checks if each.verdict != "ok"]
    return bool(wrong) and all(each.failing.got.startswith("the gradient with respect to ") for each in wrong)


@needs_sandbox
@pytest.mark.parametrize("lab", [pytest.param(lab, id=name) for name, lab in LABS.items() if asks_for_gradients(lab)])
def test_gradients_are_asked_for_in_the_sandbox(lab, tmp_path):
    """A ``detach`` changes no value, and it is seen all the same."""
    cases = lab.inputs.cases(1)
    names = (
        name
        for name in lab.mutants
        if wrong_gradients_alone(compared(lab, cases, answers(lab.variant(name), cases, lab.tensors), hints=False))
    )
    name = next(names)
    found = check(lab, handed_in(tmp_path, lab.text_of(name)), 1, level=LEVEL)
    assert found.verdict == "wrong" and wrong_gradients_alone(found.checks)
    hints = [each.failing.hint for each in found.checks if each.failing]
    assert lab.misconception(name) in hints


# Inputs


def flat(value):
    """Every array in an argument, also in tuples of them."""
    if isinstance(value, tuple):
        return [array for part in value for array in flat(part)]
    return [value] if isinstance(value, np.ndarray) else []


@each_lab
def test_inputs_are_new_with_every_seed_and_the_same_with_the_same(lab):
    """Every case has fresh numbers, whatever else in it is as it was: an anchor of zeros, an empty memory."""

    def numbers(seed):
        return [flat(case.arguments) for case in lab.inputs.cases(seed)]

    def same(a, b):
        return len(a) == len(b) and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    first, again, other = numbers(1), numbers(1), numbers(2)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))


def as_typed(given, argument):
    if isinstance(argument, tuple):
        return len(given) == len(argument) and all(map(as_typed, given, argument))
    given = given.numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    argument = np.asarray(argument)
    return given.shape == argument.shape and given.dtype == argument.dtype and np.array_equal(given, argument)


@each_lab
def test_the_smallest_input_can_be_typed_in(lab):
    """What is shown of every function's first case gives the very numbers back."""
    seen = set()
    for case in lab.inputs.cases(5):
        if case.function in seen:
            continue
        seen.add(case.function)
        broken = [Record(name, "student_error", "no", ()) for name in numbered(lab.inputs.cases(5))]
        (found,) = (c for c in compared(lab, lab.inputs.cases(5), broken) if c.function == case.function)
        typed = {"torch": torch, "np": np}
        exec(found.failing.given.rpartition("\n")[0], typed)
        names = found.failing.given.rpartition("(")[2].rstrip(")").split(", ")
        for name, argument in zip(names, case.arguments, strict=True):
            assert as_typed(typed[name], argument), (case.function, name)
    assert seen == {function.name for function in lab.functions}


def test_large_inputs_are_described(lab):
    cases = (Case("far", "means", (1000 + np.random.default_rng(0).normal(0, 30, (60, 3)), np.arange(60) % 4, 4)),)
    cases += tuple(case for case in lab.inputs.cases(0) if case.function == "nearest")
    found = compared(lab, cases, [Record(name, "student_error", "", ()) for name in numbered(cases)])
    lines = by_name(found)["means"].failing.given.splitlines()
    assert re.fullmatch(r"x = \d+ \+ \d+ \* np\.random\.randn\(60, 3\)", lines[0])
    assert lines[1:] == ["y = np.random.randint(4, size=(60,))", "n_way = 4", "means(x, y, n_way)"]


# Nothing for nothing


GUESSES = {
    "zeros": lambda shape, arguments: np.zeros(shape),
    "ones": lambda shape, arguments: np.ones(shape),
    "counting": lambda shape, arguments: np.arange(int(np.prod(shape))).reshape(shape),
    "alternating": lambda shape, arguments: np.arange(int(np.prod(shape))).reshape(shape) % 2,
    "not a number": lambda shape, arguments: np.full(shape, np.nan),
    "the first argument": lambda shape, arguments: arguments[0],
    "its first rows": lambda shape, arguments: np.resize(arguments[0], shape),
    "the labels": lambda shape, arguments: next((a for a in arguments if a.dtype == np.int64), 0),
    "random": lambda shape, arguments: np.random.default_rng(0).normal(0, 1, shape),
    "uniform": lambda shape, arguments: np.full(shape, -np.log(shape[-1]) if shape else np.log(2)),
    "the mean of all": lambda shape, arguments: np.resize(np.mean(arguments[0], 0), shape),
}


@each_lab
@pytest.mark.parametrize("guess", GUESSES)
def test_an_answer_without_thought_earns_nothing(lab, guess):
    """T34: constants, the input itself and guesses get no function right; a gradient they guess as they like."""

    def guessed_by(case, right):
        """Every result of a call, or the one whose gradient is asked for: that is given to them."""
        results = right.arrays if case.cotangent is None else right.arrays[:1]
        made = [np.asarray(GUESSES[guess](array.shape, flat(case.arguments))) for array in results]
        return Record(right.name, "ok", "", (*made, *right.arrays[len(made) :]))

    for seed in range(3):
        cases = lab.inputs.cases(seed)
        right = answers(lab.reference, cases, lab.tensors)
        guessed = [guessed_by(case, r) for case, r in zip(cases, right, strict=True)]
        for each in compared(lab, cases, guessed, hints=False):
            assert each.verdict == "wrong", (seed, each)
            assert each.passed <= each.cases / 4, (seed, each)


# How answers are compared


def one(lab, *arrays, status="ok"):
    """The check of ``means`` on its first case, when these arrays are its answer."""
    cases = lab.inputs.cases(0)
    records = answers(lab.reference, cases, lab.tensors)
    records[0] = Record(records[0].name, status, "a text", tuple(arrays))
    return by_name(compared(lab, cases, records))["means"]


def test_differences_are_named(lab):
    (right,) = answers(lab.reference, lab.inputs.cases(0), False)[0].arrays
    assert one(lab, right * (1 + 1e-6)).verdict == "ok"
    assert one(lab, right.astype(np.float64)).verdict == "ok"
    off = right.copy()
    off[1, 0] += 1e-3 * abs(right).max()
    found = one(lab, off).failing
    assert found.got.endswith(f"{off[1, 0]:.6g} at [1, 0]") and found.wanted.startswith(f"{right[1, 0]:.6g} at [1, 0]")
    assert one(lab, right.T[:1]).failing.got == "shape [1, 2]"
    assert one(lab, right.ravel()).failing.got == "shape [4]"
    assert one(lab, right[:1]).failing.wanted.startswith("shape [2, 2]")
    assert one(lab, right * np.nan).failing.wanted.startswith("finite numbers")
    assert one(lab, np.where(right > right.min(), right, np.inf)).verdict == "wrong"
    assert one(lab, right * 1j).failing.got == "complex numbers"
    assert one(lab, 0 * right).failing.got == "0 everywhere"
    assert one(lab).failing.got == "0 arrays" and one(lab, right, right).failing.got == "2 arrays"
    assert one(lab, status="memory").verdict == "memory"


def test_all_of_several_results_are_compared(tmp_path):
    """A function that returns two arrays, of which the second is wrong."""
    pair = REFERENCE.replace("for k in range(n_way)])\n", "for k in range(n_way)]), x.sum(0)\n")
    assert pair != REFERENCE
    lab = tiny_lab(tmp_path, reference=pair)
    cases = lab.inputs.cases(0)
    records = answers(lab.reference, cases, False)
    assert by_name(compared(lab, cases, records))["means"].verdict == "ok"
    first, second = records[0].arrays
    records[0] = Record(records[0].name, "ok", "", (first, second + 1))
    assert by_name(compared(lab, cases, records))["means"].failing.got.startswith("result 2: [")
    records[0] = Record(records[0].name, "ok", "", (first,))
    failing = by_name(compared(lab, cases, records))["means"].failing
    assert failing.got == "1 arrays" and failing.wanted.startswith("2 of them")


def test_at_most_one_number_of_the_reference_is_told(lab):
    for name in MUTANTS:
        cases = lab.inputs.cases(4)
        for each in compared(lab, cases, answers(lab.variant(name), cases, False)):
            if each.failing:
                head = each.failing.wanted.partition(";")[0].partition(" at ")[0]
                assert len(head.split()) == 1
                assert each.failing.wanted.count(".") <= 1


def test_double_precision_is_held_to_more(lab):
    x = np.array([[1.0, 2.0], [3.0, 5.0]]) / 3
    cases = (Case("double", "means", (x, np.array([0, 1]), 2)), *lab.inputs.cases(0)[2:])
    right = answers(lab.reference, cases, False)
    rounded = [Record(right[0].name, "ok", "", (x * (1 + 1e-6),)), *right[1:]]
    assert by_name(compared(lab, cases, right))["means"].verdict == "ok"
    assert by_name(compared(lab, cases, rounded))["means"].verdict == "wrong"
    single = [Case("single", "means", (x.astype(np.float32), np.array([0, 1]), 2)), *cases[1:]]
    assert by_name(compared(lab, single, rounded))["means"].verdict == "ok"


def test_a_hint_is_given_for_the_same_answers_only(lab):
    cases = lab.inputs.cases(0)
    sums = answers(lab.variant("sums"), cases, False)
    assert by_name(compared(lab, cases, sums))["means"].failing.hint == "Sums where means belong."
    assert by_name(compared(lab, cases, sums, hints=False))["means"].failing.hint == ""
    sums[1] = Record(sums[1].name, "ok", "", (sums[1].arrays[0] + 1,))
    assert by_name(compared(lab, cases, sums))["means"].failing.hint == ""
    failed = [Record(record.name, "student_error", "", ()) for record in sums]
    assert by_name(compared(lab, cases, failed))["means"].failing.hint == ""


def test_a_lab_that_cannot_be_compared_says_so(lab):
    cases = lab.inputs.cases(0)
    with pytest.raises(ValueError, match="no case for nearest"):
        compared(lab, cases[:2], answers(lab.reference, cases[:2], False))
    broken = (Case("broken", "means", (1, 2, 3)), *cases)
    with pytest.raises(ValueError, match="the reference of lab 00_means fails with broken"):
        compared(lab, broken, answers(lab.reference, broken, False))


# Calls with gradients and tuples


def test_gradients_follow_the_result():
    x, cotangent = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    result, gradient, other = worker.called(lambda x, n, y: x**2, [x, 4, x], True, cotangent)
    assert result.tolist() == [1, 4] and gradient.tolist() == [6, 20] and other.tolist() == [0, 0]
    _, stopped = worker.called(lambda x: x.detach() * 1, [x], True, cotangent)
    assert stopped.tolist() == [0, 0]
    (wrong_shape,) = (worker.called(lambda x: x.sum(), [x], True, cotangent),)
    assert wrong_shape.shape == ()
    with pytest.raises(TypeError, match="returns one tensor; this is list"):
        worker.called(lambda x: [x], [x], True, cotangent)


def test_a_function_that_changes_its_input_is_no_worse_for_it():
    def in_place(x):
        x *= 2
        return x

    x = np.array([1.0, 2.0])
    result, gradient = worker.called(in_place, [x], True, np.ones(2))
    assert result.tolist() == [2, 4] and gradient.tolist() == [2, 2] and x.tolist() == [1, 2]
    assert worker.called(lambda pair: in_place(pair[0]), [(x, 1)], False).tolist() == [2, 4] and x.tolist() == [1, 2]


@needs_sandbox
def test_tuples_of_arrays_go_into_the_sandbox(tmp_path):
    folder = handed_in(tmp_path, "def f(tasks, n):\n    return [x * m + n for x, (m, _) in tasks]\n")
    tasks = tuple((np.full(2, i), (10, None)) for i in range(3))
    outcome = run(Job(folder, "lab.py", (Call("f", "f", (tasks, 1)),)), Limits(), LEVEL)
    assert [array.tolist() for array in outcome.records["f"].arrays] == [[1, 1], [11, 11], [21, 21]]


def test_gradients_need_tensors(tmp_path):
    with pytest.raises(ValueError, match="set tensors=True"):
        Job(tmp_path, "lab.py", (Call("f", "f", (np.ones(2),), np.ones(2)),))
