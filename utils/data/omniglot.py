"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn once by 20 people (Lake et al., Science 2015)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.data.cache import cached_array
from utils.data.images import ImageSet
from utils.data.packs import PACKS, Arrays, check_split, read_pack, require_pack

SIZE = 105  # pixels, height and width of the originals
BYTES = (SIZE * SIZE + 7) // 8  # of an image in the pack, one bit a pixel
PARTS = ("background", "evaluation")
SPLITS = (
    "train",
    "val",
    "trainval",
    "test",
    "background",
    "evaluation",
    "background_small1",
    "background_small2",
    "all",
)

# The split of Vinyals et al. (2016), in which few-shot papers report: 1028 / 172 / 423 characters. Its lists of
# characters follow a rule, so that these two lines stand for them.
VAL_ALPHABETS = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
N_TEST = 423  # the last ones, by name, of the evaluation set

# Lake's two reduced background sets, of five alphabets each.
SMALL = {
    "background_small1": ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"),
    "background_small2": ("Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"),
}
N_RUNS, N_WAY = 20, 20


@dataclass(frozen=True)
class OneShotRuns:
    """The official 20 runs of within-alphabet 20-way one-shot classification.

    ``train`` and ``test``: uint8 ``[run, item, 1, height, width]``, ink = 255; ``target``: int64 ``[run, item]``, the
    index of the training item that shows the same character as the test item.
    """

    train: Tensor
    test: Tensor
    target: Tensor


def omniglot(split: str, size: int = 28, download: bool = False) -> ImageSet:
    """Omniglot characters as uint8 ``[character, 20, 1, size, size]``, ink = 255.

    Image i of all characters of an alphabet was drawn by the same person.

    Parameters
    ----------
    split : "train", "val", "test" (Vinyals et al., 2016: 1028, 172, 423 characters, before rotation), "trainval" (the
        first two together), "background", "evaluation" (Lake et al., 2015: 964, 659), "background_small1",
        "background_small2" (5 alphabets each), "all". Characters are sorted by name; their group is the alphabet.
    size : pixels, 8 to 105; below 105 each pixel is the mean ink over the area it covers.
    download : fetch the set (10 MB) if it is missing.

    Raises
    ------
    ValueError : no such split or size. DataError : the data is missing or damaged.
    """
    check_split("omniglot", split, SPLITS)
    _check_size(size)
    require_pack("omniglot", download)
    names, images = _originals() if size == SIZE else _shrunk(size)
    index = {name.partition("/")[2]: i for i, name in enumerate(names)}
    background = [name.partition("/")[2] for name in names if name.startswith("background/")]
    evaluation = [name.partition("/")[2] for name in names if name.startswith("evaluation/")]
    chosen = split_names(split, background, evaluation)
    # a list as index copies, and must: the cached file is mapped read-only
    taken = np.asarray(images[[index[name] for name in chosen]])
    if size == SIZE:
        taken = _unpack(taken)
    return ImageSet(
        torch.from_numpy(taken)[:, :, None], tuple(chosen), tuple(alphabet(name) for name in chosen), "omniglot", split
    )


def one_shot_runs(size: int = SIZE, download: bool = False) -> OneShotRuns:
    """The official one-shot classification runs (``all_runs``; Lake et al., Science 2015).

    Raises
    ------
    ValueError : no such size. DataError : the data is missing or damaged.
    """
    _check_size(size)
    file = read_pack("omniglot_one_shot_runs", download)["file"]
    train, test, target = parse_runs(file.tobytes())
    train, test = (area_average(images, size) for images in (train, test))
    return OneShotRuns(
        torch.from_numpy(train)[:, :, None], torch.from_numpy(test)[:, :, None], torch.from_numpy(target)
    )


def alphabet(name: str) -> str:
    """The alphabet of a character: what stands before the slash."""
    return name.partition("/")[0]


def split_names(split: str, background: Sequence[str], evaluation: Sequence[str]) -> list[str]:
    """Names of the characters of a split, sorted, from the names of the two original sets."""
    background, evaluation = sorted(background), sorted(evaluation)
    everything = sorted(background + evaluation)
    if split == "val":
        return [name for name in everything if alphabet(name) in VAL_ALPHABETS]
    if split == "train":
        rest = set(evaluation[:-N_TEST]) | set(background)
        return [name for name in everything if name in rest and alphabet(name) not in VAL_ALPHABETS]
    if split == "trainval":
        test = set(evaluation[-N_TEST:])
        return [name for name in everything if name not in test]
    if split in SMALL:
        return [name for name in background if alphabet(name) in SMALL[split]]
    return {
        "test": evaluation[-N_TEST:],
        "background": background,
        "evaluation": evaluation,
        "all": everything,
    }[split]


def area_average(images: np.ndarray, size: int) -> np.ndarray:
    """Shrink square images so that each new pixel is the mean over the area it covers.

    ``A X A^T`` with A[i, j] = share of new pixel i that lies in old pixel j; rounded to the nearest integer.

    Parameters
    ----------
    images : uint8 ``[..., old, old]``; size : new height and width, at most old.
    """
    old = images.shape[-1]
    if size == old:
        return images
    overlap = _overlap(size, old)
    # The overlaps are whole numbers and no sum exceeds 255 * 105^2 < 2^24: float32 products are exact in any order,
    # so every machine gets the same images.
    sums = np.matmul(np.matmul(overlap, images.astype(np.float32)), overlap.T).astype(np.int64)
    return ((2 * sums + old * old) // (2 * old * old)).astype(np.uint8)


def parse_runs(archive: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs in the zip file: training and test images uint8 ``[20, 20, 105, 105]``, targets int64 ``[20, 20]``."""
    train = np.zeros((N_RUNS, N_WAY, SIZE, SIZE), np.uint8)
    test = np.zeros_like(train)
    target = np.zeros((N_RUNS, N_WAY), np.int64)
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        for run in range(N_RUNS):
            folder = f"run{run + 1:02d}"
            pairs = [line.split() for line in file.read(f"{folder}/class_labels.txt").decode("ascii").splitlines()]
            # the file names count from 1 in their own order, which makes training items comparable by index
            train_names = [f"{folder}/training/class{i + 1:02d}.png" for i in range(N_WAY)]
            for item, (test_name, train_name) in enumerate(sorted(pair for pair in pairs if pair)):
                test[run, item] = _ink(file.read(test_name))
                target[run, item] = train_names.index(train_name)
            for item, train_name in enumerate(train_names):
                train[run, item] = _ink(file.read(train_name))
    return train, test, target


def _check_size(size: int) -> None:
    if not 8 <= size <= SIZE:
        raise ValueError(f"Omniglot images can have 8 to {SIZE} pixels a side; got size={size}")


def _overlap(new: int, old: int) -> np.ndarray:
    """How much of new pixel i lies in old pixel j, in units of 1 / new of an old pixel: float32 ``[new, old]``."""
    i, j = np.arange(new)[:, None], np.arange(old)
    return np.clip(np.minimum((i + 1) * old, (j + 1) * new) - np.maximum(i * old, j * new), 0, None).astype(np.float32)


def _ink(png: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.where(np.asarray(image.convert("L")) < 128, 255, 0).astype(np.uint8)


def _originals() -> tuple[list[str], np.ndarray]:
    """Names ("background/Greek/character01") and packed images (uint8 ``[character, 20, bytes]``) from the pack."""
    arrays = read_pack("omniglot")
    return _part_names(arrays), _packed(arrays)


def _shrunk(size: int) -> tuple[list[str], np.ndarray]:
    """Names as above and shrunk images (uint8 ``[character, 20, size, size]``) from the cache folder."""
    digest = PACKS["omniglot"].digest[:16]
    names = cached_array(f"omniglot_names_{digest}", lambda: np.array(_part_names(read_pack("omniglot"))))
    images = cached_array(f"omniglot_{size}_{digest}", lambda: _shrink(_packed(read_pack("omniglot")), size))
    return names.tolist(), images


def _shrink(packed: np.ndarray, size: int) -> np.ndarray:
    # a few characters at a time: all of them as float32 would be 1.4 GB
    parts = np.array_split(packed, max(1, len(packed) // 25))
    return np.concatenate([area_average(_unpack(part), size) for part in parts])


def _part_names(arrays: Arrays) -> list[str]:
    return [f"{part}/{name}" for part in PARTS for name in arrays[f"{part}_names"].tolist()]


def _packed(arrays: Arrays) -> np.ndarray:
    """One bit a pixel, uint8 ``[character, 20, 1379]``, background characters first."""
    parts = []
    for part in PARTS:
        order = np.argsort(arrays[f"{part}_labels"], kind="stable")
        parts.append(arrays[f"{part}_bits"][order].reshape(len(arrays[f"{part}_names"]), -1, BYTES))
    return np.concatenate(parts)


def _unpack(packed: np.ndarray) -> np.ndarray:
    """uint8 ``[..., 1379]`` -> uint8 ``[..., 105, 105]``, ink = 255."""
    images = np.unpackbits(packed, axis=-1, count=SIZE * SIZE).reshape(*packed.shape[:-1], SIZE, SIZE)
    images *= 255
    return images
