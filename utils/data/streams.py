"""Streams: tasks that come one after the other, and what a network may answer in each of three scenarios.

A network has one vector of outputs for the whole stream, and every label is the number of one of its *units*. The
scenarios (van de Ven and Tolias 2019) differ in which units take part when a task is trained or tested:

    task      the task's own: the learner is told which task an image is from;
    domain    all, and the same for every task: a task is another way for images to look;
    class     those of all tasks so far: which task an image is from has to be found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.data.episodes import mix_seed
from utils.data.images import ImageSet, as_float

SCENARIOS = ("task", "domain", "class")


@dataclass(frozen=True)
class Task:
    """One task of a stream.

    ``train_x`` uint8 ``[N, C, H, W]`` and ``train_y`` int64 ``[N]``, the numbers of output units; ``test_x`` and
    ``test_y`` likewise. ``classes`` are the classes of the data in it, ``first`` and ``last`` its lowest and highest
    unit. With ``pixels``, int64 ``[C H W]``, its images are shown with pixel ``pixels[i]`` in place i.
    """

    classes: tuple[int, ...]
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    first: int
    last: int
    pixels: Tensor | None = None

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if x.dtype != torch.uint8 or x.ndim != 4 or y.dtype != torch.int64 or y.shape != x.shape[:1] or not len(x):
                raise ValueError(
                    f"a task's {part} images are uint8 [N, C, H, W] and their labels int64 [N], N > 0; got "
                    f"{x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}"
                )
            if not self.first <= int(y.min()) <= int(y.max()) <= self.last:
                raise ValueError(
                    f"the task has the units {self.first} to {self.last}; its {part} labels are {int(y.min())} to "
                    f"{int(y.max())}"
                )

    def seen(self, images: Tensor) -> Tensor:
        """``images`` of this task as the network sees them: float32 ``[n, C, H, W]`` in [0, 1]."""
        if self.pixels is not None:
            images = images.flatten(1)[:, self.pixels].view_as(images)
        return as_float(images)


@dataclass(frozen=True)
class Stream:
    """Tasks in their order, and the scenario in which they are learned.

    Raises ``ValueError`` where two tasks share a class although they show it in the same way, where tasks share units
    in the scenarios ``"task"`` or ``"class"``, and where their units differ in ``"domain"``.
    """

    tasks: tuple[Task, ...]
    scenario: str
    name: str

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"the scenario must be one of {SCENARIOS}; got {self.scenario!r}")
        if not self.tasks:
            raise ValueError("a stream needs a task")
        shown: dict[object, int] = {}
        for number, task in enumerate(self.tasks):
            way = None if task.pixels is None else tuple(task.pixels.tolist())
            for one in task.classes:
                if (before := shown.setdefault((one, way), number)) != number:
                    raise ValueError(f"class {one} is in task {before} and again in task {number}")
        units = [(task.first, task.last) for task in self.tasks]
        if self.scenario == "domain":
            if len(set(units)) > 1:
                raise ValueError(f"in the domain scenario all tasks have the same units; these have {units}")
        elif any(first <= last for (_, last), (first, _) in pairwise(units)):
            raise ValueError(f"in the {self.scenario} scenario every task has units behind the last's; got {units}")

    @property
    def n_units(self) -> int:
        """Outputs that the network needs."""
        return max(task.last for task in self.tasks) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.tasks[0].train_x.shape[1:])  # type: ignore[return-value]

    def units(self, task: int, seen: int) -> slice:
        """Outputs that take part in ``task`` (from 0) after, or while, the first ``seen`` tasks are learned.

        Of a task not seen yet, its own units take part as well. Raises ``ValueError`` for a task that is not there.
        """
        if not 0 <= task < len(self.tasks):
            raise ValueError(f"there are tasks 0 to {len(self.tasks) - 1}; got {task}")
        if self.scenario == "class":
            return slice(0, max(self.tasks[task].last, self.tasks[max(1, seen) - 1].last) + 1)
        return slice(self.tasks[task].first, self.tasks[task].last + 1)

    def batch(self, task: int, step: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Training images and labels of a task, drawn by ``seed``, ``task`` and ``step`` alone, with replacement."""
        chosen = self.tasks[task]
        generator = torch.Generator().manual_seed(mix_seed(mix_seed(seed, task), step))
        rows = torch.randint(len(chosen.train_x), (size,), generator=generator).to(chosen.train_x.device)
        return chosen.seen(chosen.train_x[rows]), chosen.train_y[rows]


def split_stream(
    train: ImageSet, test: ImageSet, n_tasks: int, scenario: str, order: Sequence[int] | None = None
) -> Stream:
    """The classes of a data set in ``n_tasks`` tasks of as many classes each.

    ``order``: the classes in the order in which they come; by default that of the data set. In the scenario
    ``"domain"`` the label is a class's place within its task, elsewhere its place within the order.

    Raises ``ValueError`` where the classes cannot be shared out evenly, and for an order that is not one.
    """
    order = list(range(train.n_classes)) if order is None else [int(one) for one in order]
    if sorted(order) != list(range(train.n_classes)):
        raise ValueError(f"order must hold each of the classes 0 to {train.n_classes - 1} once; got {order}")
    if test.class_names != train.class_names:
        raise ValueError(f"{train.name}/{train.split} and {test.name}/{test.split} have different classes")
    if n_tasks < 1 or train.n_classes % n_tasks:
        raise ValueError(f"{train.n_classes} classes cannot be shared out evenly over {n_tasks} tasks")
    size = train.n_classes // n_tasks
    tasks = []
    for number in range(n_tasks):
        classes = order[number * size : (number + 1) * size]
        first = 0 if scenario == "domain" else number * size
        parts = []
        for images in (train, test):
            x, y = images.select(classes).flat()
            parts += [x, y + first]
        tasks.append(Task(tuple(classes), *parts, first, first + size - 1))
    return Stream(tuple(tasks), scenario, f"{train.name}, {n_tasks} x {size} classes")


def permuted_stream(
    train: ImageSet, test: ImageSet, n_tasks: int, scenario: str = "domain", padding: int = 0, seed: int = 0
) -> Stream:
    """Every task has all classes, with the pixels of all its images in another order; the first task has its own.

    ``padding``: empty pixels put around the images before (2 for MNIST in van de Ven and Tolias 2019). The data is held
    once, however many tasks there are.
    """
    parts = []
    for images in (train, test):
        x, y = images.flat()
        parts.append((F.pad(x, (padding,) * 4), y))
    (train_x, train_y), (test_x, test_y) = parts
    generator, tasks = torch.Generator().manual_seed(seed), []
    for number in range(n_tasks):
        pixels = torch.randperm(train_x[0].numel(), generator=generator).to(train_x.device) if number else None
        first = 0 if scenario == "domain" else number * train.n_classes
        tasks.append(
            Task(
                tuple(range(train.n_classes)),
                train_x,
                train_y + first,
                test_x,
                test_y + first,
                first,
                first + train.n_classes - 1,
                pixels,
            )
        )
    return Stream(tuple(tasks), scenario, f"{train.name}, {n_tasks} orders of the pixels")
