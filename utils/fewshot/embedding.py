"""What all methods by comparison share: embedding an episode with given parameters and declared statistics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from utils.backbones import STATISTICS

Params = Mapping[str, Tensor] | None
"""Parameters by name, as of ``module.named_parameters()``; ``None`` stands for the module's own."""


def call(module: nn.Module, params: Params, *inputs: Tensor, **options: object):
    """``module(*inputs, **options)`` with ``params`` in place of its own parameters."""
    if params is None:
        return module(*inputs, **options)
    return functional_call(module, dict(params), inputs, options)


def part(params: Params, name: str) -> Params:
    """The parameters of the submodule ``name``, under the names that they have there."""
    if params is None:
        return None
    return {key[len(name) + 1 :]: value for key, value in params.items() if key.startswith(f"{name}.")}


def check_statistics(statistics: str) -> None:
    """``ValueError`` unless it is one of :data:`utils.backbones.STATISTICS`."""
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {STATISTICS}; got {statistics!r}")


def embed_episode(
    network: nn.Module, params: Params, support_x: Tensor, query_x: Tensor, statistics: str
) -> tuple[Tensor, Tensor]:
    """Embeddings of support and query images of every task.

    ``[B, S, C, H, W]`` and ``[B, Q, C, H, W]`` to ``[B, S, ...]`` and ``[B, Q, ...]``, where ``...`` is what
    ``network`` makes of one image. ``statistics`` says whose batch-norm statistics are used: ``"batch"`` (support and
    queries together, each task by itself), ``"support"`` or ``"running"``.

    Raises ``ValueError`` for shapes that do not fit and for an empty support set.
    """
    if support_x.ndim != 5 or query_x.ndim != 5 or support_x.shape[0] != query_x.shape[0]:
        raise ValueError(
            "expected support [B, S, C, H, W] and query [B, Q, C, H, W] of the same B; "
            f"got {list(support_x.shape)} and {list(query_x.shape)}"
        )
    n_support = support_x.shape[1]
    if n_support == 0:
        raise ValueError("the support set is empty: there is nothing to compare the queries with")
    images = torch.cat([support_x, query_x], dim=1)
    options = {"statistics": statistics, "n_support": n_support}
    if statistics == "running":  # no image influences another: all tasks in one pass
        embedding = call(network, params, images.flatten(0, 1), **options).unflatten(0, images.shape[:2])
    else:  # statistics belong to one task
        embedding = torch.stack([call(network, params, task, **options) for task in images])
    return embedding[:, :n_support], embedding[:, n_support:]
