"""Figures: what is drawn is what was given, in the place where it belongs."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from utils import figures
from utils.data.episodes import EpisodeSampler
from utils.data.images import ImageSet


@pytest.fixture(autouse=True)
def clean():
    figures.use_style()
    yield
    plt.close("all")
    plt.rcdefaults()


def episode(channels: int = 1, n_tasks: int = 2):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 8, channels, 6, 6), generator=generator).to(torch.uint8)
    return EpisodeSampler(ImageSet(images, tuple("abcde"), ("g",) * 5, "made", "all"), 3, 2, 4, n_tasks).sample(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("task", [0, 1])
def test_an_episode_shows_support_left_and_queries_right_one_class_a_row(channels, task):
    shown = episode(channels)
    figure = figures.show_episode(shown, k_shot=2, n_query=3, task=task)
    axes = np.array(figure.axes).reshape(3, 6)  # 2 support, a gap, 3 of 4 queries
    for row in range(3):
        for column in range(6):
            drawn = axes[row, column].get_images()
            if column == 2:
                assert not drawn and not axes[row, column].axison
                continue
            x, place = (shown.support_x, 2 * row + column) if column < 2 else (shown.query_x, 4 * row + column - 3)
            expected = x[task, place].permute(1, 2, 0).numpy()
            assert np.array_equal(drawn[0].get_array(), expected[..., 0] if channels == 1 else expected)
            assert drawn[0].get_clim() == (0, 1)  # the same grey means the same ink in every picture
        assert axes[row, 0].get_ylabel() == f"class {row}"
    assert axes[0, 0].get_title(loc="left") == "support" and axes[0, 3].get_title(loc="left") == "query"
    figure.canvas.draw()


def test_ink_is_dark_on_white():
    assert plt.rcParams["image.cmap"] == "gray_r"
    assert to_hex(plt.get_cmap("gray_r")(0.0)) == "#ffffff" and to_hex(plt.get_cmap("gray_r")(1.0)) == "#000000"


def test_the_style_replaces_whatever_was_set():
    plt.rcParams["font.size"] = 30
    plt.rcParams["axes.facecolor"] = "red"
    figures.use_style()
    assert plt.rcParams["font.size"] == 10 and plt.rcParams["axes.facecolor"] == "white"
    assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(figures.COLOURS)
    assert set(figures.STYLE) <= set(plt.rcParams)


def test_colours_can_be_told_apart():
    """All pairs differ in lightness or clearly in hue; a marker of its own goes with each."""
    rgb = np.array([to_rgb(colour) for colour in figures.COLOURS])
    assert min(np.abs(a - b).max() for i, a in enumerate(rgb) for b in rgb[:i]) > 0.2
    assert len(set(figures.MARKERS)) == len(set(figures.COLOURS)) == len(figures.MARKERS)


def test_a_line_is_named_where_it_ends():
    _, ax = plt.subplots()
    figures.label_line(ax, [0, 1, 2], [5, 6, 9], "training", figures.COLOURS[1], linestyle="--")
    (line,), (text,) = ax.lines, ax.texts
    assert line.get_xydata().tolist() == [[0, 5], [1, 6], [2, 9]] and line.get_linestyle() == "--"
    assert text.xy == (2, 9) and text.get_text() == "training"
    assert line.get_color() == text.get_color() == figures.COLOURS[1]


@pytest.mark.parametrize(
    ("values", "window", "expected"),
    [
        ([1, 2, 3, 4], 2, [1.5, 3.5]),
        ([1, 2, 3, 4, 100], 2, [1.5, 3.5]),
        ([1, 2, 3], 1, [1, 2, 3]),
        ([1, 2], 3, []),
        ([], 3, []),
    ],
)
def test_smoothing_takes_means_of_whole_blocks(values, window, expected):
    assert figures.smooth(values, window).tolist() == expected


def test_bars_are_the_means_and_their_intervals():
    _, ax = plt.subplots()
    series = {"ours": [(98.0, 0.5), (90.0, 1.0)], "paper": [(97.0, 0.2), (91.0, 2.0)]}
    figures.interval_bars(ax, ["5-way", "20-way"], series)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["5-way", "20-way"]
    assert [text.get_text() for text in ax.texts] == ["ours", "paper"]
    places = []
    for i, (name, container) in enumerate(zip(series, ax.containers, strict=True)):
        points, _, (bars,) = container
        assert points.get_ydata().tolist() == [mean for mean, _ in series[name]]
        assert points.get_marker() == figures.MARKERS[i] and points.get_color() == figures.COLOURS[i]
        spans = [segment[:, 1] for segment in bars.get_segments()]
        assert np.allclose(spans, [(mean - half, mean + half) for mean, half in series[name]])
        places.append(points.get_xdata())
        assert ax.texts[i].xy == (points.get_xdata()[-1], points.get_ydata()[-1])
    assert (places[0] < places[1]).all() and np.abs(np.array(places) - [0, 1]).max() < 0.5


def test_one_series_stands_in_the_middle():
    _, ax = plt.subplots()
    figures.interval_bars(ax, ["a", "b", "c"], {"only": [(1, 0.1), (2, 0.1), (3, 0.1)]})
    assert ax.containers[0][0].get_xdata().tolist() == [0, 1, 2]


def test_cells_belong_to_the_nearest_centre():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    labels = np.repeat([0, 1, 2], 6)
    points = centres[labels] + 0.3 * rng.normal(size=(18, 2))
    _, ax = plt.subplots()
    figures.nearest_cells(ax, centres, points, labels)
    stars = [line for line in ax.lines if line.get_marker() == "*"]
    assert np.array([line.get_xydata()[0] for line in stars]).tolist() == centres.tolist()
    others = [line for line in ax.lines if line.get_marker() != "*"]
    for k, (star, line) in enumerate(zip(stars, others, strict=True)):
        assert star.get_color() == line.get_color() == figures.COLOURS[k]
        assert np.array_equal(line.get_xydata(), points[labels == k])
        cell = ax.collections[k]
        assert to_hex(cell.get_facecolor()[0]) == figures.COLOURS[k].lower()
        inside = [any(path.contains_point(point) for path in cell.get_paths()) for point in centres]
        assert inside == [k == other for other in range(3)]
    xlim, ylim = ax.get_xlim(), ax.get_ylim()
    assert xlim[0] < points[:, 0].min() and xlim[1] > points[:, 0].max()
    assert ylim[0] < points[:, 1].min() and ylim[1] > points[:, 1].max()
