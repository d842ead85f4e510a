"""Fresh inputs for the lab on Siamese networks: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np
import torch

from utils.data import EpisodeSampler, load

SETTINGS = {"5-way 1-shot": (5, 5), "20-way 1-shot": (20, 1)}  # ways, queries of each
BASELINE = "nearest neighbour, 20-way 1-shot"


def data(classes: int, steps: int, episodes: int, seed: int) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and for each setting the labels of its queries, which ``experiment`` never sees.

    Glyphs of 14 x 14 pixels, the training classes from the training scripts, those of the tasks from the test scripts.
    Support and queries of a task lie in any order. All pages of a trial are turned by the same quarters and mirrored
    or not, and every image is noisy, so that none of them has been seen before.
    """
    rng = np.random.default_rng(seed)
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def seen(images: torch.Tensor) -> np.ndarray:
        small = torch.nn.functional.avg_pool2d(images.flatten(0, 1), 2).unflatten(0, images.shape[:2])
        turned = small.rot90(turns, (-2, -1))
        page = 255 * (turned.flip(-1) if mirrored else turned).numpy()
        return np.clip(page + rng.normal(0, 8, page.shape), 0, 255).astype(np.uint8)

    train, test = load("glyphs", "train"), load("glyphs", "test")
    tasks, labels = [], {}
    for number, (name, (n_way, n_query)) in enumerate(SETTINGS.items()):
        drawn = EpisodeSampler(test, n_way, 1, n_query, episodes, seed=2 * seed + number).sample(0)
        support, query = (rng.random(y.shape).argsort(1) for y in (drawn.support_y, drawn.query_y))
        support_x = np.take_along_axis(seen(drawn.support_x), support[..., None, None, None], 1)
        query_x = np.take_along_axis(seen(drawn.query_x), query[..., None, None, None], 1)
        tasks.append((support_x, np.take_along_axis(drawn.support_y.numpy(), support, 1), query_x))
        labels[name] = np.take_along_axis(drawn.query_y.numpy(), query, 1)
    images = seen(train.images[rng.permutation(train.n_classes)[:classes]].float() / 255)
    labels[BASELINE] = labels["20-way 1-shot"]
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
    return (*_of_pair_scores(rng), *_of_pair_loss(rng), *_of_hardest_triplets(rng), *_of_one_shot(rng))


def _of_pair_scores(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, n, m, width, dtype in (
        ("1 pair, 1-D", 1, 1, 1, np.float32),
        ("1 and 2 embeddings, 2-D", 1, 2, 2, np.float32),
        ("3 and 2 embeddings, 4-D, double precision", 3, 2, 4, np.float64),
        ("20 and 30 embeddings, 16-D", 20, 30, 16, np.float32),
    ):
        both = _apart(rng, n + m, width, dtype)
        cotangent = _numbers(rng, (n, m), dtype)
        made.append(Case(case, "pair_scores", (both[:n], both[n:], *_head(rng, width, dtype)), cotangent))
    return made


def _of_pair_loss(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, sizes, width, scale, dtype in (
        ("2 images of a class and 1 of another, 1-D", (2, 1), 1, 1, np.float32),
        ("classes of 2 and 3 images, 2-D", (2, 3), 2, 1, np.float32),
        ("classes of 2, 1 and 3 images, 3-D, double precision", (2, 1, 3), 3, 1, np.float64),
        ("classes of 2 and 2 images, 2-D, far apart", (2, 2), 2, 100, np.float32),
        ("10 classes of 3 images, 16-D", (3,) * 10, 16, 0.3, np.float32),
    ):
        labels = _labels(rng, dict(enumerate(sizes)))
        embeddings = (scale * _apart(rng, len(labels), width, dtype)).astype(dtype)
        arguments = (embeddings, labels, *_head(rng, width, dtype))
        made.append(Case(case, "pair_loss", arguments, np.array(1, dtype)))
    return made


def _head(rng: np.random.Generator, width: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Weights, of which not all have the same sign, and a bias."""
    weight = _numbers(rng, (width,), dtype)
    weight[0] = -1.5
    return weight, np.array(round(rng.uniform(0.5, 2), 2), dtype)


def _apart(rng: np.random.Generator, n: int, width: int, dtype: type) -> np.ndarray:
    """Embeddings ``[n, width]``, no two of which have a coordinate in common, where |.| has no derivative."""
    return np.stack([rng.permutation(400)[:n] / 100 - 2 for _ in range(width)], 1).round(2).astype(dtype)


def _of_hardest_triplets(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, sizes, width, margin, dtype in (
        ("2 classes of 2 images, 1-D, margin 1", (2, 2), 1, 1.0, np.float32),
        ("classes of 2 and 3 images, 2-D, margin 0.5", (2, 3), 2, 0.5, np.float32),
        ("classes of 2, 3 and 4 images, 3-D, margin 1, double precision", (2, 3, 4), 3, 1.0, np.float64),
        ("10 classes of 3 images, 8-D, margin 1", (3,) * 10, 8, 1.0, np.float32),
    ):
        while True:
            labels = _labels(rng, dict(enumerate(sizes)))
            embeddings = (_apart(rng, len(labels), width, dtype) + labels[:, None]).round(2).astype(dtype)
            distances = np.sqrt(((embeddings[:, None] - embeddings) ** 2).sum(-1))
            same, itself = labels[:, None] == labels, np.eye(len(labels), dtype=bool)
            far, near = np.sort(np.where(same & ~itself, distances, -9), 1), np.sort(np.where(same, 99, distances), 1)
            slack = far[:, -1] - near[:, 0] + margin
            # it is plain which are the hardest, some triplets count and others do not, and none lies at the edge
            plain = min((far[:, -1] - far[:, -2]).min(), (near[:, 1] - near[:, 0]).min(), np.abs(slack).min()) > 1e-2
            if plain and (slack > 0).any() and (slack < 0).any():
                break
        made.append(Case(case, "hardest_triplets", (embeddings, labels, margin), np.array(1, dtype)))
    return made


def _of_one_shot(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, sizes, n_query, pixels, width in (
        ("2-way 1-shot, 2 pixels, 2-D", (1, 1), 4, 2, 2),
        ("3-way 1-shot, 3 pixels, 4-D", (1, 1, 1), 6, 3, 4),
        ("4-way, 1 to 3 images a class, 4 pixels, 5-D", (2, 1, 3, 2), 12, 4, 5),
        ("10-way 1-shot, 36 pixels, 16-D", (1,) * 10, 30, 36, 16),
    ):
        support_y = _labels(rng, dict(enumerate(sizes)))
        made.append(Case(case, "one_shot", _told_apart(rng, support_y, n_query, pixels, width)))
    return made


def _told_apart(rng: np.random.Generator, support_y: np.ndarray, n_query: int, pixels: int, width: int) -> tuple:
    """Arguments of ``one_shot`` with an answer that no rounding changes and no simple guess gives.

    Queries are kept whose two best support images differ clearly in score, as many for each class as there are at
    most, until there are enough of at least half of the classes.
    """
    while True:
        support_x = _numbers(rng, (len(support_y), pixels), np.float32)
        query_x = _numbers(rng, (20 * n_query, pixels), np.float32)
        w, b = _numbers(rng, (width, pixels), np.float32), _numbers(rng, (width,), np.float32)
        weight, bias = -np.abs(_numbers(rng, (width,), np.float32)), np.array(round(rng.normal(), 2), np.float32)
        weight[0] = 0.3  # one coordinate in which the farther apart are rather the same
        support, queries = (np.maximum(x @ w.T + b, 0) for x in (support_x, query_x))
        scores = np.abs(queries[:, None] - support) @ weight + bias
        best = np.sort(scores, 1)
        clear = np.flatnonzero(best[:, -1] - best[:, -2] > 2e-2 * (1 + np.abs(best[:, -1])))
        answer = support_y[scores[clear].argmax(1)]
        rank = (np.tril(answer[:, None] == answer, -1)).sum(1)  # how many queries of the same answer come before
        clear = clear[np.lexsort((np.arange(len(clear)), rank))][:n_query]
        found = set(support_y[scores[clear].argmax(1)].tolist())
        if len(clear) < n_query or len(found) <= max(1, len(set(support_y.tolist())) // 2):
            continue
        clear = rng.permutation(clear)
        if support_y[scores[clear[0]].argmax()]:  # not 0: neither counting nor taking turns is right by luck
            return support_x, support_y, query_x[clear], (w, b), (weight, bias)


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
