"""Fresh inputs for the lab on MAML: the calls that are compared, and the experiment's trials."""

from __future__ import annotations

### BEGIN STUDENT
import numpy as np

SHOTS = {"2-way 5-shot": 5, "2-way 10-shot": 10}
QUERIES = 40  # of each class


def waves(tasks: int, angle: float, rng: np.random.Generator, counts: tuple[int, ...]) -> list[np.ndarray]:
    """Points around one wave per task, some above it (class 1) and as many below (class 0), in sets of several sizes.

    Every wave has an amplitude and a phase of its own. The plane is turned by an angle, the same for all tasks. Returns
    points ``[tasks, 2 count, 2]`` and labels ``[tasks, 2 count]`` for every count.
    """
    amplitude, phase = rng.uniform(0.5, 1.5, (tasks, 1)), rng.uniform(0, 2 * np.pi, (tasks, 1))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    sets = []
    for count in counts:
        labels = rng.permuted(np.tile(np.arange(2 * count) % 2, (tasks, 1)), axis=1)
        across = rng.uniform(-1, 1, labels.shape)
        height = amplitude * np.sin(3 * across - phase) + (2 * labels - 1) * rng.uniform(0.1, 0.8, labels.shape)
        sets += [(np.stack([across, height], -1) @ turn).astype(np.float32), labels]
    return sets


def data(waves_seen: int, steps: int, episodes: int, seed: int) -> tuple[tuple, dict[str, np.ndarray]]:
    """The arguments of ``experiment``, and for each setting the labels of its queries, which ``experiment`` never sees.

    In every trial the plane is turned by another angle.
    """
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi)
    points, seen = waves(waves_seen, angle, rng, (20,))
    tasks, labels = [], {}
    for name, shots in SHOTS.items():
        support_x, support_y, query_x, query_y = waves(episodes, angle, rng, (shots, QUERIES))
        tasks.append((support_x, support_y, query_x))
        labels[name] = query_y
    labels |= {f"baseline {name}": labels[name] for name in SHOTS}
    return (points, seen, tuple(tasks), steps, seed), labels


### END STUDENT

from utils.grading.labs import Case, Trial  # noqa: E402


def trials(numbers: dict[str, int], seed: int) -> tuple[Trial, ...]:
    """One training for all settings. The seed that students get is not the one that the data are made from."""
    arguments, labels = data(**numbers, seed=seed)
    return (Trial((*arguments[:-1], seed % 1000), labels),)


def cases(seed: int) -> tuple[Case, ...]:
    """Calls of every function, from the smallest to larger ones; the first that fails is shown to the student."""
    rng = np.random.default_rng(seed)
    return (
        *_of_outputs(rng),
        *_of_adapt(rng),
        *_of_tasks(rng, "meta_loss"),
        *_of_tasks(rng, "first_order_gradient"),
        *_of_reptile_direction(rng),
    )


def _of_outputs(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, points, sizes, dtype in (
        ("1 layer, 3 points", 3, (2, 2), np.float32),
        ("2 layers, 2 points", 2, (2, 2, 2), np.float32),
        ("2 layers, 4 points, all widths different", 4, (2, 3, 4), np.float32),
        ("3 layers, 5 points, double precision", 5, (3, 4, 6, 2), np.float64),
        ("3 layers, 20 points", 20, (2, 40, 40, 5), np.float32),
    ):
        theta, (x,) = _network(rng, sizes, [(points,)], dtype)
        made.append(Case(case, "outputs", (theta, x, sizes), _typed(rng.normal(0, 1, (points, sizes[-1])), dtype)))
    return made


def _of_adapt(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, points, sizes, rate, steps, dtype in (
        ("1 layer, 1 step", 2, (2, 2), 0.5, 1, np.float32),
        ("2 layers, 1 step", 3, (2, 2, 2), 0.4, 1, np.float32),
        ("2 layers, 2 steps", 4, (2, 3, 2), 0.5, 2, np.float32),
        ("2 layers, no step", 4, (2, 3, 2), 0.5, 0, np.float32),
        ("2 layers, 5 steps, double precision", 6, (3, 5, 4), 0.3, 5, np.float64),
        ("3 layers, 3 steps", 10, (2, 20, 20, 3), 0.2, 3, np.float32),
    ):
        theta, (x,) = _network(rng, sizes, [(points,)], dtype)
        y = _labels(rng, theta, x, sizes)
        made.append(
            Case(case, "adapt", (theta, x, y, sizes, rate, steps), _typed(rng.normal(0, 1, theta.shape), dtype))
        )
    return made


def _of_tasks(rng: np.random.Generator, name: str) -> list[Case]:
    made = []
    for case, tasks, support, queries, sizes, rate, steps, dtype in (
        ("1 task, 1 layer, 1 step", 1, 2, 3, (2, 2), 0.5, 1, np.float32),
        ("2 tasks, 1 layer, 1 step", 2, 2, 3, (2, 2), 0.5, 1, np.float32),
        ("2 tasks, 2 layers, 2 steps", 2, 3, 2, (2, 3, 2), 0.5, 2, np.float32),
        ("3 tasks, 2 layers, 3 steps, double precision", 3, 4, 5, (3, 5, 4), 0.3, 3, np.float64),
        ("4 tasks, 3 layers, 2 steps", 4, 10, 12, (2, 20, 20, 3), 0.2, 2, np.float32),
    ):
        theta, (support_x, query_x) = _network(rng, sizes, [(tasks, support), (tasks, queries)], dtype)
        support_y, query_y = (_labels(rng, theta, x, sizes) for x in (support_x, query_x))
        arguments = (theta, support_x, support_y, query_x, query_y, sizes, rate, steps)
        made.append(Case(case, name, arguments, np.array(1, dtype) if name == "meta_loss" else None))
    return made


def _of_reptile_direction(rng: np.random.Generator) -> list[Case]:
    made = []
    for case, tasks, points, sizes, rate, steps, dtype in (
        ("1 task, 1 layer, 1 step", 1, 2, (2, 2), 0.5, 1, np.float32),
        ("2 tasks, 1 layer, 2 steps", 2, 2, (2, 2), 0.5, 2, np.float32),
        ("2 tasks, 2 layers, 3 steps", 2, 3, (2, 3, 2), 0.5, 3, np.float32),
        ("3 tasks, 2 layers, 5 steps, double precision", 3, 6, (3, 5, 4), 0.3, 5, np.float64),
        ("4 tasks, 3 layers, 3 steps", 4, 10, (2, 20, 20, 3), 0.2, 3, np.float32),
    ):
        theta, (x,) = _network(rng, sizes, [(tasks, points)], dtype)
        y = _labels(rng, theta, x, sizes)
        made.append(Case(case, "reptile_direction", (theta, x, y, sizes, rate, steps)))
    return made


def _network(
    rng: np.random.Generator, sizes: tuple[int, ...], shapes: list[tuple[int, ...]], dtype: type
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Parameters and points at which no unit is just at the kink of its ReLU, where rounding would decide."""
    while True:
        parts = []
        for layer in range(len(sizes) - 1):
            n_in, n_out = sizes[layer : layer + 2]
            parts += [rng.normal(0, 1.4 / n_in**0.5, n_in * n_out), rng.normal(0, 0.5, n_out)]
        theta = _typed(np.concatenate(parts), dtype)
        points = [_typed(rng.normal(0, 1, (*shape, sizes[0])), dtype) for shape in shapes]
        if all(np.abs(unit).min() > 1e-5 for x in points for unit in _units(theta, x, sizes)[:-1]):
            return theta, points


def _units(theta: np.ndarray, x: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """What goes into the units of every layer, the scores last."""
    found, start = [], 0
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer : layer + 2]
        weight, bias = np.split(theta[start : start + (n_in + 1) * n_out], [n_in * n_out])
        found.append((np.maximum(found[-1], 0) if found else x) @ weight.reshape(n_out, n_in).T + bias)
        start += (n_in + 1) * n_out
    return found


def _labels(rng: np.random.Generator, theta: np.ndarray, x: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Random classes; every other point's is the one that the network holds for least likely, to be learned."""
    scores = _units(theta, x, sizes)[-1]
    labels = rng.integers(sizes[-1], size=scores.shape[:-1])
    labels[..., ::2] = scores.argmin(-1)[..., ::2]
    return labels


def _typed(numbers: np.ndarray, dtype: type) -> np.ndarray:
    """With two decimals, so that a student can type them in."""
    return np.asarray(numbers).round(2).astype(dtype)
