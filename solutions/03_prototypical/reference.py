"""Lab: prototypical networks (Snell, Swersky and Zemel 2017), from their formulas to a trained classifier."""

from __future__ import annotations

import torch


def prototypes(embeddings: torch.Tensor, labels: torch.Tensor, n_way: int) -> torch.Tensor:
    """The mean embedding of each class: ``[S, D]``, int64 ``[S]`` to ``[n_way, D]``, row k for label k."""
    ### BEGIN SOLUTION
    member = torch.nn.functional.one_hot(labels, n_way).to(embeddings.dtype)
    return (member / member.sum(0)).T @ embeddings
    ### END SOLUTION


def log_probabilities(queries: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """log p(y = k | x) from squared Euclidean distances: ``[Q, D]``, ``[n_way, D]`` to ``[Q, n_way]``."""
    ### BEGIN SOLUTION
    distances = (queries[:, None] - prototypes).square().sum(-1)
    return torch.log_softmax(-distances, dim=-1)
    ### END SOLUTION


def episode_loss(
    support: torch.Tensor, support_y: torch.Tensor, queries: torch.Tensor, query_y: torch.Tensor, n_way: int
) -> torch.Tensor:
    """Mean of -log p(y | x) over the queries of an episode of embeddings ``[S, D]`` and ``[Q, D]``: a scalar."""
    ### BEGIN SOLUTION
    log_p = log_probabilities(queries, prototypes(support, support_y, n_way))
    return torch.nn.functional.nll_loss(log_p, query_y)
    ### END SOLUTION


def predict(
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    n_way: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """The class of each query, int64 ``[Q]``, under the embedding f(x) = relu(weight x + bias).

    ``support_x [S, P]`` and ``query_x [Q, P]`` are images as vectors, ``weight [D, P]``, ``bias [D]``.
    """
    ### BEGIN SOLUTION
    support, queries = (torch.relu(x @ weight.T + bias) for x in (support_x, query_x))
    return log_probabilities(queries, prototypes(support, support_y, n_way)).argmax(-1)
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


### END SOLUTION


def experiment(images: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Train on labelled images, then classify the queries of tasks with new classes.

    Parameters
    ----------
    images : uint8 ``[class, image, 1, 14, 14]``, the training classes.
    tasks : for each setting ``(support_x, support_y, query_x, n_way)``: support_x uint8 ``[E, S, 1, 14, 14]`` and
        query_x ``[E, Q, 1, 14, 14]`` of E episodes, support_y int64 ``[E, S]`` with labels 0 .. n_way - 1.
    steps : training episodes.
    seed : of all that is random.

    Returns
    -------
    For each setting the predicted labels of the queries, int64 ``[E, Q]``.
    """
    ### BEGIN SOLUTION
    torch.manual_seed(seed)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    way, shot, n_query = 20, 1, 4  # harder tasks than those of the test train better (Snell et al. 2017, section 3.1)
    labels = torch.arange(way)
    for _ in range(steps):
        classes = torch.randperm(len(images))[:way]
        chosen = torch.rand(way, images.shape[1]).argsort(1)[:, : shot + n_query]
        embeddings = net(as_input(images[classes[:, None], chosen].flatten(0, 1))).unflatten(0, (way, shot + n_query))
        loss = episode_loss(
            embeddings[:, :shot].flatten(0, 1),
            labels.repeat_interleave(shot),
            embeddings[:, shot:].flatten(0, 1),
            labels.repeat_interleave(n_query),
            way,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    net.eval()
    answers = []
    with torch.no_grad():
        for support_x, support_y, query_x, n_way in tasks:
            support, queries = embedded(net, support_x), embedded(net, query_x)
            answers.append(
                torch.stack(
                    [
                        log_probabilities(q, prototypes(s, y, n_way)).argmax(-1)
                        for s, y, q in zip(support, support_y, queries, strict=True)
                    ]
                )
            )
    return answers
    ### END SOLUTION
