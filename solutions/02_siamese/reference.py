"""Lab: Siamese networks (Koch, Zemel and Salakhutdinov 2015): the same or not, learned from pairs."""

from __future__ import annotations

import torch


def pair_scores(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Logits of "the same class" of all pairs of embeddings ``[N, D]``, ``[M, D]``, with ``weight [D]``: ``[N, M]``."""
    ### BEGIN SOLUTION
    return (a[:, None] - b).abs() @ weight + bias
    ### END SOLUTION


def pair_loss(embeddings: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over all pairs of a batch ``[N, D]``, half of it for each kind of pair: a scalar."""
    ### BEGIN SOLUTION
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)  # each pair once, and no image with itself
    scores = pair_scores(embeddings, embeddings, weight, bias)[i, j]
    same = labels[i] == labels[j]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, same.to(scores.dtype), reduction="none")
    return (losses[same].mean() + losses[~same].mean()) / 2
    ### END SOLUTION


def hardest_triplets(embeddings: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Triplet loss of each image ``[N, D]`` with its farthest positive and nearest negative, a mean: a scalar."""
    ### BEGIN SOLUTION
    squares = (embeddings[:, None] - embeddings).square().sum(-1)
    together = squares == 0  # as an image is with itself: there a root has no slope
    distances = squares.masked_fill(together, 1).sqrt().masked_fill(together, 0)
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool)
    farthest = distances.masked_fill(~same | itself, -torch.inf).amax(1)
    nearest = distances.masked_fill(same, torch.inf).amin(1)
    return (farthest - nearest + margin).clamp(min=0).mean()
    ### END SOLUTION


def one_shot(
    support_x: torch.Tensor,
    support_y: torch.Tensor,
    query_x: torch.Tensor,
    embedding: tuple[torch.Tensor, torch.Tensor],
    head: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The label of each query, int64 ``[Q]``: that of the support image it is most likely to be a pair with.

    Images are vectors, ``support_x [S, P]`` and ``query_x [Q, P]``. With embedding = (W [D, P], b [D]) and
    head = (weight [D], bias): f(x) = relu(W x + b), scores by ``pair_scores``.
    """
    ### BEGIN SOLUTION
    w, b = embedding
    support, queries = (torch.relu(x @ w.T + b) for x in (support_x, query_x))
    return support_y[pair_scores(queries, support, *head).argmax(-1)]
    ### END SOLUTION


### BEGIN SOLUTION
CHANNELS, WAY, SHOT, RATE = 24, 30, 2, 3e-3


class Siamese(torch.nn.Module):
    """Two towers with the same weights, and a weight for each coordinate of their distance."""

    def __init__(self) -> None:
        super().__init__()
        layers, width = [], 1
        for pooled in (True, True, False):  # 14 x 14, 7 x 7, 3 x 3
            layers += [torch.nn.Conv2d(width, CHANNELS, 3, padding=1), torch.nn.BatchNorm2d(CHANNELS), torch.nn.ReLU()]
            layers += [torch.nn.MaxPool2d(2)] * pooled
            width = CHANNELS
        # images whose channels lie together in memory: much faster on a CPU
        self.tower = torch.nn.Sequential(*layers, torch.nn.Flatten()).to(memory_format=torch.channels_last)
        size = 9 * CHANNELS
        self.weight = torch.nn.Parameter(torch.full((size,), -(size**-0.5)))  # the farther apart, the less alike
        self.bias = torch.nn.Parameter(torch.tensor(4.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[B, 216]`` of uint8 images ``[B, 1, 14, 14]``."""
        return self.tower(images.float() / 255)


def trained(images: torch.Tensor, steps: int) -> Siamese:
    """A network that has seen ``steps`` batches, each of all pairs among some images of some classes."""
    net = Siamese()
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    labels = torch.arange(WAY).repeat_interleave(SHOT)
    for _ in range(steps):
        classes = torch.randperm(len(images))[:WAY, None]
        shown = torch.rand(WAY, images.shape[1]).argsort(1)[:, :SHOT]
        loss = pair_loss(net(images[classes, shown].flatten(0, 1)), labels, net.weight, net.bias)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def embedded(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Embeddings ``[E, N, D]`` of images ``[E, N, 1, 14, 14]``, some hundred at a time."""
    return torch.cat([net(some) for some in images.flatten(0, 1).split(100)]).unflatten(0, images.shape[:2])


def nearest_neighbour(support_x: torch.Tensor, support_y: torch.Tensor, query_x: torch.Tensor) -> torch.Tensor:
    """The labels ``[E, Q]`` of the support images whose pixels are nearest."""
    distances = torch.cdist(query_x.flatten(2).float(), support_x.flatten(2).float())
    return support_y.gather(1, distances.argmin(-1))


### END SOLUTION


def experiment(images: torch.Tensor, tasks: tuple, steps: int, seed: int) -> list[torch.Tensor]:
    """Learn from pairs of images, then name the queries of tasks with new classes by comparison.

    Parameters
    ----------
    images : uint8 ``[class, image, 1, 14, 14]``, the training classes.
    tasks : for 5 and for 20 classes ``(support_x, support_y, query_x)``: uint8 ``[E, S, 1, 14, 14]``, int64 ``[E, S]``
        and uint8 ``[E, Q, 1, 14, 14]`` of E episodes with one support image a class.
    steps : batches of training.
    seed : of all that is random.

    Returns
    -------
    The predicted labels of the queries, int64 ``[E, Q]``: of the Siamese network for 5 classes, the same for 20, and
    for 20 classes those of the nearest neighbour in pixels.
    """
    ### BEGIN SOLUTION
    torch.manual_seed(seed)
    net = trained(images, steps).eval()
    answers = []
    with torch.no_grad():
        for support_x, support_y, query_x in tasks:
            pairs = zip(embedded(net, query_x), embedded(net, support_x), support_y, strict=True)
            best = [y[pair_scores(q, s, net.weight, net.bias).argmax(-1)] for q, s, y in pairs]
            answers.append(torch.stack(best))
    return [*answers, nearest_neighbour(*tasks[1])]
    ### END SOLUTION
