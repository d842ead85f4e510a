"""Fresh inputs for the lab on prototypical networks: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np
import torch

from utils.data import load

SETTINGS = {"5-way 1-shot": (5, 1, 5), "5-way 5-shot": (5, 5, 3), "20-way 1-shot": (20, 1, 1)}  # ways, shots, queries


def small(images: torch.Tensor) -> np.ndarray:
    """uint8 images of 28 x 28 as 14 x 14: the mean of each square of four pixels."""
    return torch.nn.functional.avg_pool2d(images.flatten(0, 1).float(), 2).unflatten(0, images.shape[:2]).numpy()


def page(images: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """All images turned by quarters and mirrored, or not."""
    turned = np.rot90(images, turns, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned


def data(classes: int, steps: int, episodes: int, seed: int) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and for each setting the labels of its queries, which ``experiment`` never sees.

    Training classes are drawn from the training scripts of the glyphs, those of the episodes from the test scripts. In
    each episode the classes get new labels, and support and queries come in any order. The pages of a trial are all
    turned and mirrored alike, and each image is noisy, so that none of them has been seen before.
    """
    rng = np.random.default_rng(seed)
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def noisy(images: np.ndarray) -> np.ndarray:
        return np.clip(images + rng.normal(0, 8, images.shape), 0, 255).astype(np.uint8)

    train, test = (page(small(load("glyphs", split).images), turns, mirrored) for split in ("train", "test"))
    tasks, labels = [], {}
    for name, (n_way, k_shot, n_query) in SETTINGS.items():
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
    return (*_of_prototypes(rng), *_of_log_probabilities(rng), *_of_episode_loss(rng), *_of_predict(rng))


def _of_prototypes(rng: np.random.Generator) -> list[Case]:
    name = "prototypes"
    made = []
    for case, sizes, width, dtype, shift in (
        ("2-way, 1 and 3 examples, 2-D", (1, 3), 2, np.float32, 0),
        ("1-way 3-shot, 2-D", (3,), 2, np.float32, 0),
        ("3-way 1-shot, classes in another order, 2-D", (1, 1, 1), 2, np.float32, 0),
        ("5-way, classes of 1 to 5 examples, 7-D", (3, 5, 1, 4, 2), 7, np.float32, 0),
        ("5-way 3-shot, 16-D, double precision, far from 0", (3, 3, 3, 3, 3), 16, np.float64, 1000),
        ("20-way, 64-D", tuple(rng.integers(1, 7, 20)), 64, np.float32, 0),
    ):
        labels = _labels(rng, sizes)
        embeddings = _typed(_numbers(rng, len(labels), width) + shift, dtype)
        cotangent = _typed(_numbers(rng, len(sizes), width), dtype)
        made.append(Case(case, name, (embeddings, labels, len(sizes)), cotangent))
    return made


def _of_log_probabilities(rng: np.random.Generator) -> list[Case]:
    name = "log_probabilities"
    made = []
    for case, queries, n_way, width, dtype, shift, scale in (
        ("1 query, 2-way, 2-D", 1, 2, 2, np.float32, 0, 1),
        ("3 queries, 2-way, 3-D", 3, 2, 3, np.float32, 0, 1),
        ("4 queries, 4-way, 5-D", 4, 4, 5, np.float32, 0, 0.5),
        ("4 queries, 3-way, 2-D, all far from 0, double precision", 4, 3, 2, np.float64, 1000, 1),
        ("5 queries, 3-way, 2-D, far apart", 5, 3, 2, np.float32, 0, 100),
        ("20 queries, 20-way, 64-D", 20, 20, 64, np.float32, 0, 0.3),
    ):
        x, c = (_typed(scale * _numbers(rng, n, width) + shift, dtype) for n in (queries, n_way))
        made.append(Case(case, name, (x, c), _typed(_numbers(rng, queries, n_way), dtype)))
    return made


def _of_episode_loss(rng: np.random.Generator) -> list[Case]:
    name = "episode_loss"
    made = []
    for case, sizes, query_sizes, width, dtype, scale in (
        ("2-way 1-shot, 2-D", (1, 1), (2, 1), 2, np.float32, 1),
        ("2-way, 1 and 2 examples, 2-D", (1, 2), (1, 2), 2, np.float32, 1),
        ("3-way, one class without queries, 4-D", (2, 1, 3), (2, 0, 3), 4, np.float32, 1),
        ("5-way 2-shot, 8-D, double precision", (2,) * 5, (1, 2, 3, 2, 1), 8, np.float64, 0.7),
        ("3-way 2-shot, 2-D, far apart", (2,) * 3, (2,) * 3, 2, np.float32, 30),
        ("20-way 1-shot, 64-D", (1,) * 20, (2,) * 20, 64, np.float32, 0.3),
    ):
        support_y, query_y = _labels(rng, sizes), _labels(rng, query_sizes)
        # the first query, and one in four, lie by another class, so that neither loss nor gradient is next to nothing
        wrong = rng.random(len(query_y)) < 0.25
        wrong[0] = True
        near = np.where(wrong, (query_y + 1) % len(sizes), query_y)
        centres = _numbers(rng, len(sizes), width)
        support = centres[support_y] + 0.5 * _numbers(rng, len(support_y), width)
        queries = centres[near] + 0.5 * _numbers(rng, len(query_y), width)
        arguments = (_typed(scale * support, dtype), support_y, _typed(scale * queries, dtype), query_y, len(sizes))
        made.append(Case(case, name, arguments, np.array(1, dtype)))
    return made


def _of_predict(rng: np.random.Generator) -> list[Case]:
    name = "predict"
    made = []
    for case, sizes, n_query, pixels, width in (
        ("2-way 1-shot, 2 pixels, 2-D", (1, 1), 4, 2, 2),
        ("3-way 2-shot, 3 pixels, 4-D", (2,) * 3, 9, 3, 4),
        ("5-way, classes of 1 to 5 examples, 9 pixels, 6-D", (2, 1, 5, 3, 4), 20, 9, 6),
        ("10-way 3-shot, 36 pixels, 16-D", (3,) * 10, 40, 36, 16),
    ):
        support_y = _labels(rng, sizes)
        made.append(Case(case, name, _told_apart(rng, support_y, len(sizes), n_query, pixels, width)))
    return made


def _told_apart(
    rng: np.random.Generator, support_y: np.ndarray, n_way: int, n_query: int, pixels: int, width: int
) -> tuple:
    """Arguments of ``predict`` with an answer that no rounding changes and no simple guess gives.

    Queries are drawn until enough are left whose two nearest prototypes differ clearly, and until every class, but not
    one class alone, is an answer: neither a constant nor the order of the queries is right by luck.
    """
    while True:
        shapes = ((len(support_y), pixels), (6 * n_query, pixels), (width, pixels), (width,))
        support_x, query_x, weight, bias = (_typed(_numbers(rng, *shape), np.float32) for shape in shapes)
        support, queries = (np.maximum(x @ weight.T + bias, 0) for x in (support_x, query_x))
        means = np.stack([support[support_y == k].mean(0) for k in range(n_way)])
        distances = ((queries[:, None] - means) ** 2).sum(-1)
        nearest = np.sort(distances, 1)
        clear = np.flatnonzero(nearest[:, 1] - nearest[:, 0] > 1e-2 * (1 + nearest[:, 0]))[:n_query]
        answer = distances[clear].argmin(1)
        if len(clear) == n_query and len(set(answer)) == min(n_way, n_query):
            return support_x, support_y, query_x[clear], n_way, weight, bias


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
