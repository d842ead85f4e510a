"""Fresh inputs for the lab on LwF and BiC: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np

from utils.data import load

NOISE = 110  # of 255: digits of 8 x 8 pixels are easy, two at a time
TRAIN, TIMES = 110, 5  # images of a digit to learn from, and how often each is tested in an episode


def data(
    streams: int, tasks: int, size: int, steps: int, episodes: int, seed: int
) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and the labels of the test images, which it never sees.

    Split digits: in each stream the ten digits come in an order drawn anew, as many of them in each task; the label of
    a digit is its place in that order. The pixels of all images of a stream lie in one order, drawn anew as well, and
    every image is noisy. An episode has five images of each digit: mixed for BiC (class-incremental), task by task for
    LwF (task-incremental), whose labels are places within the task.
    """
    rng = np.random.default_rng(seed)
    all_digits = load("digits", "all")
    digits = [all_digits.images[k, : all_digits.counts[k]].flatten(1).float().numpy() for k in range(10)]
    classes = 10 // tasks
    images, labels, by_task, places, mixed, answers = [], [], [], [], [], []
    for _ in range(streams):
        pixels = rng.permutation(64)
        of_class = [rng.permutation(digits[k])[:, pixels] for k in rng.permutation(10)]
        for first in range(0, 10, classes):
            y = rng.permutation(np.repeat(np.arange(first, first + classes), TRAIN))
            images.append(drawn([one[:TRAIN] for one in of_class], y, rng))
            labels.append(y)
        # half of the others for each, so that none of LwF's, whose task is known, tells about one of BiC's
        halves = [np.array_split(one[TRAIN:], 2) for one in of_class]
        y = np.tile(np.repeat(np.arange(10), TIMES), (episodes, 1))
        of_tasks = rng.permuted(y.reshape(episodes, tasks, -1), axis=2).reshape(episodes, -1)
        of_all = rng.permuted(y, axis=1)
        by_task.append(drawn([half for half, _ in halves], of_tasks, rng))
        mixed.append(drawn([half for _, half in halves], of_all, rng))
        places.append(of_tasks % classes)
        answers.append(of_all)
    shape = streams, tasks, -1
    x, y = np.stack(images).reshape(*shape, 64), np.stack(labels).reshape(shape)
    arguments = (x, y, np.stack(by_task), np.stack(mixed), size, steps, seed)
    places, answers = np.concatenate(places), np.concatenate(answers)
    return arguments, {"LwF": places, "fine-tuning": places, "BiC": answers, "distillation": answers}


def drawn(of_class: list[np.ndarray], labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images with these labels, taken anew and with noise of their own."""
    x = np.empty((*labels.shape, 64))
    for k, one in enumerate(of_class):
        x[labels == k] = one[rng.integers(len(one), size=(labels == k).sum())]
    return np.clip(x + rng.normal(0, NOISE, x.shape), 0, 255).astype(np.uint8)


### END STUDENT

from scipy import optimize, special  # noqa: E402

from utils.grading.labs import Case, Trial  # noqa: E402


def trials(numbers: dict[str, int], seed: int) -> tuple[Trial, ...]:
    """All methods in one call. The seed that students get is not the one that the data are made from."""
    arguments, labels = data(**numbers, seed=seed)
    return (Trial((*arguments[:-1], seed % 1000), labels),)


def cases(seed: int) -> tuple[Case, ...]:
    """Calls of every function, from the smallest to larger ones; the first that fails is shown to the student."""
    rng = np.random.default_rng(seed)
    return (
        *_of_soften(rng),
        *_of_old_heads_loss(rng),
        *_of_bic_loss(rng),
        *_of_herding(rng),
        *_of_bias_correction(rng),
    )


def _of_soften(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, images, classes, temperature, dtype in (
        ("1 image, 2 classes, temperature 2", 1, 2, 2.0, np.float32),
        ("2 images, 3 classes, temperature 1", 2, 3, 1.0, np.float32),
        ("3 images, 4 classes, temperature 0.5, double precision", 3, 4, 0.5, np.float64),
        ("20 images, 10 classes, temperature 4", 20, 10, 4.0, np.float32),
    ):
        made.append(Case(case, "soften", (_probabilities(rng, (images, classes), dtype), temperature)))
    return made


def _of_old_heads_loss(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, images, heads, classes, temperature, dtype in (
        ("1 image, 1 old head of 2 classes, 3 classes, temperature 2", 1, ((0, 2),), 3, 2.0, np.float32),
        ("2 images, 2 old heads of 2 and 3 classes, 7 classes, temperature 2", 2, ((0, 2), (2, 5)), 7, 2.0, np.float32),
        ("3 images, 1 old head, temperature 0.5, double precision", 3, ((0, 4),), 6, 0.5, np.float64),
        (
            "20 images, 4 old heads, 10 classes, temperature 3",
            20,
            ((0, 2), (2, 4), (4, 6), (6, 8)),
            10,
            3.0,
            np.float32,
        ),
    ):
        # a head's probabilities add up to 1
        parts = [*heads, (heads[-1][1], classes)]
        recorded = np.concatenate([_probabilities(rng, (images, end - begin), dtype) for begin, end in parts], axis=1)
        arguments = (_numbers(rng, (images, classes), dtype), recorded, heads, temperature)
        made.append(Case(case, "old_heads_loss", arguments, np.array(1, dtype)))
    return made


def _of_bic_loss(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, images, old, new, temperature, scale, dtype in (
        ("1 image, 2 old and 1 new class, temperature 2", 1, 2, 1, 2.0, 1, np.float32),
        ("2 images, 2 old and 3 new classes, temperature 1", 2, 2, 3, 1.0, 1, np.float32),
        ("4 images, 3 old and 1 new class, temperature 2, double precision", 4, 3, 1, 2.0, 1, np.float64),
        ("4 images, 2 old and 1 new class, large logits, temperature 2", 4, 2, 1, 2.0, 200, np.float32),
        ("40 images, 8 old and 2 new classes, temperature 2", 40, 8, 2, 2.0, 2, np.float32),
    ):
        logits, old_logits = (_numbers(rng, (images, n), dtype) * dtype(scale) for n in (old + new, old))
        labels = rng.permutation(np.arange(images) + int(rng.integers(old + new))) % (old + new)
        made.append(Case(case, "bic_loss", (logits, labels, old_logits, temperature), np.array(1, dtype)))
    return made


def _of_herding(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, n, width, m in (
        ("3 vectors, 1-D, 2 chosen", 3, 1, 2),
        ("5 vectors, 2-D, 3 chosen", 5, 2, 3),
        ("8 vectors, 2-D, all chosen", 8, 2, 8),
        ("40 vectors, 8-D, 12 chosen", 40, 8, 12),
    ):
        while True:
            vectors = _numbers(rng, (n, width), np.float32) + np.float32(1)
            if _clear(vectors.astype(np.float64), m):
                break
        made.append(Case(case, "herding", (vectors, m)))
    return made


def _clear(vectors: np.ndarray, m: int) -> bool:
    """Whether no choice is a near tie, which rounding would decide."""
    mean, total, left = vectors.mean(0), 0, list(range(len(vectors)))
    for k in range(1, m + 1):
        distances = np.square(mean - (total + vectors[left]) / k).sum(-1)
        best = np.sort(distances)
        if len(best) > 1 and best[1] - best[0] < 1e-4:
            return False
        total = total + vectors[left.pop(int(distances.argmin()))]
    return True


def _of_bias_correction(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, images, old, new in (
        ("15 images, 2 old and 1 new class", 15, 2, 1),
        ("30 images, 3 old and 2 new classes", 30, 3, 2),
        ("100 images, 5 old and 5 new classes", 100, 5, 5),
        ("200 images, 8 old and 2 new classes", 200, 8, 2),
    ):
        # as many images of each class, and logits that favour the new ones
        classes = old + new
        while True:
            labels = rng.permutation(np.arange(images) % classes)
            logits = rng.normal(0, 1, (images, classes)) + np.eye(classes)[labels]
            logits[:, old:] = 1.3 * logits[:, old:] + rng.uniform(1, 2)
            if _well_determined(logits, labels, old):
                break
        made.append(Case(case, "bias_correction", (logits.round(2).astype(np.float32), labels, old)))
    return made


def _well_determined(logits: np.ndarray, labels: np.ndarray, n_old: int) -> bool:
    """Whether the minimum over alpha and beta lies at moderate values, in a bowl that is not flat."""

    def loss(at: np.ndarray) -> float:
        q = np.concatenate([logits[:, :n_old], at[0] * logits[:, n_old:] + at[1]], axis=1)
        return float((special.logsumexp(q, 1) - q[np.arange(len(q)), labels]).mean())

    found = optimize.minimize(loss, [1.0, 0.0])
    return np.abs(found.x).max() < 3 and np.abs(found.x).min() > 0.1 and np.linalg.norm(found.hess_inv, 2) < 50


def _probabilities(rng: np.random.Generator, shape: tuple[int, int], dtype: type) -> np.ndarray:
    """Rows of whole hundredths that add up to 1, none of them 0."""
    images, classes = shape
    counts = np.stack([rng.multinomial(100 - classes, rng.dirichlet(np.ones(classes))) for _ in range(images)]) + 1
    return (counts / 100).astype(dtype)


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Numbers of two decimals, so that a student can type them in."""
    return rng.normal(0, 1, shape).round(2).astype(dtype)
