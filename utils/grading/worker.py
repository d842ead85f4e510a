"""Runs inside the sandbox: calls the student's functions on the inputs of the job and sends back plain arrays.

``python -I worker.py FD [JOB SUB]``: FD is the pipe for results, JOB (``/job``) has ``job.json`` and ``inputs.npz``,
SUB (``/sub``) is what the student handed in. Nothing that this process can reach knows a right answer: no reference, no
label, no score. Whoever takes it over can only send other arrays, and those are compared elsewhere.

Standalone: the standard library, NumPy, ``wire.py`` beside it, and torch where the job asks for tensors.
"""

from __future__ import annotations

import errno
import functools
import importlib.util
import json
import os
import resource
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

sys.path.append(str(Path(__file__).parent))
import wire

sys.path.pop()

_FULL = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)
_MOST_DEPTH = 4


class TooMuchError(Exception):
    """A result is larger than a record may be."""


def read_job(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """``job.json`` and the arrays of ``inputs.npz``."""
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "inputs.npz", allow_pickle=False) as stored:
        return job, {name: stored[name] for name in stored.files}


class Later(ModuleType):
    """Stands for ``torch._dynamo``, which every optimiser imports only to be told that nothing is compiled.

    That import takes about as long as PyTorch's own, in every sandbox. Whatever else is asked of the module, or of what
    lies below it, gets the real one.
    """

    def graph_break(self, msg: str = "") -> None:
        pass

    def disable(self, fn=None, recursive: bool = True, **options):
        return functools.partial(self.disable, recursive=recursive) if fn is None else fn

    def __getattr__(self, name: str):
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
            # its parent has it as an attribute from then on
            importlib.import_module(self.__name__)
        return getattr(sys.modules[self.__name__], name)


def load_module(path: Path):
    """The student's file as a module of a neutral name; its folder comes last on the path, so it shadows nothing."""
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location("submission", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    spec.loader.exec_module(module)
    return module


def plain(value: object, most: int) -> list[np.ndarray]:
    """Arrays of booleans or numbers in what a function returned, in the order of reading; at most ``most`` bytes.

    A number, an array or a tensor is one array; of a tuple, a list of arrays or a dictionary (by its sorted keys) each
    entry is. An array of a class of its own becomes a plain one. The size is known before anything is copied: a file of
    1.5 kB can hold a tensor that only pretends to have 10**11 entries.
    """
    found: list[np.ndarray] = []
    left = most
    for part in _parts(value, 0):
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(part, torch.Tensor):
            left = _spend(left, part.numel() * part.element_size())
            part = part.detach().cpu()
            array = (part.float() if part.dtype is torch.bfloat16 else part).numpy()
        else:
            array = np.asarray(part)
            left = _spend(left, array.size * array.itemsize)
        array = np.array(array, order="C", copy=True, subok=False)
        if array.dtype.kind not in wire.KINDS or type(array) is not np.ndarray:
            raise TypeError(f"a function returns numbers in arrays or tensors; this is {type(part).__name__}")
        found.append(array.astype(np.float64) if array.dtype == np.longdouble else array)
    return found


def _parts(value: object, depth: int) -> list:
    if depth > _MOST_DEPTH:
        raise TypeError(f"results are nested at most {_MOST_DEPTH} deep")
    if isinstance(value, dict):
        return [part for key in sorted(value) for part in _parts(value[key], depth + 1)]
    if isinstance(value, (tuple, list)) and not _is_numbers(value):
        return [part for entry in value for part in _parts(entry, depth + 1)]
    return [value]


def _is_numbers(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_numbers, value))
    return isinstance(value, (bool, int, float, complex))


def _spend(left: int, size: int) -> int:
    if size > left:
        raise TooMuchError("the result has more bytes than a record may have")
    return left - size


def answer(call: dict, module: object, inputs: dict, job: dict, submission: Path) -> bytes:
    """The frame for one call, whatever happens in it."""
    name = call["name"]
    try:
        if "weights" in call:
            import torch

            result = torch.load(submission / call["weights"], map_location="cpu", weights_only=True)
        else:
            function = getattr(module, call["function"])
            arguments = [_argument(argument, inputs) for argument in call["arguments"]]
            cotangent = _argument(call["cotangent"], inputs) if call["cotangent"] else None
            result = called(function, arguments, job["tensors"], cotangent)
        return wire.pack(name, "ok", "", plain(result, job["most"]))
    except BaseException as error:  # also SystemExit and what a student derives from BaseException
        return wire.pack(name, kind_of(error), described(error))


def _argument(argument: dict, inputs: dict) -> object:
    if "constant" in argument:
        return argument["constant"]
    if "tuple" in argument:
        return tuple(_argument(part, inputs) for part in argument["tuple"])
    return inputs[argument["input"]]


def called(function, arguments: list, tensors: bool, cotangent: np.ndarray | None = None) -> object:
    """What a function returns for these arguments: copies, so that one that changes its input changes no other call's.

    With a cotangent, the result is followed by the gradients of ``sum(result * cotangent)`` with respect to every
    floating argument, zeros where nothing flows. A result of another shape than the cotangent stands alone.
    """
    arguments = [_copy(argument, tensors) for argument in arguments]
    if cotangent is None:
        return function(*arguments)
    import torch

    at = [i for i, each in enumerate(arguments) if isinstance(each, torch.Tensor) and each.is_floating_point()]
    leaves = [arguments[i].requires_grad_() for i in at]
    for i in at:
        arguments[i] = arguments[i].clone()  # a leaf cannot be changed in place, its copy can
    result = function(*arguments)
    if not isinstance(result, torch.Tensor):
        raise TypeError(f"a function whose gradient is asked for returns one tensor; this is {type(result).__name__}")
    if result.shape != cotangent.shape:
        return result
    if not result.requires_grad:
        return result, *map(torch.zeros_like, leaves)
    total = (result * torch.from_numpy(cotangent)).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return result, *(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True))


def _copy(argument: object, tensors: bool) -> object:
    if isinstance(argument, tuple):
        return tuple(_copy(part, tensors) for part in argument)
    if not isinstance(argument, np.ndarray):
        return argument
    if not tensors:
        return argument.copy()
    import torch

    return torch.from_numpy(argument.copy())


def kind_of(error: BaseException) -> str:
    """The status that an exception means."""
    if isinstance(error, MemoryError) or "can't allocate memory" in _text(error):
        return "memory"
    if isinstance(error, TooMuchError) or (isinstance(error, OSError) and error.errno in _FULL):
        return "output_limit"
    if isinstance(error, BlockingIOError) or "can't start new thread" in _text(error):
        return "process_limit"
    return "student_error"


def described(error: BaseException) -> str:
    """Type, message and line of an exception, capped."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == "submission":
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {_text(error)}{where}"


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:  # a student's exception may fail to describe itself
        return "an exception without a description"


def send(fd: int, frame: bytes) -> None:
    """Writes all of a frame."""
    view = memoryview(frame)
    while view:
        view = view[os.write(fd, view) :]


def main() -> None:
    fd = int(sys.argv[1])
    job_folder, submission = map(Path, sys.argv[2:4] or ("/job", "/sub"))
    job, inputs = read_job(job_folder)
    if job["torch"]:
        import torch

        torch.set_num_threads(1)
        if "torch._dynamo" not in sys.modules:
            sys.modules["torch._dynamo"] = torch._dynamo = Later("torch._dynamo")
    for number, value in job["rlimits"]:
        most = resource.getrlimit(number)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(number, (value, value))
    sys.argv = [str(submission / job["module"])]
    # From here on the student's code runs: what fails before is the machine's fault, what fails after is not.
    send(fd, wire.pack("", "started"))
    try:
        module = load_module(submission / job["module"]) if job["module"] else None
    except BaseException as error:
        status, text = kind_of(error), described(error)
        for call in job["calls"]:
            send(fd, wire.pack(call["name"], status, text))
    else:
        for call in job["calls"]:
            send(fd, answer(call, module, inputs, job, submission))
    send(fd, wire.pack("", "finished"))
    sys.stdout.flush()
    os._exit(0)  # exit handlers of the student have nothing to say any more


if __name__ == "__main__":
    main()
