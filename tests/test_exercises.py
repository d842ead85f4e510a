"""The checks of the exercises pass the reference and refuse typical mistakes; an empty answer is not a wrong one."""

import importlib.util
from pathlib import Path

import pytest
import torch

from utils.exercises import prototypical

ROOT = Path(__file__).resolve().parent.parent


def reference(chapter: str):
    spec = importlib.util.spec_from_file_location("reference", ROOT / "solutions" / chapter / "exercises.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXERCISES = ("prototypes", "linear_head", "interval")


def unequal_means_by_equal_split(embedding, labels, n_way):
    return embedding.unflatten(0, (n_way, -1)).mean(1)


def sums_instead_of_means(embedding, labels, n_way):
    return torch.stack([embedding[labels == k].sum(0) for k in range(n_way)])


MISTAKES = {
    "prototypes": [unequal_means_by_equal_split, sums_instead_of_means, lambda e, y, n: [0] * n],
    "linear_head": [
        lambda c: (c, -c.square().sum(-1)),
        lambda c: (2 * c, c.square().sum(-1)),
        lambda c: (2 * c, -c.norm(dim=-1)),
        lambda c: 2 * c,
    ],
    "interval": [
        lambda a: (float(a.mean()), float(a.std())),
        lambda a: (float(a.mean()), float(1.96 * a.std() / len(a) ** 0.5)),
        lambda a: (float(a.mean()), float(a.std() / len(a) ** 0.5)),
        lambda a: (float(a.median()), float(1.96 * a.std() / len(a) ** 0.5)),
    ],
}


def unwritten(*_):
    raise NotImplementedError


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes(name, capsys):
    assert getattr(prototypical, name).check(getattr(reference("03_prototypical"), name))
    assert capsys.readouterr().out.rstrip().endswith("passed")


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_not_attempted(name, capsys):
    assert not getattr(prototypical, name).check(unwritten)
    assert "not attempted yet" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "index"), [(name, i) for name in EXERCISES for i in range(len(MISTAKES[name]))])
def test_a_typical_mistake_is_named(name, index, capsys):
    assert not getattr(prototypical, name).check(MISTAKES[name][index])
    assert "not yet. " in capsys.readouterr().out
