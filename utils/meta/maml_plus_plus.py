"""MAML++ (Antoniou, Edwards and Storkey 2019): what makes MAML stable, one fix at a time.

Of the five fixes, two are here: a loss after every inner step, with weights that shift to the last one, and
normalisation layers of their own for every step. Learned rates for every layer and step are
:class:`utils.meta.rates.LearnedRates`; first-order gradients to begin with are the ``order`` of the loss; the cosine
schedule of the outer rate is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from utils.backbones import EpisodeNorm2d
from utils.data.episodes import Episode
from utils.meta.maml import MAML


def step_loss_weights(steps: int, progress: float) -> list[float]:
    """Weights of the query losses after each inner step (multi-step loss), which sum to 1.

    At ``progress`` 0 all are 1 / steps; as it grows to 1, those of the earlier steps fall in proportion to
    0.03 / steps, and the last takes what they lose. With five steps it ends at 0.976. (The annealing of the authors'
    programme; the paper says only that the last weight grows.)

    Raises ``ValueError`` outside of [0, 1] and for fewer than one step.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be between 0 and 1; got {progress}")
    if steps < 1:
        raise ValueError(f"there must be at least 1 inner step; got {steps}")
    earlier = max((1 - progress) / steps, 0.03 / steps)
    return [earlier] * (steps - 1) + [1 - (steps - 1) * earlier]


class StepNorms(nn.Module):
    """Weight, bias and running statistics of every batch normalisation of ``network``, a set for each inner step.

    Row k belongs to the network after k inner steps: what it is normalised with when the (k + 1)-st step is computed,
    and when it is tested after k steps; ``steps`` inner steps have ``steps + 1`` rows, and later steps use the last.
    Called with k, it gives row k by the names that the network knows: the ``at_step`` of :class:`utils.meta.maml.MAML`.
    """

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        norms = {name: module for name, module in network.named_modules() if isinstance(module, EpisodeNorm2d)}
        if not norms:
            raise ValueError("this network has no batch normalisation: nothing to keep for each step")
        self.layers, self.steps = tuple(norms), steps
        rows = steps + 1
        self.weights = nn.ParameterList(norm.weight.detach().repeat(rows, 1) for norm in norms.values())
        self.biases = nn.ParameterList(norm.bias.detach().repeat(rows, 1) for norm in norms.values())
        for number, norm in enumerate(norms.values()):
            self.register_buffer(f"mean{number}", norm.running_mean.repeat(rows, 1))
            self.register_buffer(f"var{number}", norm.running_var.repeat(rows, 1))

    def forward(self, step: int) -> dict[str, Tensor]:
        row, found = min(step, self.steps), {}
        for number, name in enumerate(self.layers):
            found[f"{name}.weight"] = self.weights[number][row]
            found[f"{name}.bias"] = self.biases[number][row]
            found[f"{name}.running_mean"] = getattr(self, f"mean{number}")[row]
            found[f"{name}.running_var"] = getattr(self, f"var{number}")[row]
        return found

    def adapted(self, params: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Names of the parameters that remain for the inner loop: all but those kept here."""
        kept = {f"{layer}.{which}" for layer in self.layers for which in ("weight", "bias")}
        return tuple(name for name in params if name not in kept)


@torch.no_grad()
def average_statistics(learner: MAML, norms: StepNorms, episodes: Iterable[Episode]) -> None:
    """Set the running statistics of every step to their means over all tasks of ``episodes`` (training tasks).

    The network after k steps sees the support set where there is a further step to compute, and the queries after the
    last; what it is normalised with then is averaged. Averages kept while training would lag behind a network that
    changes. With them and ``statistics="running"``, no query influences another.

    Raises ``ValueError`` where ``norms`` are for another number of steps than the learner takes.
    """
    if norms.steps != learner.inner_steps:
        raise ValueError(f"these norms are for {norms.steps} inner steps; the learner takes {learner.inner_steps}")
    modules = [module for module in learner.network.modules() if isinstance(module, EpisodeNorm2d)]
    before = [(module.training, module.momentum, module.num_batches_tracked.clone()) for module in modules]
    watched = replace(learner, at_step=norms, statistics="batch", vectorised=False)
    try:
        count = 0
        for episode in episodes:
            for number in range(episode.n_tasks):
                count += 1
                for module in modules:
                    module.train()
                    module.momentum = 1 / count  # the mean of all tasks so far
                watched.task_losses(None, episode.task(number))
    finally:
        for module, (training, momentum, seen) in zip(modules, before, strict=True):
            module.train(training)
            module.momentum = momentum
            module.num_batches_tracked.copy_(seen)
