"""iCaRL: herding against its definition, exemplars that shrink, the nearest mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from replay_fixtures import SETTINGS, check_resumed, generator, small_network, small_stream
from torch import Tensor

from utils.continual.heads import frozen
from utils.continual.icarl import ICaRL, class_means, herding, nearest_mean_scores
from utils.continual.learn import Batch, learn
from utils.data.images import as_float


def naive_herding(vectors: Tensor, m: int) -> list[int]:
    """Algorithm 4, word by word."""
    mean, chosen = vectors.mean(0), []
    for k in range(1, m + 1):
        distances = [
            torch.inf if i in chosen else float((mean - (x + sum(vectors[j] for j in chosen)) / k).norm())
            for i, x in enumerate(vectors)
        ]
        chosen.append(distances.index(min(distances)))
    return chosen


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(3, 25, 6, generator=generator(4), dtype=torch.float64)


def test_herding_is_the_algorithm(vectors):
    found = herding(vectors, 25)
    assert found.tolist() == [naive_herding(some, 25) for some in vectors]


def test_the_first_is_the_nearest_to_the_mean_and_fewer_are_a_prefix(vectors):
    nearest = (vectors - vectors.mean(1, keepdim=True)).norm(dim=-1).argmin(1)
    order = herding(vectors, 25)
    assert order[:, 0].tolist() == nearest.tolist()
    assert all(herding(vectors, m).tolist() == order[:, :m].tolist() for m in (1, 2, 9))
    assert order.sort(1).values.tolist() == [list(range(25))] * 3


def test_the_mean_of_the_chosen_follows_like_one_over_m():
    vectors = F.normalize(torch.randn(2000, 4, generator=generator(1), dtype=torch.float64))
    order = herding(vectors, 400)
    sums = vectors[order].cumsum(0) - vectors.mean(0) * torch.arange(1, 401)[:, None]
    assert float(sums.norm(dim=1).max()) < 3  # m times the error stays; of a random choice it grows with sqrt(m)
    assert float(vectors[:400].sum(0).sub(400 * vectors.mean(0)).norm()) > 5


def test_more_than_there_are_cannot_be_chosen(vectors):
    for m in (0, 26):
        with pytest.raises(ValueError, match="1 to 25 can be chosen"):
            herding(vectors, m)


def test_the_nearest_mean(vectors):
    vectors, labels = F.normalize(vectors[0]), torch.arange(25) % 3
    means = class_means(vectors, labels, 5)
    torch.testing.assert_close(means[:3].norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(means[1], F.normalize(vectors[1::3].mean(0), dim=0))
    scores = nearest_mean_scores(vectors, means)
    torch.testing.assert_close(scores[:, 2], -(vectors - means[2]).square().sum(1))
    assert bool((scores[:, 3:] == -torch.inf).all())


def test_the_loss_is_that_of_the_paper():
    stream, network, method = small_stream("class"), small_network(), ICaRL(12)
    memory = method.start(network, stream)
    network.eval()
    memory = method.after_task(network, memory, stream, 0, generator())
    memory = method.before_task(network, memory, stream, 1, generator())
    with torch.no_grad():
        network.head.weight.add_(torch.randn(network.head.weight.shape, generator=generator(7)))
    pictures = {}

    class Recorded(torch.nn.Module):
        embedding = network.embedding

        def forward(self, x):
            pictures["x"] = x
            return network(x)

    x, y = stream.batch(1, 0, 16)
    loss = method.loss(Recorded(), memory, Batch(stream, 1, x, y), generator(9))
    images = pictures["x"]
    known = as_float(torch.cat([memory["images"], stream.tasks[1].train_x]))
    labels = torch.cat([memory["labels"], stream.tasks[1].train_y])
    labels = labels[torch.stack([(known == one).flatten(1).all(1).double().argmax() for one in images])]
    assert 0 < int((labels < 2).sum()) < 16
    g, q = network(images).sigmoid(), memory["teacher"](images).sigmoid()
    expected = 0.0
    for i, label in enumerate(labels.tolist()):
        for unit in range(4):
            target = q[i, unit] if unit < 2 else float(unit == label)
            expected = expected - target * g[i, unit].log() - (1 - target) * (1 - g[i, unit]).log()
    torch.testing.assert_close(loss, expected / 16)


def test_the_memory_holds_its_quota_in_herded_order():
    stream, method = small_stream("class"), ICaRL(14)
    learned = learn(small_network(), stream, method, seed=0, **SETTINGS)
    memory, network = learned.memory, learned.network
    assert memory["labels"].bincount().tolist() == [2] * 6  # 14 // 6
    data = stream.tasks[2]
    for unit in (4, 5):
        images = data.train_x[data.train_y == unit]
        with torch.no_grad():
            order = herding(F.normalize(network.embedding(data.seen(images))), 2)
        assert torch.equal(memory["images"][memory["labels"] == unit], images[order])
    assert bool(memory["means"].isfinite().all())


def test_it_remembers_more_than_without_a_memory_and_resumes(tmp_path):
    check_resumed(tmp_path, lambda: ICaRL(12), "class")


def test_what_cannot_be():
    with pytest.raises(ValueError, match="cannot hold one of each of 6 classes"):
        ICaRL(5).start(small_network(), small_stream("class"))
    with pytest.raises(ValueError, match='scenario "class"'):
        ICaRL(12).start(small_network(), small_stream("task"))
    with pytest.raises(TypeError, match="ClassifierNetwork"):
        ICaRL(12).start(frozen(torch.nn.Flatten()), small_stream("class"))
