"""One plotting style for the whole book, and the few pictures that several chapters draw.

The palette (Okabe and Ito) can be told apart by colour-blind readers; lines are labelled where they end instead of in a
legend; bands and bars are 95 % intervals. Figures are drawn dark on white: the book's style sheet inverts them for dark
mode, and elsewhere they stay readable on any background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from utils.data.episodes import Episode

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE = {
    "figure.figsize": (6.4, 3.2),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "font.size": 10,
    "lines.linewidth": 1.8,
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Draw all further figures of this session in the book's style."""
    plt.rcdefaults()
    plt.rcParams.update(STYLE)


def _picture(ax: Axes, image: Tensor) -> None:
    """One image ``[C, H, W]`` in [0, 1] without axes."""
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    ax.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def show_episode(episode: Episode, k_shot: int, n_query: int, task: int = 0) -> Figure:
    """Support images on the left, queries on the right, one class a row."""
    n_way = episode.n_way
    support = episode.support_x[task].unflatten(0, (n_way, k_shot))
    query = episode.query_x[task].unflatten(0, (n_way, -1))[:, :n_query]
    figure, axes = plt.subplots(
        n_way,
        k_shot + n_query + 1,
        figsize=(0.75 * (k_shot + n_query + 0.4), 0.75 * n_way + 0.35),
        gridspec_kw={"width_ratios": [1] * k_shot + [0.4] + [1] * n_query},
        squeeze=False,
    )
    for row in range(n_way):
        axes[row, k_shot].axis("off")
        for column in range(k_shot):
            _picture(axes[row, column], support[row, column])
        for column in range(n_query):
            _picture(axes[row, k_shot + 1 + column], query[row, column])
        axes[row, 0].set_ylabel(f"class {row}", rotation=0, ha="right", va="center")
    axes[0, 0].set_title("support")
    axes[0, k_shot + 1].set_title("query")
    return figure


def label_line(ax: Axes, x: Sequence[float], y: Sequence[float], text: str, colour: str, **options) -> None:
    """A line with its name at its right end."""
    ax.plot(x, y, color=colour, **options)
    ax.annotate(text, (x[-1], y[-1]), xytext=(5, 0), textcoords="offset points", va="center", color=colour)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Means over blocks of ``window`` values; a last incomplete block is left out."""
    whole = len(values) // window * window
    return np.asarray(values[:whole]).reshape(-1, window).mean(1)


def interval_bars(ax: Axes, groups: Sequence[str], series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Points with 95 % intervals: for each name in ``series`` one (mean, half-width) a group, side by side."""
    offsets = np.linspace(-0.15, 0.15, len(series)) if len(series) > 1 else [0.0]
    for i, (name, values) in enumerate(series.items()):
        x = np.arange(len(groups)) + offsets[i]
        mean, half = np.array(values).T
        ax.errorbar(x, mean, half, fmt=MARKERS[i], color=COLOURS[i], capsize=3, markersize=6)
        ax.annotate(name, (x[-1], mean[-1]), xytext=(10, 0), textcoords="offset points", va="center", color=COLOURS[i])
    ax.set_xticks(range(len(groups)), groups)
    ax.set_xlim(-0.5, len(groups) - 0.5 + 0.9)


def nearest_cells(ax: Axes, centres: np.ndarray, points: np.ndarray, labels: np.ndarray) -> None:
    """Points of the plane in the cells of their nearest centre (a Voronoi diagram): ``[n, 2]``, ``[m, 2]``, ``[m]``."""
    low, high = np.concatenate([points, centres]).min(0), np.concatenate([points, centres]).max(0)
    margin = 0.08 * (high - low)
    x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], 300) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), -1)
    owner = ((grid[..., None, :] - centres) ** 2).sum(-1).argmin(-1)
    for k in range(len(centres)):
        ax.contourf(x, y, owner == k, levels=[0.5, 1.5], colors=[COLOURS[k]], alpha=0.15)
        ax.plot(*points[labels == k].T, MARKERS[k], color=COLOURS[k], markersize=4, alpha=0.8)
        ax.plot(*centres[k], "*", color=COLOURS[k], markersize=15, markeredgecolor="black")
    ax.set(xticks=[], yticks=[], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.grid(False)
