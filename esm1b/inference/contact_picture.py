"""A predicted contact map to look at."""

import warnings
from pathlib import Path
from typing import Any, Final

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from esm1b.plotting import INK, LINE, OTHER, PAPER, SOFT, TRAINED

LONG_RANGE: Final = 24  # residues apart at least, as in CASP

_SIZE: Final = (6.7, 6.7)  # inches
_LEFT, _BOTTOM, _MAP = 0.65, 0.95, 5.1  # of the map, inches
_DOTS_PER_INCH: Final = 220
_MOST_CELLS: Final = int(_MAP * _DOTS_PER_INCH)  # of more, some would not be drawn
_TITLE_CHARACTERS: Final = 56
_UNSEEN: Final = "#e9e6e0"
_COLOURS: Final = LinearSegmentedColormap.from_list(
    "contacts", [PAPER, "#cde3ea", "#6cafc4", TRAINED, "#0b2f3d"]
).with_extremes(bad=_UNSEEN)
_STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "xtick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.color": LINE,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": PAPER,
}


def draw_contact_map(path: Path, probabilities: NDArray[np.float32], title: str) -> None:
    """Write the map as a PNG file, the same bytes each time.

    Below the diagonal, rings mark the `length` most probable pairs of long range; above it, nothing
    hides the colours.

    Args:
        path: the file.
        probabilities: `[length, length]`, symmetric, NaN where nothing is known.
        title: the protein's id.
    """
    length = len(probabilities)
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=_SIZE, dpi=_DOTS_PER_INCH)
        axes = figure.add_axes(_place(_LEFT, _BOTTOM, _MAP, _MAP))
        shown = _at_most(_MOST_CELLS, probabilities)
        image = axes.imshow(
            shown,
            cmap=_COLOURS,
            vmin=0,
            vmax=1,
            interpolation="nearest",
            extent=(0.5, length + 0.5, length + 0.5, 0.5),
        )
        axes.plot([0.5, length + 0.5], [0.5, length + 0.5], color=LINE, linewidth=0.7)
        axes.set(xlim=(0.5, length + 0.5), ylim=(length + 0.5, 0.5))
        axes.set(xlabel="residue", ylabel="residue")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        _write_title(axes, title, length)
        bar = figure.colorbar(
            image, cax=figure.add_axes(_place(_LEFT + _MAP + 0.16, _BOTTOM, 0.14, _MAP))
        )
        bar.set_label("probability of a contact")
        bar.outline.set_visible(False)
        handles: list[Line2D | Patch] = _draw_rings(axes, probabilities)
        if np.isnan(shown).any():
            handles.append(Patch(facecolor=_UNSEEN, label="no window holds both residues"))
        if handles:
            axes.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(0, -0.11),
                ncols=len(handles),
                borderaxespad=0,
                borderpad=0,
                handletextpad=0.4,
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # an id may be anything
            figure.savefig(path, format="png", metadata={"Software": None})


def top_long_range_pairs(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return i and j `[2, pairs]`, i < j, of the `length` most probable long-range pairs.

    Pairs without a probability are left out.
    """
    length = len(probabilities)
    i, j = np.triu_indices(length, LONG_RANGE)
    values = probabilities[i, j]
    known = ~np.isnan(values)
    i, j, values = i[known], j[known], values[known]
    best = np.argsort(-values, kind="stable")[:length]
    return np.stack((i[best], j[best]))


def _place(
    left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Return a rectangle in inches as parts of the figure."""
    return (left / _SIZE[0], bottom / _SIZE[1], width / _SIZE[0], height / _SIZE[1])


def _write_title(axes: Axes, title: str, length: int) -> None:
    if len(title) > _TITLE_CHARACTERS:
        title = title[: _TITLE_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    place: dict[str, Any] = {
        "xy": (0, 1),
        "xycoords": "axes fraction",
        "textcoords": "offset points",
    }
    axes.annotate(title, xytext=(0, 21), fontsize=11, fontweight="bold", parse_math=False, **place)
    residues = "1 residue" if length == 1 else f"{length:,} residues"
    axes.annotate(residues, xytext=(0, 7), color=SOFT, **place)


def _draw_rings(axes: Axes, probabilities: NDArray[np.float32]) -> list[Line2D | Patch]:
    """Mark the most probable pairs; return what the legend says of them."""
    length = len(probabilities)
    if length <= LONG_RANGE or length > _MOST_CELLS:
        return []
    i, j = top_long_range_pairs(probabilities)
    cell = _MAP * 72 / length  # points
    look: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markerfacecolor": "none",
        "markeredgecolor": OTHER,
        "markeredgewidth": 0.7,
    }
    axes.plot(i + 1, j + 1, markersize=float(np.clip(2.2 * cell, 2.2, 6)), **look)
    label = f"most probable pairs {LONG_RANGE} or more residues apart ({len(i):,})"
    return [Line2D([], [], markersize=4.5, label=label, **look)]


def _at_most(cells: int, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map in at most `cells` rows and columns, each the maximum of a block."""
    block = -(-len(probabilities) // cells)
    if block == 1:
        return probabilities
    starts = np.arange(0, len(probabilities), block)
    rows = np.fmax.reduceat(probabilities, starts, axis=0)
    reduced: NDArray[np.float32] = np.fmax.reduceat(rows, starts, axis=1)
    return reduced
