"""Lab: replay from a small memory: a fair sample (Vitter 1985), what it counts, and an old network's answers for it."""

from __future__ import annotations

import torch


def places(first: int, size: int, draws: torch.Tensor) -> torch.Tensor:
    """Where items number first, first + 1, ... go in a reservoir of ``size`` places: int64 ``[N]``, -1 for nowhere.

    ``draws`` float64 ``[N]`` are numbers from [0, 1), one an item.
    """
    ### BEGIN SOLUTION
    number = torch.arange(first, first + len(draws))
    drawn = (draws * (number + 1)).long()
    place = torch.where(number < size, number, drawn)
    return torch.where(place < size, place, -1)
    ### END SOLUTION


def add(memory: torch.Tensor, items: torch.Tensor, seen: int, size: int, draws: torch.Tensor) -> torch.Tensor:
    """A reservoir ``[min(seen, size), D]`` after the items ``[N, D]`` that come next: ``[min(seen + N, size), D]``."""
    ### BEGIN SOLUTION
    room = min(size, seen + len(items)) - len(memory)
    memory = torch.cat([memory, items[:room]])
    for place, item in zip(places(seen, size, draws).tolist(), items, strict=True):
        if place >= 0:
            memory[place] = item
    return memory
    ### END SOLUTION


def sample(labels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """A batch in which every class is as likely: positions in ``labels [M]``, int64 ``[B]``, from ``draws [B, 2]``."""
    ### BEGIN SOLUTION
    classes, counts = labels.unique(return_counts=True)
    chosen = (draws[:, 0] * len(classes)).long()
    rank = (draws[:, 1] * counts[chosen]).long()
    start = counts.cumsum(0) - counts
    return labels.argsort(stable=True)[start[chosen] + rank]
    ### END SOLUTION


def replay_loss(
    logits: torch.Tensor, labels: torch.Tensor, remembered: torch.Tensor, remembered_labels: torch.Tensor, t: int
) -> torch.Tensor:
    """Loss while the t-th task is learned, from logits ``[B, C]`` of its images and ``[R, C]`` of remembered ones."""
    ### BEGIN SOLUTION
    new = torch.nn.functional.cross_entropy(logits, labels)
    old = torch.nn.functional.cross_entropy(remembered, remembered_labels)
    return new / t + (1 - 1 / t) * old
    ### END SOLUTION


def distilled_loss(logits: torch.Tensor, old_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Loss on replayed images, ``logits [R, C]``, with answers of the old network, ``old_logits [R, n_old]``."""
    ### BEGIN SOLUTION
    answers = torch.softmax(old_logits.detach() / temperature, dim=-1)
    own = torch.log_softmax(logits / temperature, dim=-1)[:, : old_logits.shape[1]]
    return -(temperature**2) * (answers * own).sum(-1).mean()
    ### END SOLUTION


### BEGIN SOLUTION
HIDDEN, BATCH, RATE, TEMPERATURE = 100, 50, 0.05, 2.0
PIXELS, CLASSES = 64, 10


def as_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.float() / 255


def network() -> torch.nn.Sequential:
    """A hidden layer with ReLU, and an output for every class there will ever be."""
    return torch.nn.Sequential(torch.nn.Linear(PIXELS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES))


def fit(net: torch.nn.Module, steps: int, loss_of_a_batch) -> None:
    """Gradient descent with momentum."""
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, fused=True)
    for _ in range(steps):
        loss = loss_of_a_batch()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def learn_task(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, memory: torch.Tensor, t: int, steps: int,
    distilled: bool,
) -> None:  # fmt: skip
    """Learn the t-th task, with rows of images and labels in memory; if ``distilled``, without a look at its labels."""
    old, old_labels = as_input(memory[:, :-1]), memory[:, -1].long()
    if distilled and t > 1:
        with torch.no_grad():
            answers = net(old)[:, : int(labels.min())]  # as it is now, before the task
        old_labels = answers.argmax(-1)

    def loss_of_a_batch() -> torch.Tensor:
        new = torch.randint(len(images), (BATCH,))
        x, y = as_input(images[new]), labels[new]
        if t == 1:
            return torch.nn.functional.cross_entropy(net(x), y)
        some = sample(old_labels, torch.rand(BATCH, 2, dtype=torch.float64))
        logits, remembered = net(torch.cat([x, old[some]])).split(BATCH)
        if not distilled:
            return replay_loss(logits, y, remembered, old_labels[some], t)
        taught = distilled_loss(remembered, answers[some], TEMPERATURE)
        return torch.nn.functional.cross_entropy(logits, y) / t + (1 - 1 / t) * taught

    fit(net, steps, loss_of_a_batch)


def with_replay(tasks: tuple, size: int, steps: int, distilled: bool) -> torch.nn.Module:
    """A network that learned the tasks one after the other, with a reservoir of ``size`` images."""
    net = network()
    memory, seen = torch.zeros(0, PIXELS + 1, dtype=torch.uint8), 0  # images, their labels behind
    for t, (images, labels) in enumerate(tasks, 1):
        learn_task(net, images, labels, memory, t, steps, distilled)
        order = torch.randperm(len(images))
        items = torch.cat([images[order], labels[order, None].to(torch.uint8)], dim=1)
        memory = add(memory, items, seen, size, torch.rand(len(items), dtype=torch.float64))
        seen += len(items)
    return net


def joint(tasks: tuple, steps: int) -> torch.nn.Module:
    """A network that learned from the images of all tasks at once, as many steps as all tasks take."""
    images, labels = (torch.cat(part) for part in zip(*tasks, strict=True))
    net = network()

    def loss_of_a_batch() -> torch.Tensor:
        some = torch.randint(len(images), (BATCH,))
        return torch.nn.functional.cross_entropy(net(as_input(images[some])), labels[some])

    fit(net, steps * len(tasks), loss_of_a_batch)
    return net


### END SOLUTION


def experiment(streams: tuple, size: int, steps: int, seed: int) -> list[torch.Tensor]:
    """Learn classes two by two with a small memory, and all at once, then classify images of all of them.

    Parameters
    ----------
    streams : for each stream ``(tasks, test)``. Its tasks are ``(images, labels)``, uint8 ``[N, 64]`` and int64
        ``[N]``, with labels 0 and 1 in the first task, 2 and 3 in the second, and so on. Its test is uint8
        ``[E, Q, 64]``: images of all ten classes, mixed.
    size : images that the memory holds.
    steps : of training on each task.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the tests, int64 ``[streams * E, Q]``, stream after stream: with experience replay, with
    distillation, and of joint training.
    """
    ### BEGIN SOLUTION
    torch.manual_seed(seed)
    found = []
    for tasks, test in streams:
        networks = (
            with_replay(tasks, size, steps, distilled=False),
            with_replay(tasks, size, steps, distilled=True),
            joint(tasks, steps),
        )
        with torch.no_grad():
            found.append([net(as_input(test)).argmax(-1) for net in networks])
    return [torch.cat(of_method) for of_method in zip(*found, strict=True)]
    ### END SOLUTION
