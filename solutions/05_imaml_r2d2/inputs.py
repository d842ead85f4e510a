"""Fresh inputs for the lab on closed-form learners: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np
import torch

from utils.data import load

TASKS = {"5-way 1-shot": (5, 1, 5), "5-way 5-shot": (5, 5, 5)}  # ways, shots, queries
NOISE = 40  # standard deviation, of pixels 0 .. 255


def small(images: torch.Tensor) -> np.ndarray:
    """uint8 images of 28 x 28 as 14 x 14: the mean of each square of four pixels."""
    return torch.nn.functional.avg_pool2d(images.flatten(0, 1).float(), 2).unflatten(0, images.shape[:2]).numpy()


def page(images: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """All images turned by quarters and mirrored, or not."""
    turned = np.rot90(images, turns, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned


def data(classes: int, steps: int, episodes: int, seed: int) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and for each setting the labels of its queries, which ``experiment`` never sees.

    The settings are the tasks, and the tasks once more for the baseline.

    Training classes are drawn from the training scripts of the glyphs, those of the episodes from the test scripts. In
    each episode the classes get new labels, and support and queries come in any order. The pages of a trial are all
    turned and mirrored alike, and each image is noisy, so that none of them has been seen before.
    """
    rng = np.random.default_rng(seed)
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def noisy(images: np.ndarray) -> np.ndarray:
        return np.clip(images + rng.normal(0, NOISE, images.shape), 0, 255).astype(np.uint8)

    train, test = (page(small(load("glyphs", split).images), turns, mirrored) for split in ("train", "test"))
    tasks, labels = [], {}
    for name, (n_way, k_shot, n_query) in TASKS.items():
        support_x, support_y, query_x, query_y = [], [], [], []
        for _ in range(episodes):
            chosen = rng.permutation(len(test))[:n_way]
            instances = rng.permuted(np.tile(np.arange(test.shape[1]), (n_way, 1)), axis=1)
            for start, end, x, y in ((0, k_shot, support_x, support_y), (k_shot, k_shot + n_query, query_x, query_y)):
                order = rng.permutation(n_way * (end - start))
                x.append(test[chosen[:, None], instances[:, start:end]].reshape(-1, *test.shape[2:])[order])
                y.append(np.repeat(np.arange(n_way), end - start)[order])
        tasks.append((noisy(np.stack(support_x)), np.stack(support_y), noisy(np.stack(query_x)), n_way))
        labels[name] = np.stack(query_y)
    images = noisy(train[rng.permutation(len(train))[:classes]])
    labels |= {f"baseline, {name}": right for name, right in labels.items()}
    return (images, tuple(tasks), steps, seed), labels


### END STUDENT

from utils.grading.labs import Case, Trial  # noqa: E402


def trials(numbers: dict[str, int], seed: int) -> tuple[Trial, ...]:
    """One training for all settings. The seed that students get is not the one that the data are made from."""
    arguments, labels = data(**numbers, seed=seed)
    return (Trial((*arguments[:-1], seed % 1000), labels),)


def cases(seed: int) -> tuple[Case, ...]:
    """Calls of every function, from the smallest to larger ones; the first that fails is shown to the student."""
    rng = np.random.default_rng(seed)
    made = (_of_ridge, _of_adapted_logits, _of_newton_step, _of_conjugate_gradient, _of_implicit_gradient)
    return tuple(case for of_one in made for case in of_one(rng))


def _of_ridge(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, examples, width, outputs, strength, dtype in (
        ("1 example, 2-D, 2 targets", 1, 2, 2, 0.5, np.float32),
        ("2 examples, 3-D, 2 targets", 2, 3, 2, 2, np.float32),
        ("6 examples, 3-D, more than dimensions", 6, 3, 2, 1.5, np.float32),
        ("4 examples, 7-D, double precision", 4, 7, 3, 0.3, np.float64),
        ("10 examples, 600-D, strength 0.01", 10, 600, 5, 0.01, np.float32),
        ("25 examples, 64-D, strength 50", 25, 64, 5, 50, np.float32),
    ):
        features, targets = (_typed(_numbers(rng, examples, n), dtype) for n in (width, outputs))
        cotangent = _typed(_numbers(rng, width, outputs), dtype)
        made.append(Case(case, "ridge", (features, targets, np.array(strength, dtype)), cotangent))
    return made


def _of_adapted_logits(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, sizes, queries, width, numbers, dtype in (
        ("2-way 1-shot, 2-D", (1, 1), 2, 2, (0.5, 2, 0.25), np.float32),
        ("2-way, 1 and 2 examples, 3-D", (1, 2), 3, 3, (-0.5, 3, -1), np.float32),
        ("3-way 1-shot, 4-D, strength below 1", (1, 1, 1), 4, 4, (-1.5, 0.5, 0.5), np.float32),
        ("4-way, classes of 1 to 3 examples, 6-D, double precision", (2, 1, 3, 1), 5, 6, (1, 5, 1.5), np.float64),
        ("5-way 5-shot, 64-D", (5,) * 5, 15, 64, (3.5, 10, -0.75), np.float32),
    ):
        labels = _labels(rng, sizes)
        support, asked = (_typed(_numbers(rng, n, width), dtype) for n in (len(labels), queries))
        arguments = (support, labels, asked, len(sizes), *(np.array(number, dtype) for number in numbers))
        made.append(Case(case, "adapted_logits", arguments, _typed(_numbers(rng, queries, len(sizes)), dtype)))
    return made


def _of_newton_step(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, examples, width, strength, dtype in (
        ("2 examples, 2-D", 2, 2, 0.5, np.float32),
        ("3 examples, 4-D", 3, 4, 2, np.float32),
        ("8 examples, 2-D", 8, 2, 0.25, np.float32),
        ("6 examples, 5-D, double precision", 6, 5, 1.5, np.float64),
        ("20 examples, 16-D", 20, 16, 3, np.float32),
    ):
        labels = _labels(rng, (examples // 2, examples - examples // 2))
        features, weights, cotangent = (
            _typed(scale * _numbers(rng, *shape), dtype)
            for shape, scale in (((examples, width), 1), ((width,), 0.7), ((width,), 1))
        )
        made.append(Case(case, "newton_step", (weights, features, labels, np.array(strength, dtype)), cotangent))
    return made


def _of_conjugate_gradient(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, size, steps, dtype in (
        ("2 unknowns, 1 step", 2, 1, np.float32),
        ("3 unknowns, 2 steps", 3, 2, np.float32),
        ("3 unknowns, as many steps, double precision", 3, 3, np.float64),
        ("8 unknowns, 4 steps", 8, 4, np.float32),
        ("40 unknowns, 10 steps, double precision", 40, 10, np.float64),
    ):
        arguments = (_typed(_curved(rng, size), dtype), _typed(_numbers(rng, size), dtype), steps)
        made.append(Case(case, "conjugate_gradient", arguments))
    arrives = (_typed(2 * np.eye(3), np.float32), _typed(_numbers(rng, 3), np.float32), 3)
    made.append(Case("twice the identity, which the first step solves", "conjugate_gradient", arrives))
    return made


def _of_implicit_gradient(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, size, strength, steps, dtype in (
        ("2 parameters, as many steps", 2, 2.0, 2, np.float32),
        ("3 parameters, 2 steps, a weak pull", 3, 0.5, 2, np.float32),
        ("5 parameters, as many steps, double precision", 5, 1.5, 5, np.float64),
        ("12 parameters, 3 steps", 12, 3.0, 3, np.float32),
        ("40 parameters, 5 steps, double precision", 40, 0.8, 5, np.float64),
    ):
        arguments = (_typed(_curved(rng, size), dtype), _typed(_numbers(rng, size), dtype), strength, steps)
        made.append(Case(case, "implicit_gradient", arguments))
    return made


def _curved(rng: np.random.Generator, size: int) -> np.ndarray:
    """A symmetric matrix whose eigenvalues lie about between 1/2 and 5."""
    turned = np.linalg.qr(_numbers(rng, size, size))[0]
    curved = turned @ np.diag(rng.uniform(0.5, 5, size)) @ turned.T
    return (curved + curved.T) / 2


def _labels(rng: np.random.Generator, sizes: tuple[int, ...]) -> np.ndarray:
    """``sizes[k]`` times label k, in an order that is not theirs where there is another."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if len(set(labels)) < 2:
        return labels
    while True:
        mixed = rng.permutation(labels)
        first_seen = list(dict.fromkeys(mixed.tolist()))
        if first_seen != sorted(first_seen):
            return mixed


def _numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(0, 1, shape)


def _typed(numbers: np.ndarray, dtype: type) -> np.ndarray:
    """With two decimals, so that a student can type them in."""
    return numbers.round(2).astype(dtype)
