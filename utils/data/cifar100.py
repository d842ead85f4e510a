"""CIFAR-100 and the two few-shot benchmarks made of it: CIFAR-FS and FC100."""

from __future__ import annotations

import numpy as np
import torch

from utils.data.cache import cached_array
from utils.data.images import ImageSet
from utils.data.packs import PACKS, check_split, read_pack, require_pack

# The 20 superclasses of five classes (Krizhevsky, 2009).
SUPERCLASSES = {
    superclass: tuple(classes.split())
    for superclass, classes in {
        "aquatic_mammals": "beaver dolphin otter seal whale",
        "fish": "aquarium_fish flatfish ray shark trout",
        "flowers": "orchid poppy rose sunflower tulip",
        "food_containers": "bottle bowl can cup plate",
        "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
        "household_electrical_devices": "clock keyboard lamp telephone television",
        "household_furniture": "bed chair couch table wardrobe",
        "insects": "bee beetle butterfly caterpillar cockroach",
        "large_carnivores": "bear leopard lion tiger wolf",
        "large_man-made_outdoor_things": "bridge castle house road skyscraper",
        "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
        "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
        "medium_mammals": "fox porcupine possum raccoon skunk",
        "non-insect_invertebrates": "crab lobster snail spider worm",
        "people": "baby boy girl man woman",
        "reptiles": "crocodile dinosaur lizard snake turtle",
        "small_mammals": "hamster mouse rabbit shrew squirrel",
        "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
        "vehicles_1": "bicycle bus motorcycle pickup_truck train",
        "vehicles_2": "lawn_mower rocket streetcar tank tractor",
    }.items()
}
SUPERCLASS_OF = {name: superclass for superclass, names in SUPERCLASSES.items() for name in names}
CLASSES = tuple(sorted(SUPERCLASS_OF))  # the order of the original labels

# CIFAR-FS (Bertinetto et al., 2019), drawn at random; "train" is the other 64 classes.
CIFAR_FS = {
    split: tuple(classes.split())
    for split, classes in {
        "val": "beaver otter flatfish shark lamp television beetle butterfly sea camel cattle crab crocodile "
        "maple_tree motorcycle tractor",
        "test": "whale poppy rose sweet_pepper telephone bed table wardrobe leopard plain chimpanzee fox snail worm "
        "baby man woman bicycle pickup_truck rocket",
    }.items()
}
# FC100 (Oreshkin et al., 2018), split by superclass so that test classes look unlike training ones; "train" is the
# other 12 superclasses.
FC100 = {
    "val": (
        "large_carnivores",
        "large_omnivores_and_herbivores",
        "non-insect_invertebrates",
        "small_mammals",
    ),
    "test": ("aquatic_mammals", "insects", "medium_mammals", "people"),
}
SPLITS = ("train", "test")
FEW_SHOT_SPLITS = ("train", "val", "test")


def cifar100(split: str, download: bool = False) -> ImageSet:
    """CIFAR-100: uint8 ``[100, 500 or 100, 3, 32, 32]``; classes sorted by name, their group is the superclass.

    Parameters
    ----------
    split : "train" (500 images a class) or "test" (100).
    download : fetch the set (170 MB) if it is missing.

    Raises
    ------
    ValueError : no such split. DataError : the data is missing or damaged.
    """
    check_split("cifar100", split, SPLITS)
    images = _images(download)
    n_train = images.shape[1] * 5 // 6  # 500 of 600
    part = images[:, :n_train] if split == "train" else images[:, n_train:]
    # the cached file is mapped read-only: a slice of it must be copied, because what leaves here is the caller's
    return _image_set(np.array(part), CLASSES, "cifar100", split)


def cifar_fs(split: str, download: bool = False) -> ImageSet:
    """CIFAR-FS (Bertinetto et al., 2019): uint8 ``[64 or 16 or 20, 600, 3, 32, 32]``, train and test images together.

    Parameters and errors as of ``cifar100``; ``split`` is "train", "val" or "test" (64, 16, 20 classes).
    """
    check_split("cifar_fs", split, FEW_SHOT_SPLITS)
    return _few_shot(cifar_fs_classes(split), "cifar_fs", split, download)


def fc100(split: str, download: bool = False) -> ImageSet:
    """FC100 (Oreshkin et al., 2018): uint8 ``[60 or 20, 600, 3, 32, 32]``, train and test images together.

    Parameters and errors as of ``cifar100``; ``split`` is "train", "val" or "test" (60, 20, 20 classes).
    """
    check_split("fc100", split, FEW_SHOT_SPLITS)
    return _few_shot(fc100_classes(split), "fc100", split, download)


def cifar_fs_classes(split: str) -> tuple[str, ...]:
    """The classes of a split of CIFAR-FS, sorted by name."""
    held_out = {name for names in CIFAR_FS.values() for name in names}
    return tuple(name for name in CLASSES if (name not in held_out if split == "train" else name in CIFAR_FS[split]))


def fc100_classes(split: str) -> tuple[str, ...]:
    """The classes of a split of FC100, sorted by name."""
    held_out = {group for groups in FC100.values() for group in groups}
    groups = set(SUPERCLASSES) - held_out if split == "train" else set(FC100[split])
    return tuple(name for name in CLASSES if SUPERCLASS_OF[name] in groups)


def _few_shot(classes: tuple[str, ...], name: str, split: str, download: bool) -> ImageSet:
    images = _images(download)
    chosen = images[[CLASSES.index(each) for each in classes]]  # a list as index copies
    return _image_set(np.asarray(chosen), classes, name, split)


def _image_set(images: np.ndarray, classes: tuple[str, ...], name: str, split: str) -> ImageSet:
    return ImageSet(torch.from_numpy(images), classes, tuple(SUPERCLASS_OF[each] for each in classes), name, split)


def _images(download: bool) -> np.ndarray:
    """All images, uint8 ``[100, 600, 3, 32, 32]``, the training images of a class before its test images."""
    require_pack("cifar100", download)
    return cached_array(f"cifar100_{PACKS['cifar100'].digest[:16]}", _unpack)  # unpacking takes 15 s


def _unpack() -> np.ndarray:
    arrays = read_pack("cifar100")
    order = np.argsort(arrays["fine_labels"], kind="stable")  # stable: training images stay before test images
    images = arrays["images"][order].reshape(len(CLASSES), -1, *arrays["images"].shape[1:])
    return images.transpose(0, 1, 4, 2, 3)
