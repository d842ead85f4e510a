"""The baseline classifier: trained on all training classes at once, then used for its features.

The lecture's table takes the features of the last convolutional layer (Vinyals et al. 2016, section 4.1.1), as they
are or fine-tuned on the support set of each test episode, and compares them by cosine or adds a new softmax layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from utils.data.episodes import Episode
from utils.fewshot.embedding import Params, check_statistics, embed_episode, part
from utils.fewshot.matching import attention_log_probabilities
from utils.functional import cosine_similarity


class ClassifierNetwork(nn.Module):
    """An ``embedding`` and a linear ``head`` over ``n_classes`` classes."""

    def __init__(self, embedding: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = nn.Linear(embedding.out_features, n_classes)

    def forward(self, images: Tensor, statistics: str | None = None, n_support: int | None = None) -> Tensor:
        """Class scores ``[N, n_classes]`` of images ``[N, C, H, W]``."""
        return self.head(self.embedding(images, statistics, n_support))


@dataclass(frozen=True)
class Classifier:
    """Few-shot classification by the features of a :class:`ClassifierNetwork`, compared by cosine.

    ``params`` of the methods is a dictionary as of ``network.named_parameters()``; ``None`` means the network's own.
    """

    network: ClassifierNetwork
    statistics: str = "running"

    def __post_init__(self) -> None:
        check_statistics(self.statistics)

    def embed(self, params: Params, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both sets: ``[B, S, C, H, W]``, ``[B, Q, C, H, W]`` to ``[B, S, D]``, ``[B, Q, D]``."""
        return embed_episode(self.network.embedding, part(params, "embedding"), support_x, query_x, self.statistics)

    def logits(self, params: Params, episode: Episode) -> Tensor:
        """:func:`cosine_attention` of the features, ``[B, n_way * n_query, n_way]``."""
        support, query = self.embed(params, episode.support_x, episode.query_x)
        return cosine_attention(support, episode.support_y, query, episode.n_way)


def cosine_attention(support: Tensor, support_y: Tensor, query: Tensor, n_way: int) -> Tensor:
    """``log p(y = k | x, S)`` by an attention over the support with plain cosines, as in the lecture's formula."""
    return attention_log_probabilities(cosine_similarity(query, support), support_y, n_way)


def classify_embedded(episode: Episode) -> Tensor:
    """Class scores ``[B, Q, n_way]`` of an episode whose entries are features already."""
    return cosine_attention(episode.support_x, episode.support_y, episode.query_x, episode.n_way)
