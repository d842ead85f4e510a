"""The baseline classifier's batches and features, and fine-tuning on a task's support set."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode, parameters, unequal_shots, used_network

from utils.data.batches import ImageBatches
from utils.data.distortions import AffineDistortion
from utils.data.images import ImageSet
from utils.fewshot.classifier import Classifier, ClassifierNetwork, classify_embedded
from utils.fewshot.finetuning import FineTuning, finetuned_classifier, finetuned_logits
from utils.fewshot.matching import Matching, MatchingNetwork
from utils.fewshot.siamese import Siamese, SiameseNetwork

# Batches


def stamped(counts: tuple[int, ...] = (3, 5, 4)) -> ImageSet:
    """Every image carries its class and number in its first two pixels, its height in the last column."""
    images = torch.zeros(len(counts), max(counts), 1, 4, 4, dtype=torch.uint8)
    for c, n in enumerate(counts):
        images[c, :n, 0, 0, 0] = 10 * (c + 1)
        images[c, :n, 0, 0, 1] = 10 * torch.arange(1, n + 1).to(torch.uint8)
        images[c, :n, 0, 3, 3] = 255
    names = tuple("abc")
    return ImageSet(images, names, names, "stamped", "all", torch.tensor(counts))


def stamps(x: torch.Tensor) -> list[tuple[int, int]]:
    return [(round(float(i[0, 0, 0] * 255)), round(float(i[0, 0, 1] * 255))) for i in x]


def test_an_epoch_shows_every_image_once_with_its_class():
    batches = ImageBatches(stamped(), 4, seed=3)
    assert (batches.n_classes, batches.n_images, batches.per_epoch) == (3, 12, 3)
    for epoch in range(2):
        seen = Counter()
        for i in range(3):
            x, y = batches.sample(3 * epoch + i)
            assert x.shape == (4, 1, 4, 4) and x.dtype == torch.float32 and y.dtype == torch.int64
            assert [c // 10 - 1 for c, _ in stamps(x)] == y.tolist()
            seen.update(stamps(x))
        assert seen == Counter((10 * (c + 1), 10 * (i + 1)) for c, n in enumerate((3, 5, 4)) for i in range(n))


def test_a_batch_depends_on_seed_and_number_alone():
    a, b = ImageBatches(stamped(), 4, seed=3), ImageBatches(stamped(), 4, seed=3)
    assert torch.equal(a.sample(7)[0], b.sample(7)[0])
    orders = {tuple(stamps(ImageBatches(stamped(), 12, seed=seed).sample(i)[0])) for seed in range(3) for i in range(3)}
    assert len(orders) == 9


def test_turned_images_are_classes_of_their_own():
    images = stamped()
    batches = ImageBatches(images, 48, rotations=True)
    assert (batches.n_classes, batches.n_images) == (12, 48)
    x, y = batches.sample(0)
    assert Counter(y.tolist()) == Counter({c + 3 * r: n for c, n in enumerate((3, 5, 4)) for r in range(4)})
    for image, label in zip(x, y.tolist(), strict=True):
        upright = torch.rot90(image, -(label // 3), (-2, -1))
        ((c, number),) = stamps(upright[None])
        assert c // 10 - 1 == label % 3
        assert torch.equal((upright * 255).round().to(torch.uint8), images.images[label % 3, number // 10 - 1])


def test_batches_that_do_not_fit_are_refused():
    for size in (0, 13):
        with pytest.raises(ValueError, match=f"a batch can hold 1 to 12 images; got batch_size={size}"):
            ImageBatches(stamped(), size)
    flat = ImageSet(torch.zeros(1, 2, 1, 4, 5, dtype=torch.uint8), ("a",), ("a",), "flat", "all")
    with pytest.raises(ValueError, match="rotation classes need square images; these are 4 x 5"):
        ImageBatches(flat, 2, rotations=True)


# The baseline classifier


def classifier() -> Classifier:
    body = used_network()
    torch.manual_seed(1)
    return Classifier(ClassifierNetwork(body, 7).double())


def test_features_are_compared_by_plain_cosines():
    """The lecture's formula, image by image: no scale, the weights of a class summed."""
    learner, episode = classifier(), unequal_shots(noise_episode())
    scores = learner.logits(None, episode)
    assert scores.shape == (2, 6, 3)
    for task in range(2):
        support = learner.network.embedding(episode.support_x[task], "running")
        for q, x in enumerate(learner.network.embedding(episode.query_x[task], "running")):
            weights = torch.stack([torch.exp(x @ s / x.norm() / s.norm()) for s in support])
            for k in range(3):
                p = weights[episode.support_y[task] == k].sum() / weights.sum()
                torch.testing.assert_close(scores[task, q, k].exp(), p)
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    embedded = replace(episode, support_x=support, query_x=query)
    torch.testing.assert_close(classify_embedded(embedded), scores)


def test_class_scores_are_a_linear_layer_over_the_features():
    network = classifier().network
    images = noise_episode().support_x[0]
    expected = network.embedding(images, "running") @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(images, "running"), expected)
    assert network(images, "running").shape == (6, 7)


# Fine-tuning


def unchanged(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def learners():
    return (
        Siamese(SiameseNetwork(used_network()).double().eval(), "running"),
        Matching(MatchingNetwork(used_network(), 3.0, learned=True).double().eval(), "running"),
    )


@pytest.mark.parametrize("learner", learners(), ids=["siamese", "matching"])
def test_steps_are_those_of_adam_on_the_support_alone(learner):
    """One step from the definition: every entry moves by the rate against its gradient's sign (Kingma and Ba 2015)."""
    episode = noise_episode(n_tasks=1)
    before = parameters(learner.network)
    tuned = FineTuning(unchanged, steps=1, learning_rate=1e-3).adapt(learner, episode, seeded())
    support_only = replace(episode, query_x=episode.support_x, query_y=episode.support_y)
    slopes = torch.autograd.grad(learner.loss(None, support_only), list(learner.network.parameters()))
    assert tuned.keys() == before.keys()
    for (name, value), slope in zip(tuned.items(), slopes, strict=True):
        expected = before[name] - 1e-3 * slope / (slope.abs() + 1e-8)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in learner.network.named_parameters())


@pytest.mark.parametrize("learner", learners(), ids=["siamese", "matching"])
def test_queries_are_never_seen_while_tuning(learner):
    episode = noise_episode(n_tasks=1)
    tuning = FineTuning(AffineDistortion(), steps=3)
    tuned = tuning.adapt(learner, episode, seeded())
    other = replace(episode, query_x=torch.zeros_like(episode.query_x), query_y=episode.query_y.flip(1))
    for name, value in tuning.adapt(learner, other, seeded()).items():
        assert torch.equal(value, tuned[name])


@pytest.mark.parametrize("learner", learners(), ids=["siamese", "matching"])
def test_tuning_lowers_the_loss_on_the_support_and_no_steps_change_nothing(learner):
    episode = noise_episode(n_tasks=1)
    support_only = replace(episode, query_x=episode.support_x, query_y=episode.support_y)
    tuned = FineTuning(unchanged, steps=20).adapt(learner, episode, seeded())
    assert float(learner.loss(tuned, support_only)) < float(learner.loss(None, support_only).detach())
    logits = finetuned_logits(learner, FineTuning(unchanged, steps=0), episode, seeded())
    torch.testing.assert_close(logits, learner.logits(None, episode))
    assert not logits.requires_grad


def test_what_is_fixed_stays_fixed():
    learner = Matching(MatchingNetwork(used_network(), 3.0, learned=False).double().eval(), "running")
    tuned = FineTuning(unchanged, steps=2).adapt(learner, noise_episode(n_tasks=1), seeded())
    assert "scale.log_scale" not in tuned and "embedding.convs.0.weight" in tuned
    assert torch.isfinite(learner.logits(tuned, noise_episode(n_tasks=1))).all()


def test_a_new_softmax_layer_learns_the_support():
    learner, episode = classifier(), noise_episode(n_tasks=1)
    before = parameters(learner.network)
    tuning = FineTuning(unchanged, steps=40, learning_rate=1e-3)
    params, head = tuning.adapt_classifier(learner, episode, seeded())
    assert {name: list(value.shape) for name, value in head.items()} == {"weight": [3, 5], "bias": [3]}
    scores = finetuned_classifier(learner, tuning, episode, seeded())
    tuned = {f"embedding.{name}": value for name, value in params.items()}
    support, query = learner.embed(tuned, episode.support_x, episode.query_x)
    torch.testing.assert_close(scores["softmax"], F.linear(query, head["weight"], head["bias"]))
    torch.testing.assert_close(scores["cosine"], learner.logits(tuned, episode))
    on_support = F.linear(support, head["weight"], head["bias"])
    assert torch.equal(on_support.argmax(-1), episode.support_y)
    assert all(torch.equal(value, before[name]) for name, value in learner.network.named_parameters())


def test_the_new_layer_starts_undecided():
    scores = finetuned_classifier(classifier(), FineTuning(unchanged, steps=0), noise_episode(n_tasks=1), seeded())
    assert torch.equal(scores["softmax"], torch.zeros(1, 6, 3).double())


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="the number of steps cannot be negative; got -1"):
        FineTuning(unchanged, steps=-1)
