"""Synaptic intelligence (Zenke, Poole and Ganguli 2017): a weight matters as much as its way has lowered the loss.

Where EWC looks at the solution, this adds up on the way to it: a step dtheta lowers the loss by -g dtheta, to which
every weight has contributed its own part. What is kept costs one multiplication a step, and no pass over the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.continual.importance import Params, check_strength, copied, quadratic_penalty, trained, zeros
from utils.continual.learn import Memory, Plain
from utils.data.streams import Stream


@dataclass(frozen=True)
class SynapticIntelligence(Plain):
    """L(theta) + strength sum_i Omega_i (theta_i - anchor_i)^2, anchor the parameters after the last task.

    Along a task, omega_i = -sum_steps g_i dtheta_i (eq. 3), with the gradient g of the task's loss *alone*; after it

        Omega_i <- max(0, Omega_i + omega_i / (Delta_i^2 + damping))                                 (eq. 5)

    with Delta_i how far the parameter has come in the task. A contribution can be negative (a weight that was moved
    against its own gradient, or by noise); a negative Omega would push a weight away, so the sum is clipped at 0, which
    the paper does not mention and the authors' code does. On a parabola (h / 2) theta^2 small steps give Omega = h / 2:
    a strength of 1 is then the true loss (hence no half before it, as in the paper's eq. 4).

    Parameters: ``strength``, c in the paper; ``damping``, its xi > 0, so that weights that never moved do not divide
    zero by zero (0.1 for permuted MNIST and 0.001 for split CIFAR in the authors' code).

    The gradient that the optimiser used contains the penalty's, which is known, 2 strength Omega (theta - anchor), and
    is taken off. An optimiser's weight decay is in neither, as it should be.
    """

    strength: float = 0.1
    damping: float = 0.1

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if not self.damping > 0:
            raise ValueError(f"damping must be positive; got {self.damping}")

    def start(self, network: nn.Module, stream: Stream) -> Memory:
        return {"importance": zeros(network), "anchor": copied(network)}

    def before_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        return {**memory, "anchor": copied(network), "path": zeros(network), "previous": copied(network)}

    def added(self, network: nn.Module, memory: Memory) -> Tensor:
        return quadratic_penalty(trained(network), memory["importance"], memory["anchor"], 2 * self.strength)

    @torch.no_grad()
    def after_step(self, network: nn.Module, memory: Memory) -> Memory:
        """Adds to the path, in the memory's own tensors."""
        for name, value in trained(network).items():
            previous, anchor = memory["previous"][name], memory["anchor"][name]
            if value.grad is not None:
                slope = value.grad - 2 * self.strength * memory["importance"][name] * (previous - anchor)
                memory["path"][name].addcmul_(slope, value - previous, value=-1)
            previous.copy_(value)
        return memory

    def after_task(
        self, network: nn.Module, memory: Memory, stream: Stream, task: int, generator: torch.Generator
    ) -> Memory:
        end = copied(network)
        importance: Params = {}
        for name, old in memory["importance"].items():
            moved = (end[name] - memory["anchor"][name]).square()
            importance[name] = (old + memory["path"][name] / (moved + self.damping)).clamp_min(0)
        return {"importance": importance, "anchor": end}
