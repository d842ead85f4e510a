"""Measured costs: ours against the alternatives, in one run on one machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from utils.records import provenance, write_record

NAMES = ("sampler", "episodes", "adaptation", "continual", "kernels", "machine-code")


def run(name: str, folder: Path | None = None) -> tuple[Path, list[dict]]:
    """Measure ``name`` here and now; writes the record ``bench/<name>``, returns its path and rows.

    ``"sampler"``: drawing episodes. ``"episodes"``: loss and gradient of one episode. ``"adaptation"``: meta-steps
    and inner learners, with two threads. ``"continual"``: importance, penalties, distillation and memories.
    ``"kernels"``: the functions that have a kernel, on the GPU if there is one; the record's name ends in what it was
    measured on. ``"machine-code"``: what two layouts of a kernel compile to; needs no GPU.

    Raises ``ValueError`` for other names.
    """
    if name not in NAMES:
        raise ValueError(f"there is no benchmark {name!r}; there are {NAMES}")
    from utils.bench.timing import threads

    stem, device, found = name.replace("-", "_"), "cpu", {}
    # One thread, because what is compared is the work, and a second one would sometimes wait for the first. Meta-steps
    # are compared on two: there it matters how well they are used.
    with threads(2 if name == "adaptation" else 1):
        if name in ("sampler", "episodes", "adaptation"):
            from utils.bench import adaptation, episodes, sampler
            from utils.data import DataError, load

            try:
                images = load("omniglot", "all")
            except DataError:
                images = load("glyphs", "all")
            rows = {"sampler": sampler, "episodes": episodes, "adaptation": adaptation}[name].measure(images)
        elif name == "continual":
            from utils.bench import continual

            rows = continual.measure()
        elif name == "kernels":
            from utils.bench import kernels
            from utils.training import best_device

            device = best_device()
            stem = f"kernels_{kernels.machine(device)}"
            found = kernels.measure(device)
            rows = found.pop("rows")
        else:
            from utils.bench import machine_code

            found = {"triton": version("triton")}
            rows = machine_code.measure()
        made = provenance(str(device))
    record = {
        "kind": "bench",
        "name": stem,
        "command": f"course bench {name}",
        **found,
        "rows": rows,
        "provenance": made,
    }
    return write_record(f"bench/{stem}", record, folder), rows
