"""What the tests of continual learning share: streams of a few noisy images, one backward pass an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from utils.backbones import MLP
from utils.continual.learn import Learned, Plain, learn
from utils.continual.metrics import average_accuracy, forgetting
from utils.data.images import ImageSet
from utils.data.streams import Stream, permuted_stream, split_stream
from utils.training import Checkpoint


def noise_set(split: str, n_classes: int = 6, side: int = 3, most: int = 9) -> ImageSet:
    """Images with a common part a class, of which the classes have 4 to ``most``."""
    parts = torch.randint(0, 200, (n_classes, 1, 1, side, side), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(len(split))
    noise = torch.randint(0, 56, (n_classes, most, 1, side, side), generator=generator)
    names = tuple("abcdefghijklmnopqrstuvwxyz"[:n_classes])
    counts = torch.arange(n_classes) % (most - 4) + (5 if split == "train" else 4)
    return ImageSet((parts + noise).to(torch.uint8), names, names, "noise", split, counts)


def small_stream(scenario: str = "class", n_tasks: int = 3) -> Stream:
    return split_stream(noise_set("train"), noise_set("test"), n_tasks, scenario)


def small_network(stream: Stream, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(9, (8, stream.n_units), activate_last=False).to(stream.tasks[0].train_x.device)


def learned(method: Plain, stream: Stream, checkpoint: Checkpoint | None = None, steps: int = 12) -> Learned:
    return learn(
        small_network(stream), stream, method, steps, 5, lambda p: torch.optim.Adam(p, 0.03), 3, checkpoint=checkpoint
    )


def assert_forgets_less_than_plain(method: Plain) -> None:
    """Of three tasks that want the same weights for other pixels, by more than a fifth of the images.

    Who learns nothing forgets nothing, so more has to be known in the end as well.
    """
    stream, lost, known = permuted_stream(noise_set("train"), noise_set("test"), 3), [], []
    for one in (method, Plain()):
        torch.manual_seed(0)
        network = MLP(9, (32, 6), activate_last=False)
        out = learn(network, stream, one, 60, 10, lambda p: torch.optim.Adam(p, 0.01), 3)
        lost.append(forgetting(out.accuracies))
        known.append(average_accuracy(out.accuracies))
    assert lost[0] < lost[1] - 0.2 and known[0] > known[1] + 0.05


class Killed(Exception):
    """In the place of a machine that is switched off."""


@dataclass(frozen=True)
class KillingCheckpoint(Checkpoint):
    """Which is the last thing that happens after ``tasks`` tasks."""

    tasks: int = 1

    def save(self, state: Mapping[str, object]) -> None:
        super().save(state)
        if state["tasks"] == self.tasks:
            raise Killed


def flat(memory: object) -> list[object]:
    """What is in a memory, in order."""
    if isinstance(memory, nn.Module):
        return flat(dict(memory.state_dict()))
    if isinstance(memory, dict):
        return [one for key in sorted(memory) for one in flat(memory[key])]
    return [one for part in memory for one in flat(part)] if isinstance(memory, list) else [memory]


def assert_resumes_to_the_bit(method: Plain, path: Path, stream: Stream | None = None) -> None:
    """A run that ends after k tasks and goes on from its file is the run that was never interrupted."""
    stream = small_stream() if stream is None else stream
    whole = learned(method, stream)
    for k in range(1, len(stream.tasks)):
        run = path / f"{k}.pt", {"method": repr(method)}
        with pytest.raises(Killed):
            learned(method, stream, KillingCheckpoint(*run, tasks=k))
        again = learned(method, stream, Checkpoint(*run))
        assert torch.equal(again.accuracies, whole.accuracies)
        assert torch.equal(again.untrained, whole.untrained)
        for one, other in zip(again.network.parameters(), whole.network.parameters(), strict=True):
            assert torch.equal(one, other)
        for one, other in zip(flat(again.memory), flat(whole.memory), strict=True):
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def mean_of_examples(
    network: nn.Module, x: Tensor, loss: Callable[[Tensor, int], Tensor], absolute: bool = False
) -> dict[str, Tensor]:
    """Mean of the squared gradients by every parameter, by one backward pass an example.

    ``loss`` of an example's output ``[1, ...]`` and its number; a vector where there are several, whose squares add up.
    """
    names, values = zip(*network.named_parameters(), strict=True)
    sums = [torch.zeros_like(value) for value in values]
    for b in range(len(x)):
        for one in loss(network(x[b : b + 1]), b).reshape(-1):
            slopes = torch.autograd.grad(one, values, retain_graph=True, materialize_grads=True)
            for total, slope in zip(sums, slopes, strict=True):
                total += slope.abs() if absolute else slope.square()
    return {name: total / len(x) for name, total in zip(names, sums, strict=True)}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.abs().max() > 0, name
        atol = tolerance * float(value.abs().max())
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )
