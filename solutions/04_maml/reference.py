"""Lab: model-agnostic meta-learning (Finn, Abbeel and Levine 2017), with all parameters of a network in one vector."""

from __future__ import annotations

import torch


def outputs(theta: torch.Tensor, x: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """The network: ``x [N, sizes[0]]`` to scores of the classes ``[N, sizes[-1]]``, with the parameters ``theta [P]``.

    Layer after layer, ``theta`` holds the weight ``[out, in]`` row by row, then the bias ``[out]``.
    """
    ### BEGIN SOLUTION
    start = 0
    for layer in range(len(sizes) - 1):
        n_in, n_out = sizes[layer : layer + 2]
        middle, end = start + n_in * n_out, start + n_in * n_out + n_out
        x = x if layer == 0 else torch.relu(x)
        x = x @ theta[start:middle].view(n_out, n_in).T + theta[middle:end]
        start = end
    return x
    ### END SOLUTION


def adapt(
    theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, sizes: tuple[int, ...], rate: float, steps: int
) -> torch.Tensor:
    """The inner loop: theta after ``steps`` steps of gradient descent on a support set ``x [S, D]``, ``y [S]``.

    What comes back is a function of ``theta`` that autograd can differentiate, the inner gradients too.
    """
    ### BEGIN SOLUTION
    for _ in range(steps):
        theta = theta - rate * torch.func.grad(task_loss)(theta, x, y, sizes)
    return theta
    ### END SOLUTION


### BEGIN SOLUTION
def task_loss(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """The mean cross-entropy of one task."""
    return torch.nn.functional.cross_entropy(outputs(theta, x, sizes), y)


### END SOLUTION


def meta_loss(
    theta: torch.Tensor,
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    query_y: torch.Tensor,
    sizes: tuple[int, ...],
    rate: float,
    steps: int,
) -> torch.Tensor:
    """The outer loss: the mean over T tasks of the loss on the task's queries after adapting to its support set.

    ``support_x [T, S, D]``, ``support_y [T, S]``, ``query_x [T, Q, D]``, ``query_y [T, Q]`` to a scalar.
    """

    ### BEGIN SOLUTION
    def after_adapting(x: torch.Tensor, y: torch.Tensor, new_x: torch.Tensor, new_y: torch.Tensor) -> torch.Tensor:
        return task_loss(adapt(theta, x, y, sizes, rate, steps), new_x, new_y, sizes)

    return torch.vmap(after_adapting)(support_x, support_y, query_x, query_y).mean()
    ### END SOLUTION


def first_order_gradient(
    theta: torch.Tensor,
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    query_y: torch.Tensor,
    sizes: tuple[int, ...],
    rate: float,
    steps: int,
) -> torch.Tensor:
    """What first-order MAML descends: the mean over tasks of the queries' gradient at the adapted parameters, ``[P]``.

    The tasks are given as in ``meta_loss``.
    """

    ### BEGIN SOLUTION
    def at_adapted(x: torch.Tensor, y: torch.Tensor, new_x: torch.Tensor, new_y: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(task_loss)(adapt(theta, x, y, sizes, rate, steps), new_x, new_y, sizes)

    return torch.vmap(at_adapted)(support_x, support_y, query_x, query_y).mean(0)
    ### END SOLUTION


def reptile_direction(
    theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, sizes: tuple[int, ...], rate: float, steps: int
) -> torch.Tensor:
    """What Reptile descends: theta minus the mean of what it adapts to, over tasks ``x [T, S, D]``, ``y [T, S]``.

    An optimiser that is given it as a gradient moves theta towards the adapted parameters.
    """
    ### BEGIN SOLUTION
    adapted = torch.vmap(lambda x, y: adapt(theta, x, y, sizes, rate, steps))(x, y)
    return theta - adapted.mean(0)
    ### END SOLUTION


### BEGIN SOLUTION
SIZES = (2, 40, 40, 2)
RATE, INNER_STEPS, TEST_STEPS = 0.2, 3, 10


def beginning() -> torch.Tensor:
    """Random parameters: weights of a size at which ReLU keeps the size of what goes through, no biases."""
    parts = []
    for layer in range(len(SIZES) - 1):
        n_in, n_out = SIZES[layer : layer + 2]
        parts += [torch.randn(n_in * n_out) * (2 / n_in) ** 0.5, torch.zeros(n_out)]
    return torch.cat(parts)


def trained(points: torch.Tensor, labels: torch.Tensor, steps: int, inner_steps: int) -> torch.Tensor:
    """The start that MAML finds with so many inner steps; with none of them it is pre-training on all tasks."""
    theta = beginning().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(points), (20, 1))
        order = torch.rand(20, points.shape[1]).argsort(1)
        (support_x, query_x), (support_y, query_y) = (each[chosen, order].chunk(2, 1) for each in (points, labels))
        loss = meta_loss(theta, support_x, support_y, query_x, query_y, SIZES, RATE, inner_steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return theta.detach()


def predictions(theta: torch.Tensor, task: tuple) -> torch.Tensor:
    """The classes of the queries of all episodes of a task, each adapted to its own support set alone."""

    def of_episode(x: torch.Tensor, y: torch.Tensor, new_x: torch.Tensor) -> torch.Tensor:
        return outputs(adapt(theta, x, y, SIZES, RATE, TEST_STEPS), new_x, SIZES).argmax(-1)

    return torch.vmap(of_episode)(*task)


### END SOLUTION


def experiment(points: torch.Tensor, labels: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Train a start by MAML and one by pre-training, then adapt both to new tasks and classify their queries.

    Parameters
    ----------
    points, labels : float32 ``[N, M, 2]`` and int64 ``[N, M]``: N training tasks with M points each and their classes.
    tasks : for each number of shots ``(support_x, support_y, query_x)``: support_x float32 ``[E, S, 2]``, support_y
        int64 ``[E, S]`` and query_x ``[E, Q, 2]`` of E new tasks.
    steps : of training, for each of the two, with twenty training tasks each.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the queries, int64 ``[E, Q]``: of MAML for each of the tasks, then of the baseline for each.
    """
    ### BEGIN SOLUTION
    answers = []
    for inner_steps in (INNER_STEPS, 0):
        torch.manual_seed(seed)  # both begin with the same parameters
        theta = trained(points, labels, steps, inner_steps)
        answers += [predictions(theta, task) for task in tasks]
    return answers
    ### END SOLUTION
