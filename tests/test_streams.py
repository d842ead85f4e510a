"""Streams of tasks: every class once, labels a bijection, no image in two places, the units of the three scenarios."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from continual_fixtures import noise_set, small_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from utils.data.digits import digits
from utils.data.images import ImageSet, as_float
from utils.data.streams import SCENARIOS, Stream, Task, permuted_stream, split_stream


def contents(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


@pytest.fixture(scope="module")
def sets() -> tuple[ImageSet, ImageSet]:
    return digits("train"), digits("test")


def everything(stream: Stream) -> dict[str, tuple[Tensor, Tensor]]:
    parts = {"train": [], "test": []}
    for task in stream.tasks:
        parts["train"].append((task.train_x, task.train_y))
        parts["test"].append((task.test_x, task.test_y))
    return {name: tuple(map(torch.cat, zip(*part, strict=True))) for name, part in parts.items()}


# ----------------------------------------------------------------------------------------------------------- split


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.sampled_from([1, 2, 3, 6]), st.sampled_from(SCENARIOS))
def test_a_split_has_every_class_and_every_image_once(order, n_tasks, scenario):
    train, test = noise_set("train"), noise_set("test")
    stream = split_stream(train, test, n_tasks, scenario, order)
    size = 6 // n_tasks
    assert [one for task in stream.tasks for one in task.classes] == list(order)
    assert len(stream.tasks) == n_tasks and all(len(task.classes) == size for task in stream.tasks)
    for name, whole in (("train", train), ("test", test)):
        x, _ = everything(stream)[name]
        images, _ = whole.flat()
        assert len(x) == int(whole.counts.sum())
        assert Counter(contents(x)) == Counter(contents(images))


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.sampled_from([1, 2, 3, 6]), st.sampled_from(SCENARIOS))
def test_labels_are_a_bijection_of_the_classes(order, n_tasks, scenario):
    """Within a task in the domain scenario, over the whole stream in the others; in train and test alike."""
    train, test = noise_set("train"), noise_set("test")
    stream = split_stream(train, test, n_tasks, scenario, order)
    size, unit_of = 6 // n_tasks, {}
    for number, task in enumerate(stream.tasks):
        for x, y, whole in ((task.train_x, task.train_y, train), (task.test_x, task.test_y, test)):
            class_of = dict(zip(contents(whole.flat()[0]), whole.flat()[1].tolist(), strict=True))
            pairs = {(class_of[image], unit) for image, unit in zip(contents(x), y.tolist(), strict=True)}
            assert len(pairs) == size and {one for one, _ in pairs} == set(task.classes)
            for one, unit in pairs:
                assert unit_of.setdefault(one, unit) == unit
                assert unit == list(order).index(one) - (number * size if scenario == "domain" else 0)
    assert sorted(unit_of.values()) == sorted(list(range(size)) * n_tasks if scenario == "domain" else range(6))
    assert stream.n_units == (size if scenario == "domain" else 6)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_test_image_of_digits_is_trained_on(scenario, sets):
    stream = split_stream(*sets, 5, scenario)
    seen = everything(stream)
    assert len(seen["train"][0]) == 1433 and len(seen["test"][0]) == 364
    assert not set(contents(seen["train"][0])) & set(contents(seen["test"][0]))
    assert stream.name == "digits, 5 x 2 classes" and stream.image_shape == (1, 8, 8)
    assert stream.n_units == (2 if scenario == "domain" else 10)


def test_units_that_take_part():
    task, domain, class_ = (small_stream(scenario) for scenario in ("task", "domain", "class"))
    for seen in range(4):
        assert [task.units(t, seen) for t in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
        assert [domain.units(t, seen) for t in range(3)] == [slice(0, 2)] * 3
    ends = {0: [2, 4, 6], 1: [2, 4, 6], 2: [4, 4, 6], 3: [6, 6, 6]}
    for seen, stops in ends.items():
        assert [class_.units(t, seen) for t in range(3)] == [slice(0, stop) for stop in stops]
    with pytest.raises(ValueError, match="there are tasks 0 to 2; got 3"):
        class_.units(3, 3)
    with pytest.raises(ValueError, match="there are tasks 0 to 2; got -1"):
        task.units(-1, 1)


# -------------------------------------------------------------------------------------------------------- permuted


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_permuted_tasks_have_all_images_and_another_order_of_the_pixels(scenario, sets):
    stream = permuted_stream(*sets, 4, scenario, seed=3)
    assert stream.tasks[0].pixels is None
    orders = [task.pixels.tolist() for task in stream.tasks[1:]]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders} | {tuple(range(64))}) == 4
    first = stream.tasks[0]
    for number, task in enumerate(stream.tasks):
        assert task.train_x is first.train_x and task.test_x is first.test_x  # held once
        assert torch.equal(task.train_y, first.train_y + task.first)
        assert torch.equal(task.test_y, first.test_y + task.first)
        assert task.first == (0 if scenario == "domain" else 10 * number) and task.last == task.first + 9
        plain, shown = as_float(task.train_x[:5]).flatten(1), task.seen(task.train_x[:5])
        assert shown.shape == (5, 1, 8, 8) and shown.dtype == torch.float32
        pixels = torch.arange(64) if task.pixels is None else task.pixels
        for i in range(64):
            assert torch.equal(shown.flatten(1)[:, i], plain[:, pixels[i]])
    assert not set(contents(first.train_x)) & set(contents(first.test_x))
    assert stream.n_units == (10 if scenario == "domain" else 40)


def test_permutations_follow_the_seed_and_padding_is_empty(sets):
    one, same, other = (permuted_stream(*sets, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.tasks[2].pixels, same.tasks[2].pixels)
    assert not torch.equal(one.tasks[2].pixels, other.tasks[2].pixels)
    padded = permuted_stream(*sets, 2, padding=2).tasks[1]
    assert padded.train_x.shape[1:] == (1, 12, 12) and len(padded.pixels) == 144
    assert torch.equal(padded.train_x[:, :, 2:-2, 2:-2], one.tasks[0].train_x)
    assert padded.train_x.sum() == one.tasks[0].train_x.sum()


# --------------------------------------------------------------------------------------------------------- batches


def test_a_batch_follows_from_seed_task_and_step_alone():
    stream = small_stream("class")
    x, y = stream.batch(1, 5, 20, 7)
    assert x.shape == (20, 1, 3, 3) and x.dtype == torch.float32 and set(y.tolist()) == {2, 3}
    again = stream.batch(1, 5, 20, 7)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    for other in ((1, 6, 20, 7), (1, 5, 20, 8)):
        assert not torch.equal(x, stream.batch(*other)[0])
    same = permuted_stream(noise_set("train"), noise_set("test"), 2)  # tasks of the same images
    assert not torch.equal(same.batch(0, 5, 20, 7)[1], same.batch(1, 5, 20, 7)[1])
    task, known = stream.tasks[1], {}
    for image, label in zip(contents(as_float(task.train_x)), task.train_y.tolist(), strict=True):
        known[image] = label
    assert [known[image] for image in contents(x)] == y.tolist()


def test_every_image_is_drawn():
    stream = small_stream("domain")
    drawn = {image for step in range(40) for image in contents(stream.batch(2, step, 20)[0])}
    assert drawn == set(contents(stream.tasks[2].seen(stream.tasks[2].train_x)))


# -------------------------------------------------------------------------------------------------- what does not fit


def test_tasks_that_cannot_be():
    task = small_stream("class").tasks[1]
    cases = [
        ({"train_x": task.train_x.float()}, r"train images are uint8 \[N, C, H, W\].*got torch\.float32"),
        ({"test_x": task.test_x[:, 0]}, r"test images are uint8 \[N, C, H, W\]"),
        ({"train_y": task.train_y[:-1]}, "train images .* labels int64"),
        ({"test_y": task.test_y.int()}, "test images .* labels int64"),
        ({"train_x": task.train_x[:0], "train_y": task.train_y[:0]}, "N > 0"),
        ({"first": 3}, "has the units 3 to 3; its train labels are 2 to 3"),
        ({"last": 2}, "has the units 2 to 2; its train labels are 2 to 3"),
        ({"test_y": task.test_y + 1}, "has the units 2 to 3; its test labels are 3 to 4"),
    ]
    for changed, said in cases:
        with pytest.raises(ValueError, match=said):
            replace(task, **changed)


def renamed(task: Task, *classes: int) -> Task:
    return replace(task, classes=classes)


@pytest.mark.parametrize(
    ("scenario", "tasks", "said"),
    [
        ("online", lambda a, b: (a, b), r"scenario must be one of \('task', 'domain', 'class'\); got 'online'"),
        ("class", lambda a, b: (), "a stream needs a task"),
        ("class", lambda a, b: (a, renamed(b, 1, 2)), "class 1 is in task 0 and again in task 1"),
        ("class", lambda a, b: (b, a), r"in the class scenario every task has units behind the last's; got \[\(2, 3\)"),
        ("task", lambda a, b: (a, renamed(a, 2, 3)), "in the task scenario every task has units behind the last's"),
        ("domain", lambda a, b: (a, b), r"all tasks have the same units; these have \[\(0, 1\), \(2, 3\)\]"),
    ],
)
def test_streams_that_cannot_be(scenario, tasks, said):
    with pytest.raises(ValueError, match=said):
        Stream(tasks(*small_stream("class").tasks[:2]), scenario, "")


def test_the_same_classes_are_another_task_when_shown_in_another_way():
    a = permuted_stream(noise_set("train"), noise_set("test"), 2).tasks
    assert len(Stream(a, "domain", "").tasks) == 2
    with pytest.raises(ValueError, match="class 0 is in task 1 and again in task 2"):
        Stream((*a, a[1]), "domain", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_tasks": 4}, "6 classes cannot be shared out evenly over 4 tasks"),
        ({"n_tasks": 0}, "cannot be shared out evenly over 0 tasks"),
        ({"order": [0, 1, 2, 3, 4, 4]}, "order must hold each of the classes 0 to 5 once"),
        ({"order": [0, 1]}, r"order must hold each of the classes 0 to 5 once; got \[0, 1\]"),
        ({"test": noise_set("test", 5)}, "noise/train and noise/test have different classes"),
        ({"scenario": "all"}, "scenario must be one of"),
    ],
)
def test_splits_that_cannot_be(options, said):
    given_ = {"train": noise_set("train"), "test": noise_set("test"), "n_tasks": 3, "scenario": "class", **options}
    with pytest.raises(ValueError, match=said):
        split_stream(**given_)
