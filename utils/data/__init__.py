"""Images, episodes and streams of tasks. ``load`` gets any image set; nothing heavy is imported before it is used."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from utils.data.cache import DataError

if TYPE_CHECKING:
    from utils.data.episodes import Episode, EpisodeSampler
    from utils.data.images import ImageSet

__all__ = ["SETS", "DataError", "Episode", "EpisodeSampler", "ImageSet", "available", "load"]

# name of the set: the module of utils.data that has the function of the same name
SETS = {
    "glyphs": "glyphs",
    "digits": "digits",
    "omniglot": "omniglot",
    "mnist": "mnist",
    "cifar100": "cifar100",
    "cifar_fs": "cifar100",
    "fc100": "cifar100",
    "mini_imagenet": "mini_imagenet",
}
_PACK = {"omniglot": "omniglot", "mnist": "mnist", "cifar100": "cifar100", "cifar_fs": "cifar100", "fc100": "cifar100"}
_LAZY = {"Episode": "episodes", "EpisodeSampler": "episodes", "ImageSet": "images"}


def load(name: str, split: str, **options: Any) -> ImageSet:
    """One split of an image set.

    Parameters
    ----------
    name : "glyphs" and "digits" (embedded), "omniglot", "mnist", "cifar100", "cifar_fs", "fc100" (fetched once, with
        ``download=True``), "mini_imagenet" (from ``folder``).
    split : such as "train", "val", "test"; which ones there are depends on the set.
    options : of the set's own function in ``utils.data``, such as ``size``, ``download``, ``folder``.

    Returns
    -------
    ImageSet, uint8 ``[class, image, channel, height, width]``.

    Raises
    ------
    ValueError : no such set or split. TypeError : no such option. DataError : missing or damaged data.
    """
    if name not in SETS:
        raise ValueError(f"There is no data set {name!r}; there are: {', '.join(SETS)}")
    function = getattr(importlib.import_module(f"utils.data.{SETS[name]}"), name)
    try:
        inspect.signature(function).bind(split, **options)
    except TypeError as error:
        raise TypeError(f"load({name!r}, ...): {error}; its options: {inspect.signature(function)}") from None
    return function(split, **options)


def available() -> dict[str, bool | str]:
    """For each set True if it can be loaded now without a download, else a text that says what is missing.

    Packs are looked for, not opened: a damaged one is noticed when it is loaded.
    """
    from utils.data.packs import PACKS, find_pack

    state: dict[str, bool | str] = {}
    for name in SETS:
        if name == "mini_imagenet":
            state[name] = "needs folder=..., a folder of your own with the images and the csv files of the split"
        elif name in _PACK and find_pack(_PACK[name]) is None:
            files = " and ".join(PACKS[_PACK[name]].files)
            state[name] = (
                f"not fetched yet: run `course data {_PACK[name]}`, or set COURSE_DATA to a folder with {files}"
            )
        else:
            state[name] = True
    return state


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"utils.data.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
