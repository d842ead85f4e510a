"""The checks of the exercises pass the reference and refuse typical mistakes; an empty answer is not a wrong one."""

from importlib import import_module

import pytest
from wrong_answers.references import reference

from utils import exercises

CHAPTERS = {
    "setup": "01_few_shot_setup",
    "siamese": "02_siamese",
    "prototypical": "03_prototypical",
    "maml": "04_maml",
    "imaml": "05_imaml_r2d2",
    "ewc": "06_ewc_mas",
    "lwf": "07_lwf_bic",
    "replay": "08_replay",
    "distillation": "09_distillation",
    "kernels": "90_from_formula_to_kernel",
}
"""The module of each chapter's exercises, and the folder of their reference solutions."""

MISTAKES = {
    (chapter, name): mistakes
    for chapter in CHAPTERS
    for name, mistakes in import_module(f"wrong_answers.{chapter}").MISTAKES.items()
}


def unwritten(*_):
    raise NotImplementedError


def exercise(chapter: str, name: str):
    return getattr(getattr(exercises, chapter), name)


@pytest.mark.parametrize(("chapter", "name"), MISTAKES)
def test_the_reference_passes(chapter, name, capsys):
    assert exercise(chapter, name).check(getattr(reference(CHAPTERS[chapter]), name))
    assert capsys.readouterr().out.rstrip().endswith("passed")


@pytest.mark.parametrize(("chapter", "name"), MISTAKES)
def test_an_empty_answer_is_not_attempted(chapter, name, capsys):
    assert not exercise(chapter, name).check(unwritten)
    assert "not attempted yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chapter", "name", "index"), [(*key, i) for key, mistakes in MISTAKES.items() for i in range(len(mistakes))]
)
def test_a_typical_mistake_is_named(chapter, name, index, capsys):
    assert not exercise(chapter, name).check(MISTAKES[chapter, name][index])
    said = capsys.readouterr().out
    assert "not yet. " in said
    assert "Your function raised" not in said, "the check should say what is wrong, not trip over it"


def test_every_exercise_is_tested():
    found = {
        (chapter, name)
        for chapter in CHAPTERS
        for name, value in vars(getattr(exercises, chapter)).items()
        if isinstance(value, exercises.Exercise)
    }
    assert found == set(MISTAKES)
