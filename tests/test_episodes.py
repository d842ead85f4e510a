"""Episodes: what is drawn, how often, that nothing is drawn twice, and that every image is what it is said to be.

Most tests use stamped images: the class and the number of an image can be read from its pixels.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from utils.data import DataError, load
from utils.data.episodes import Episode, EpisodeSampler, _distinct, mix_seed
from utils.data.images import ImageSet

REAL = os.environ.get("COURSE_DATA")
needs_omniglot = pytest.mark.skipif(not REAL, reason="COURSE_DATA names no folder with omniglot.npz")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

UNLIKELY = 1e-3
"""The seeds are fixed: a p-value below this is a property of the sampler, not bad luck of a run."""


def stamped(n_classes: int = 12, n_images: int = 7, counts: list[int] | None = None, size: int = 4) -> ImageSet:
    """Images whose corners hold class + 1, number + 1 (0 is padding), 250 and 251: turning one moves them."""
    images = torch.zeros(n_classes, n_images, 1, size, size, dtype=torch.uint8)
    for c in range(n_classes):
        for i in range(n_images if counts is None else counts[c]):
            images[c, i, 0, 0, 0], images[c, i, 0, 0, -1] = c + 1, i + 1
            images[c, i, 0, -1, 0], images[c, i, 0, -1, -1] = 250, 251
    names = tuple(f"c{c}" for c in range(n_classes))
    return ImageSet(images, names, names, "stamped", "all", None if counts is None else torch.tensor(counts))


def stamps(x: Tensor) -> list[tuple[int, int]]:
    """(class, number) of each image of ``[n, 1, size, size]``, none of them turned."""
    pixels = (x * 255).round().long()
    assert (pixels[:, 0, -1, 0] == 250).all() and (pixels[:, 0, -1, -1] == 251).all(), "padding, or a turned image"
    return [(int(p[0, 0, 0]) - 1, int(p[0, 0, -1]) - 1) for p in pixels]


def same(a: Episode, b: Episode) -> bool:
    values = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(Episode)]
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in values)


def uniform(counts) -> float:
    """p-value of the hypothesis that all of these are equally likely."""
    return stats.chisquare(np.asarray(counts, dtype=float)).pvalue


# ------------------------------------------------------------------------------------------------------- what it is


def test_shapes_types_and_range():
    images = stamped()
    episode = EpisodeSampler(images, n_way=5, k_shot=2, n_query=3, batch_size=4).sample(0)
    assert episode.support_x.shape == (4, 10, 1, 4, 4) and episode.query_x.shape == (4, 15, 1, 4, 4)
    assert episode.support_y.shape == (4, 10) and episode.query_y.shape == (4, 15)
    assert episode.classes.shape == (4, 5) and episode.instances.shape == (4, 5, 5)
    assert episode.support_x.dtype == episode.query_x.dtype == torch.float32
    assert episode.support_y.dtype == episode.query_y.dtype == episode.classes.dtype == torch.int64
    assert (episode.n_tasks, episode.n_way) == (4, 5)
    assert episode.support_x.min() >= 0 and abs(float(episode.query_x.max()) - 251 / 255) < 1e-6


def test_white_is_one_and_black_is_zero():
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 1)[..., None, None, None].expand(3, 2, 1, 16, 16)
    episode = EpisodeSampler(ImageSet(images, ("a", "b", "c"), ("g",) * 3, "two", "all"), 3, 1, 1).sample(0)
    assert set(torch.cat([episode.support_x, episode.query_x]).unique().tolist()) == {0.0, 1.0}


def test_the_images_are_those_that_the_indices_name():
    images = stamped()
    for episode in EpisodeSampler(images, 5, 2, 3, batch_size=4, seed=3).batches(10):
        for task in range(4):
            drawn = stamps(torch.cat([episode.support_x[task], episode.query_x[task]]))
            support = [(c, i) for c, ins in zip(*told(episode, task), strict=True) for i in ins[:2]]
            query = [(c, i) for c, ins in zip(*told(episode, task), strict=True) for i in ins[2:]]
            assert drawn == support + query


def told(episode: Episode, task: int) -> tuple[list, list]:
    return episode.classes[task].tolist(), episode.instances[task].tolist()


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize(("b", "n", "k", "q", "shape"), [(1, 5, 1, 1, (1, 28, 28)), (3, 7, 2, 3, (3, 9, 9))])
def test_the_pixels_are_those_of_the_images_to_the_last_bit(rotations, b, n, k, q, shape):
    """Written once more, image by image: recorded results depend on every bit."""
    generator = torch.Generator().manual_seed(0)
    names = tuple(map(str, range(8)))
    images = torch.randint(0, 256, (8, 6, *shape), generator=generator).to(torch.uint8)
    sampler = EpisodeSampler(ImageSet(images, names, names, "noise", "all"), n, k, q, b, rotations, seed=5)
    for index in range(5):
        episode, (classes, instances) = sampler.sample(index), sampler.indices(index)
        assert torch.equal(episode.classes, classes) and torch.equal(episode.instances, instances)
        support, query = [], []
        for task in range(b):
            for id, drawn in zip(classes[task].tolist(), instances[task].tolist(), strict=True):
                turned = [np.rot90(images[id % 8, i].numpy(), id // 8, (1, 2)) for i in drawn]
                pixels = [x.astype(np.float32) * np.float32(1 / 255) for x in turned]
                support += pixels[:k]
                query += pixels[k:]
        assert np.array_equal(episode.support_x.numpy(), np.stack(support).reshape(b, n * k, *shape))
        assert np.array_equal(episode.query_x.numpy(), np.stack(query).reshape(b, n * q, *shape))
        assert episode.support_x.is_contiguous() and episode.query_x.is_contiguous()


def test_every_label_is_the_class_on_the_image():
    for episode in EpisodeSampler(stamped(), 5, 2, 3, batch_size=4, seed=1).batches(10):
        for task in range(4):
            for x, y in (
                (episode.support_x[task], episode.support_y[task]),
                (episode.query_x[task], episode.query_y[task]),
            ):
                assert [c for c, _ in stamps(x)] == [int(episode.classes[task, label]) for label in y]


def test_labels_run_class_by_class():
    episode = EpisodeSampler(stamped(), 3, 2, 1, batch_size=2).sample(0)
    assert episode.support_y.tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert episode.query_y.tolist() == [[0, 1, 2]] * 2


def test_support_and_query_share_no_image_and_classes_are_distinct():
    for episode in EpisodeSampler(stamped(), 6, 3, 4, batch_size=8, seed=5).batches(20):  # every image of a class
        for task in range(8):
            support, query = stamps(episode.support_x[task]), stamps(episode.query_x[task])
            assert len(set(support)) == 18 and len(set(query)) == 24 and not set(support) & set(query)
            assert len({c for c, _ in support}) == 6 and Counter(c for c, _ in query) == {c: 4 for c, _ in support}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_asked_for_comes(data):
    n_classes = data.draw(st.integers(1, 9), "n_classes")
    counts = data.draw(st.lists(st.integers(2, 6), min_size=n_classes, max_size=n_classes), "counts")
    n_way = data.draw(st.integers(1, n_classes), "n_way")
    k_shot = data.draw(st.integers(1, min(counts) - 1), "k_shot")
    n_query = data.draw(st.integers(1, min(counts) - k_shot), "n_query")
    n_tasks = data.draw(st.integers(1, 3), "batch_size")
    rotations = data.draw(st.booleans(), "rotations")
    images = stamped(n_classes, max(counts), counts)
    sampler = EpisodeSampler(
        images, n_way, k_shot, n_query, n_tasks, rotations, seed=data.draw(st.integers(0, 2**40), "seed")
    )
    episode = sampler.sample(data.draw(st.integers(0, 2**40), "index"))
    assert episode.n_tasks == n_tasks
    for task in range(n_tasks):
        assert len(set(episode.classes[task].tolist())) == n_way
        x = torch.cat([episode.support_x[task], episode.query_x[task]])
        y = torch.cat([episode.support_y[task], episode.query_y[task]])
        ids = episode.classes[task, y]
        upright = torch.stack(
            [torch.rot90(image, -int(turn), (-2, -1)) for image, turn in zip(x, ids // n_classes, strict=True)]
        )
        seen = stamps(upright)
        assert [c for c, _ in seen] == (ids % n_classes).tolist()
        assert len({(int(id), i) for id, (_, i) in zip(ids, seen, strict=True)}) == n_way * (k_shot + n_query)


# ----------------------------------------------------------------------------------------------------------- chance


@pytest.mark.parametrize(("n", "n_of"), [(2, 5), (3, 9), (3, 30), (1, 7)], ids=lambda value: str(value))
@pytest.mark.parametrize("rows", [20_000])
def test_redrawing_gives_every_number_everywhere_equally_often(n, n_of, rows):
    assert n * n <= n_of  # the branch of rejection
    _check_distinct(_distinct(rows, n, n_of, torch.Generator().manual_seed(0)), n, n_of)


@pytest.mark.parametrize(("n", "n_of"), [(3, 4), (5, 5), (4, 15)], ids=lambda value: str(value))
def test_ranking_gives_every_number_everywhere_equally_often(n, n_of):
    assert n * n > n_of
    _check_distinct(_distinct(20_000, n, n_of, torch.Generator().manual_seed(0)), n, n_of)


def _check_distinct(drawn: Tensor, n: int, n_of: int) -> None:
    ordered = drawn.sort(dim=1).values
    assert (ordered[:, 1:] > ordered[:, :-1]).all()
    assert drawn.min() >= 0 and drawn.max() < n_of
    for position in range(n):
        assert uniform(torch.bincount(drawn[:, position], minlength=n_of)) > UNLIKELY
    if n > 1:  # ordered pairs: the order carries nothing
        pairs = torch.bincount(drawn[:, 0] * n_of + drawn[:, 1], minlength=n_of**2).reshape(n_of, n_of)
        assert uniform(pairs[~torch.eye(n_of, dtype=torch.bool)]) > UNLIKELY


@pytest.mark.parametrize("n_of", [4, 9], ids=["ranking", "rejection"])
def test_all_ordered_choices_are_equally_likely(n_of):
    drawn = _distinct(30_000, 3, n_of, torch.Generator().manual_seed(1))
    keys = drawn[:, 0] * n_of**2 + drawn[:, 1] * n_of + drawn[:, 2]
    counts = torch.bincount(keys)
    assert int((counts > 0).sum()) == n_of * (n_of - 1) * (n_of - 2)
    assert uniform(counts[counts > 0]) > UNLIKELY


@pytest.fixture(scope="module")
def many() -> tuple[Tensor, Tensor]:
    """Indices of 8,000 tasks of 3 out of 12 classes, 2 + 3 out of 7 images."""
    sampler = EpisodeSampler(stamped(), 3, 2, 3, batch_size=40, seed=11)
    drawn = [sampler.indices(i) for i in range(200)]
    return torch.cat([c for c, _ in drawn]), torch.cat([i for _, i in drawn])


def test_classes_are_drawn_equally_often_as_every_label(many):
    classes, _ = many
    for label in range(3):
        assert uniform(torch.bincount(classes[:, label], minlength=12)) > UNLIKELY


def test_images_are_drawn_equally_often_in_every_place(many):
    _, instances = many
    for place in range(5):
        assert uniform(torch.bincount(instances[:, :, place].flatten(), minlength=7)) > UNLIKELY


def test_every_image_of_every_class_is_drawn_equally_often(many):
    classes, instances = many
    keys = (classes[..., None] * 7 + instances).flatten()
    assert uniform(torch.bincount(keys, minlength=84)) > UNLIKELY


def test_support_says_nothing_about_the_query(many):
    _, instances = many
    first, last = instances[..., 0].flatten(), instances[..., -1].flatten()
    pairs = torch.bincount(first * 7 + last, minlength=49).reshape(7, 7)
    assert uniform(pairs[~torch.eye(7, dtype=torch.bool)]) > UNLIKELY
    assert not pairs.diagonal().any()


def test_instances_of_different_labels_are_independent(many):
    _, instances = many
    table = torch.bincount(instances[:, 0, 0] * 7 + instances[:, 1, 0], minlength=49).reshape(7, 7)
    assert stats.chi2_contingency(table.numpy()).pvalue > UNLIKELY


def test_rotated_classes_are_drawn_as_often_as_upright_ones():
    sampler = EpisodeSampler(stamped(5), 4, 1, 1, batch_size=50, rotations=True, seed=2)
    classes = torch.cat([sampler.indices(i)[0] for i in range(100)])
    assert sampler.n_classes == 20
    assert uniform(torch.bincount(classes.flatten(), minlength=20)) > UNLIKELY


# ------------------------------------------------------------------------------------------- seeds, indices, devices


def test_same_seed_and_index_give_the_same_episode():
    a, b = (EpisodeSampler(stamped(), 5, 2, 3, batch_size=2, seed=7) for _ in range(2))
    a.sample(0), a.sample(1)  # what was drawn before does not matter
    assert same(a.sample(41), b.sample(41))


def test_different_indices_and_seeds_give_different_episodes():
    drawn = {
        tuple(EpisodeSampler(stamped(), 5, 2, 3, seed=seed).indices(index)[1].flatten().tolist())
        for seed in range(20)
        for index in range(20)
    }
    assert len(drawn) == 400


def test_seed_and_index_are_not_interchangeable():
    hashes = {mix_seed(seed, index) for seed in range(150) for index in range(150)}
    assert len(hashes) >= 22_500 - 1  # 2^32 values: 0.06 pairs are expected to meet
    assert all(0 <= value < 2**32 for value in hashes)


def test_first_episodes_are_the_same_on_every_machine():
    """Written down: a change of the draws would silently change every number in the book."""
    few, many, turned = ({"n_way": 3, "n_query": 2}, {"n_way": 4}, {"n_way": 5, "rotations": True, "seed": 1})
    for options, index, classes, instances in (
        (few, 0, [5, 9, 8], [[5, 3, 0], [1, 6, 5], [4, 0, 3]]),
        (many, 2, [9, 1, 2, 5], [[5, 1], [0, 3], [2, 5], [5, 1]]),
        (turned, 5, [10, 2, 27, 24, 22], [[6, 2], [3, 6], [5, 1], [3, 2], [2, 1]]),
    ):
        drawn = EpisodeSampler(stamped(), **{"k_shot": 1, "n_query": 1, **options}).indices(index)
        assert drawn[0].tolist() == [classes] and drawn[1].tolist() == [instances]


def test_global_random_state_is_neither_used_nor_changed():
    sampler = EpisodeSampler(stamped(), 5, 2, 3)
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), sampler.sample(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same(sampler.sample(0), first)


def test_batches_continue_where_they_are_told_to():
    sampler = EpisodeSampler(stamped(), 4, 1, 2, batch_size=3)
    late = list(sampler.batches(2, start=5))
    assert len(late) == 2 and same(late[0], sampler.sample(5)) and same(late[1], sampler.sample(6))
    assert all(same(a, b) for a, b in zip(sampler.batches(3), [sampler.sample(i) for i in range(3)], strict=True))


def test_tasks_of_a_batch_differ():
    episode = EpisodeSampler(stamped(), 4, 1, 2, batch_size=20).sample(0)
    assert len({tuple(row) for row in episode.instances.flatten(1).tolist()}) > 18


@needs_cuda
@pytest.mark.parametrize("rotations", [False, True])
def test_a_gpu_draws_the_same_episodes(rotations):
    images = stamped(size=6)
    here, there = (EpisodeSampler(x, 5, 2, 3, 4, rotations, seed=3) for x in (images, images.to("cuda")))
    for index in range(5):
        a, b = here.sample(index), there.sample(index)
        assert b.support_x.device.type == b.query_y.device.type == "cuda"
        assert torch.equal(a.classes, b.classes) and torch.equal(a.instances, b.instances)
        assert torch.equal(a.support_x, b.support_x.cpu()) and torch.equal(a.query_x, b.query_x.cpu())
        assert torch.equal(a.support_y, b.support_y.cpu()) and torch.equal(a.query_y, b.query_y.cpu())


@needs_cuda
def test_a_gpu_gathers_the_same_entries_of_a_bank():
    sampler = EpisodeSampler(stamped().to("cuda"), 5, 2, 3, 4)
    bank = torch.randn(12, 7, 5)
    assert torch.equal(sampler.sample(0, bank.to("cuda")).query_x.cpu(), sampler.sample(0, bank).query_x)


# -------------------------------------------------------------------------------------------------------- rotations


def test_a_rotated_class_is_its_class_turned():
    images = stamped(4, 5)
    seen = set()
    for episode in EpisodeSampler(images, 6, 2, 2, batch_size=3, rotations=True, seed=4).batches(10):
        for task in range(3):
            for label, id in enumerate(episode.classes[task].tolist()):
                turn, base = divmod(id, 4)
                drawn = images.images[base, episode.instances[task, label]]
                expected = torch.rot90(drawn, turn, (-2, -1))
                for x, wanted in ((episode.support_x, expected[:2]), (episode.query_x, expected[2:])):
                    assert torch.equal((x[task, 2 * label : 2 * label + 2] * 255).round().byte(), wanted)
                seen.add(turn)
    assert seen == {0, 1, 2, 3}


def test_turns_are_counter_clockwise_as_in_numpy():
    images = stamped(1, 2, size=5)
    episode = EpisodeSampler(images, 4, 1, 1, rotations=True).sample(0)
    for label, turn in enumerate(episode.classes[0].tolist()):
        original = images.images[0, episode.instances[0, label, 0], 0].numpy()
        assert np.array_equal(np.rot90(original, turn), (episode.support_x[0, label, 0] * 255).round().byte().numpy())


def test_sampling_leaves_the_images_as_they_are():
    images = stamped(4, 5)
    before = images.images.clone()
    for episode in EpisodeSampler(images, 8, 2, 2, rotations=True).batches(5):
        episode.support_x.zero_(), episode.query_x.zero_()
    assert torch.equal(images.images, before)


# ---------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("rotations", [False, True])
def test_padding_is_never_drawn(rotations):
    counts = [3, 7, 4, 5, 3, 6]
    sampler = EpisodeSampler(stamped(6, 7, counts), 4, 1, 2, batch_size=25, rotations=rotations, seed=9)
    drawn = [sampler.indices(i) for i in range(40)]
    classes, instances = torch.cat([c for c, _ in drawn]) % 6, torch.cat([i for _, i in drawn])
    assert (instances < torch.tensor(counts)[classes][..., None]).all()
    for c, count in enumerate(counts):  # and all real images of a class are, equally often
        assert uniform(torch.bincount(instances[classes == c][:, 0], minlength=count)) > UNLIKELY


def test_a_class_may_be_used_up_to_its_last_image():
    episode = EpisodeSampler(stamped(3, 7, [3, 3, 3]), 3, 1, 2).sample(0)
    assert episode.instances.sort(dim=-1).values.tolist() == [[[0, 1, 2]] * 3]


# ------------------------------------------------------------------------------------------------------------- bank


def test_an_episode_of_a_bank_holds_the_entries_of_its_images():
    sampler = EpisodeSampler(stamped(), 5, 2, 3, batch_size=3, seed=6)
    bank = torch.randn(12, 7, 2, 3, dtype=torch.float64)
    plain, banked = sampler.sample(2), sampler.sample(2, bank)
    assert torch.equal(plain.classes, banked.classes) and torch.equal(plain.support_y, banked.support_y)
    assert banked.support_x.shape == (3, 10, 2, 3) and banked.support_x.dtype == torch.float64
    for task in range(3):
        for x, entries in ((plain.support_x, banked.support_x), (plain.query_x, banked.query_x)):
            assert torch.equal(entries[task], torch.stack([bank[c, i] for c, i in stamps(x[task])]))


def test_entries_of_rotated_classes_follow_the_others():
    sampler = EpisodeSampler(stamped(3, 5), 6, 1, 2, rotations=True)
    bank = torch.arange(12 * 5).reshape(12, 5, 1).float()
    episode = sampler.sample(0, bank)
    expected = episode.classes[0, :, None] * 5 + episode.instances[0]
    assert torch.equal(episode.support_x[0, :, 0], expected[:, 0].float())
    assert torch.equal(episode.query_x[0, :, 0], expected[:, 1:].flatten().float())


@pytest.mark.parametrize("shape", [(12, 5, 4), (11, 7, 4), (48, 7, 4)])
def test_a_bank_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"12 classes of 7 entries; got \["):
        EpisodeSampler(stamped(), 5, 1, 1).sample(0, torch.zeros(shape))


# ----------------------------------------------------------------------------------------------------------- errors


def test_too_many_classes():
    with pytest.raises(ValueError, match=r"^13-way episodes need 13 classes; stamped/all has 12$"):
        EpisodeSampler(stamped(), 13, 1, 1)
    with pytest.raises(ValueError, match=r"49 classes; stamped/all has 48 \(rotations counted\)"):
        EpisodeSampler(stamped(), 49, 1, 1, rotations=True)
    EpisodeSampler(stamped(), 12, 1, 1), EpisodeSampler(stamped(), 48, 1, 1, rotations=True)


@pytest.mark.parametrize(("k_shot", "n_query"), [(7, 1), (1, 7)])
def test_too_many_images(k_shot, n_query):
    text = f"{k_shot} support and {n_query} query images need 8 images a class; the smallest class of stamped/all has 7"
    with pytest.raises(ValueError, match=text):
        EpisodeSampler(stamped(), 5, k_shot, n_query)


def test_the_smallest_class_counts():
    with pytest.raises(ValueError, match="the smallest class of stamped/all has 4"):
        EpisodeSampler(stamped(2, 7, [7, 4]), 2, 2, 3)


@pytest.mark.parametrize("name", ["n_way", "k_shot", "n_query", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5", None])
def test_sizes_are_whole_numbers_of_at_least_one(name, value):
    settings = {"n_way": 2, "k_shot": 1, "n_query": 1, "batch_size": 1, name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1; got {value!r}"):
        EpisodeSampler(stamped(), **settings)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        EpisodeSampler(stamped(), 2, 1, 1, seed=seed)


def test_only_squares_can_be_turned():
    images = ImageSet(torch.zeros(2, 3, 1, 4, 6, dtype=torch.uint8), ("a", "b"), ("g", "g"), "flat", "all")
    EpisodeSampler(images, 2, 1, 1)
    with pytest.raises(ValueError, match="square images; those of flat/all are 4 x 6"):
        EpisodeSampler(images, 2, 1, 1, rotations=True)


def test_an_image_set_refuses_what_does_not_fit():
    x = torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"got torch\.float32"):
        ImageSet(x.float(), ("a", "b"), ("g", "g"), "n", "s")
    with pytest.raises(TypeError, match=r"shape \[2, 3, 4, 4\]"):
        ImageSet(x[:, :, 0], ("a", "b"), ("g", "g"), "n", "s")
    with pytest.raises(ValueError, match="2 classes need 2 class names and group names; got 1 and 2"):
        ImageSet(x, ("a",), ("g", "g"), "n", "s")
    with pytest.raises(ValueError, match="unique"):
        ImageSet(x, ("a", "a"), ("g", "g"), "n", "s")
    for counts in ([3, 0], [4, 3], [3]):
        with pytest.raises(ValueError, match="counts must hold 2 numbers between 1 and 3"):
            ImageSet(x, ("a", "b"), ("g", "g"), "n", "s", torch.tensor(counts))


def test_selected_classes_keep_their_images_names_and_counts():
    chosen = stamped(6, 7, [3, 7, 4, 5, 3, 6]).select([2, 1], split="two")
    assert (chosen.class_names, chosen.counts.tolist(), chosen.split) == (("c2", "c1"), [4, 7], "two")
    assert set(stamps(chosen.flat()[0].float() / 255)) == {(2, i) for i in range(4)} | {(1, i) for i in range(7)}
    assert chosen.flat()[1].tolist() == [0] * 4 + [1] * 7


# -------------------------------------------------------------------------------------------------------- real data


def sampled_names(images: ImageSet, n_batches: int) -> set[str]:
    """The classes that episodes really hold, recognised by the pixels of their images, not by what they are called."""
    owner = {}
    for c, name in enumerate(images.class_names):
        for image in images.images[c, : int(images.counts[c])]:
            owner.setdefault(image.numpy().tobytes(), name)
    names = set()
    for episode in EpisodeSampler(images, 20, 1, 1, batch_size=10).batches(n_batches):
        for x in (episode.support_x, episode.query_x):
            names |= {owner[image.tobytes()] for image in (x.flatten(0, 1) * 255).round().byte().numpy()}
    return names


@pytest.mark.parametrize(
    ("name", "splits", "batches"),
    [
        ("glyphs", ("train", "val", "test"), 30),
        pytest.param("omniglot", ("train", "val", "test"), 30, marks=needs_omniglot),
        pytest.param("omniglot", ("background", "evaluation"), 30, marks=needs_omniglot),
        pytest.param("omniglot", ("trainval", "test"), 30, marks=needs_omniglot),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_no_class_is_sampled_in_two_splits(name, splits, batches):
    """learn2learn's Omniglot benchmark declares disjoint splits and samples test classes while training."""
    sampled = {split: sampled_names(load(name, split), batches) for split in splits}
    total = load(name, "all").class_names
    for split in splits:
        assert sampled[split] <= set(total) and len(sampled[split]) > 0.9 * load(name, split).n_classes
        for other in splits:
            assert split == other or not sampled[split] & sampled[other]


@needs_omniglot
def test_all_of_omniglot_takes_at_most_30_megabytes():
    images = load("omniglot", "all")
    assert images.images.shape == (1623, 20, 1, 28, 28)
    assert images.images.untyped_storage().nbytes() <= 30e6


def test_missing_data_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="omniglot"):
        load("omniglot", "test")


def test_a_task_of_a_batch_is_an_episode_of_its_own():
    sampler = EpisodeSampler(stamped(), 3, 2, 2, batch_size=4, seed=1)
    batch = sampler.sample(5)
    for number in range(4):
        one = batch.task(number)
        assert one.n_tasks == 1 and one.n_way == 3
        for name in ("support_x", "support_y", "query_x", "query_y", "classes", "instances"):
            assert torch.equal(getattr(one, name), getattr(batch, name)[number : number + 1])
    for number in (-1, 4):
        with pytest.raises(ValueError, match=f"this episode has tasks 0 to 3; got {number}"):
            batch.task(number)
