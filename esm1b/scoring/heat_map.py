"""A heat map of single substitutions: positions by residues, in as many rows as are needed."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from esm1b.plotting import INK, OTHER, PAPER, TRAINED, render
from esm1b.scoring.mutations import Variant

_log = logging.getLogger(__name__)

# By their chemistry, as heat maps of mutational scans usually have them.
_ORDER: Final = "GAVLIMCPFYWSTNQHKRDE"
_POSITIONS: Final = 75  # in a row
_COLOURS: Final = LinearSegmentedColormap.from_list(
    "effects", [OTHER, PAPER, TRAINED]
).with_extremes(bad="#e9e6e0")


def draw_heat_map(
    path: Path,
    wild_type: str,
    variants: Sequence[Variant],
    scores: NDArray[np.float64],
    *,
    title: str,
    offset: int,
) -> None:
    """Draw the single substitutions among `variants`, the same bytes each time; without any, none.

    Positions run from the first to the last with a variant. Dots mark the wild type, grey cells
    have no score.

    Args:
        path: SVG file to write.
        wild_type: sequence of the protein.
        variants: variants of it.
        scores: float64 `[variants]`.
        title: title of the figure.
        offset: number of the first residue.
    """
    cells = np.full((len(_ORDER), len(wild_type)), np.nan)
    for variant, score in zip(variants, scores, strict=True):
        if len(variant.mutations) == 1:
            (mutation,) = variant.mutations
            cells[_ORDER.index(mutation.mutant), mutation.position] = score
    scored = np.flatnonzero(~np.isnan(cells).all(axis=0))
    if not len(scored):
        _log.info("%s: not drawn, as no variant has a single mutation", path.name)
        return
    first, last = int(scored[0]), int(scored[-1]) + 1
    extreme = max(float(np.nanmax(np.abs(cells))), 1e-9)
    norm = TwoSlopeNorm(0, vmin=-extreme, vmax=extreme)
    starts = range(first, last, _POSITIONS)

    def draw(figure: Figure) -> None:
        figure.suptitle(title, parse_math=False, x=0.01, ha="left", fontweight="bold")
        panels = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
        for axes, start in zip(panels, starts, strict=True):
            stop = min(start + _POSITIONS, last)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            image = axes.imshow(
                cells[:, start:stop],
                cmap=_COLOURS,
                norm=norm,
                interpolation="none",
                aspect="auto",
                extent=(start - 0.5, stop - 0.5, len(_ORDER) - 0.5, -0.5),
            )
            axes.set_xlim(start - 0.5, start + min(_POSITIONS, last - first) - 0.5)
            marked = [place for place in range(start, stop) if wild_type[place] in _ORDER]
            axes.plot(
                marked, [_ORDER.index(wild_type[place]) for place in marked], ".", color=INK, ms=3
            )
            axes.set_yticks(range(len(_ORDER)), list(_ORDER), fontsize=5.5)
            ticks = [place for place in range(start, stop) if (place + offset) % 10 == 0]
            axes.set_xticks(ticks, [str(place + offset) for place in ticks])
        panels[-1].set_xlabel("position; dots mark the wild type")
        figure.colorbar(image, ax=list(panels), label="score (higher: fitter)", aspect=40)

    svg = render("heat_map", 9.5, 0.7 + 2.0 * len(starts), draw)
    path.write_text(svg, encoding="utf-8")
