"""Deep generative replay (Shin et al. 2017): a scholar, generator and solver, from which the next one learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.continual.heads import frozen, old_terms, old_units
from utils.continual.learn import Batch, Memory, Plain, task_loss
from utils.continual.memory import as_bytes
from utils.data.images import as_float
from utils.data.streams import Stream
from utils.functional.distillation import distillation_loss

SOURCES = ("generator", "exact", "noise", "current")
LEAK = 0.2


class Generator(nn.Module):
    """Noise ``[N, latent]`` to images ``[N, *shape]`` in [0, 1]: two hidden layers, with batch normalisation or not."""

    def __init__(self, shape: tuple[int, ...], latent: int, hidden: int, normalise: bool = True) -> None:
        super().__init__()
        self.shape, self.latent = tuple(shape), latent
        layers: list[nn.Module] = []
        for width in (latent, hidden):
            layers += [nn.Linear(width, hidden), *([nn.BatchNorm1d(hidden)] * normalise), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, math.prod(shape)), nn.Sigmoid())

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise).view(len(noise), *self.shape)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` images from noise of ``generator``."""
        noise = torch.randn(n, self.latent, generator=generator)
        return self(noise.to(next(self.parameters()).device))


class Critic(nn.Module):
    """Images to scores ``[N]``, high for real ones: two hidden layers with leaky ReLU."""

    def __init__(self, shape: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(shape), hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.score_and_slope(images)[0]

    def score_and_slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[N]`` and their derivatives with respect to the pixels, ``[N, pixels]``.

        Where nothing is bent the derivative is a product of the weights, each row times 1 or the leak. So it can be
        differentiated in turn without a graph of the first backward pass, which halves the time of a step.
        """
        first = self.first(images.flatten(1))
        second = self.second(F.leaky_relu(first, LEAK))
        score = self.last(F.leaky_relu(second, LEAK))[:, 0]
        slope = torch.where(second > 0, 1.0, LEAK) * self.last.weight
        slope = torch.where(first > 0, 1.0, LEAK) * (slope @ self.second.weight)
        return score, slope @ self.first.weight


@dataclass(frozen=True)
class GAN:
    """Generator against critic, with the losses that do not saturate (Goodfellow et al. 2014).

    The critic minimises ``softplus(-D(x)) + softplus(D(G(z))) + penalty / 2 |dD/dx|^2`` with the slope at real images
    (Mescheder et al. 2018, R1), the generator ``softplus(-D(G(z)))``, each by Adam with a rate of its own, ``steps``
    steps in turn. The paper's is a WGAN-GP, whose critic takes five steps for each of the generator's: too slow here.
    """

    latent: int = 16
    hidden: int = 128
    steps: int = 500
    batch_size: int = 64
    generator_lr: float = 1e-3
    critic_lr: float = 3e-3
    penalty: float = 0.5

    def start(self, shape: tuple[int, ...], seed: int) -> tuple[Generator, Critic]:
        """Both untrained, with weights that follow from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Generator(shape, self.latent, self.hidden), Critic(shape, self.hidden)

    def train(
        self, maker: Generator, critic: Critic, real: Callable[[int], Tensor], generator: torch.Generator
    ) -> None:
        """Train both, in place, on images ``real(n)``; ``generator`` draws the noise.

        Raises ``FloatingPointError`` where training diverged.
        """
        options = {"betas": (0.5, 0.9), "fused": True}
        of_maker = torch.optim.Adam(maker.parameters(), self.generator_lr, **options)
        of_critic = torch.optim.Adam(critic.parameters(), self.critic_lr, **options)
        maker.train()
        with torch.enable_grad():
            for _ in range(self.steps):
                made = maker.draw(self.batch_size, generator)
                scores, slopes = critic.score_and_slope(torch.cat([real(self.batch_size), made.detach()]))
                of_real, of_made = scores.chunk(2)
                rough = slopes[: self.batch_size].square().sum(1).mean()
                loss = F.softplus(-of_real).mean() + F.softplus(of_made).mean() + self.penalty / 2 * rough
                of_critic.zero_grad()
                loss.backward()
                of_critic.step()
                critic.requires_grad_(False)
                of_maker.zero_grad()
                F.softplus(-critic(made)).mean().backward()
                of_maker.step()
                critic.requires_grad_(True)
        maker.eval()
        if not bool(loss.isfinite()):
            raise FloatingPointError("the critic's loss is not finite: lower the rates of the GAN")


class Encoder(nn.Module):
    """Images to mean and logarithm of the variance of the noise that they may come from, ``[N, latent]`` each."""

    def __init__(self, shape: tuple[int, ...], latent: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(shape), hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2 * latent)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.last(F.relu(self.second(F.relu(self.first(images.flatten(1)))))).chunk(2, 1)
        return mean, log_variance


@dataclass(frozen=True)
class VAE:
    """Generator with an encoder: a variational autoencoder (Kingma and Welling 2014), in the place of a :class:`GAN`.

    Both minimise ``E_q[-log p(x | z)] + KL(q(z | x) || N(0, I))`` by Adam, with pixels as probabilities of ink, q a
    diagonal Gaussian and one z an image (eq. 10, and appendix B for the divergence), divided by the number of pixels.
    That is the generator of van de Ven and Tolias (2018), there with ``hidden`` and ``steps`` of the solver.
    """

    latent: int = 100
    hidden: int = 400
    steps: int = 2000
    batch_size: int = 128
    lr: float = 1e-3

    def start(self, shape: tuple[int, ...], seed: int) -> tuple[Generator, Encoder]:
        """Both untrained, with weights that follow from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Generator(shape, self.latent, self.hidden, normalise=False), Encoder(shape, self.latent, self.hidden)

    def train(
        self, maker: Generator, encoder: Encoder, real: Callable[[int], Tensor], generator: torch.Generator
    ) -> None:
        """Train both, in place, on images ``real(n)``; ``generator`` draws z.

        Raises ``FloatingPointError`` where training diverged.
        """
        parameters = [*maker.parameters(), *encoder.parameters()]
        optimizer = torch.optim.Adam(parameters, self.lr, fused=True)
        maker.train()
        with torch.enable_grad():
            for _ in range(self.steps):
                images = real(self.batch_size)
                noise = torch.randn(len(images), self.latent, generator=generator).to(images.device)
                optimizer.zero_grad()
                loss = self.loss(maker, encoder, images, noise)
                loss.backward()
                optimizer.step()
        maker.eval()
        if not bool(loss.isfinite()):
            raise FloatingPointError("the loss of the VAE is not finite: lower its rate")

    def loss(self, maker: Generator, encoder: Encoder, images: Tensor, noise: Tensor) -> Tensor:
        """The negative bound a pixel, mean over ``images`` ``[N, ...]`` in [0, 1], z = mean + deviation * ``noise``."""
        mean, log_variance = encoder(images)
        made = maker.layers[:-1](torch.addcmul(mean, (log_variance / 2).exp(), noise))  # before the sigmoid
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum() / 2
        return F.binary_cross_entropy_with_logits(made, images.flatten(1)) + divergence / images.numel()


@dataclass(frozen=True)
class GenerativeReplay(Plain):
    """Every batch is joined by as many images of the past, answered as the solver of the past answers.

    The solver minimises ``r L(S(x), y) + (1 - r) L(S(x'), S_old(x'))`` (eq. 1) with r = 1/t for the t-th task. Where x'
    come from is the ``source``:

    ``"generator"``: a :class:`GAN`, or a :class:`VAE` in its place, trained after each task on its images (part 1/t)
    and on what it made before itself;
    ``"exact"``: all images of old tasks, kept; the bound, and the lecture's ER;
    ``"noise"``: pixels drawn from [0, 1], the control;
    ``"current"``: none, but the images of the new task; with a ``temperature`` this is LwF as van de Ven and Tolias
    have it, which weighs the old tasks as replay does.

    L is the cross-entropy with the likeliest of the old units; with a ``temperature`` it is T^2 times the divergence
    from the old solver's probabilities, in which new units have none (DGR + distill in van de Ven and Tolias 2019). In
    the scenario ``"task"`` it is the mean over the heads of the old tasks. ``seed``: of the generator's first weights.

    Raises ``ValueError`` for another source, and for a temperature that is not positive.
    """

    source: str = "generator"
    gan: GAN | VAE = GAN()
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"the source of the past must be one of {SOURCES}; got {self.source!r}")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"the temperature must be positive; got {self.temperature}")

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        memory: Memory = {"solver": frozen(network)}
        if self.source == "generator":
            device = stream.tasks[0].train_x.device
            maker, critic = self.gan.start(stream.image_shape, self.seed)
            memory |= {"generator": maker.to(device).eval(), "critic": critic.to(device)}
        if self.source == "exact":
            memory["images"] = stream.tasks[0].train_x[:0]
        return memory

    def before_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        return {**memory, "solver": frozen(network)}

    def loss(self, network: nn.Module, memory: Memory, batch: Batch, generator: torch.Generator) -> Tensor:
        stream, task, x, y = batch
        if not task:
            return super().loss(network, memory, batch, generator)
        past = x if self.source == "current" else self.past(memory, len(x), stream, generator)
        with torch.no_grad():
            answers = memory["solver"](past)
        new, old = network(torch.cat([x, past])).chunk(2)
        new = task_loss(new, y, batch.units)
        return (new + task * self.replay_loss(old, answers, stream, task)) / (task + 1)

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        data = stream.tasks[task]
        if self.source == "exact":
            memory = {**memory, "images": torch.cat([memory["images"], as_bytes(data, data.train_x)])}
        if self.source == "generator":
            before = frozen(memory["generator"])

            def real(n: int) -> Tensor:
                n_new = int((torch.rand(n, generator=generator) < 1 / (task + 1)).sum())
                rows = torch.randint(len(data.train_x), (n_new,), generator=generator).to(data.train_x.device)
                return torch.cat([data.seen(data.train_x[rows]), before.draw(n - n_new, generator)])

            self.gan.train(memory["generator"], memory["critic"], real, generator)
        return memory

    @torch.no_grad()
    def past(self, memory: Memory, n: int, stream: Stream, generator: torch.Generator) -> Tensor:
        """``n`` images x' from a source of its own, float32 ``[n, C, H, W]`` in [0, 1]."""
        if self.source == "generator":
            return memory["generator"].draw(n, generator)
        if self.source == "exact":
            rows = torch.randint(len(memory["images"]), (n,), generator=generator)
            return as_float(memory["images"][rows.to(memory["images"].device)])
        return torch.rand(n, *stream.image_shape, generator=generator).to(stream.tasks[0].train_x.device)

    def replay_loss(self, logits: Tensor, answers: Tensor, stream: Stream, task: int) -> Tensor:
        """L of the present solver's ``logits`` and the old one's ``answers``, both ``[N, units]``; a scalar."""
        every = stream.units(task, task + 1)
        if stream.scenario == "task" and self.temperature is not None:
            return torch.stack(old_terms(logits, answers, stream, task, self.temperature)).mean()
        terms = []
        for old in old_units(stream, task):
            units = old if stream.scenario == "task" else every
            likeliest = answers[:, old].argmax(1)  # the first of the old units is the first of all that take part
            if self.temperature is None:
                terms.append(F.cross_entropy(logits[:, units], likeliest))
            else:
                known = F.pad(answers[:, old], (0, units.stop - old.stop), value=-torch.inf)
                terms.append(distillation_loss(logits[:, units], known, likeliest, self.temperature, weight=1.0))
        return torch.stack(terms).mean()
