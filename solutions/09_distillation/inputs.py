"""Fresh inputs for the lab on distillation: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np

from utils.data import load

SETTINGS = ("distillation", "baseline")


def page(images: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """All images turned by quarters and mirrored, or not."""
    turned = np.rot90(images, turns, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned


def data(transfer: int, episodes: int, steps: int, seed: int) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and the labels of its queries, which ``experiment`` never sees.

    Digits. Every episode has a transfer set, with as many images of each digit, and queries, with 30 of each in any
    order. Every trial has pages that are all turned and mirrored alike, noise of its own on every image, so that none
    of them has been seen before, and numbers for the ten classes that are not the digits'.
    """
    rng = np.random.default_rng(seed)
    turns, mirrored, number = int(rng.integers(4)), bool(rng.integers(2)), rng.permutation(10)

    def noisy(images: np.ndarray) -> np.ndarray:
        return np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)

    def split(name: str) -> tuple[np.ndarray, np.ndarray]:
        digits = load("digits", name)
        images = np.concatenate([digits.images[k, :count].numpy() for k, count in enumerate(digits.counts)])
        return page(images, turns, mirrored), number[np.repeat(np.arange(10), digits.counts.numpy())]

    def drawn(labels: np.ndarray, of_each: int) -> np.ndarray:
        rows = [rng.permutation(np.flatnonzero(labels == k))[:of_each] for k in range(10)]
        return rng.permutation(np.concatenate(rows))

    images, labels = split("train")
    order = rng.permutation(len(labels))
    images, labels = noisy(images[order]), labels[order]
    chosen = np.stack([drawn(labels, transfer // 10) for _ in range(episodes)])
    test_images, test_labels = split("test")
    asked = np.stack([drawn(test_labels, 30) for _ in range(episodes)])
    return (images, labels, chosen, noisy(test_images[asked]), steps, seed), dict.fromkeys(SETTINGS, test_labels[asked])


### END STUDENT

from utils.grading.labs import Case, Trial  # noqa: E402


def trials(numbers: dict[str, int], seed: int) -> tuple[Trial, ...]:
    """One call for both kinds of students. The seed that students get is not the one that the data are made from."""
    arguments, labels = data(**numbers, seed=seed)
    return (Trial((*arguments[:-1], seed % 1000), labels),)


def cases(seed: int) -> tuple[Case, ...]:
    """Calls of every function, from the smallest to larger ones; the first that fails is shown to the student."""
    rng = np.random.default_rng(seed)
    made = []
    for case, rows, classes, dtype, temperature, scale, shift in (
        ("1 row, 2 classes, T = 2", 1, 2, np.float32, 2.0, 2, 0),
        ("2 rows, 3 classes, T = 4", 2, 3, np.float32, 4.0, 3, 0),
        ("3 rows, 4 classes, T = 1/2", 3, 4, np.float32, 0.5, 1, 0),
        ("2 rows, 3 classes, double precision, far from 0", 2, 3, np.float64, 3.0, 2, 5000),
        ("3 rows, 3 classes, far apart", 3, 3, np.float32, 2.0, 60, 0),
        ("16 rows, 10 classes, T = 4", 16, 10, np.float32, 4.0, 3, 0),
    ):
        whole = _numbers(rng, dtype, rows, classes, scale=scale, shift=shift)
        made.append(Case(case, "soften", (whole, temperature), _numbers(rng, dtype, rows, classes)))
    for name in ("soft_loss", "distillation_loss"):
        for case, rows, classes, dtype, temperature, scale, shift in (
            ("1 row, 2 classes, T = 2", 1, 2, np.float32, 2.0, 2, 0),
            ("2 rows, 3 classes, T = 4", 2, 3, np.float32, 4.0, 3, 0),
            ("3 rows, 4 classes, T = 1/2", 3, 4, np.float32, 0.5, 1, 0),
            ("3 rows, 3 classes, double precision, far from 0", 3, 3, np.float64, 3.0, 2, 5000),
            ("4 rows, 3 classes, far apart", 4, 3, np.float32, 2.0, 500, 0),
            ("16 rows, 10 classes, T = 4", 16, 10, np.float32, 4.0, 3, 0),
        ):
            student = _numbers(rng, dtype, rows, classes, scale=scale, shift=shift)
            teacher = _numbers(rng, dtype, rows, classes, scale=scale, shift=shift)
            # the class that the student finds least probable, so that neither loss nor gradient is next to nothing
            labels = student.argmin(1)
            more = () if name == "soft_loss" else (labels, temperature, 0.3)
            arguments = (student, teacher, *(more or (temperature,)))
            made.append(Case(case, name, arguments, np.array(1, dtype)))
    for case, rows, classes, pixels, dtype, share in (
        ("1 input of 2 numbers, 2 classes", 1, 2, 2, np.float32, 0.5),
        ("3 inputs of 2 numbers, 3 classes", 3, 3, 2, np.float32, 0.75),
        ("3 inputs of 4 numbers, 3 classes, double precision", 3, 3, 4, np.float64, 0.25),
        ("20 inputs of 16 numbers, 10 classes", 20, 10, 16, np.float32, 0.9),
    ):
        weight, bias = _numbers(rng, dtype, classes, pixels), _numbers(rng, dtype, classes)
        x, teacher = _numbers(rng, dtype, rows, pixels), _numbers(rng, dtype, rows, classes, scale=4)
        labels = rng.integers(classes, size=rows)
        made.append(Case(case, "step", (weight, bias, x, teacher, labels, 2.0, share, 0.5)))
    return tuple(made)


def _numbers(rng: np.random.Generator, dtype: type, *shape: int, scale: float = 1, shift: float = 0) -> np.ndarray:
    """Numbers of two decimals, so that a student can type them in."""
    return (scale * rng.normal(0, 1, shape) + shift).round(2).astype(dtype)
