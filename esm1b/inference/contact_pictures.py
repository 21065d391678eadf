"""Pictures of contact maps."""

import warnings
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from esm1b.inference.model import ContactMethod
from esm1b.plotting import OTHER, PAPER, STYLE, TRAINED

LONG_RANGE: Final = 24  # residues apart at least, as in CASP

_MOST_CELLS: Final = 1100  # dots of the map: of more cells, some would not be drawn
_TITLE_CHARACTERS: Final = 56
_UNSEEN: Final = "#e9e6e0"
_COLOURS: Final = LinearSegmentedColormap.from_list(
    "contacts", [PAPER, "#cde3ea", "#6cafc4", TRAINED, "#0b2f3d"]
).with_extremes(bad=_UNSEEN)
_NEAR: Final = 6  # residues apart: pairs below are no contacts, and couple most


class _Words(NamedTuple):
    """Words for the values of a method: what they are, and the highest ones."""

    values: str
    highest: str


_WORDS: Final = {
    "head": _Words("probability of a contact", "most probable pairs"),
    "jacobian": _Words("coupling, by categorical Jacobian", "most coupled pairs"),
}


def draw_contact_map(
    path: Path, contacts: NDArray[np.float32], title: str, *, method: ContactMethod = "head"
) -> None:
    """Write a map `[length, length]`, NaN where unknown, as a PNG file, the same bytes each time.

    Below the diagonal, rings mark the `length` highest pairs of long range; above it, nothing hides
    the colours. Couplings have no scale of their own: the strongest one of a pair at least 6 apart
    is the darkest.
    """
    words = _WORDS[method]
    largest = 1.0 if method == "head" else _strongest(contacts)
    length = len(contacts)
    shown = _reduced(contacts)
    if len(title) > _TITLE_CHARACTERS:
        title = title[: _TITLE_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    with matplotlib.style.context(["default", STYLE, {"axes.grid": False}]):
        figure = Figure(figsize=(6.7, 6.7), dpi=220)
        axes = figure.add_subplot()
        edges = (0.5, length + 0.5, length + 0.5, 0.5)
        image = axes.imshow(
            shown, cmap=_COLOURS, vmin=0, vmax=largest, interpolation="nearest", extent=edges
        )
        residues = "1 residue" if length == 1 else f"{length:,} residues"
        axes.set_title(f"{title}\n{residues}", parse_math=False)
        axes.set(xlabel="residue", ylabel="residue")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        figure.colorbar(image, label=words.values, shrink=0.8)
        i, j = top_long_range_pairs(contacts)
        if len(i) > 0 and length <= _MOST_CELLS:
            axes.plot(
                i + 1,
                j + 1,
                "o",
                markersize=float(np.clip(800 / length, 2.2, 6)),  # points: about two cells
                markerfacecolor="none",
                markeredgecolor=OTHER,
                markeredgewidth=0.7,
                label=f"{words.highest} {LONG_RANGE} or more residues apart ({len(i):,})",
            )
        if np.isnan(shown).any():
            axes.plot([], [], "s", color=_UNSEEN, label="no window holds both residues")
        if axes.lines:
            figure.legend(loc="outside lower left", ncols=2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # an id may be anything
            figure.savefig(path, format="png", metadata={"Software": None})


def top_long_range_pairs(contacts: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return i and j `[2, pairs]`, i < j, of the `length` highest long-range pairs.

    Pairs without a value are left out.
    """
    pairs = np.array(np.triu_indices(len(contacts), LONG_RANGE))
    values = contacts[pairs[0], pairs[1]]
    best = np.argsort(-values, kind="stable")[: len(contacts)]  # NaN comes last
    return pairs[:, best[~np.isnan(values[best])]]


def _strongest(couplings: NDArray[np.float32]) -> float:
    values = couplings[np.triu_indices(len(couplings), _NEAR)]
    return float(np.nanmax(values, initial=0)) or 1.0


def _reduced(contacts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map in at most `_MOST_CELLS` rows and columns, each the maximum of a block."""
    block = -(-len(contacts) // _MOST_CELLS)
    starts = np.arange(0, len(contacts), block)
    rows = np.fmax.reduceat(contacts, starts, axis=0)
    reduced: NDArray[np.float32] = np.fmax.reduceat(rows, starts, axis=1)
    return reduced
