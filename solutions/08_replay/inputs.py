"""Fresh inputs for the lab on replay: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np
import torch

from utils.data import load

METHODS = ("experience replay", "distillation", "joint training")


def data(streams: int, size: int, steps: int, episodes: int, seed: int) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and the labels of the test images, which it never sees.

    Each stream is split digits, class-incremental: the ten digits in an order drawn anew, two of them a task; the label
    of a digit is its place in that order. The pixels of all images of a stream lie in one order, drawn anew as well,
    and every image is noisy. An episode of the test has five images of each digit, mixed.
    """
    rng = np.random.default_rng(seed)
    made, labels = zip(*(stream(rng, episodes) for _ in range(streams)), strict=True)
    return (made, size, steps, seed), dict.fromkeys(METHODS, np.concatenate(labels))


def stream(rng: np.random.Generator, episodes: int) -> tuple[tuple, np.ndarray]:
    """One stream: its tasks and the test images of its episodes, and the labels of these."""
    digits, pixels = load("digits", "all"), rng.permutation(64)

    def seen(images: torch.Tensor) -> np.ndarray:
        flat = images.flatten(-3).numpy()[..., pixels]
        return np.clip(flat + rng.normal(0, 40, flat.shape), 0, 255).astype(np.uint8)

    tasks, test = [], []
    for task in rng.permutation(10).reshape(5, 2):
        train = []
        for digit in task:
            which = rng.permutation(int(digits.counts[digit]))
            test.append(digits.images[digit, which[:60]][rng.integers(60, size=(episodes, 5))])
            train.append(digits.images[digit, which[60:]])
        first = len(test) - 2
        labels = np.repeat([first, first + 1], [len(images) for images in train])
        mixed = rng.permutation(len(labels))
        tasks.append((seen(torch.cat(train))[mixed], labels[mixed]))
    order = rng.permuted(np.tile(np.arange(50), (episodes, 1)), axis=1)
    x = np.take_along_axis(seen(torch.cat(test, 1)), order[..., None], 1)
    return (tuple(tasks), x), order // 5


### END STUDENT

from utils.grading.labs import Case, Trial  # noqa: E402


def trials(numbers: dict[str, int], seed: int) -> tuple[Trial, ...]:
    """All methods in one call. The seed that students get is not the one that the data are made from."""
    arguments, labels = data(**numbers, seed=seed)
    return (Trial((*arguments[:-1], seed % 1000), labels),)


def cases(seed: int) -> tuple[Case, ...]:
    """Calls of every function, from the smallest to larger ones; the first that fails is shown to the student."""
    rng = np.random.default_rng(seed)
    return (
        *_of_places(rng),
        *_of_add(rng),
        *_of_sample(rng),
        *_of_replay_loss(rng),
        *_of_distilled_loss(rng),
    )


def _of_places(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, first, size, items in (
        ("3 items for 4 places", 0, 4, 3),
        ("the 2nd to 6th item for 1 place", 1, 1, 5),
        ("8 items for 3 places", 0, 3, 8),
        ("10 items for 4 places that have seen 7 before", 7, 4, 10),
        ("200 items for 20 places", 0, 20, 200),
    ):
        made.append(Case(case, "places", (first, size, _draws(rng, first, items, size))))
    return made


def _of_add(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, seen, size, items, width, dtype in (
        ("3 items of 2 numbers for 2 full places", 2, 2, 3, 2, np.float32),
        ("2 items of 1 number for 3 places, of which 1 is taken", 1, 3, 2, 1, np.float32),
        ("6 items for 4 places, of which 3 are taken", 3, 4, 6, 2, np.float32),
        ("12 items for 5 places that have seen 9 before", 9, 5, 12, 3, np.float32),
        ("100 images of 8 pixels for 16 empty places", 0, 16, 100, 8, np.uint8),
    ):
        memory, new = (
            (rng.normal(0, 1, (n, width)).round(2) if dtype is np.float32 else rng.integers(256, size=(n, width)))
            for n in (min(seen, size), items)
        )
        arguments = (memory.astype(dtype), new.astype(dtype), seen, size, _draws(rng, seen, items, size))
        made.append(Case(case, "add", arguments))
    return made


def _draws(rng: np.random.Generator, first: int, items: int, size: int) -> np.ndarray:
    """Numbers from [0, 1) of four decimals that lie well inside one of the t + 1 parts for item t.

    Of the items that come to a full memory some stay and some do not, and where there are enough of them two meet in
    the same place, so that it matters which comes last.
    """
    number = np.arange(first, first + items)
    full = number >= size
    while True:
        part = rng.integers(number + 1)
        stay = part[full & (part < size)]
        mixed = full.sum() < 2 or 0 < len(stay) < full.sum()
        if mixed and (full.sum() < 2 * size or len(set(stay)) < len(stay)):
            return ((part + rng.uniform(0.3, 0.7, items)) / (number + 1)).round(4)


def _of_sample(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, counts, batch in (
        ("2 classes of 1 and 3 items, batch of 4", {0: 1, 1: 3}, 4),
        ("classes 2 and 7, batch of 5", {2: 3, 7: 2}, 5),
        ("3 classes of 4, 1 and 2 items, batch of 8", {0: 4, 1: 1, 2: 2}, 8),
        ("10 classes of 1 to 8 items, batch of 64", dict(enumerate(rng.integers(1, 9, 10).tolist())), 64),
    ):
        amounts = np.array(list(counts.values()))
        while True:
            labels, chosen = _labels(rng, counts), rng.integers(len(counts), size=batch)
            rank = rng.integers(amounts[chosen])
            answer = np.argsort(labels, kind="stable")[(amounts.cumsum() - amounts)[chosen] + rank]
            # no constant, no counting and no taking turns gives it
            if answer[0] > 0 and len(set(answer.tolist())) > 2:
                break
        draws = [(chosen, len(counts)), (rank, amounts[chosen])]
        draws = np.stack([(k + rng.uniform(0.3, 0.7, batch)) / n for k, n in draws], 1).round(4)
        made.append(Case(case, "sample", (labels, draws)))
    return made


def _of_replay_loss(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, new, old, classes, t, dtype in (
        ("1 new and 1 remembered image, 2 classes, 2nd task", 1, 1, 2, 2, np.float32),
        ("2 new and 3 remembered images, 3 classes, 1st task", 2, 3, 3, 1, np.float32),
        ("3 new and 2 remembered images, 4 classes, 3rd task, double precision", 3, 2, 4, 3, np.float64),
        ("20 new and 40 remembered images, 10 classes, 5th task", 20, 40, 10, 5, np.float32),
    ):
        logits, remembered = _numbers(rng, (new, classes), dtype), _numbers(rng, (old, classes), dtype)
        arguments = (logits, rng.integers(classes, size=new), remembered, rng.integers(classes, size=old), t)
        made.append(Case(case, "replay_loss", arguments, np.array(1, dtype)))
    return made


def _of_distilled_loss(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, images, old, classes, temperature, scale, dtype in (
        ("1 image, 2 old classes of 2, temperature 1", 1, 2, 2, 1.0, 1, np.float32),
        ("2 images, 2 old classes of 3, temperature 2", 2, 2, 3, 2.0, 1, np.float32),
        ("3 images, 4 old classes of 6, temperature 0.5, double precision", 3, 4, 6, 0.5, 1, np.float64),
        ("4 images, 3 old classes of 4, large logits, temperature 2", 4, 3, 4, 2.0, 200, np.float32),
        ("30 images, 8 old classes of 10, temperature 4", 30, 8, 10, 4.0, 3, np.float32),
    ):
        logits, old_logits = (_numbers(rng, (images, n), dtype) * dtype(scale) for n in (classes, old))
        made.append(Case(case, "distilled_loss", (logits, old_logits, temperature), np.array(1, dtype)))
    return made


def _labels(rng: np.random.Generator, counts: dict[int, int]) -> np.ndarray:
    """As many of each label as asked for, in an order in which they do not lie sorted."""
    labels = np.repeat(list(counts), list(counts.values()))
    while True:
        mixed = rng.permutation(labels)
        if (mixed[1:] < mixed[:-1]).any():
            return mixed


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Numbers of two decimals, so that a student can type them in."""
    return rng.normal(0, 1, shape).round(2).astype(dtype)
