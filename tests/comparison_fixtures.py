"""What the tests of the methods by comparison share: an episode of noise in float64, a small used network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from utils.backbones import Conv4
from utils.data.episodes import Episode, EpisodeSampler
from utils.data.images import ImageSet

N_TASKS, N_WAY, K_SHOT, N_QUERY = 2, 3, 2, 2


def noise_episode(
    n_way: int = N_WAY, k_shot: int = K_SHOT, n_query: int = N_QUERY, n_tasks: int = N_TASKS, size: int = 16
) -> Episode:
    """Noise with a common part a class, in float64."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.randint(0, 120, (6, 1, 1, size, size), generator=generator)
    images = (parts + torch.randint(0, 120, (6, 8, 1, size, size), generator=generator)).to(torch.uint8)
    names = tuple("abcdef")
    sampler = EpisodeSampler(ImageSet(images, names, names, "noise", "all"), n_way, k_shot, n_query, n_tasks, seed=1)
    episode = sampler.sample(0)
    return replace(episode, support_x=episode.support_x.double(), query_x=episode.query_x.double())


def used_network(width: int = 5) -> Conv4:
    """A Conv4 in float64 with running statistics as after some training."""
    torch.manual_seed(0)
    network = Conv4(1, width, 16).double()
    for _ in range(20):
        network(torch.rand(10, 1, 16, 16, dtype=torch.float64))
    nn.init.constant_(network.norms[-1].weight, 3.0)  # differences that matter to a loss
    return network.eval()


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def assert_same_loss_and_gradient(loss: Tensor, expected: Tensor, network: nn.Module) -> None:
    """Loss and gradient equal in float64, and a gradient that is not zero."""
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    values = [value for value in network.parameters() if value.requires_grad]
    slopes = torch.autograd.grad(loss, values, retain_graph=True)
    wanted = torch.autograd.grad(expected, values)
    assert max(float(slope.abs().max()) for slope in wanted) > 1e-3
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-8, atol=1e-12)


def without_class(episode: Episode, k: int) -> Episode:
    """The episode with no support image of class ``k``, its tasks' images in their old order."""
    keep = episode.support_y[0] != k
    return replace(episode, support_x=episode.support_x[:, keep], support_y=episode.support_y[:, keep])


def empty_support(episode: Episode) -> Episode:
    return replace(episode, support_x=episode.support_x[:, :0], support_y=episode.support_y[:, :0])


def unequal_shots(episode: Episode) -> Episode:
    """The first support image of class 0 left out, the rest shuffled."""
    order = torch.tensor([4, 1, 3, 5, 2])
    return replace(episode, support_x=episode.support_x[:, order], support_y=episode.support_y[:, order])
