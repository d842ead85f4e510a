"""Fresh inputs for the lab on EWC and MAS: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np
import torch

from utils.data import load

METHODS = ("EWC", "MAS", "plain training")
TEST = 600  # of the 1,797 digits


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All digits of 8 x 8 pixels as vectors ``[1797, 64]``, 0 to 255, and their labels."""
    images = load("digits", "all")
    x = [images.images[k, : images.counts[k]].flatten(1) for k in range(10)]
    return torch.cat(x).float().numpy(), np.repeat(np.arange(10), images.counts.numpy())


def data(streams: int, tasks: int, steps: int, episodes: int, seed: int) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and for each method the labels of the test images, which it never sees.

    Permuted digits: in each task of a stream the pixels of all images lie in another order, the task's own, drawn anew.
    The labels stay what they are, so one network with ten outputs does for all tasks (domain-incremental). Every image
    is noisy. An episode of the test has every digit once in each task of a stream, mixed.
    """
    rng = np.random.default_rng(seed)
    digit, label = digits()
    images, labels, test, answers = [], [], [], []
    for _ in range(streams):
        order = rng.permutation(len(digit))
        held, train = order[:TEST], order[TEST:]
        x, y = [], []
        for _ in range(tasks):
            pixels = rng.permutation(64)
            images.append(noisy(digit[train][:, pixels], rng))
            labels.append(label[train])
            which = np.stack([rng.choice(held[label[held] == k], episodes) for k in range(10)], axis=1)
            x.append(noisy(digit[which][..., pixels], rng))
            y.append(label[which])
        mixed = rng.permuted(np.tile(np.arange(10 * tasks), (episodes, 1)), axis=1)
        test.append(np.take_along_axis(np.concatenate(x, 1), mixed[..., None], 1))
        answers.append(np.take_along_axis(np.concatenate(y, 1), mixed, 1))
    shape = streams, tasks, -1
    arguments = (np.stack(images).reshape(*shape, 64), np.stack(labels).reshape(shape), np.stack(test), steps, seed)
    return arguments, dict.fromkeys(METHODS, np.concatenate(answers))


def noisy(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As uint8, with noise of 16 of 255."""
    return np.clip(images + rng.normal(0, 16, images.shape), 0, 255).astype(np.uint8)


### END STUDENT

from utils.grading.labs import Case, Trial  # noqa: E402


def trials(numbers: dict[str, int], seed: int) -> tuple[Trial, ...]:
    """All methods in one call. The seed that students get is not the one that the data are made from."""
    arguments, labels = data(**numbers, seed=seed)
    return (Trial((*arguments[:-1], seed % 1000), labels),)


def cases(seed: int) -> tuple[Case, ...]:
    """Calls of every function, from the smallest to larger ones; the first that fails is shown to the student."""
    rng = np.random.default_rng(seed)
    return (*_of_networks(rng), *_of_penalty(rng), *_of_consolidate(rng))


NETWORKS = (
    ("1 image of 2 pixels, 2 hidden units, 2 classes", 1, 2, 2, 2, np.float32),
    ("2 images of 2 pixels, 2 hidden units, 3 classes", 2, 2, 2, 3, np.float32),
    ("5 images of 3 pixels, 4 hidden units, 3 classes, double precision", 5, 3, 4, 3, np.float64),
    ("30 images of 16 pixels, 12 hidden units, 10 classes", 30, 16, 12, 10, np.float32),
)


def _of_networks(rng: np.random.Generator) -> list[Case]:
    """The three functions of a network, each with all sizes."""
    made = []
    for function in ("outputs", "fisher", "mas_importance"):
        for case, images, pixels, hidden, classes, dtype in NETWORKS:
            params, x = _network(rng, images, pixels, hidden, classes, dtype)
            made.append(Case(case, function, (params, x)))
    return made


def _network(
    rng: np.random.Generator, images: int, pixels: int, hidden: int, classes: int, dtype: type
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Parameters and images, such that no hidden unit lies at the bend of the ReLU, where rounding would decide.

    Every image has a unit that is on, of few units that are off as well, so that the ReLU matters.
    """
    while True:
        x = _numbers(rng, (images, pixels), dtype)
        w1, b1 = _numbers(rng, (hidden, pixels), dtype, pixels**-0.5), _numbers(rng, (hidden,), dtype, 0.5)
        w2, b2 = _numbers(rng, (classes, hidden), dtype, hidden**-0.5), _numbers(rng, (classes,), dtype, 0.5)
        before = x.astype(np.float64) @ w1.T + b1
        after = np.maximum(before, 0) @ w2.T + b2
        clear = np.abs(before).min() > 1e-3 and (before > 0).any(1).all() and (before < 0).any()
        # some output is below 0, or a ReLU behind the last layer would change nothing
        if clear and (after < -0.05).any() and np.abs(after).min() > 1e-3:
            return (w1, b1, w2, b2), x


def _of_penalty(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, size, strength, dtype in (
        ("1 parameter, strength 1", 1, 1.0, np.float32),
        ("2 parameters, strength 3", 2, 3.0, np.float32),
        ("4 parameters, strength 0", 4, 0.0, np.float32),
        ("6 parameters, strength 0.5, double precision", 6, 0.5, np.float64),
        ("500 parameters, strength 100", 500, 100.0, np.float32),
    ):
        theta, anchor = _numbers(rng, (size,), dtype), _numbers(rng, (size,), dtype)
        memory = _importance(rng, size, dtype), anchor
        made.append(Case(case, "penalty", (theta, memory, strength), np.array(1, dtype)))
    return made


def _of_consolidate(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, size, decay, dtype in (
        ("1 parameter, nothing decays", 1, 1.0, np.float32),
        ("3 parameters, nothing decays", 3, 1.0, np.float32),
        ("3 parameters, half decays", 3, 0.5, np.float32),
        ("5 parameters, a tenth decays, double precision", 5, 0.9, np.float64),
        ("500 parameters, nothing decays", 500, 1.0, np.float32),
    ):
        memory = _importance(rng, size, dtype), _numbers(rng, (size,), dtype)
        arguments = (memory, _importance(rng, size, dtype), _numbers(rng, (size,), dtype), decay)
        made.append(Case(case, "consolidate", arguments))
    return made


def _importance(rng: np.random.Generator, size: int, dtype: type) -> np.ndarray:
    return (np.abs(_numbers(rng, (size,), dtype)) + dtype(0.1)).round(2)


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, scale: float = 1) -> np.ndarray:
    """Numbers of two decimals, so that a student can type them in."""
    return rng.normal(0, scale, shape).round(2).astype(dtype)
