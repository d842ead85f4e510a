"""Fine-tuning on the support set of a test task: a copy of the network takes a few steps on the few labelled images.

A support image compared with itself teaches nothing, so the queries of a step are *distorted* support images: still one
labelled example a class, no query image is touched. The network that was handed in stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.data.episodes import Episode
from utils.fewshot.classifier import Classifier, cosine_attention
from utils.fewshot.embedding import call

Distort = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class FineTuning:
    """``steps`` of Adam with ``learning_rate`` for the network and ``head_rate`` for a new softmax layer."""

    distort: Distort
    steps: int = 10
    learning_rate: float = 1e-4
    head_rate: float = 3e-2

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"the number of steps cannot be negative; got {self.steps}")

    def adapt(self, learner, episode: Episode, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of ``learner.network`` after minimising ``learner.loss`` on the support set alone.

        Each step is an episode of the support set and a distortion of it as queries. ``learner`` is any with
        ``network`` and ``loss(params, episode)``; its batch-norm statistics should be ``"running"``, so that the task's
        few images do not decide them. The task is ``episode``'s only one.
        """
        params = _copies(learner.network.named_parameters())

        def loss() -> Tensor:
            queries = self.distort(episode.support_x, generator)
            return learner.loss(params, replace(episode, query_x=queries, query_y=episode.support_y))

        self._minimise(loss, [{"params": list(params.values()), "lr": self.learning_rate}])
        return _detached(params)

    def adapt_classifier(
        self, learner: Classifier, episode: Episode, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters of the embedding and of a new softmax layer, trained together by cross-entropy.

        The layer starts at zero and sees distorted support images alone. Returns the embedding's parameters and the
        layer's ``weight [n_way, D]`` and ``bias [n_way]``.
        """
        network = learner.network.embedding
        params = _copies(network.named_parameters())
        like = next(network.parameters())
        head = {
            "weight": like.new_zeros(episode.n_way, network.out_features).requires_grad_(),
            "bias": like.new_zeros(episode.n_way).requires_grad_(),
        }

        def loss() -> Tensor:
            images = self.distort(episode.support_x, generator)[0]
            features = call(network, params, images, statistics=learner.statistics)
            return F.cross_entropy(F.linear(features, head["weight"], head["bias"]), episode.support_y[0])

        self._minimise(
            loss,
            [
                {"params": list(params.values()), "lr": self.learning_rate},
                {"params": list(head.values()), "lr": self.head_rate},
            ],
        )
        return _detached(params), _detached(head)

    def _minimise(self, loss: Callable[[], Tensor], groups: list[dict]) -> None:
        optimizer = torch.optim.Adam(groups)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad(set_to_none=True)
                loss().backward()
                optimizer.step()


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Leaves to train; what the network itself keeps fixed stays out, and so stays as it is."""
    return {name: value.detach().clone().requires_grad_() for name, value in named if value.requires_grad}


def _detached(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in params.items()}


@torch.no_grad()
def finetuned_logits(learner, tuning: FineTuning, episode: Episode, generator: torch.Generator) -> Tensor:
    """``learner``'s class scores of the queries after :meth:`FineTuning.adapt` on the support: ``[1, Q, n_way]``."""
    return learner.logits(tuning.adapt(learner, episode, generator), episode)


@torch.no_grad()
def finetuned_classifier(
    learner: Classifier, tuning: FineTuning, episode: Episode, generator: torch.Generator
) -> dict[str, Tensor]:
    """Scores ``[1, Q, n_way]`` after :meth:`FineTuning.adapt_classifier`, compared in two ways.

    ``"softmax"``: those of the new layer; ``"cosine"``: by cosine attention over the tuned features.
    """
    params, head = tuning.adapt_classifier(learner, episode, generator)
    tuned = {f"embedding.{name}": value for name, value in params.items()}
    support, query = learner.embed(tuned, episode.support_x, episode.query_x)
    return {
        "softmax": F.linear(query, head["weight"], head["bias"]),
        "cosine": cosine_attention(support, episode.support_y, query, episode.n_way),
    }
