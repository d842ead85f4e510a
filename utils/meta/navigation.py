"""Reinforcement learning as a task: a point in the plane that must find an unknown goal (Finn et al. 2017, 5.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.backbones import MLP
from utils.data.episodes import mix_seed
from utils.fewshot.embedding import Params
from utils.meta.inner import Path, Rates, Stacked, apply, check_finite, descend, own_parameters, stacked

REACH = 0.1
"""How far the point moves in one step at most, in each direction."""


class GaussianPolicy(nn.Module):
    """pi(a | s) = N(mu(s), sigma^2 I): a small network for mu, and one learned log sigma for each coordinate.

    mu lies within :data:`REACH`: a mean far beyond what the point can do would have no gradient any more.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 64), sigma: float = 0.05) -> None:
        super().__init__()
        self.mean = MLP(2, (*widths, 2), activate_last=False)
        self.log_sigma = nn.Parameter(torch.full((2,), math.log(sigma)))

    def forward(self, x: Tensor) -> Tensor:
        """States ``[N, 2]`` to means and log sigmas, side by side: ``[N, 4]``."""
        mean = REACH * torch.tanh(self.mean(2 * x))  # goals lie within half a unit
        return torch.cat([mean, self.log_sigma.expand_as(mean)], dim=1)


@dataclass(frozen=True)
class Walks:
    """Walks of every task: ``states`` before each action and ``actions``, ``[B, walk, time, 2]``; ``rewards``."""

    states: Tensor
    actions: Tensor
    rewards: Tensor

    @property
    def returns(self) -> Tensor:
        """Sum of the rewards of each walk, averaged over the walks of a task: ``[B]``."""
        return self.rewards.sum(2).mean(1)


@dataclass(frozen=True)
class Navigation:
    """Learn a policy that finds a goal after ``inner_steps`` policy-gradient steps, each on ``n_walks`` walks.

    A walk starts at the origin; an action moves the point by at most :data:`REACH`; the reward is minus the squared
    distance from the goal after the move; the goal is what a task is, and nobody tells it to the policy.
    """

    network: GaussianPolicy
    inner_lr: Rates = 0.03
    inner_steps: int = 1
    n_walks: int = 20
    horizon: int = 20
    order: int = 2

    def goals(self, n_tasks: int, seed: int, index: int = 0) -> Tensor:
        """Goals of a batch of tasks, uniform in [-0.5, 0.5]^2: ``[B, 2]``."""
        generator = torch.Generator().manual_seed(mix_seed(seed, index))
        return torch.rand(n_tasks, 2, generator=generator) - 0.5

    @torch.no_grad()
    def walk(self, params: Mapping[str, Tensor], goals: Tensor, generator: torch.Generator) -> Walks:
        """Walks of every task with its own policy (``params`` with a task axis)."""
        here = goals.new_zeros(len(goals), self.n_walks, 2)
        states, actions, rewards = [], [], []
        for _ in range(self.horizon):
            mean, log_sigma = apply(self.network, params, {}, here).chunk(2, dim=-1)
            action = mean + log_sigma.exp() * torch.randn(mean.shape, generator=generator).to(mean)
            states.append(here)
            actions.append(action)
            here = here + action.clamp(-REACH, REACH)
            rewards.append(-(here - goals[:, None]).square().sum(-1))
        return Walks(torch.stack(states, 2), torch.stack(actions, 2), torch.stack(rewards, 2))

    def objective(self, params: Mapping[str, Tensor], walks: Walks) -> Tensor:
        """:func:`policy_loss` of every task, ``[B]``."""
        outputs = apply(self.network, params, {}, walks.states.flatten(1, 2))
        mean, log_sigma = outputs.unflatten(1, walks.states.shape[1:3]).chunk(2, dim=-1)
        return policy_loss(gaussian_log_probability(walks.actions, mean, log_sigma), walks.rewards)

    def adapt(self, params: Params, goals: Tensor, generator: torch.Generator, steps: int | None = None) -> Path:
        """The inner loop: walk, take a policy-gradient step, walk again with the new policy, ..."""
        theta = own_parameters(self.network) if params is None else params

        def objective(phi: Stacked, step: int) -> Tensor:
            return self.objective(phi, self.walk(phi, goals, generator))

        order = self.order if torch.is_grad_enabled() else 1
        steps = self.inner_steps if steps is None else steps
        return descend(objective, stacked(theta, len(goals)), self.inner_lr, steps, order)

    def loss(self, params: Params, goals: Tensor, seed: int) -> Tensor:
        """Mean of :func:`policy_loss` after adapting, on fresh walks."""
        generator = torch.Generator().manual_seed(seed)
        path = self.adapt(params, goals, generator)
        losses = self.objective(path.end, self.walk(path.end, goals, generator))
        check_finite(torch.cat([path.losses, losses.detach()[None]]), self.inner_lr)
        return losses.mean()


def gaussian_log_probability(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log N(x; mean, sigma^2 I), summed over the last axis."""
    return -(((x - mean) / log_sigma.exp()).square() / 2 + log_sigma + math.log(2 * math.pi) / 2).sum(-1)


def policy_loss(log_probabilities: Tensor, rewards: Tensor) -> Tensor:
    """Minus the expected return, as a sample whose derivatives of *every* order are right: ``[B]``.

    ``log_probabilities`` log pi(a_t | s_t) and ``rewards``, both ``[B, walk, time]``. With box(x) = exp(x - x as a
    constant), which is 1 and whose derivative is x's (Foerster et al. 2018, DiCE):

    - mean over walks of sum_t [box(sum_{t' <= t} log pi_t') r_t + (1 - box(log pi_t)) b_t]

    b_t is the mean over the *other* walks of the rewards from t on: it takes nothing from the expectation and much
    from the variance. The first derivative is the policy gradient, - sum_t grad log pi_t (R_t - b_t). The familiar
    surrogate - sum_t log pi_t (R_t - b_t) has the same first derivative, and a wrong second one, which is what MAML
    needs.
    """
    to_go = rewards.flip(-1).cumsum(-1).flip(-1)
    n_walks = rewards.shape[1]
    baseline = (to_go.sum(1, keepdim=True) - to_go) / max(1, n_walks - 1)
    total = log_probabilities.cumsum(-1)
    gained = (_box(total) * rewards + (1 - _box(log_probabilities)) * baseline).sum(-1)
    return -gained.mean(1)


def _box(x: Tensor) -> Tensor:
    return torch.exp(x - x.detach())
