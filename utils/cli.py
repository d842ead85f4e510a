"""``course`` on the command line: run, reproduce, bench, data, doctor, grade, check."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from utils.grading.commands import add_commands

# Named here too, because importing the methods imports torch, which a help text should not wait for.
REPRODUCTIONS = (
    *("pixels", "prototypical", "baseline", "siamese", "matching", "relation", "one-shot-runs"),
    *("maml", "fomaml", "reptile", "maml-plus-plus", "imaml", "r2d2", "lr-d2", "metaoptnet-ridge", "metaoptnet-svm"),
    *(f"{stream}-mnist-{scenario}" for stream in ("split", "permuted") for scenario in ("task", "domain", "class")),
    *("cifar100-incremental", "mnist-distillation", "temperature"),
)

BENCHMARKS = ("sampler", "episodes", "adaptation", "continual", "kernels", "machine-code")


def _run(args: argparse.Namespace) -> None:
    from utils.chapters import write_chapter

    folder = Path("chapters")
    paths = sorted(folder.glob("*.ipynb")) if not args.chapters else [_chapter(folder, name) for name in args.chapters]
    if not paths:
        raise ValueError(f"no chapters in {folder.resolve()}: call this from the project's root")
    for path in paths:
        record = write_chapter(path, spread=args.spread)
        missing = sorted(record["claims"].keys() - record["spread"].keys())
        print(f"{path}: {len(record['claims'])} claims, {record['cost']['seconds']:.0f} s")
        if missing:
            print(f"  without a measured seed-to-seed spread (add --spread): {', '.join(missing)}")


def _chapter(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{Path(name).stem}*.ipynb"))
    if len(found) != 1:
        raise ValueError(f"{name!r} names {len(found)} chapters of {sorted(p.stem for p in folder.glob('*.ipynb'))}")
    return found[0]


def _reproduce(args: argparse.Namespace) -> None:
    from utils.data.cache import cache_dir
    from utils.records import write_record
    from utils.reproduce import DATASETS, IN_PARTS, METHODS

    dataset = args.dataset or DATASETS.get(args.name, "omniglot")
    if args.work is None and cache_dir() is None:
        raise ValueError("no folder to keep unfinished runs in: give one with --work")
    work = args.work or cache_dir() / "reproduce" / f"{args.name}_{dataset}"
    if args.finished and args.name not in IN_PARTS:
        raise ValueError(f"{args.name} is recorded as a whole; --finished is for {', '.join(sorted(IN_PARTS))}")
    options = {"finished": True} if args.finished else {}
    record = METHODS[args.name](dataset, args.seeds, work, args.steps, args.jobs, **options)
    path = write_record(f"{args.name.replace('-', '_')}_{dataset}", record, args.out)
    for row in record["rows"]:
        print(f"{row['id']:44s} {row['mean']:6.2f} ± {row['ci95']:.2f} %  over {row['n']} {row['over']}")
    print(f"written to {path}")


def _bench(args: argparse.Namespace) -> None:
    from utils.bench import run

    path, rows = run(args.name, args.out)
    for row in rows:
        faster = f"  {row['speedup']:6.1f} times faster than {row['speedup_over']}" if "speedup" in row else ""
        median = row.get("status", "") if row["median"] is None else f"{row['median']:10.3g} {row['unit']}"
        print(f"{row['function']:24s} {row['case']:54s} {row['variant']:44s} {median}{faster}")
    print(f"written to {path}")


def _doctor(args: argparse.Namespace) -> None:
    import importlib.metadata
    import os
    import platform

    import torch

    from utils.data import available
    from utils.data.cache import cache_dir
    from utils.training import best_device

    print(f"python {platform.python_version()}, {os.cpu_count()} cores")
    for name in (
        "torch",
        "torchvision",
        "matplotlib",
        "numpy",
        "scikit-learn",
        "jupyter-book",
        "nbval",
        "learn2learn",
        "easyfsl",
    ):
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed")
    gpu = f" ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else ""
    print(f"computing on {best_device()}{gpu}")
    print(f"cache: {cache_dir() or 'no writable folder: set COURSE_CACHE'}")
    print(f"packs: {os.environ.get('COURSE_DATA', 'COURSE_DATA is not set; the cache folder is searched')}")
    for name, found in available().items():
        print(f"  {name:14s} {'available' if found is True else found}")


def _data(args: argparse.Namespace) -> None:
    from utils.data import load

    for name, split in (("omniglot", "all"), ("mnist", "train"), ("cifar100", "train")):
        if name in args.sets:
            print(load(name, split, download=True))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser("course", description=__doc__)
    commands = result.add_subparsers(required=True, metavar="command")

    run = commands.add_parser("run", help="execute chapters in place, store their outputs and record their claims")
    run.add_argument("chapters", nargs="*", help="chapters to run, such as 03 (default: all)")
    run.add_argument("--spread", action="store_true", help="measure the seed-to-seed spread too (five more runs each)")
    run.set_defaults(call=_run)

    reproduce = commands.add_parser("reproduce", help="run a paper's experiment at full scale and record the result")
    reproduce.add_argument("name", choices=REPRODUCTIONS)
    reproduce.add_argument("--dataset", help="default: the one that the paper's numbers are of")
    reproduce.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    reproduce.add_argument("--steps", type=int, help="training steps, of each task (default: the protocol's)")
    reproduce.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process of its own")
    reproduce.add_argument("--work", type=Path, help="folder of checkpoints and finished parts (default: the cache)")
    reproduce.add_argument(
        "--finished", action="store_true", help="train nothing; record the networks that are finished"
    )
    reproduce.add_argument("--out", type=Path, help="results folder (default: book/results)")
    reproduce.set_defaults(call=_reproduce)

    bench = commands.add_parser("bench", help="time ours against the alternatives on this machine")
    bench.add_argument("name", nargs="?", default="sampler", choices=BENCHMARKS)
    bench.add_argument("--out", type=Path, help="results folder (default: book/results)")
    bench.set_defaults(call=_bench)

    data = commands.add_parser("data", help="download benchmark data and pack it into the cache folder")
    data.add_argument("sets", nargs="+", choices=["omniglot", "mnist", "cifar100"])
    data.set_defaults(call=_data)

    doctor = commands.add_parser("doctor", help="show versions, devices and which data sets are here")
    doctor.set_defaults(call=_doctor)

    add_commands(commands)
    return result


def main(words: list[str] | None = None) -> int:
    """Run one command; an expected error is one line on stderr and exit code 1 (of ``grade``, see its help)."""
    from utils.data.cache import DataError

    args = parser().parse_args(words)
    start = time.perf_counter()
    try:
        code = args.call(args) or 0
    except ModuleNotFoundError as error:
        print(f"course: this command needs {error.name}: pip install {error.name}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError, FloatingPointError, DataError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    print(f"done in {time.perf_counter() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
