"""A predicted contact map to look at."""

import warnings
from pathlib import Path
from typing import Final

import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from esm1b.plotting import OTHER, PAPER, STYLE, TRAINED

LONG_RANGE: Final = 24  # residues apart at least, as in CASP

_INCHES: Final = 6.7
_DOTS_PER_INCH: Final = 220
_MOST_CELLS: Final = 1100  # dots of the map: of more cells, some would not be drawn
_TITLE_CHARACTERS: Final = 56
_UNSEEN: Final = "#e9e6e0"
_COLOURS: Final = LinearSegmentedColormap.from_list(
    "contacts", [PAPER, "#cde3ea", "#6cafc4", TRAINED, "#0b2f3d"]
).with_extremes(bad=_UNSEEN)


def draw_contact_map(path: Path, probabilities: NDArray[np.float32], title: str) -> None:
    """Write a map `[length, length]`, NaN where unknown, as a PNG file, the same bytes each time.

    Below the diagonal, rings mark the `length` most probable pairs of long range; above it, nothing
    hides the colours.
    """
    length = len(probabilities)
    shown = _reduced(probabilities)
    if len(title) > _TITLE_CHARACTERS:
        title = title[: _TITLE_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    with matplotlib.style.context(["default", STYLE, {"axes.grid": False}]):
        figure = Figure(figsize=(_INCHES, _INCHES), dpi=_DOTS_PER_INCH)
        axes = figure.add_subplot()
        edges = (0.5, length + 0.5, length + 0.5, 0.5)
        image = axes.imshow(
            shown, cmap=_COLOURS, vmin=0, vmax=1, interpolation="nearest", extent=edges
        )
        residues = "1 residue" if length == 1 else f"{length:,} residues"
        axes.set_title(f"{title}\n{residues}", parse_math=False)
        axes.set(xlabel="residue", ylabel="residue")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        figure.colorbar(image, label="probability of a contact", shrink=0.8)
        i, j = top_long_range_pairs(probabilities)
        if len(i) > 0 and length <= _MOST_CELLS:
            axes.plot(
                i + 1,
                j + 1,
                "o",
                markersize=float(np.clip(800 / length, 2.2, 6)),  # points: about two cells
                markerfacecolor="none",
                markeredgecolor=OTHER,
                markeredgewidth=0.7,
                label=f"most probable pairs {LONG_RANGE} or more residues apart ({len(i):,})",
            )
        if np.isnan(shown).any():
            axes.plot([], [], "s", color=_UNSEEN, label="no window holds both residues")
        if axes.lines:
            figure.legend(loc="outside lower left", ncols=2)
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


def _reduced(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map in at most `_MOST_CELLS` rows and columns, each the maximum of a block."""
    block = -(-len(probabilities) // _MOST_CELLS)
    starts = np.arange(0, len(probabilities), block)
    rows = np.fmax.reduceat(probabilities, starts, axis=0)
    reduced: NDArray[np.float32] = np.fmax.reduceat(rows, starts, axis=1)
    return reduced
