"""miniImageNet from a folder of the user's images: it cannot be shipped or fetched, ImageNet's licence forbids it."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from utils.data.cache import DataError, cached_array
from utils.data.images import ImageSet
from utils.data.packs import check_split

SPLITS = ("train", "val", "test")


def mini_imagenet(split: str, folder: str | os.PathLike[str], size: int = 84) -> ImageSet:
    """miniImageNet in the split of Ravi and Larochelle (2017): uint8 ``[64 or 16 or 20, 600, 3, size, size]``.

    Parameters
    ----------
    split : "train", "val" or "test".
    folder : holds ``train.csv``, ``val.csv``, ``test.csv`` (columns ``filename``, ``label``) and the images, anywhere
        below ``images/`` or below ``<label>/``.
    size : height and width in pixels; images of another size are resized (Lanczos), once, into the cache folder.

    Raises
    ------
    ValueError : no such split or size. DataError : a csv file or an image is missing or damaged.
    """
    check_split("mini_imagenet", split, SPLITS)
    if not 1 <= size <= 512:
        raise ValueError(f"miniImageNet images can have 1 to 512 pixels a side; got size={size}")
    folder = Path(folder).expanduser().resolve()
    table = folder / f"{split}.csv"
    rows = _read_rows(table)
    paths = _find_images(folder, rows, table)
    classes = sorted({label for _, label in rows})
    by_class = [[path for path, (_, label) in zip(paths, rows, strict=True) if label == each] for each in classes]
    images = cached_array(
        f"mini_imagenet_{split}_{size}_{_fingerprint(folder, by_class)}", lambda: _pack(by_class, size)
    )
    return ImageSet(
        torch.from_numpy(np.array(images)),
        tuple(classes),
        tuple(classes),  # the set comes without superclasses: every class is its own group
        "mini_imagenet",
        split,
        torch.tensor([len(each) for each in by_class]),
    )


def _read_rows(table: Path) -> list[tuple[str, str]]:
    """(filename, label) of each line of the csv file."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"filename", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{table} must start with the line `filename,label`; it starts {reader.fieldnames}")
            rows = [((row["filename"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    except FileNotFoundError as error:
        raise DataError(
            f"{table} is missing. miniImageNet needs train.csv, val.csv and test.csv of Ravi and Larochelle's split "
            "(columns filename,label) in the folder that you name."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    if not rows or not all(name and label for name, label in rows):
        raise DataError(f"{table} must list at least one image, and every line a file name and a label")
    row, times = Counter(rows).most_common(1)[0]
    if times > 1:
        raise DataError(f"{table} lists {row[0]} of class {row[1]} {times} times; once is right")
    return rows


def _find_images(folder: Path, rows: Sequence[tuple[str, str]], table: Path) -> list[Path]:
    """The path of each row's image; files are matched by name, so that no row can point outside the folder."""
    found: dict[str, list[Path]] = defaultdict(list)
    roots = {"images", *(label for _, label in rows)} & {entry.name for entry in folder.iterdir() if entry.is_dir()}
    for root in sorted(roots):
        for where, _, names in os.walk(folder / root):
            for name in names:
                found[name].append(Path(where, name))
    paths, missing = [], []
    for name, label in rows:
        candidates = found.get(Path(name).name, [])
        # classes may number their files alike: then only the folder of the class tells them apart
        own = [path for path in candidates if label in path.relative_to(folder).parts[:-1]] or candidates
        if len(own) > 1:
            raise DataError(f"{name} of class {label} is there {len(own)} times: {own[0]} and {own[1]}. Keep one.")
        if own:
            paths.append(own[0])
        else:
            missing.append(f"{name} ({label})")
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(rows)} images that {table} lists are neither below {folder / 'images'} nor "
            f"below the folder of their label, for instance {', '.join(missing[:3])}"
        )
    return paths


def _fingerprint(folder: Path, by_class: Sequence[Sequence[Path]]) -> str:
    """Changes when a file is added, removed, renamed or rewritten: the prepared copy is then made again."""
    digest = hashlib.sha256()
    for paths in by_class:
        for path in paths:
            status = path.stat()
            digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def _pack(by_class: Sequence[Sequence[Path]], size: int) -> np.ndarray:
    images = np.zeros((len(by_class), max(map(len, by_class)), 3, size, size), np.uint8)
    for label, paths in enumerate(by_class):
        for i, path in enumerate(paths):
            images[label, i] = _read_image(path, size)
    return images


def _read_image(path: Path, size: int) -> np.ndarray:
    """uint8 ``[3, size, size]``."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not an image that can be read: {error}. Replace it.") from error
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(rgb).transpose(2, 0, 1)
