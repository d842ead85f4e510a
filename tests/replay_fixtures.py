"""What the tests of methods with a memory share: a small stream, a small network, and runs that are interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from continual_fixtures import Killed, KillingCheckpoint
from torch import Tensor, nn

from utils.backbones import MLP
from utils.continual.learn import Learned, Plain, learn
from utils.data.images import ImageSet
from utils.data.streams import Stream, split_stream
from utils.fewshot.classifier import ClassifierNetwork
from utils.training import Checkpoint

SETTINGS = {"steps": 15, "batch_size": 16, "optimizer": partial(torch.optim.Adam, lr=0.02)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_stream(scenario: str, n_tasks: int = 3, per_class: int = 20) -> Stream:
    """Six classes of noise around a picture each, ``[1, 4, 4]``."""
    rng = generator(11)
    centres = torch.randint(0, 190, (6, 1, 1, 4, 4), generator=rng)
    sets = []
    for split, n in (("train", per_class), ("test", 10)):
        images = (centres + torch.randint(0, 65, (6, n, 1, 4, 4), generator=rng)).to(torch.uint8)
        sets.append(ImageSet(images, tuple("abcdef"), tuple("abcdef"), "noise", split))
    return split_stream(*sets, n_tasks, scenario)


def small_network(n_units: int = 6, normalise: bool = False) -> ClassifierNetwork:
    torch.manual_seed(0)
    return ClassifierNetwork(MLP(16, (24, 12), normalise), n_units)


def tensors(value: object) -> list[Tensor]:
    """All tensors of a memory, those of its modules included."""
    if isinstance(value, nn.Module):
        return list(value.state_dict().values())
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def same(one: Learned, other: Learned) -> None:
    """Equal to the bit: the network, the memory and what was reached."""
    for a, b in ((one.network, other.network), (one.memory, other.memory)):
        first, second = tensors(a), tensors(b)
        assert len(first) == len(second)
        for x, y in zip(first, second, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(one.accuracies, other.accuracies) and torch.equal(one.untrained, other.untrained)


def check_resumed(tmp_path: Path, method: Callable[[], Plain], scenario: str, normalise: bool = False) -> Learned:
    """A stream killed between two tasks and resumed with fresh objects ends as one that was never interrupted."""
    stream = small_stream(scenario)
    run = partial(learn, stream=stream, seed=3, **SETTINGS)
    whole = run(small_network(stream.n_units, normalise), method=method())
    for tasks in (1, 2):
        file = tmp_path / f"{tasks}.pt", {"scenario": scenario}
        with pytest.raises(Killed):
            checkpoint = KillingCheckpoint(*file, tasks=tasks)
            run(small_network(stream.n_units, normalise), method=method(), checkpoint=checkpoint)
        other = small_network(stream.n_units, normalise)
        with torch.no_grad():  # of other weights, so that all that counts must come from the checkpoint
            for value in other.parameters():
                value.add_(1)
        same(whole, run(other, method=method(), checkpoint=Checkpoint(*file)))
    return whole
