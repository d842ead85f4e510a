"""A large network teaches a small one to read digits: MNIST, as in Hinton, Vinyals and Dean (2015), section 3.

A teacher with two hidden layers of 1,200 units learns from images moved by up to two pixels, with dropout and bounded
weights. Students with two layers of 800 units see the images as they are, and nothing but the teacher regularises them:
one learns from the labels alone, one also from the teacher at T = 20, and a third does so without a single 3. Of the
last, the output for 3 is then raised; the paper does that by 3.5, which is best on the test images. Here no label
decides, see :func:`raise_for`.

The paper gives no rates of dropout, no bound and no length of training. How much is dropped was chosen on images held
out from the training set, after 2,000 steps (:func:`validate`); the steps are as many as ten minutes of one core allow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data import ImageSet, load
from utils.data.batches import ImageBatches
from utils.data.distortions import shifted
from utils.data.episodes import mix_seed
from utils.data.images import as_float
from utils.records import provenance, write_record
from utils.reproduce.runs import (
    as_stored,
    check_seeds,
    finished_alone,
    held_out,
    in_processes,
    pooled,
    record,
    stored_part,
)
from utils.training import Checkpoint, best_device, fit
from utils.transfer import distillation
from utils.transfer.distillation import Distillation, without

NAME = "mnist-distillation"


@dataclass(frozen=True)
class Training:
    """How one network is trained: ``steps`` steps of Adam, whose rate falls to 0 along half a cosine.

    A teacher's images are moved by up to ``jitter`` pixels, parts of its input and of its hidden units are dropped, and
    the weights of a hidden unit are no longer than ``longest``. A student has a ``teacher``, a ``temperature``, and the
    ``weight`` of what the teacher says beside the labels; images of the class ``missing`` are kept from it.
    """

    variant: str
    width: int
    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    jitter: int = 0
    drop_input: float = 0.0
    drop_hidden: float = 0.0
    longest: float | None = None
    teacher: Training | None = None
    temperature: float = 20.0
    weight: float = 0.9
    missing: int | None = None


TEACHER = Training("teacher", 1200, 12_000, jitter=2, drop_input=0.1, drop_hidden=0.3, longest=2.0)
ALONE = Training("alone", 800, 6_000)
TAUGHT = replace(ALONE, variant="taught", teacher=TEACHER)
NETWORKS = (TEACHER, ALONE, TAUGHT, replace(TAUGHT, variant="unseen", missing=3))

TITLES = {
    "teacher": "Teacher, 1200-1200 units, regularised",
    "alone": "Student alone, 800-800 units",
    "taught": "Student with the teacher, T = 20",
    "unseen": "Student with the teacher, without 3s",
    "unseen-raised": "The same, output for 3 raised",
}


def new_network(training: Training, images: ImageSet, seed: int) -> nn.Module:
    """The network with the weights of ``seed``, where the images are."""
    torch.manual_seed(seed)
    pixels, width = math.prod(images.image_shape), training.width
    layers: list[nn.Module] = [nn.Flatten(), nn.Dropout(training.drop_input)]
    for inputs in (pixels, width):
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(training.drop_hidden)]
    return nn.Sequential(*layers, nn.Linear(width, images.n_classes)).to(images.device)


@torch.no_grad()
def shorten(network: nn.Module, longest: float | None) -> None:
    """Scale the weights of each hidden unit down to the Euclidean length ``longest`` where they are longer."""
    if longest is None:
        return
    *hidden, _ = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    for layer in hidden:
        layer.weight.mul_((longest / torch.linalg.vector_norm(layer.weight, dim=1, keepdim=True)).clamp(max=1))


def train(
    training: Training, images: ImageSet, seed: int, folder: Path | None = None, teacher: nn.Module | None = None
) -> nn.Module:
    """The trained network, resumed from ``folder`` where an earlier run stopped. A student's ``teacher`` is trained."""
    network = new_network(training, images, seed)
    chosen, kept = without(images, [] if training.missing is None else [training.missing])
    batches = ImageBatches(chosen, training.batch_size, seed=seed)
    optimizer = torch.optim.Adam(network.parameters(), training.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    label, checkpoint = f"{training.variant}_seed{seed}", None
    if folder is not None:
        checkpoint = Checkpoint(
            folder / f"network_{label}.pt", {**as_stored(asdict(training)), "seed": seed}, every=1000
        )
    if training.drop_hidden:
        fit(
            network, _teaching(training, network, batches, seed), training.steps, optimizer, schedule, checkpoint, label
        )
        shorten(network, training.longest)
    else:
        lesson = None if teacher is None else Distillation(teacher, training.temperature, training.weight)
        distillation.train(network, batches, training.steps, optimizer, lesson, kept, checkpoint, label, schedule)
    return network


def _teaching(training: Training, network: nn.Module, batches: ImageBatches, seed: int) -> Callable[[int], Tensor]:
    """The loss of every step of a regularised network, which depends on the step alone: so do its random numbers."""

    def loss_at(step: int) -> Tensor:
        x, y = batches.sample(step)
        number = mix_seed(seed, step)
        x = shifted(x, training.jitter, torch.Generator().manual_seed(number))
        shorten(network, training.longest)
        with torch.random.fork_rng(), torch.autocast(x.device.type, torch.bfloat16):  # twice as fast
            torch.manual_seed(number)  # of what dropout drops
            return F.cross_entropy(network(x).float(), y)

    return loss_at


@torch.no_grad()
def answers(network: nn.Module, images: Tensor, chunk: int = 1000) -> Tensor:
    """Logits ``[N, classes]`` of uint8 images ``[N, C, H, W]``."""
    return torch.cat([network(as_float(some)) for some in images.split(chunk)])


def raise_for(logits: Tensor, missing: int, n: int) -> float:
    """What must be added to the output ``missing`` so that ``n`` of the images are answered with it.

    Image i is, once its gap g_i = max_{k != missing} z_ik - z_i,missing is closed; so the raise lies between the n-th
    and the (n + 1)-th smallest gap, here in the middle, and one beyond them for none and for all of the images.
    ``logits`` ``[N, classes]``; no labels are needed.

    Raises ``ValueError`` unless ``n`` is in 0 .. N.
    """
    if not 0 <= n <= len(logits):
        raise ValueError(f"0 to {len(logits)} of {len(logits)} images can be answered so; got n={n}")
    others = logits.clone()
    others[:, missing] = -math.inf
    gaps = (others.amax(1) - logits[:, missing]).double().sort().values
    return float(torch.cat([gaps[:1] - 2, gaps, gaps[-1:] + 2])[n : n + 2].mean())


def rows_of(
    training: Training, network: nn.Module, train_set: ImageSet, test_set: ImageSet, teacher: nn.Module | None
) -> list[dict]:
    """Accuracy on the test images, in per cent; of a network that lacks a class, also with that output raised.

    It is raised until the network finds that class as often among the training images as its teacher does; only the
    number is taken from the teacher. The interval is that over the test images, each right or wrong by itself.
    """
    x, y = test_set.flat()
    logits, missing = answers(network, x), training.missing
    rows = [{"variant": training.variant, **_accuracy(logits, y, missing)}]
    if missing is not None:
        seen, _ = train_set.flat()
        n = int((answers(teacher, seen).argmax(1) == missing).sum())
        raised = raise_for(answers(network, seen), missing, n)
        logits[:, missing] += raised
        rows.append({"variant": f"{training.variant}-raised", **_accuracy(logits, y, missing), "raised": raised})
    return rows


def _accuracy(logits: Tensor, y: Tensor, missing: int | None) -> dict[str, float]:
    wrong, n = logits.argmax(1) != y, len(y)
    right = 1 - float(wrong.double().mean())
    sd = 100 * math.sqrt(right * (1 - right))
    found = {"mean": 100 * right, "ci95": 1.96 * sd / math.sqrt(n), "sd": sd, "images": n, "errors": int(wrong.sum())}
    if missing is not None:
        found |= {"errors_on_missing": int(wrong[y == missing].sum()), "missing_images": int((y == missing).sum())}
    return found


def validate(training: Training, seed: int = 0) -> float:
    """Accuracy, in per cent, on a sixth of the training images after learning from the others: to choose by."""
    kept, rest = held_out(load("mnist", "train").to(best_device()))
    x, y = rest.flat()
    return _accuracy(answers(train(training, kept, seed), x), y, None)["mean"]


def _part(training: Training, seed: int, folder: Path) -> tuple[Path, dict]:
    """Where the result is kept, and the settings that it belongs to, its teacher's included."""
    return folder / f"result_{training.variant}_seed{seed}.json", asdict(training)


def run_one(training: Training, seed: int, folder: Path) -> dict:
    """Train and test one network; the result is kept in ``folder`` and read from there the next time."""
    path, settings = _part(training, seed, folder)
    if (stored := stored_part(path, settings)) is not None:
        return stored
    device = best_device()
    train_set, test_set = (load("mnist", split).to(device) for split in ("train", "test"))
    teacher = None if training.teacher is None else train(training.teacher, train_set, seed, folder)
    started = time.perf_counter()
    network = train(training, train_set, seed, folder, teacher)
    result = {
        "settings": settings,
        "seed": seed,
        "rows": [{**row, "seed": seed} for row in rows_of(training, network, train_set, test_set, teacher)],
        "seconds": time.perf_counter() - started,
        "provenance": provenance(str(device)),
    }
    write_record(path.stem, result, folder)
    return result


def run(
    dataset: str, seeds: list[int], folder: Path, steps: int | None = None, jobs: int = 1, finished: bool = False
) -> dict:
    """All networks and seeds, ``jobs`` at a time; finished parts are read from ``folder``.

    With ``finished``, nothing is trained: the record is of the networks that are finished for all seeds.
    """
    if dataset != "mnist":
        raise ValueError(f"{NAME} is recorded on mnist; got {dataset!r}")
    check_seeds(seeds, steps)
    trainings = NETWORKS if steps is None else tuple(_with_steps(training, steps) for training in NETWORKS)
    folder.mkdir(parents=True, exist_ok=True)
    if finished:
        trainings = finished_alone(trainings, lambda one: [_part(one, seed, folder) for seed in seeds], NAME)
    results = []
    for having in (False, True):  # a teacher: those first, for the others to find them
        parts = [(one, seed, folder) for one in trainings for seed in seeds if (one.teacher is not None) is having]
        results += in_processes(run_one, parts, jobs)
    found: dict[str, list[dict]] = {}
    for result in results:
        for row in result["rows"]:
            found.setdefault(row["variant"], []).append(row)
    rows = [
        {"id": f"{NAME}-{variant}", "method": variant, "title": TITLES[variant], "setting": "10,000 test images",
         "chance": 10.0, **pooled(found[variant], "images")}
        for variant in TITLES if variant in found
    ]  # fmt: skip
    config = {"networks": [asdict(training) for training in trainings]}
    return record(NAME, dataset, "A large network teaches a small one, MNIST", results, rows, config, seeds, steps)


def _with_steps(training: Training, steps: int) -> Training:
    teacher = None if training.teacher is None else replace(training.teacher, steps=steps)
    return replace(training, steps=steps, teacher=teacher)
