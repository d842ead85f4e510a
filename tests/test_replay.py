"""Replay of real images: the loss of all tasks, each the same; the reservoir in a stream; the bound."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from replay_fixtures import SETTINGS, check_resumed, generator, small_network, small_stream

from utils.continual.learn import Batch, Plain, learn, task_loss
from utils.continual.replay import ExperienceReplay, Joint, loss_over_tasks
from utils.data.images import ImageSet, as_float
from utils.data.streams import Stream, permuted_stream


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_each_image_competes_where_its_task_does(scenario):
    stream = small_stream(scenario)
    logits = torch.randn(30, stream.n_units, generator=generator(), dtype=torch.float64)
    y = torch.cat([task.train_y[:10] + (task.last - task.first) * (torch.arange(10) % 2) for task in stream.tasks])
    parts = [task_loss(logits[i : i + 10], y[i : i + 10], stream.units(i // 10, 3)) for i in (0, 10, 20)]
    torch.testing.assert_close(loss_over_tasks(logits, y, stream, 3), sum(parts) / 3)


def test_the_loss_weighs_all_tasks_the_same():
    stream, network, method = small_stream("class"), small_network().double(), ExperienceReplay(30)
    memory = method.start(network, stream)
    for task in (0, 1):
        memory = method.after_task(network, memory, stream, task, generator(task))
    rows = torch.randint(30, (16,), generator=generator(5))
    x, y = stream.batch(2, 0, 16)
    hooked = torch.nn.Sequential(Doubled(), network)
    found = method.loss(hooked, memory, Batch(stream, 2, x, y), generator(5))
    new = F.cross_entropy(network(x.double()), y)
    old = F.cross_entropy(network(as_float(memory["images"][rows]).double()), memory["labels"][rows])
    torch.testing.assert_close(found, new / 3 + 2 * old / 3)


class Doubled(torch.nn.Module):
    def forward(self, x):
        return x.double()


@pytest.mark.parametrize(
    "method", [ExperienceReplay(8), ExperienceReplay(), Joint()], ids=["reservoir", "all", "joint"]
)
def test_the_first_task_is_plain_training(method):
    stream = small_stream("class")
    one = Stream(stream.tasks[:1], "class", "one")
    networks = [learn(small_network(), one, each, seed=1, **SETTINGS).network for each in (Plain(), method)]
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a, b)


def test_the_memory_is_a_sample_of_all_that_was_seen():
    stream, method, network = small_stream("class"), ExperienceReplay(25), small_network()
    counts = torch.zeros(6)
    for seed in range(60):
        memory, rng = method.start(network, stream), generator(seed)
        for task in range(3):
            memory = method.after_task(network, memory, stream, task, rng)
        assert len(memory["labels"]) == 25 and memory["seen"] == 120
        for image, label in zip(memory["images"], memory["labels"], strict=True):
            task = stream.tasks[int(label) // 2]
            assert bool((task.train_x[task.train_y == label] == image).flatten(1).all(1).any())
        assert len(memory["images"].flatten(1).unique(dim=0)) == 25
        counts += memory["labels"].bincount(minlength=6)
    torch.testing.assert_close(counts / counts.sum(), torch.full((6,), 1 / 6), rtol=0, atol=0.03)


def test_without_a_limit_everything_is_kept_as_the_network_saw_it():
    stream = small_stream("class")
    train = stream.tasks[0].train_x.view(2, 20, 1, 4, 4)
    images = ImageSet(train, ("a", "b"), ("a", "b"), "noise", "train")
    stream = permuted_stream(images, images, 2, "class")
    method, network = ExperienceReplay(), small_network(4)
    memory = method.start(network, stream)
    for task in (0, 1):
        memory = method.after_task(network, memory, stream, task, generator(task))
    kept = as_float(memory["images"]).flatten(1)
    seen = torch.cat([task.seen(task.train_x) for task in stream.tasks]).flatten(1)
    assert kept.shape == seen.shape
    assert torch.equal(kept.unique(dim=0), seen.unique(dim=0))
    assert memory["labels"].bincount().tolist() == [20] * 4


def test_joint_training_draws_from_all_tasks_so_far_alike():
    stream, shares = small_stream("class"), []

    class Watched(torch.nn.Module):
        def forward(self, x):
            known = torch.cat([task.seen(task.train_x) for task in stream.tasks]).flatten(1)
            at = torch.cdist(x.flatten(1), known).argmin(1) // 40
            shares.append(at.bincount(minlength=3) / len(x))
            return torch.zeros(len(x), 6)

    x, y = stream.batch(1, 0, 3000)
    Joint().loss(Watched(), {}, Batch(stream, 1, x, y), generator())
    torch.testing.assert_close(shares[0], torch.tensor([0.5, 0.5, 0.0]), rtol=0, atol=0.04)
    x, y = stream.batch(2, 0, 3000)
    Joint().loss(Watched(), {}, Batch(stream, 2, x, y), generator())
    torch.testing.assert_close(shares[1], torch.full((3,), 1 / 3), rtol=0, atol=0.04)


def test_replay_keeps_what_plain_training_loses():
    stream = small_stream("class")
    reached = {
        name: float(learn(small_network(), stream, method, seed=0, **(SETTINGS | {"steps": 40})).accuracies[-1].mean())
        for name, method in (("plain", Plain()), ("few", ExperienceReplay(18)), ("all", ExperienceReplay()))
    }
    assert reached["plain"] < 0.5 and min(reached["few"], reached["all"]) > 0.8


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("method", [ExperienceReplay(30), Joint()], ids=["reservoir", "joint"])
def test_a_stream_that_was_killed_goes_on(tmp_path, method, scenario):
    check_resumed(tmp_path, lambda: method, scenario)


def test_a_memory_without_room():
    with pytest.raises(ValueError, match="room for at least one image"):
        ExperienceReplay(0)
