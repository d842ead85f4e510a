"""The benchmark sets: splits, shapes and order on made data; counts, checksums and known error rates on the real."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils import data
from utils.data import cifar100 as cifar
from utils.data import omniglot as omni
from utils.data import packs
from utils.data.cache import DataError, write_atomically
from utils.data.images import as_float
from utils.data.mini_imagenet import mini_imagenet
from utils.data.mnist import group_by_label
from utils.functional.hausdorff import modified_hausdorff

REAL = os.environ.get("COURSE_DATA")  # read before a fixture changes it


def store(name: str, arrays: packs.Arrays, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a made pack and expect its content."""
    pack = replace(packs.PACKS[name], digest=packs.content_digest(arrays))
    monkeypatch.setitem(packs.PACKS, name, pack)
    for file, write in zip(pack.files, pack.write(arrays), strict=True):
        write_atomically(folder / file, write)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of small products take ten times as long when threads of several test processes wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


# ------------------------------------------------------------------------------------------------------- Omniglot

BACKGROUND = ["Armenian/character01", "Balinese/character01", "Greek/character01", "Greek/character02"]
EVALUATION = ["Angelic/character01", "Atlantean/character01"]


@pytest.fixture
def characters(folder, monkeypatch):
    """Bitmaps [6 characters, 20, 105, 105] of a made Omniglot, by name."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 2, (20, 105, 105), np.uint8) for name in BACKGROUND + EVALUATION}
    arrays = {}
    for part, names in {"background": BACKGROUND, "evaluation": EVALUATION}.items():
        stacked = np.concatenate([images[name] for name in names]).reshape(-1, 105 * 105)
        arrays[f"{part}_bits"] = np.packbits(stacked, axis=1)
        arrays[f"{part}_labels"] = np.repeat(np.arange(len(names), dtype=np.int16), 20)
        arrays[f"{part}_names"] = np.array(names)
    store("omniglot", arrays, folder, monkeypatch)
    return images


@pytest.mark.parametrize("size", [105, 28, 8])
def test_omniglot_images_belong_to_their_names(size, characters):
    everything = data.load("omniglot", "all", size=size)
    assert everything.images.dtype == torch.uint8 and everything.images.shape == (6, 20, 1, size, size)
    assert everything.class_names == tuple(sorted(BACKGROUND + EVALUATION))
    assert everything.group_names == ("Angelic", "Armenian", "Atlantean", "Balinese", "Greek", "Greek")
    for name, images in zip(everything.class_names, everything.images, strict=True):
        np.testing.assert_array_equal(images[:, 0], omni.area_average(255 * characters[name], size))


def test_omniglot_splits_of_a_made_set(characters):
    names = {split: data.load("omniglot", split).class_names for split in omni.SPLITS}
    assert names == {
        "train": tuple(BACKGROUND[1:]),
        "val": ("Armenian/character01",),
        "trainval": tuple(BACKGROUND),
        "test": tuple(EVALUATION),
        "background": tuple(BACKGROUND),
        "evaluation": tuple(EVALUATION),
        "background_small1": tuple(BACKGROUND[1:]),
        "background_small2": tuple(BACKGROUND[2:]),
        "all": tuple(sorted(BACKGROUND + EVALUATION)),
    }


def test_loaded_images_are_the_callers_own(characters):
    first = data.load("omniglot", "all")
    first.images.zero_()  # the second load maps the cached file
    second = data.load("omniglot", "all")
    assert second.images.any()
    second.images.zero_()
    assert data.load("omniglot", "all").images.any()


def test_cached_images_do_not_hide_a_missing_pack(characters, folder):
    data.load("omniglot", "all")
    (folder / "omniglot.npz").unlink()
    with pytest.raises(DataError, match="COURSE_DATA"):
        data.load("omniglot", "all")


def test_other_content_has_its_own_cache(characters, folder, monkeypatch):
    old = data.load("omniglot", "all")
    arrays = packs.read_pack("omniglot")
    store("omniglot", {**arrays, "background_bits": arrays["background_bits"] ^ 1}, folder, monkeypatch)
    assert not torch.equal(data.load("omniglot", "all", size=105).images, old.images)
    assert not np.array_equal(data.load("omniglot", "all").images, old.images)


@pytest.mark.parametrize("size", [0, 7, 106, -1])
def test_omniglot_sizes_that_do_not_exist(size):
    for function in (lambda: omni.omniglot("train", size=size), lambda: omni.one_shot_runs(size=size)):
        with pytest.raises(ValueError, match=rf"8 to 105 .* size={size}"):
            function()


@pytest.mark.parametrize("size", [8, 20, 28, 35, 64, 104, 105])
def test_area_average_is_a_x_a_transposed(size):
    image = np.random.default_rng(size).integers(0, 256, (2, 3, 105, 105), np.uint8)
    edges = np.linspace(0, 105, size + 1)
    overlap = np.minimum(edges[1:, None], np.arange(1, 106)) - np.maximum(edges[:-1, None], np.arange(105))
    weights = np.clip(overlap, 0, None) / (105 / size)
    np.testing.assert_allclose(weights.sum(1), 1)
    exact = weights @ image @ weights.T
    shrunk = omni.area_average(image, size)
    assert shrunk.dtype == np.uint8 and shrunk.shape == (2, 3, size, size)
    assert np.abs(shrunk - exact).max() <= 0.5 + 1e-9


def test_area_average_of_plain_images():
    for level in (0, 1, 254, 255):
        assert (omni.area_average(np.full((1, 105, 105), level, np.uint8), 28) == level).all()
    checks = np.indices((4, 4)).sum(0).astype(np.uint8) % 2 * 255
    assert (omni.area_average(checks, 2) == 128).all()  # 127.5 is rounded up


def runs_archive(swap: bool = False) -> tuple[bytes, np.ndarray, np.ndarray, np.ndarray]:
    """A zip like the official one, and what must be read from it."""
    rng = np.random.default_rng(5)
    train, test = (np.repeat(rng.integers(0, 2, (20, 20, 1, 105), np.uint8), 105, axis=2) for _ in range(2))
    target = np.stack([rng.permutation(20) for _ in range(20)])
    file = io.BytesIO()

    def png(bitmap: np.ndarray) -> bytes:
        packed = io.BytesIO()
        Image.fromarray(np.where(bitmap, 0, 255).astype(np.uint8)).convert("1").save(packed, "png")
        return packed.getvalue()

    with zipfile.ZipFile(file, "w") as archive:
        for run in range(20):
            folder = f"run{run + 1:02d}"
            archive.writestr(f"__MACOSX/{folder}/training/._class01.png", b"junk")
            lines = [f"{folder}/test/item{i + 1:02d}.png {folder}/training/class{target[run, i] + 1:02d}.png"
                     for i in range(20)]  # fmt: skip
            archive.writestr(f"{folder}/class_labels.txt", "\n".join(reversed(lines) if swap else lines) + "\n")
            for i in range(20):
                archive.writestr(f"{folder}/training/class{i + 1:02d}.png", png(train[run, i]))
                archive.writestr(f"{folder}/test/item{i + 1:02d}.png", png(test[run, i]))
    return file.getvalue(), 255 * train, 255 * test, target


@pytest.mark.parametrize("swap", [False, True])
def test_one_shot_runs_of_a_made_archive(swap, folder, monkeypatch):
    archive, train, test, target = runs_archive(swap)
    store("omniglot_one_shot_runs", {"file": np.frombuffer(archive, np.uint8)}, folder, monkeypatch)
    runs = omni.one_shot_runs()
    np.testing.assert_array_equal(runs.train[:, :, 0], train)
    np.testing.assert_array_equal(runs.test[:, :, 0], test)
    np.testing.assert_array_equal(runs.target, target)
    assert runs.target.dtype == torch.int64
    small = omni.one_shot_runs(size=28)
    np.testing.assert_array_equal(small.train[:, :, 0], omni.area_average(train, 28))
    assert small.test.shape == (20, 20, 1, 28, 28) and small.test.dtype == torch.uint8


# ------------------------------------------------------------------------------------------ modified Hausdorff distance


def test_hausdorff_is_the_formula_and_ignores_position():
    rng = np.random.default_rng(6)
    a, b = (torch.from_numpy(rng.random((12, 9)) < 0.3) for _ in range(2))
    p, q = (image.nonzero().double() - image.nonzero().double().mean(0) for image in (a, b))
    distances = (p[:, None] - q).norm(dim=-1)
    expected = max(distances.min(1).values.mean(), distances.min(0).values.mean())
    assert abs(modified_hausdorff(a, b) - expected) < 1e-6
    assert modified_hausdorff(a, b) == pytest.approx(modified_hausdorff(b, a).item(), abs=1e-12)
    wide = torch.zeros(20, 30)
    wide[5:17, 11:20] = a.float() * 0.5
    assert modified_hausdorff(a, wide) < 1e-6


def test_hausdorff_refuses_what_has_no_distance():
    with pytest.raises(ValueError, match="ink"):
        modified_hausdorff(torch.zeros(3, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="height, width"):
        modified_hausdorff(torch.ones(1, 3, 3), torch.ones(3, 3))


# ---------------------------------------------------------------------------------------------------------- MNIST


def test_mnist_keeps_the_order_and_pads(folder, monkeypatch):
    rng = np.random.default_rng(7)
    labels = np.concatenate([np.arange(10), rng.integers(0, 10, 50)]).astype(np.uint8)
    images = rng.integers(1, 256, (60, 28, 28), np.uint8)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images[:10], "test_labels": labels[:10]}
    store("mnist", arrays, folder, monkeypatch)
    train = data.load("mnist", "train")
    assert train.class_names == tuple("0123456789")
    assert train.counts.tolist() == np.bincount(labels).tolist() and len(set(train.counts.tolist())) > 1
    assert train.images.shape == (10, max(train.counts), 1, 28, 28)
    for digit in range(10):
        np.testing.assert_array_equal(train.images[digit, : train.counts[digit], 0], images[labels == digit])
        assert not train.images[digit, train.counts[digit] :].any()
    assert data.load("mnist", "test").counts.tolist() == [1] * 10


def test_group_by_label_of_other_shapes():
    grouped, counts = group_by_label(np.array([[1, 2], [3, 4], [5, 6]]), np.array([1, 0, 1]), 2)
    assert grouped.tolist() == [[[3, 4], [0, 0]], [[1, 2], [5, 6]]] and counts.tolist() == [1, 2]


# ------------------------------------------------------------------------------------------- CIFAR-100, CIFAR-FS, FC100


@pytest.fixture
def photographs(folder, monkeypatch):
    """Images [100, 6, 32, 32, 3] of a made CIFAR-100 with five training images and a test image a class."""
    images = np.random.default_rng(8).integers(0, 256, (100, 6, 1, 32, 3), np.uint8).repeat(32, axis=2)
    rows = np.concatenate([images[:, :5].reshape(-1, 32, 32, 3), images[:, 5]])
    labels = np.concatenate([np.repeat(np.arange(100), 5), np.arange(100)]).astype(np.uint8)
    order = packs._canonical_order(rows, labels, np.repeat([0, 1], [500, 100]))
    arrays = {"images": rows[order], "fine_labels": labels, "class_names": np.array(cifar.CLASSES)}
    store("cifar100", arrays, folder, monkeypatch)
    return images


def as_set(images: np.ndarray) -> set[bytes]:
    return {np.ascontiguousarray(image).tobytes() for image in images}


def test_cifar100_parts(photographs):
    train, test = data.load("cifar100", "train"), data.load("cifar100", "test")
    assert train.images.shape == (100, 5, 3, 32, 32) and test.images.shape == (100, 1, 3, 32, 32)
    assert train.class_names == test.class_names == cifar.CLASSES
    assert train.group_names[train.class_names.index("whale")] == "aquatic_mammals"
    assert train.images.is_contiguous() and test.images.is_contiguous()  # copies, no views of the cached file
    for label in (0, 1, 42, 99):
        channels_last = train.images[label].permute(0, 2, 3, 1).numpy()
        assert as_set(channels_last) == as_set(photographs[label, :5])
        np.testing.assert_array_equal(test.images[label].permute(0, 2, 3, 1), photographs[label, 5:])


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_few_shot_splits_hold_all_images_of_disjoint_classes(name, photographs):
    sets = [data.load(name, split) for split in cifar.FEW_SHOT_SPLITS]
    assert [each.n_classes for each in sets] == ([64, 16, 20] if name == "cifar_fs" else [60, 20, 20])
    assert sorted(sum((each.class_names for each in sets), ())) == list(cifar.CLASSES)
    for each in sets:
        assert each.class_names == tuple(sorted(each.class_names)) and each.images.shape[1] == 6
        label = cifar.CLASSES.index(each.class_names[-1])
        assert as_set(each.images[-1].permute(0, 2, 3, 1).numpy()) == as_set(photographs[label])
        assert each.group_names[-1] == cifar.SUPERCLASS_OF[each.class_names[-1]]
    if name == "fc100":
        groups = [set(each.group_names) for each in sets]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 20


def test_superclasses_are_twenty_of_five():
    assert len(cifar.SUPERCLASSES) == 20 and len(cifar.CLASSES) == 100
    assert {len(classes) for classes in cifar.SUPERCLASSES.values()} == {5}


# ---------------------------------------------------------------------------------------------------- miniImageNet


@pytest.fixture
def own_images(folder, tmp_path):
    """A folder with 2 + 3 training images, a validation and a test image; colours tell them apart."""
    where = tmp_path / "mini"
    files = {"train": [("n01", 0), ("n01", 1), ("n02", 0), ("n02", 1), ("n02", 2)], "val": [("n03", 0)]}
    files["test"] = [("n04", 0)]
    for split, members in files.items():
        lines = ["filename,label"]
        for label, i in members:
            path = where / "images" / f"{label}{i:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 60), (10 * int(label[1:]), i, 200)).save(path)
            lines.append(f"{path.name},{label}")
        (where / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return where


def check_training_images(mini: data.ImageSet) -> None:
    assert mini.class_names == mini.group_names == ("n01", "n02") and mini.counts.tolist() == [2, 3]
    assert mini.images.shape == (2, 3, 3, 84, 84) and mini.images.dtype == torch.uint8
    assert mini.images[0, 0, :, 40, 40].tolist() == [10, 0, 200]
    assert mini.images[0, 1, :, 40, 40].tolist() == [10, 1, 200]
    assert mini.images[1, 2, :, 0, 83].tolist() == [20, 2, 200]
    assert not mini.images[0, 2].any()


def test_mini_imagenet_from_one_folder(own_images):
    check_training_images(data.load("mini_imagenet", "train", folder=own_images))
    assert mini_imagenet("test", str(own_images), size=20).images.shape == (1, 1, 3, 20, 20)


@pytest.mark.parametrize("below", ["", "images"])
def test_mini_imagenet_from_folders_of_classes_with_equal_file_names(below, own_images):
    for path in list((own_images / "images").iterdir()):
        target = own_images / below / path.name[:3] / path.name[3:]
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    for table in own_images.glob("*.csv"):
        lines = table.read_text().splitlines()
        table.write_text("\n".join(lines[:1] + [line[3:] for line in lines[1:]]))
    check_training_images(mini_imagenet("train", own_images))


def test_mini_imagenet_is_packed_once_and_again_after_a_change(own_images, monkeypatch):
    path = own_images / "images" / "n0100000000.png"
    Image.new("RGB", (84, 84), (10, 0, 200)).save(path, "bmp")  # uncompressed: the next one has the same size
    check_training_images(mini_imagenet("train", own_images))
    with monkeypatch.context() as patch:
        patch.setattr("utils.data.mini_imagenet._read_image", lambda *_: pytest.fail("read again"))
        check_training_images(mini_imagenet("train", own_images))
    Image.new("RGB", (84, 84), (7, 8, 9)).save(path, "bmp")
    os.utime(path, (1, 1))
    assert mini_imagenet("train", own_images).images[0, 0, :, 5, 5].tolist() == [7, 8, 9]


def test_mini_imagenet_says_what_is_wrong(own_images):
    def refused(says: str) -> None:
        with pytest.raises(DataError, match=says):
            mini_imagenet("train", own_images)

    table, image = own_images / "train.csv", own_images / "images" / "n0100000000.png"
    text, content = table.read_text(), image.read_bytes()
    for lines, says in [
        ("file,class\na.png,n01\n", "must start with"),
        ("", "must start with"),
        ("filename,label\n", "at least one image"),
        (text + "a.png\n", "a file name and a label"),
        (text + "n0100000000.png,n01\n", "n0100000000.png of class n01 2 times"),
        (text + "nowhere.png,n09\n", r"1 of the 6 images .* nowhere.png \(n09\)"),
        (text + "../../etc/passwd,n09\n", "1 of the 6 images"),
        (text + "../train.csv,n09\n", "1 of the 6 images"),
    ]:
        table.write_text(lines)
        refused(says)
    table.write_bytes(b"filename,label\n\xff\xfe,n01\n")
    refused("cannot be read")
    table.write_text(text)
    image.write_bytes(content[:40])
    refused("not an image that can be read")
    image.write_bytes(content)
    (own_images / "images" / "copy").mkdir()
    (own_images / "images" / "copy" / image.name).write_bytes(content)
    refused("is there 2 times")
    table.unlink()
    refused("train.csv is missing")
    with pytest.raises(ValueError, match="1 to 512"):
        mini_imagenet("val", own_images, size=0)


# ----------------------------------------------------------------------------------------------------- the one call


def test_load_lists_what_exists():
    with pytest.raises(ValueError, match=r"no data set 'omniglott'; there are: glyphs, digits, omniglot, mnist"):
        data.load("omniglott", "train")
    for name, options in {"omniglot": {}, "cifar_fs": {}, "fc100": {}, "mini_imagenet": {"folder": "."}}.items():
        with pytest.raises(ValueError, match=rf"{name} has no split 'tset'; there are: train, val, "):
            data.load(name, "tset", **options)
    for name in ("mnist", "cifar100"):
        with pytest.raises(ValueError, match=rf"{name} has no split 'val'; there are: train, test"):
            data.load(name, "val")
    with pytest.raises(TypeError, match=r"'sise'.*options: .*size"):
        data.load("omniglot", "train", sise=28)
    with pytest.raises(TypeError, match="'folder'"):
        data.load("mini_imagenet", "train")


def test_available_tells_what_is_missing(folder, characters):
    state = data.available()
    assert list(state) == list(data.SETS)
    assert state["glyphs"] is state["digits"] is state["omniglot"] is True
    for name in ("cifar100", "cifar_fs", "fc100"):
        assert "course data cifar100" in state[name] and "cifar100_labels.npz" in state[name]
    assert "mnist.npz" in state["mnist"] and "folder=" in state["mini_imagenet"]


def test_importing_the_package_is_light():
    code = (
        "import sys, utils.data; assert 'torch' not in sys.modules; "
        "utils.data.ImageSet; assert 'torch' in sys.modules; "
        "assert not hasattr(utils.data, 'Nothing'); assert utils.data.DataError"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=60)


# ------------------------------------------------------------------------------------------------------ real data


@pytest.fixture(scope="module")
def real():
    """Look for packs where COURSE_DATA said when the tests began, with an own cache that is removed afterwards."""
    if not REAL:
        pytest.skip("COURSE_DATA names no folder with the benchmark packs")
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", REAL)
        patch.setenv("COURSE_CACHE", cache)
        yield Path(REAL)


def need(name: str) -> None:
    if packs.find_pack(name) is None:
        pytest.skip(f"COURSE_DATA has no {' and '.join(packs.PACKS[name].files)}")


@pytest.fixture
def published_splits(real):
    path = real / "splits.json"
    if not path.is_file():
        pytest.skip("COURSE_DATA has no splits.json to compare the class lists with")
    return json.loads(path.read_text())


def test_real_omniglot_splits(real, published_splits):
    need("omniglot")
    sets = {split: data.load("omniglot", split) for split in omni.SPLITS}
    assert {split: each.n_classes for split, each in sets.items() if "small" not in split} == {
        "train": 1028,
        "val": 172,
        "trainval": 1200,
        "test": 423,
        "background": 964,
        "evaluation": 659,
        "all": 1623,
    }
    names = {split: set(each.class_names) for split, each in sets.items()}
    assert names["train"] | names["val"] == names["trainval"] and names["train"].isdisjoint(names["val"])
    assert names["trainval"] | names["test"] == names["all"] and names["trainval"].isdisjoint(names["test"])
    assert names["background"] | names["evaluation"] == names["all"]
    for split, each in published_splits["omniglot_vinyals"].items():
        assert names[split] == set(each)
    for split, alphabets in published_splits["omniglot_background_small"].items():
        assert set(sets[f"background_{split}"].group_names) == set(alphabets)
        assert names[f"background_{split}"] <= names["background"]
    assert all(each.images.shape[1:] == (20, 1, 28, 28) for each in sets.values())
    assert all(list(each.class_names) == sorted(each.class_names) for each in sets.values())


def test_real_one_shot_runs_are_evaluation_images_of_one_person(real):
    need("omniglot")
    need("omniglot_one_shot_runs")
    evaluation, runs = data.load("omniglot", "evaluation", size=105), omni.one_shot_runs()
    where = {
        image.numpy().tobytes(): (name, person)
        for name, images in zip(evaluation.class_names, evaluation.images, strict=True)
        for person, image in enumerate(images)
    }
    for train, test, target in zip(runs.train, runs.test, runs.target, strict=True):
        shown = [where[image.numpy().tobytes()] for image in train]
        asked = [where[image.numpy().tobytes()] for image in test]
        assert [shown[i][0] for i in target] == [name for name, _ in asked]
        assert len({omni.alphabet(name) for name, _ in shown}) == 1
        # images of a character are in the order of the people who drew them
        assert len({person for _, person in shown}) == len({person for _, person in asked}) == 1


def error_rate(distance: torch.Tensor, target: torch.Tensor) -> float:
    return (distance.argmin(-1) != target).double().mean().item()


def test_real_one_shot_baselines(real):
    need("omniglot_one_shot_runs")
    runs = omni.one_shot_runs()
    train, test = (
        torch.nn.functional.normalize(images.double().flatten(2), dim=-1) for images in (runs.train, runs.test)
    )
    assert error_rate(-test @ train.mT, runs.target) == pytest.approx(0.7825, abs=1e-9)
    hausdorff = [[modified_hausdorff(a[0], b[0]) for a in runs.test[i] for b in runs.train[i]] for i in range(20)]
    assert error_rate(torch.tensor(hausdorff).view(20, 20, 20), runs.target) == pytest.approx(0.3875, abs=1e-9)


def test_real_mnist_is_the_original(real):
    need("mnist")
    arrays = packs.read_pack("mnist")
    sums = []
    for part, n in {"train": 60_000, "test": 10_000}.items():
        for kind, header in {"images": (2051, n, 28, 28), "labels": (2049, n)}.items():
            content = np.array(header, ">i4").tobytes() + arrays[f"{part}_{kind}"].tobytes()
            sums.append(hashlib.md5(content).hexdigest())
    assert sums == [
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ]
    assert int(data.load("mnist", "train").counts.sum()) == 60_000
    assert int(data.load("mnist", "test").counts.sum()) == 10_000


def test_real_cifar100(real, published_splits):
    need("cifar100")
    train = data.load("cifar100", "train")
    assert train.images.shape == (100, 500, 3, 32, 32)
    assert data.load("cifar100", "test").images.shape == (100, 100, 3, 32, 32)
    # By class, in float32: the sums are right to more than the four digits that are published.
    sums = torch.stack(
        [torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]) for x in map(as_float, train.images)]
    )
    mean, square = sums.double().mean(0)
    std = (square - mean**2).sqrt()
    assert [round(each, 4) for each in mean.tolist()] == [0.5071, 0.4865, 0.4409]
    assert [round(each, 4) for each in std.tolist()] == [0.2673, 0.2564, 0.2762]
    assert published_splits["cifar100_superclass_of"] == cifar.SUPERCLASS_OF
    for split in cifar.FEW_SHOT_SPLITS:
        assert set(cifar.cifar_fs_classes(split)) == set(published_splits["cifar_fs"][split])
        groups = {cifar.SUPERCLASS_OF[name] for name in cifar.fc100_classes(split)}
        assert groups == set(published_splits["fc100_superclasses"][split])
        assert data.load("cifar_fs", split).images.shape[1:] == (600, 3, 32, 32)
        assert data.load("fc100", split).n_classes == 5 * len(groups)
