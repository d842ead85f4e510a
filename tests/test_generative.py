"""Deep generative replay: a perfect generator is joint training, the critic's slope, the scholar's learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from replay_fixtures import SETTINGS, check_resumed, generator, small_network, small_stream
from torch import Tensor, nn

from utils.continual.generative import GAN, SOURCES, VAE, Critic, GenerativeReplay, Generator
from utils.continual.learn import Batch, Plain, learn
from utils.data.streams import Stream

SMALL = GAN(latent=4, hidden=24, steps=20, batch_size=32)
SMALL_VAE = VAE(latent=4, hidden=24, steps=20, batch_size=32)


class Perfect(nn.Module):
    """A solver that knows the class of every training image, and answers as sure as it gets."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.images = torch.cat([task.seen(task.train_x) for task in stream.tasks]).flatten(1)
        self.labels = torch.cat([task.train_y for task in stream.tasks])
        self.units = stream.n_units

    def forward(self, x: Tensor) -> Tensor:
        return 1e3 * F.one_hot(self.labels[torch.cdist(x.flatten(1), self.images).argmin(1)], self.units).float()


# ------------------------------------------------------------------------------------------------- a perfect scholar


@pytest.mark.parametrize("scenario", ["domain", "class"])
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_with_a_perfect_scholar_it_is_the_joint_loss(scenario, temperature):
    """(1/t) L(new) + (1 - 1/t) L(old images, their labels), the expectation over what is drawn."""
    stream, network = small_stream(scenario), None
    network = small_network(stream.n_units)
    method = GenerativeReplay("exact", temperature=temperature)
    memory = method.start(network, stream)
    for task in (0, 1):
        memory = method.after_task(network, memory, stream, task, generator())
    memory["solver"] = Perfect(stream)
    x, y = stream.batch(2, 0, 20_000)
    found = method.loss(network, memory, Batch(stream, 2, x, y), generator(3))
    units = stream.units(2, 3)
    per_task = [F.cross_entropy(network(task.seen(task.train_x))[:, units], task.train_y) for task in stream.tasks]
    torch.testing.assert_close(found, sum(per_task) / 3, rtol=5e-3, atol=0)


def test_in_the_task_scenario_every_old_head_answers():
    stream, method = small_stream("task"), GenerativeReplay("noise")
    logits, answers = torch.randn(2, 7, 6, generator=generator())
    hard = [F.cross_entropy(logits[:, at], answers[:, at].argmax(1)) for at in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(method.replay_loss(logits, answers, stream, 2), sum(hard) / 2)
    soft = replace(method, temperature=2.0).replay_loss(logits, answers, stream, 2)
    p, q = ((values[:, :4].view(7, 2, 2) / 2).softmax(-1) for values in (answers, logits))
    torch.testing.assert_close(soft, 4 * (p * (p / q).log()).sum(-1).mean())


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_without_a_source_the_old_solver_answers_about_new_images(scenario):
    """(1/t) L(x, y) + (1 - 1/t) T^2 KL(old answers || new ones), in the task scenario their mean over the old heads."""
    stream, network = small_stream(scenario), small_network(small_stream(scenario).n_units)
    method = GenerativeReplay("current", temperature=2.0)
    memory = method.before_task(network, method.start(network, stream), stream, 2, generator())
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator(4)))
    x, y = stream.batch(2, 0, 9)
    mine, old, units = network(x), memory["solver"](x), stream.units(2, 3)
    if scenario == "class":
        p, log_q = F.pad((old[:, :4] / 2).softmax(1), (0, 2)), (mine / 2).log_softmax(1)
    else:
        heads = (len(x), -1, 2)
        n_old = 4 if scenario == "task" else 2
        p, log_q = (old[:, :n_old].reshape(heads) / 2).softmax(-1), (mine[:, :n_old].reshape(heads) / 2).log_softmax(-1)
    divergence = (torch.xlogy(p, p) - p * log_q).sum(-1).mean()
    expected = (F.cross_entropy(mine[:, units], y - units.start) + 2 * 4 * divergence) / 3
    torch.testing.assert_close(method.loss(network, memory, Batch(stream, 2, x, y), generator()), expected)


def test_soft_answers_leave_nothing_to_new_units():
    stream, method = small_stream("class"), GenerativeReplay("noise", temperature=2.0)
    logits, answers = torch.randn(2, 7, 6, generator=generator(), dtype=torch.float64)
    logits.requires_grad_()
    p, q = F.pad((answers[:, :4] / 2).softmax(1), (0, 2)), (logits / 2).log_softmax(1)
    expected = 4 * (torch.xlogy(p, p) - p * q).sum(1).mean()
    found = method.replay_loss(logits, answers, stream, 2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, expected)))


@pytest.mark.parametrize("source", SOURCES)
def test_the_first_task_is_plain_training(source):
    stream = small_stream("class")
    one = Stream(stream.tasks[:1], "class", "one")
    networks = [
        learn(small_network(), one, method, seed=1, **SETTINGS).network
        for method in (Plain(), GenerativeReplay(source, SMALL))
    ]
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a, b)


def test_the_old_solver_answers_and_stays():
    stream, network, method = small_stream("class"), small_network(), GenerativeReplay("noise")
    memory = method.before_task(network, method.start(network, stream), stream, 1, generator())
    before = [value.clone() for value in memory["solver"].parameters()]
    x, y = stream.batch(1, 0, 16)
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    for seed in range(3):
        optimizer.zero_grad()
        method.loss(network, memory, Batch(stream, 1, x, y), generator(seed)).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, memory["solver"].parameters(), strict=True))
    assert not memory["solver"].training
    assert not torch.equal(before[0], next(network.parameters()))


# ----------------------------------------------------------------------------------------------------------- the GAN


def test_the_slope_of_the_critic_is_its_derivative_and_can_be_differentiated():
    torch.manual_seed(0)
    critic = Critic((1, 3, 4), 10).double()
    x = torch.rand(6, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    slope = critic.score_and_slope(x)[1]
    (expected,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    torch.testing.assert_close(slope, expected.flatten(1))
    values = [critic.first.weight, critic.second.weight, critic.last.weight]
    ours = torch.autograd.grad(slope.square().sum(), values, retain_graph=True)
    for mine, other in zip(ours, torch.autograd.grad(expected.square().sum(), values), strict=True):
        assert float(other.abs().max()) > 1e-6
        torch.testing.assert_close(mine, other)


def test_it_learns_where_images_are():
    """Three images, far apart: each is made, and hardly anything between them."""
    torch.manual_seed(0)
    modes = torch.tensor([[0.9, 0.1, 0.1, 0.9], [0.1, 0.9, 0.1, 0.1], [0.2, 0.2, 0.9, 0.2]]).view(3, 1, 2, 2)
    gan = GAN(latent=4, hidden=32, steps=350, batch_size=64)
    maker, critic = gan.start((1, 2, 2), seed=1)
    rng = generator(2)

    def real(n: int) -> Tensor:
        noise = 0.03 * torch.randn(n, 1, 2, 2, generator=rng)
        return modes[torch.randint(3, (n,), generator=rng)] + noise

    before = torch.cdist(maker.eval().draw(600, rng).flatten(1), modes.flatten(1)).amin(1).mean().item()
    gan.train(maker, critic, real, rng)
    distance, nearest = torch.cdist(maker.draw(600, rng).flatten(1), modes.flatten(1)).min(1)
    assert before > 0.4 and distance.median().item() < 0.15
    assert int(nearest.bincount(minlength=3).min()) > 60
    assert not maker.training and all(value.requires_grad for value in critic.parameters())


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = (GAN().start((1, 4, 4), seed)[0] for seed in (0, 1))
    torch.manual_seed(99)
    again, _ = GAN().start((1, 4, 4), 0)
    assert torch.equal(one.layers[0].weight, again.layers[0].weight)
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())


def test_a_critic_that_diverges_is_noticed():
    gan = replace(SMALL, steps=3)
    maker, critic = gan.start((1, 4, 4), 0)
    with pytest.raises(FloatingPointError, match="critic"):
        gan.train(maker, critic, lambda n: torch.full((n, 1, 4, 4), torch.nan), generator())


def test_generated_images_are_images():
    images = Generator((2, 3, 4), 5, 8).eval().draw(7, generator())
    assert images.shape == (7, 2, 3, 4)
    assert images.min().item() >= 0 and images.max().item() <= 1


# ----------------------------------------------------------------------------------------------------------- the VAE


def test_the_loss_of_the_vae_is_the_negative_bound():
    """By torch.distributions: -log of Bernoulli likelihoods and the divergence of two Gaussians, a pixel."""
    torch.manual_seed(0)
    maker, encoder = (module.double() for module in SMALL_VAE.start((1, 3, 4), 1))
    x, noise = torch.rand(5, 1, 3, 4, dtype=torch.float64).round(), torch.randn(5, 4, dtype=torch.float64)
    mean, log_variance = encoder(x)
    q = torch.distributions.Normal(mean, log_variance.exp().sqrt())
    likelihood = torch.distributions.Bernoulli(maker(mean + q.stddev * noise)).log_prob(x).flatten(1).sum(1)
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    bound = (likelihood - divergence).mean()
    assert float(divergence.mean().detach()) > 1e-4
    torch.testing.assert_close(SMALL_VAE.loss(maker, encoder, x, noise), -bound / 12)


def test_the_vae_learns_where_images_are():
    """Three pictures of ink and paper, each made again, and at its share."""
    modes = torch.tensor([[1.0, 0, 0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 1, 0, 1, 1]])
    vae = VAE(latent=4, hidden=32, steps=300, batch_size=64, lr=5e-3)
    maker, encoder = vae.start((1, 2, 4), seed=1)
    rng = generator(2)
    before = torch.cdist(maker.eval().draw(600, rng).flatten(1), modes).amin(1).median().item()
    vae.train(maker, encoder, lambda n: modes[torch.randint(3, (n,), generator=rng)].view(n, 1, 2, 4), rng)
    distance, nearest = torch.cdist(maker.draw(600, rng).flatten(1), modes).min(1)
    assert before > 1 and distance.median().item() < 0.2
    assert int(nearest.bincount(minlength=3).min()) > 100
    assert not maker.training


def test_a_vae_that_diverges_is_noticed():
    vae = replace(SMALL_VAE, lr=torch.inf)
    maker, encoder = vae.start((1, 4, 4), 0)
    with pytest.raises(FloatingPointError, match="VAE"):
        vae.train(maker, encoder, lambda n: torch.rand(n, 1, 4, 4, generator=generator()), generator())


def test_weights_of_a_vae_follow_from_the_seed():
    one, again, other = (SMALL_VAE.start((1, 4, 4), seed) for seed in (0, 0, 1))
    for a, b, c in zip(*(nn.ModuleList(pair).parameters() for pair in (one, again, other)), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert not list(one[0].buffers()), "no batch normalisation"


# ------------------------------------------------------------------------------------------------------ what it does


def test_the_scholar_is_trained_on_new_images_and_on_its_own():
    stream, network = small_stream("class"), small_network()
    shown: list[Tensor] = []

    class Watching(GAN):
        def train(self, maker, critic, real, rng):
            shown.append(real(4000))

    method = GenerativeReplay(gan=Watching(latent=4, hidden=8))
    memory = method.start(network, stream)
    for task in range(3):
        memory = method.after_task(network, memory, stream, task, generator(task))
    for task, images in enumerate(shown):
        known = stream.tasks[task].seen(stream.tasks[task].train_x).flatten(1)
        new = torch.cdist(images.flatten(1), known).amin(1) < 1e-3
        assert new.double().mean().item() == pytest.approx(1 / (task + 1), abs=0.03)


def test_generated_images_keep_what_plain_training_loses():
    stream, reached = small_stream("class", 2), []
    for method in (Plain(), GenerativeReplay(gan=replace(SMALL, steps=150)), GenerativeReplay("exact")):
        learned = learn(small_network(), stream, method, seed=0, **(SETTINGS | {"steps": 40}))
        reached.append(float(learned.accuracies[-1, 0]))
    assert reached[0] < 0.2 and reached[1] > 0.6 and reached[2] > 0.6


@pytest.mark.parametrize("source", SOURCES)
def test_a_stream_that_was_killed_goes_on(tmp_path, source):
    check_resumed(tmp_path, lambda: GenerativeReplay(source, SMALL), "class")


def test_a_stream_with_a_vae_that_was_killed_goes_on(tmp_path):
    check_resumed(tmp_path, lambda: GenerativeReplay(gan=SMALL_VAE), "class")


def test_wrong_settings():
    with pytest.raises(ValueError, match="source of the past must be one of"):
        GenerativeReplay("vae")
    with pytest.raises(ValueError, match="temperature must be positive"):
        GenerativeReplay(temperature=0.0)
