"""Lab: learning without forgetting (Li and Hoiem 2016) and bias correction (BiC, Wu et al. 2019)."""

from __future__ import annotations

import torch


def soften(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities ``[N, C]`` at a temperature: y_k^(1/T) / sum_j y_j^(1/T)."""
    ### BEGIN SOLUTION
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(-1, keepdim=True)
    ### END SOLUTION


def old_heads_loss(
    logits: torch.Tensor, recorded: torch.Tensor, heads: tuple[tuple[int, int], ...], temperature: float
) -> torch.Tensor:
    """What LwF adds to the loss: ``logits [N, C]``, recorded probabilities ``[N, C]``, (begin, end) of old heads."""
    ### BEGIN SOLUTION
    loss = torch.zeros((), dtype=logits.dtype)
    for begin, end in heads:
        answers = soften(recorded[:, begin:end].detach(), temperature)
        loss = loss + torch.nn.functional.cross_entropy(logits[:, begin:end] / temperature, answers)
    return loss
    ### END SOLUTION


def bic_loss(logits: torch.Tensor, labels: torch.Tensor, old_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """BiC's first stage: ``logits [N, n + m]`` of n old and m new classes, the old network's ``old_logits [N, n]``."""
    ### BEGIN SOLUTION
    n_old, n_all = old_logits.shape[1], logits.shape[1]
    answers = torch.softmax(old_logits.detach() / temperature, dim=-1)
    distilling = torch.nn.functional.cross_entropy(logits[:, :n_old] / temperature, answers)
    share = n_old / n_all
    return share * distilling + (1 - share) * torch.nn.functional.cross_entropy(logits, labels)
    ### END SOLUTION


def herding(vectors: torch.Tensor, m: int) -> torch.Tensor:
    """Positions, int64 ``[m]``, of the vectors ``[N, D]`` whose mean follows that of all, in the order of choice."""
    ### BEGIN SOLUTION
    mean, total = vectors.mean(0), torch.zeros_like(vectors[0])
    chosen: list[int] = []
    for k in range(1, m + 1):
        distances = (mean - (total + vectors) / k).square().sum(-1)
        distances[chosen] = torch.inf
        chosen.append(int(distances.argmin()))
        total = total + vectors[chosen[-1]]
    return torch.tensor(chosen)
    ### END SOLUTION


### BEGIN SOLUTION
def corrected(logits: torch.Tensor, n_old: int, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Logits ``[..., C]`` as they are for the first ``n_old`` classes, alpha o + beta for the others."""
    return torch.cat([logits[..., :n_old], alpha * logits[..., n_old:] + beta], dim=-1)


### END SOLUTION


def bias_correction(logits: torch.Tensor, labels: torch.Tensor, n_old: int) -> torch.Tensor:
    """BiC's second stage: alpha and beta ``[2]`` that minimise the cross-entropy of the corrected logits ``[N, C]``."""
    ### BEGIN SOLUTION
    at = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([at], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(corrected(logits.detach().double(), n_old, at[0], at[1]), labels)
        value.backward()
        return value

    optimizer.step(loss)
    return at.detach().to(logits.dtype)
    ### END SOLUTION


### BEGIN SOLUTION
HIDDEN, BATCH, RATE, TEMPERATURE = 50, 32, 1e-2, 2.0
OLD = 5.0  # weight of the old heads' answers
HELD = 0.3  # of the memory, for the second stage


class Networks(torch.nn.Module):
    """A network with a hidden layer for each of S streams, side by side: ``[S, N, 64]`` to ``[S, N, 10]``."""

    def __init__(self, streams: int):
        super().__init__()
        self.w1 = torch.nn.Parameter(torch.randn(streams, 64, HIDDEN) * (2 / 64) ** 0.5)
        self.b1 = torch.nn.Parameter(torch.zeros(streams, 1, HIDDEN))
        self.w2 = torch.nn.Parameter(torch.randn(streams, HIDDEN, 10) * (1 / HIDDEN) ** 0.5)
        self.b2 = torch.nn.Parameter(torch.zeros(streams, 1, 10))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.w1 + self.b1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x) @ self.w2 + self.b2


def as_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.float() / 255


def minimised(net: Networks, loss, n_images: int, steps: int) -> None:
    """Steps of Adam, at a rate that falls to 0, on ``loss(some)`` of random images: their streams and positions.

    A loss over the images of all streams is as good as one for each: the streams share no parameter, and Adam does not
    mind that each of them has a part of the mean only.
    """
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    streams = len(net.w1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss((torch.arange(streams)[:, None], torch.randint(n_images, (streams, BATCH)))).backward()
        optimizer.step()


def learned_by_heads(images: torch.Tensor, labels: torch.Tensor, steps: int, weight: float) -> Networks:
    """Every task with its images alone. Each has a head, its classes; with weight 0 this is fine-tuning."""
    net = Networks(len(images))
    heads: tuple[tuple[int, int], ...] = ()
    for task in range(images.shape[1]):
        x, y = as_input(images[:, task]), labels[:, task]
        begin, end = int(y.min()), int(y.max()) + 1
        with torch.no_grad():
            logits = net(x)
            recorded = torch.zeros_like(logits)
            for a, b in heads:
                recorded[..., a:b] = torch.softmax(logits[..., a:b], dim=-1)

        def loss(some, x=x, y=y, recorded=recorded, heads=heads, begin=begin, end=end):
            logits = net(x[some]).flatten(0, 1)
            new = torch.nn.functional.cross_entropy(logits[:, begin:end], y[some].flatten() - begin)
            return new + weight * old_heads_loss(logits, recorded[some].flatten(0, 1), heads, TEMPERATURE)

        minimised(net, loss, x.shape[1], steps)
        heads = (*heads, (begin, end))
    return net


def learned_by_bic(images: torch.Tensor, labels: torch.Tensor, size: int, steps: int) -> tuple:
    """Every task with exemplars of the old classes. Returns the networks, and the last n_old, alpha and beta."""
    net, rows = Networks(len(images)), torch.arange(len(images))[:, None]
    n_old, alpha, beta = 0, torch.ones(len(images), 1, 1), torch.zeros(len(images), 1, 1)
    exemplars: list[torch.Tensor] = []  # of each class those to train with, and those held out for the second stage
    held: list[torch.Tensor] = []
    for task in range(images.shape[1]):
        x, y = as_input(images[:, task]), labels[:, task]
        begin, end = int(y.min()), int(y.max()) + 1
        by_class = (y + torch.rand(y.shape)).argsort(dim=1)  # and in any order within a class
        of_class = x[rows, by_class].chunk(end - begin, dim=1)
        n_held = int(HELD * size / (begin or end))  # of a class, as many as of the old ones
        held += [one[:, :n_held] for one in of_class]
        train = exemplars + [one[:, n_held:] for one in of_class]
        x, y = torch.cat(train, dim=1), numbered(train)
        with torch.no_grad():
            recorded = corrected(net(x)[..., :begin], n_old, alpha, beta)

        def loss(some, x=x, y=y, recorded=recorded, end=end):
            logits, labels = net(x[some])[..., :end].flatten(0, 1), y[some[1]].flatten()
            if not recorded.shape[-1]:
                return torch.nn.functional.cross_entropy(logits, labels)
            return bic_loss(logits, labels, recorded[some].flatten(0, 1), TEMPERATURE)

        minimised(net, loss, x.shape[1], steps)
        n_old = begin
        if n_old:
            with torch.no_grad():
                logits = net(torch.cat(held, dim=1))[..., :end]
            both = torch.stack([bias_correction(one, numbered(held), n_old) for one in logits])
            alpha, beta = both[:, 0, None, None], both[:, 1, None, None]
        n_held = int(HELD * size / end)
        n_kept = size // end - n_held
        # herded once: any beginning of the list is what herding would have chosen of that number
        exemplars = [one[:, :n_kept] for one in exemplars]
        exemplars += [herded(net, one, n_kept) for one in train[begin:]]
        held = [one[:, :n_held] for one in held]
    return net, n_old, alpha, beta


def herded(net: Networks, x: torch.Tensor, m: int) -> torch.Tensor:
    """The m images of a class that herding chooses in every stream: ``[S, N, 64]`` to ``[S, m, 64]``."""
    with torch.no_grad():
        features = net.features(x)
    return torch.stack([one[herding(f, m)] for one, f in zip(x, features, strict=True)])


def numbered(of_class: list[torch.Tensor]) -> torch.Tensor:
    """The label of every image when those of all classes lie one behind the other."""
    return torch.arange(len(of_class)).repeat_interleave(torch.tensor([one.shape[1] for one in of_class]))


def within_tasks(logits: torch.Tensor, tasks: int) -> torch.Tensor:
    """The place of the likeliest class within its task, of logits ``[S, E, Q, 10]`` of which each task has as many."""
    classes = logits.shape[-1] // tasks
    parts = [part[..., t * classes : (t + 1) * classes] for t, part in enumerate(logits.chunk(tasks, dim=2))]
    return torch.cat([part.argmax(-1) for part in parts], dim=2)


### END SOLUTION


def experiment(
    images: torch.Tensor,
    labels: torch.Tensor,
    by_task: torch.Tensor,
    mixed: torch.Tensor,
    size: int,
    steps: int,
    seed: int,
) -> list[torch.Tensor]:
    """Learn new classes task by task in every stream, by LwF and by BiC, then classify images of all its tasks.

    Parameters
    ----------
    images : uint8 ``[S, T, N, 64]``, of S streams with T tasks each.
    labels : int64 ``[S, T, N]``. The labels of a task follow those of the one before, from 0 to 9.
    by_task : uint8 ``[S, E, Q, 64]``, for LwF and fine-tuning: the first Q / T images of an episode are of the first
        task, the next of the second, and so on. Their labels are places within the task, from 0.
    mixed : uint8 ``[S, E, Q, 64]``, images of all classes, for BiC and distillation.
    size : images that the memory of BiC holds in a stream, those that are held out included.
    steps : of training on each task.
    seed : of all that is random.

    Returns
    -------
    The predicted labels, int64 ``[S * E, Q]``: of ``by_task`` by LwF and by fine-tuning, of ``mixed`` by BiC and by
    its first stage alone (distillation).
    """
    ### BEGIN SOLUTION
    torch.manual_seed(seed)
    answers = []
    for weight in (OLD, 0.0):
        net = learned_by_heads(images, labels, steps, weight)
        with torch.no_grad():
            logits = net(as_input(by_task).flatten(1, 2)).unflatten(1, by_task.shape[1:3])
        answers.append(within_tasks(logits, images.shape[1]).flatten(0, 1))
    net, n_old, alpha, beta = learned_by_bic(images, labels, size, steps)
    with torch.no_grad():
        logits = net(as_input(mixed).flatten(1, 2))
    for scores in (corrected(logits, n_old, alpha, beta), logits):
        answers.append(scores.argmax(-1).view(-1, mixed.shape[2]))
    return answers
    ### END SOLUTION
