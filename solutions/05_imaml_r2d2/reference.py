"""Lab: closed-form and implicit inner learners (R2-D2 and LR-D2 of Bertinetto et al. 2019, iMAML)."""

from __future__ import annotations

import torch


def ridge(features: torch.Tensor, targets: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Weights of ridge regression by a system of S equations: ``[S, D]``, ``[S, K]``, a scalar to ``[D, K]``."""
    ### BEGIN SOLUTION
    x = features.double()  # single precision loses digits where examples resemble each other
    system = x @ x.T + strength * torch.eye(len(x), dtype=x.dtype)
    return (x.T @ torch.linalg.solve(system, targets.double())).to(features.dtype)
    ### END SOLUTION


def adapted_logits(
    support: torch.Tensor,
    support_y: torch.Tensor,
    queries: torch.Tensor,
    n_way: int,
    log_strength: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """The logits of R2-D2 for the queries of a task of embeddings ``[S, D]`` and ``[Q, D]``: ``[Q, n_way]``."""
    ### BEGIN SOLUTION
    targets = torch.nn.functional.one_hot(support_y, n_way).to(support.dtype)
    return scale * (queries @ ridge(support, targets, log_strength.exp())) + offset
    ### END SOLUTION


def newton_step(
    weights: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, strength: torch.Tensor
) -> torch.Tensor:
    """Weights ``[D]`` of logistic regression on ``features [S, D]`` with labels 0 and 1, one Newton step further."""
    ### BEGIN SOLUTION
    x, w = features.double(), weights.double()
    p = torch.sigmoid(x @ w)
    slope = x.T @ (p - labels) + strength * w
    curvature = x.T @ ((p * (1 - p))[:, None] * x) + strength * torch.eye(len(w), dtype=x.dtype)
    return (w - torch.linalg.solve(curvature, slope)).to(weights.dtype)
    ### END SOLUTION


def conjugate_gradient(matrix: torch.Tensor, b: torch.Tensor, steps: int) -> torch.Tensor:
    """``steps`` steps of conjugate gradients from 0 towards the x with matrix x = b: ``[P, P]``, ``[P]`` to ``[P]``."""
    ### BEGIN SOLUTION
    x, residual, direction = torch.zeros_like(b), b, b
    for _ in range(steps):
        if not residual.any():  # arrived
            break
        product = matrix @ direction
        length = (residual @ residual) / (direction @ product)
        x = x + length * direction
        new = residual - length * product
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
    return x
    ### END SOLUTION


def implicit_gradient(hessian: torch.Tensor, gradient: torch.Tensor, strength: float, steps: int) -> torch.Tensor:
    """(I + hessian / strength)^-1 gradient, by conjugate gradients: ``[P, P]``, ``[P]`` to ``[P]``."""
    ### BEGIN SOLUTION
    return conjugate_gradient(torch.eye(len(gradient), dtype=gradient.dtype) + hessian / strength, gradient, steps)
    ### END SOLUTION


### BEGIN SOLUTION
def network(channels: int = 32) -> torch.nn.Sequential:
    """Three blocks of convolution, batch norm and ReLU: images ``[B, 1, 14, 14]`` to embeddings ``[B, 288]``."""
    blocks, width = [], 1
    for pooled in (True, True, False):
        blocks += [torch.nn.Conv2d(width, channels, 3, padding=1), torch.nn.BatchNorm2d(channels), torch.nn.ReLU()]
        blocks += [torch.nn.MaxPool2d(2)] if pooled else []
        width = channels
    # images whose channels lie together in memory: three times as fast on a CPU
    return torch.nn.Sequential(*blocks, torch.nn.Flatten()).to(memory_format=torch.channels_last)


def as_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in [0, 1]."""
    return images.float() / 255


def embedded(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Embeddings ``[E, N, D]`` of images ``[E, N, 1, 14, 14]``, in batches: much faster than episode by episode."""
    batches = images.flatten(0, 1).split(100)
    return torch.cat([net(as_input(batch)) for batch in batches]).unflatten(0, images.shape[:2])


def head() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logarithm of the strength, the scale and the offset, as they are before training.

    The softmax takes no notice of an offset that all classes share, so it stays as it is.
    """
    return torch.tensor(50.0).log().requires_grad_(), torch.tensor(10.0).requires_grad_(), torch.tensor(0.0)


def trained(images: torch.Tensor, steps: int) -> tuple[torch.nn.Module, tuple]:
    """A network and the numbers of its head, trained on ``steps`` episodes of the classes of ``images``."""
    net, numbers = network(), head()
    # three numbers have further to go than weights
    groups = [{"params": net.parameters()}, {"params": numbers[:2], "lr": 0.1}]
    optimizer = torch.optim.Adam(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    way, shot, n_query = 20, 1, 4
    labels = torch.arange(way)
    for _ in range(steps):
        classes = torch.randperm(len(images))[:way]
        chosen = torch.rand(way, images.shape[1]).argsort(1)[:, : shot + n_query]
        embeddings = net(as_input(images[classes[:, None], chosen].flatten(0, 1))).unflatten(0, (way, shot + n_query))
        support, queries = embeddings[:, :shot].flatten(0, 1), embeddings[:, shot:].flatten(0, 1)
        logits = adapted_logits(support, labels.repeat_interleave(shot), queries, way, *numbers)
        loss = torch.nn.functional.cross_entropy(logits, labels.repeat_interleave(n_query))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval(), numbers


def classes_of(support: torch.Tensor, support_y: torch.Tensor, queries: torch.Tensor, n_way: int, numbers: tuple):
    """The class of every query ``[E, Q]`` of E episodes, each adapted to by itself."""
    episodes = zip(support, support_y, queries, strict=True)
    return torch.stack([adapted_logits(s, y, q, n_way, *numbers).argmax(-1) for s, y, q in episodes])


### END SOLUTION


def experiment(images: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Train an embedding through ridge regression, then classify the queries of tasks with new classes.

    Parameters
    ----------
    images : uint8 ``[class, image, 1, 14, 14]``, the training classes.
    tasks : for each kind of task ``(support_x, support_y, query_x, n_way)``: support_x uint8 ``[E, S, 1, 14, 14]`` and
        query_x ``[E, Q, 1, 14, 14]`` of E episodes, support_y int64 ``[E, S]`` with labels 0 .. n_way - 1.
    steps : training episodes.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the queries, int64 ``[E, Q]``: for each kind of task those of the trained network, then for
    each those of the same ridge regression on the pixels themselves.
    """
    ### BEGIN SOLUTION
    torch.manual_seed(seed)
    net, numbers = trained(images, steps)
    on_pixels = tuple(map(torch.tensor, (0.0, 1.0, 0.0)))  # a strength of 1
    learned, plain = [], []
    with torch.no_grad():
        for support_x, support_y, query_x, n_way in tasks:
            embeddings = embedded(net, support_x), embedded(net, query_x)
            pixels = as_input(support_x).flatten(2), as_input(query_x).flatten(2)
            for answers, (support, queries), head_of in ((learned, embeddings, numbers), (plain, pixels, on_pixels)):
                answers.append(classes_of(support, support_y, queries, n_way, head_of))
    return learned + plain
    ### END SOLUTION
