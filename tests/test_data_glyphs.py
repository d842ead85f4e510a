"""Glyphs: which characters, how they are written, that every machine makes the same, and what the cache may not do."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.ft2font import FT2Font

from utils.data import glyphs as module
from utils.data.glyphs import SCRIPTS, Script, Strokes, Writing, build, glyphs, render, thin, trace, write

CHARACTERS = [character for script in SCRIPTS for character in script.characters]
ALIKE = 0.925  # cosine from which two characters count as one

# where the list of characters comes from: blocks of Unicode, names, kinds of character (general categories)
LETTERS = ("Lu", "Ll", "Lo", "Lt", "Nl", "Nd")
SIGNS = ("Sm", "So", "Sc", "Sk")
CANDIDATES = {
    "Latin": ("0041-024F 0250-02AF 1D00-1D7F 1E00-1EFF 2180-218F 2C60-2C7F A720-A7FF", ("LATIN ",), LETTERS),
    "Cyrillic": ("0400-052F A640-A69F", ("CYRILLIC ",), LETTERS),
    "Greek": ("0370-03FF", ("GREEK ", "COPTIC "), LETTERS),
    "Armenian": ("0530-058F", ("ARMENIAN ",), LETTERS),
    "Georgian": ("10A0-10FF 2D00-2D2F", ("GEORGIAN ",), LETTERS),
    "Hebrew": ("0590-05FF", ("HEBREW ",), LETTERS),
    "Arabic": ("0600-06FF", ("ARABIC ",), LETTERS),
    "N'Ko": ("07C0-07FF", ("NKO ",), LETTERS),
    "Lao": ("0E80-0EFF", ("LAO ",), LETTERS),
    "Tifinagh": ("2D30-2D7F", ("TIFINAGH ",), LETTERS),
    "Old Italic": ("10300-1032F", ("OLD ITALIC ",), LETTERS),
    "Ogham": ("1680-169F", ("OGHAM ",), LETTERS),
    "Canadian Aboriginal": ("1400-167F", ("CANADIAN ",), LETTERS),
    "Fraktur": ("2100-212F 1D504-1D537", ("MATHEMATICAL FRAKTUR ", "BLACK-LETTER "), LETTERS),
    "Script": ("2100-213F 1D49C-1D4CF", ("MATHEMATICAL SCRIPT ", "SCRIPT "), LETTERS),
    "Double-struck": ("1D538-1D56B 1D7D8-1D7E1", ("MATHEMATICAL DOUBLE-STRUCK ",), LETTERS),
    "Mathematical operators": ("2200-22FF 27C0-27EF 2980-2AFF", ("",), SIGNS),
    "Arrows": ("2190-21FF 27F0-27FF 2900-297F", ("",), SIGNS),
    "Technical symbols": ("2300-23FF", ("",), SIGNS),
    "Symbols": ("20A0-20CF 2625-2629 263D-2653 2669-266F 26A2-26BC", ("",), SIGNS),
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return build()


@pytest.fixture(scope="module")
def strokes() -> Strokes:
    return trace(np.concatenate([render(script.characters, script.font) for script in SCRIPTS]))


@pytest.fixture(scope="module")
def sets(images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(module, "build", lambda: images)
        return {split: glyphs(split) for split in ("train", "val", "test", "all")}


def drawn_plainly(strokes: Strokes) -> np.ndarray:
    """Every character in one size, by a slightly broad pen, at three widths: int64 [character, 3, 784]."""
    uniform = np.zeros((3, 57))
    uniform[1, 2:4] = 0.35, -0.35
    uniform[2, 2:4] = -0.35, 0.35
    pen = Writing(pen=(1.1, 1.1))
    plain = [write(strokes.of(i), uniform, pen) for i in range(len(strokes.length))]
    return np.stack(plain).reshape(len(plain), 3, -1).astype(np.int64)


def alikeness(plain: np.ndarray) -> np.ndarray:
    """Largest cosine over the widths, [character, character]; sums of products of bytes are exact in float64."""
    norm = np.sqrt((plain**2).sum(2))
    middle = plain[:, 0].astype(np.float64)
    cosine = np.max([middle @ plain[:, j].T / (norm[:, :1] * norm[:, j]) for j in range(3)], 0)
    return np.maximum(cosine, cosine.T)


# ------------------------------------------------------------------------------------------------------- which ones


def test_number_of_characters_and_scripts(sets):
    assert {split: data.n_classes for split, data in sets.items()} == {
        "train": 1134,
        "val": 202,
        "test": 445,
        "all": 1781,
    }
    assert {split: len(set(data.group_names)) for split, data in sets.items()} == {
        "train": 6,
        "val": 5,
        "test": 9,
        "all": 20,
    }
    for split, data in sets.items():
        assert data.images.shape == (data.n_classes, 20, 1, 28, 28)
        assert data.images.dtype == torch.uint8
        assert (data.counts == 20).all()
        assert (data.name, data.split) == ("glyphs", split)


def test_splits_share_no_script_and_no_character(sets):
    parts = [sets[split] for split in ("train", "val", "test")]
    for attribute in ("class_names", "group_names"):
        names = [set(getattr(part, attribute)) for part in parts]
        assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
        assert set.union(*names) == set(getattr(sets["all"], attribute))


def test_splits_are_the_same_images_as_all(sets):
    row = {name: i for i, name in enumerate(sets["all"].class_names)}
    for split in ("train", "val", "test"):
        assert torch.equal(sets[split].images, sets["all"].images[[row[name] for name in sets[split].class_names]])


def test_held_out_scripts_are_ordinary_ones(sets):
    assert {"Georgian", "Armenian", "Arabic", "Hebrew", "Lao"} <= set(sets["test"].group_names)
    assert not any("ymbol" in name or name in ("Arrows", "Mathematical operators") for name in sets["test"].group_names)


def test_class_names_are_those_of_unicode(sets):
    assert "GEORGIAN LETTER AN" in sets["test"].class_names
    assert "GREEK SMALL LETTER ALPHA" in sets["val"].class_names
    assert sets["all"].class_names == tuple(unicodedata.name(character) for character in CHARACTERS)


def test_fonts_have_the_characters():
    for script in SCRIPTS:
        face = FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{script.font}.ttf")))
        charmap = face.get_charmap()
        # else the box that stands for a missing character would become one
        assert all(charmap.get(ord(character), 0) for character in script.characters), script.name


def test_no_two_characters_look_alike(strokes):
    cosine = alikeness(drawn_plainly(strokes))
    np.fill_diagonal(cosine, 0)
    i, j = np.unravel_index(cosine.argmax(), cosine.shape)
    assert cosine[i, j] < ALIKE, (unicodedata.name(CHARACTERS[i]), unicodedata.name(CHARACTERS[j]))


def test_alikeness_finds_one_outline_in_three_scripts():
    pages = render(("A", "Α", "А", "B", "O", "o"), "DejaVuSans")  # Latin, Greek and Cyrillic capital; B; O and small o
    cosine = alikeness(drawn_plainly(trace(pages)))
    assert cosine[0, 1] > ALIKE and cosine[0, 2] > ALIKE and cosine[4, 5] > ALIKE
    assert cosine[0, 3] < ALIKE and cosine[3, 4] < ALIKE


def test_list_of_characters_follows_from_the_rule():
    fonts = {script.name: script.font for script in SCRIPTS}
    candidates = {name: candidates_of(fonts[name], *CANDIDATES[name]) for name in fonts}
    parts = [trace(render(candidates[name], fonts[name])) for name in fonts]
    strokes = Strokes(*map(np.concatenate, zip(*parts, strict=True)))
    legible = (strokes.length >= 30) & (strokes.length <= 200)
    alike = alikeness(drawn_plainly(strokes)) >= ALIKE
    kept: list[int] = []
    for i in range(len(alike)):
        if legible[i] and not alike[i, kept].any():
            kept.append(i)
    everything = [(name, character) for name in fonts for character in candidates[name]]
    chosen = {name: sorted(c for n, c in (everything[i] for i in kept) if n == name) for name in fonts}
    assert chosen == {script.name: sorted(script.characters) for script in SCRIPTS}


def candidates_of(font: str, blocks: str, names: tuple[str, ...], kinds: tuple[str, ...]) -> list[str]:
    charmap = FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf"))).get_charmap()
    ends = [[int(end, 16) for end in block.split("-")] for block in blocks.split()]
    present = [chr(code) for first, last in ends for code in range(first, last + 1) if code in charmap]
    chosen = []
    for character in present:
        name = unicodedata.name(character, "")
        # letters of mathematics count as composed of plain letters
        composed = unicodedata.decomposition(character).removeprefix("<font>") and font == "DejaVuSans"
        if name.startswith("MATHEMATICAL DOUBLE-STRUCK "):
            composed = False
        elif name.startswith("ARABIC ") and " WITH " in name:
            composed = True
        if name.startswith(names) and name and unicodedata.category(character) in kinds and not composed:
            chosen.append(character)
    # of two that look alike the simpler one stays
    return sorted(chosen, key=lambda character: (" WITH " in unicodedata.name(character), ord(character)))


# ------------------------------------------------------------------------------------------------------- the images


def test_every_image_has_ink_and_no_two_are_equal(images):
    flat = images.reshape(-1, 28 * 28)
    assert (flat.sum(1) > 12 * 255).all()
    assert (flat > 200).any(1).all()
    assert len({row.tobytes() for row in flat}) == len(flat)


def test_strokes_stay_within_the_image(images):
    border = np.concatenate(
        [images[..., [0, -1], :].reshape(*images.shape[:2], -1), images[..., 0], images[..., -1]], 2
    )
    assert (border > 64).any(2).mean() < 0.01  # Omniglot: 0.034


def test_size_position_and_ink_vary_as_in_omniglot(sets):
    images = sets["test"].images[:, :, 0].numpy()
    boxes = [extent_of((images > 64).any(axis)) for axis in (3, 2)]
    assert abs(np.maximum(*(last - first + 1 for first, last in boxes)).mean() - 17.8) < 1
    for first, last in boxes:
        assert abs(within((first + last) / 2) - 1.42) < 0.2
        large = (last - first >= 5).all(1)
        assert abs(within(np.log(last - first + 1.0)[large]) - 0.137) < 0.03
    assert abs(within(np.log(images.sum((2, 3)))) - 0.137) < 0.03
    assert abs(images.mean() - 21.5) < 1


def extent_of(inked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last place with ink along the last axis."""
    return inked.argmax(-1), inked.shape[-1] - 1 - inked[..., ::-1].argmax(-1)


def within(values: np.ndarray) -> float:
    """Standard deviation within a character, [character, writer]."""
    return float((values - values.mean(1, keepdims=True)).std())


def nearest_neighbour_accuracy(images: np.ndarray, n_way: int, k_shot: int, n_episodes: int) -> float:
    """Percent of 15 queries a class whose nearest support image, by cosine, is of their class."""
    rng = np.random.default_rng(0)
    x = images.reshape(*images.shape[:2], -1).astype(np.float32)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    hits = []
    for _ in range(n_episodes):
        classes = rng.choice(len(x), n_way, replace=False)
        order = rng.permuted(np.tile(np.arange(20), (n_way, 1)), axis=1)[:, : k_shot + 15]
        episode = x[classes[:, None], order]
        support = episode[:, :k_shot].reshape(n_way * k_shot, -1)
        nearest = (episode[:, k_shot:] @ support.T).argmax(2) // k_shot
        hits.append((nearest == np.arange(n_way)[:, None]).mean())
    return 100 * float(np.mean(hits))


@pytest.mark.parametrize(("n_way", "k_shot", "omniglot"), [(5, 1, 48.2), (5, 5, 72.4), (20, 1, 29.1), (20, 5, 53.0)])
def test_pixels_are_as_hard_as_those_of_omniglot(sets, n_way, k_shot, omniglot):
    accuracy = nearest_neighbour_accuracy(sets["test"].images.numpy(), n_way, k_shot, 400)
    assert abs(accuracy - omniglot) < 3


# --------------------------------------------------------------------------------------------------------- its parts


def test_filling_leaves_holes_and_keeps_strokes():
    letter_o, letter_l, space = render(("O", "L", " "), "DejaVuSans")
    assert not letter_o[32, 32] and letter_o[32].sum() > 4
    rows, columns = np.nonzero(letter_l)
    assert np.ptp(rows) + 1 == 50  # as large as fits
    assert letter_l[rows.max(), columns.max()] and not letter_l[rows.min(), columns.max()]  # upright, not mirrored
    assert abs(rows.min() + rows.max() - 63) <= 1 and abs(columns.min() + columns.max() - 63) <= 1  # in the middle
    assert not space.any()


def test_thinning_keeps_dots_rings_and_pieces():
    ink = np.zeros((1, 40, 40), bool)
    ink[0, 2:4, 2:4] = True  # a dot
    ink[0, 8:15, 4:36] = True  # a bar
    ink[0, 20:38, 10:28] = True  # a ring
    ink[0, 25:33, 15:23] = False
    lines = thin(ink)[0]
    assert not (lines & ~ink[0]).any()
    assert lines[2:4, 2:4].sum() == 1
    bar = lines[8:15]
    assert (bar.sum(0)[10:30] == 1).all() and 24 <= bar.sum() <= 36
    ring = lines[20:38]
    assert pieces(lines) == 3
    assert pieces(~lines) == 2  # outside and the inside of the ring
    assert ring.sum() < 60


def pieces(mask: np.ndarray) -> int:
    """Connected pieces: of lines over edges and corners, of the space between them (then they may not) over edges."""
    around = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    if mask.mean() < 0.5:
        around += [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    left = set(zip(*np.nonzero(mask), strict=True))
    n = 0
    while left:
        n += 1
        todo = [left.pop()]
        while todo:
            row, column = todo.pop()
            for down, right in around:
                if (row + down, column + right) in left:
                    left.remove((row + down, column + right))
                    todo.append((row + down, column + right))
    return n


def test_distance_is_the_distance_to_the_nearest_line(strokes):
    pages = render(("A",), "DejaVuSans")
    lines = np.argwhere(thin(pages)[0])
    cells = np.argwhere(np.ones((64, 64), bool))
    expected = np.sqrt(((cells[:, None] - lines) ** 2).sum(2)).min(1).reshape(64, 64)
    distance = trace(pages).distance[0] / 16
    assert np.abs(distance - np.minimum(expected, 7)).max() <= 1 / 32


def test_elastic_field_leaves_straight_lines_straight():
    weights, one = module._interpolation()
    node, pixel = np.arange(5) * 7.0, np.arange(28) + 0.5
    plane = 3 * node[:, None] - 2 * node + 5
    expected = 3 * pixel[:, None] - 2 * pixel + 5
    assert np.abs((plane.ravel() @ weights / one).reshape(28, 28) - expected).max() < 1e-12
    assert (weights == np.rint(weights)).all()


def test_without_a_writer_a_character_has_the_normal_size_in_the_middle():
    image = write(trace(render(("I",), "DejaVuSans")), np.zeros((1, 57)), Writing())[0]
    rows, columns = np.nonzero(image.any(1))[0], np.nonzero(image.any(0))[0]
    assert abs(rows[0] + rows[-1] - 27) <= 1 and abs(columns[0] + columns[-1] - 27) <= 1
    # a line of 15.5 pixels by a round pen
    assert abs(image.sum() / 255 - (15.5 * 2 * 0.775 + np.pi * 0.775**2)) < 1


def test_a_writer_turns_shifts_and_scales_as_told():
    upright = trace(render(("I",), "DejaVuSans"))
    uniform = np.zeros((4, 57))
    uniform[0, 0] = 1  # turned by 0.2
    uniform[1, 4:6] = 1, -1  # down, left
    uniform[2, 2] = 1  # taller
    uniform[3, 6] = 1  # a thicker pen
    turned, shifted, taller, thicker = write(upright, uniform, Writing()).astype(float)
    plain = write(upright, np.zeros((1, 57)), Writing())[0].astype(float)
    centre, spread = moments(plain)
    assert abs(abs(np.arctan2(moments(turned)[1][0, 1], moments(turned)[1][0, 0])) - 0.2) < 0.02
    assert np.abs(moments(shifted)[0] - centre - [0.16 * 14, -0.16 * 14]).max() < 0.1
    assert abs(np.sqrt(moments(taller)[1][0, 0] / spread[0, 0]) - 1.22) < 0.05
    assert abs(thicker.sum() / plain.sum() - 0.9 / 0.775) < 0.05


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and covariance of the ink, rows before columns."""
    at = np.indices(image.shape).reshape(2, -1)
    centre = at @ image.ravel() / image.sum()
    return centre, (at - centre[:, None]) * image.ravel() @ (at - centre[:, None]).T / image.sum()


def test_drawing_is_exact_integer_arithmetic(strokes):
    rng = np.random.default_rng(0)
    nodes = rng.integers(-20, 84, (1, 2, 5, 5)) * 256 + rng.integers(0, 256, (1, 2, 5, 5))
    image = module._draw(strokes.distance[7], nodes, np.array([300], np.int32), np.array([1500], np.int32))[0]
    weights, one = module._interpolation()
    for pixel in range(0, 784, 5):
        at = []
        for axis in (0, 1):
            exact = sum(int(w) * int(n) for w, n in zip(weights[:, pixel], nodes[0, axis].ravel(), strict=True))
            at.append(min(max((2 * exact + int(one)) // (2 * int(one)) - 128, 0), 63 * 256 - 1))
        (row, y), (column, x) = (divmod(a, 256) for a in at)
        d = strokes.distance[7].astype(int)
        away = (d[row, column] * (256 - x) + d[row, column + 1] * x) * (256 - y)
        away += (d[row + 1, column] * (256 - x) + d[row + 1, column + 1] * x) * y
        assert image.flat[pixel] == min(max(300 - ((int(away) >> 8) * 1500 >> 16), 0), 255)


# ------------------------------------------------------------------------------------------------ the same every time


def test_two_builds_are_equal_and_a_part_equals_the_whole(images):
    names = [script.name for script in SCRIPTS for _ in script.characters]
    part = [script for script in SCRIPTS if script.name in ("Hebrew", "Ogham")]
    once, again = build(part), build(part)
    assert np.array_equal(once, again)
    assert np.array_equal(once, images[[i for i, name in enumerate(names) if name in ("Hebrew", "Ogham")]])


def test_bytes_are_those_of_every_machine(images):
    if matplotlib.__version__ not in ("3.8.4", "3.10.0", "3.11.2"):
        pytest.skip(f"the fonts of matplotlib {matplotlib.__version__} have not been compared with those of 3.11.2")
    assert hashlib.sha256(images).hexdigest() == "d0c6cdc19e8fcb68c6eb18c9c885139fa436637ede66260c92a9c475dbafc1bf"


# --------------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def builds(images, monkeypatch, tmp_path):
    """An empty cache folder; the list gets one entry each time that the images are made."""
    calls: list[int] = []

    def counted() -> np.ndarray:
        calls.append(1)
        return images

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "build", counted)
    return calls


def test_cache_is_made_once_and_gives_the_same(builds, tmp_path):
    made, read = glyphs("test"), glyphs("test")
    assert len(builds) == 1
    assert torch.equal(made.images, read.images)
    (file,) = tmp_path.iterdir()
    assert matplotlib.__version__ in file.name


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "empty", "longer"])
def test_damaged_cache_is_made_anew(builds, tmp_path, damage):
    whole = glyphs("val").images
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 2] ^= 1
    file.write_bytes({"cut off": content[:-1], "empty": b"", "longer": content + b"x"}.get(damage, content))
    assert torch.equal(glyphs("val").images, whole)
    assert len(builds) == 2
    glyphs("val")
    assert len(builds) == 2  # it was repaired


def test_cache_of_another_recipe_is_not_used(builds, monkeypatch, tmp_path):
    glyphs("val")
    monkeypatch.setattr(module, "_VERSION", module._VERSION + 1)
    glyphs("val")
    monkeypatch.setattr(module, "SCRIPTS", (*SCRIPTS[:-1], Script("Symbols", "val", "DejaVuSans", "20A0")))
    assert module._cache_name() not in {file.name for file in tmp_path.iterdir()}
    monkeypatch.undo()


def test_without_a_writable_cache_images_are_made_each_time(builds, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "below"))
    assert torch.equal(glyphs("val").images, glyphs("val").images)
    assert len(builds) == 2


def test_full_disk_is_no_error(builds, monkeypatch):
    def refuse(path, write):
        raise module.DataError("no space")

    monkeypatch.setattr(module, "write_atomically", refuse)
    assert glyphs("val").n_classes > 0


def test_images_can_be_changed_without_changing_the_next_ones(builds):
    first = glyphs("val").images
    first.zero_()
    assert glyphs("val").images.any()


@pytest.mark.parametrize("split", ["validation", "", None, 3])
def test_wrong_split_says_which_there_are(split):
    with pytest.raises(ValueError, match="train, val, test, all"):
        glyphs(split)


def test_missing_font_says_what_to_do():
    with pytest.raises(module.DataError, match="install matplotlib"):
        render(("A",), "NoSuchFont")
