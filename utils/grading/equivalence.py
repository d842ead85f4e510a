"""Are a student's functions the reference's? Compared on fresh random inputs, gradients too, from the smallest on.

The student's functions run in the sandbox, the reference and the mutants here: they are the teacher's own. All go
through the same code from arguments to plain arrays (``worker.called``, ``worker.plain``).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from utils.grading import worker
from utils.grading.labs import Case, Function, Lab
from utils.grading.limits import Limits
from utils.grading.results import Equivalence, Failing, FunctionCheck
from utils.grading.sandbox import Call, Job, Outcome, clean, run
from utils.grading.wire import Caps, Record

_DOUBLE = 1e-3  # of the tolerance, where an argument is in double precision
_TINY = 1e-3  # answers below are compared as if they were as large: what rounding leaves of them says nothing
_MOST_TYPED, _MOST_SHOWN = 48, 8  # numbers that a student is asked to type in, or shown


def check(
    lab: Lab,
    submission: Path,
    seed: int,
    limits: Limits | None = None,
    level: int = 3,
    allow_weak: bool = False,
) -> Equivalence:
    """The functions of one submission against the reference, on the inputs of ``seed``.

    Each function is judged by its own answers, whatever became of the others. Raises as ``sandbox.run`` does.
    """
    cases = lab.inputs.cases(seed)
    return judged(lab, cases, seed, _asked(lab, submission, cases, (limits or Limits(), level, allow_weak)))


def _asked(lab: Lab, submission: Path, cases: Sequence[Case], how: tuple[Limits, int, bool]) -> Outcome:
    """The answers to all cases.

    A function that ends the process or never ends silences those behind it: they are asked again without it, until
    nothing is answered any more, as with a file that cannot even be imported.
    """
    left = calls(cases)
    first = last = run(Job(submission, lab.module, left, lab.tensors), *how)
    records = dict(first.records)
    while last.verdict not in ("ok", "infra_error", "tamper_suspected") and (last.records or last is first):
        silent = [call for call in left if call.name not in last.records]
        guilty = silent[0].function if silent else ""
        left = tuple(call for call in silent if call.function != guilty)
        if not left:
            break
        for call in silent:
            records[call.name] = Record(call.name, last.verdict, last.reason, ())
        last = run(Job(submission, lab.module, left, lab.tensors), *how)
        records |= last.records
    return replace(first, records=records)


def calls(cases: Sequence[Case]) -> tuple[Call, ...]:
    """What a sandbox is asked for these cases."""
    return tuple(Call(name, c.function, c.arguments, c.cotangent) for name, c in numbered(cases).items())


def judged(lab: Lab, cases: Sequence[Case], seed: int, outcome: Outcome) -> Equivalence:
    """The functions of a submission by its answers to these cases, which are those of ``seed``."""
    if outcome.verdict == "infra_error":
        asked = [case.function for case in cases]
        checks = tuple(
            FunctionCheck(f.name, outcome.verdict, 0, asked.count(f.name), outcome.reason) for f in lab.functions
        )
    else:
        records = [outcome.records.get(name) or _unanswered(name, outcome) for name in numbered(cases)]
        checks = compared(lab, cases, records)
    verdict, reason = outcome.verdict, outcome.reason
    wrong = [each.function for each in checks if each.verdict != "ok"]
    if verdict == "ok" and wrong:
        verdict, reason = "wrong", f"not as asked: {', '.join(wrong)}"
    return Equivalence(verdict, reason, outcome.level, seed, checks, outcome.stdout, outcome.stderr)


def numbered(cases: Sequence[Case]) -> dict[str, Case]:
    """Names for the records of calls, which say nothing about what is special in a case."""
    return {f"{case.function}/{number}": case for number, case in enumerate(cases)}


def answers(module: ModuleType, cases: Sequence[Case], tensors: bool) -> list[Record]:
    """What functions of the teacher's own answer, in this process."""
    records = []
    for name, case in numbered(cases).items():
        try:
            function = getattr(module, case.function)
            result = worker.called(function, list(case.arguments), tensors, case.cotangent)
            records.append(Record(name, "ok", "", tuple(worker.plain(result, Caps().record))))
        except Exception as error:
            records.append(Record(name, worker.kind_of(error), worker.described(error), ()))
    return records


def compared(
    lab: Lab, cases: Sequence[Case], records: Sequence[Record], hints: bool = True
) -> tuple[FunctionCheck, ...]:
    """Every function of the lab, judged by its answers to these cases.

    A record's status may also be a verdict, for a call that was not answered. ``hints`` looks for the mutant with the
    same answers. Raises ``ValueError`` where a function is asked in no case, or the reference fails.
    """
    right = answers(lab.reference, cases, lab.tensors)
    checks = []
    for function in lab.functions:
        own = [i for i, case in enumerate(cases) if case.function == function.name]
        if not own:
            raise ValueError(f"inputs.py of lab {lab.name} has no case for {function.name}")
        wrongs = {i: wrong for i in own if (wrong := _wrong(lab, function, cases[i], records[i], right[i]))}
        if not wrongs:
            checks.append(FunctionCheck(function.name, "ok", len(own), len(own), f"right in all {len(own)} cases"))
            continue
        first = min(wrongs)
        hint = _misconception(lab, function, [(cases[i], records[i]) for i in own]) if hints else ""
        failing = Failing(cases[first].name, _typed(lab, cases[first]), wrongs[first].got, wrongs[first].wanted, hint)
        passed = len(own) - len(wrongs)
        reason = wrongs[first].reason or f"right in {passed} of {len(own)} cases; not with {cases[first].name}"
        checks.append(FunctionCheck(function.name, wrongs[first].verdict, passed, len(own), reason, failing))
    return tuple(checks)


def _unanswered(name: str, outcome: Outcome) -> Record:
    return Record(name, outcome.verdict, outcome.reason, ())


# One answer


@dataclass(frozen=True)
class _Wrong:
    verdict: str
    got: str
    wanted: str
    reason: str = ""


def _wrong(lab: Lab, function: Function, case: Case, record: Record, right: Record) -> _Wrong | None:
    """What is wrong with an answer, or None."""
    if right.status != "ok":
        raise ValueError(f"the reference of lab {lab.name} fails with {case.name}: {right.text}")
    if record.status != "ok":
        text = clean(record.text)
        if text.startswith("NotImplementedError"):
            return _Wrong(record.status, text, function.wanted, "not written yet")
        return _Wrong(record.status, text, function.wanted, text)
    for what, got, wanted in zip(_parts(lab, case, len(right.arrays)), record.arrays, right.arrays, strict=False):
        if difference := _difference(got, wanted, _allowed(function, case)):
            subject = f"{what}: " if what else ""
            return _Wrong("wrong", subject + difference[0], f"{subject}{difference[1]}; {function.wanted}")
    if len(record.arrays) != len(right.arrays):
        wanted = 1 if case.cotangent is not None else len(right.arrays)
        return _Wrong("wrong", f"{len(record.arrays)} arrays", f"{wanted} of them; {function.wanted}")
    return None


def _allowed(function: Function, case: Case) -> float:
    double = any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in case.arguments)
    return function.tolerance * (_DOUBLE if double else 1)


def _difference(got: np.ndarray, wanted: np.ndarray, allowed: float) -> tuple[str, str] | None:
    """What came and what was wanted, in words, or None where they are the same. At most one number is the wanted's."""
    if got.dtype.kind == "c":
        return "complex numbers", "real numbers"
    if got.shape != wanted.shape:
        return f"shape {list(got.shape)}", f"shape {list(wanted.shape)}"
    off = ~_close(got, wanted, allowed)
    if not off.any():
        return None
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    broken = ~np.isfinite(got)
    if broken.any():
        return f"{_number(got[broken][0])}{_place(broken)}", "finite numbers"
    if not got.any() and got.size > 1:
        return "0 everywhere", f"{_number(wanted[off][0])}{_place(off)}"
    shown = f"{got.round(4).tolist()}, " if 1 < got.size <= _MOST_SHOWN else ""
    return f"{shown}{_number(got[off][0])}{_place(off)}", f"{_number(wanted[off][0])}{_place(off)}"


def _close(a: np.ndarray, b: np.ndarray, allowed: float) -> np.ndarray:
    """Entry by entry, whether two arrays of a shape agree, as measured by the largest entry of the second."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.abs(b[np.isfinite(b)])
    return np.isclose(a, b, rtol=0, atol=allowed * max(finite.max(initial=0), _TINY), equal_nan=True)


def _place(where: np.ndarray) -> str:
    return f" at {np.argwhere(where)[0].tolist()}" if where.ndim else ""


def _number(value: float) -> str:
    return f"{value:.6g}"


# For the student


def _parameters(lab: Lab, case: Case) -> list[str]:
    return list(inspect.signature(getattr(lab.reference, case.function)).parameters)


def _parts(lab: Lab, case: Case, count: int) -> list[str]:
    """What each of the arrays of an answer is; "" for a result that is alone."""
    if case.cotangent is None:
        return [""] if count == 1 else [f"result {number}" for number in range(1, count + 1)]
    pairs = zip(_parameters(lab, case), case.arguments, strict=True)
    floating = [name for name, value in pairs if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
    return ["", *(f"the gradient with respect to {name}" for name in floating)]


def _typed(lab: Lab, case: Case) -> str:
    """The call in lines that can be typed in: small arguments number by number, large ones as others of their kind."""
    names = _parameters(lab, case)
    lines = [f"{name} = {_shown(value, lab.tensors)}" for name, value in zip(names, case.arguments, strict=True)]
    return "\n".join([*lines, f"{case.function}({', '.join(names)})"])


def _shown(value: object, tensors: bool) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_shown(part, tensors) for part in value)}{',' * (len(value) == 1)})"
    if not isinstance(value, np.ndarray):
        return repr(value)
    whole = value.dtype.kind in "biu"
    if not value.size:
        return (
            f"{'torch' if tensors else 'np'}.zeros({value.shape}, dtype={'torch' if tensors else 'np'}.{value.dtype})"
        )
    if value.size <= _MOST_TYPED:
        # the shortest text of each number, which is not that of its double
        text = np.array2string(value, separator=", ", threshold=value.size, max_line_width=10_000, floatmode="unique")
        text = " ".join(text.split())
        double = value.dtype == np.float64
        return f"torch.tensor({text}{', dtype=torch.float64' * double})" if tensors else f"np.array({text})"
    shape = ", ".join(map(str, value.shape))
    if whole:
        high = int(value.max()) + 1
        return f"torch.randint({high}, ({shape},))" if tensors else f"np.random.randint({high}, size=({shape},))"
    centre, spread = float(value.mean()), float(value.std())
    made = f"torch.randn({shape}{', dtype=torch.float64' * (value.dtype == np.float64)})"
    made = made if tensors else f"np.random.randn({shape})"
    made = made if 0.5 < spread < 2 else f"{spread:.2g} * {made}"
    return made if abs(centre) < 3 * spread else f"{centre:.4g} + {made}"


def _misconception(lab: Lab, function: Function, answered: Sequence[tuple[Case, Record]]) -> str:
    """What the mutant with the same answers in every case gets wrong, in its own words; "" where there is none."""
    cases = [case for case, _ in answered]
    if all(record.status != "ok" for _, record in answered):
        return ""
    for name in lab.mutants:
        theirs = answers(lab.variant(name), cases, lab.tensors)
        if all(
            _same(record, other, _allowed(function, case))
            for (case, record), other in zip(answered, theirs, strict=True)
        ):
            return lab.misconception(name)
    return ""


def _same(a: Record, b: Record, allowed: float) -> bool:
    if a.status != "ok" or b.status != "ok":
        return a.status == b.status
    return len(a.arrays) == len(b.arrays) and all(
        x.shape == y.shape and x.dtype.kind != "c" and bool(_close(x, y, allowed).all())
        for x, y in zip(a.arrays, b.arrays, strict=True)
    )
