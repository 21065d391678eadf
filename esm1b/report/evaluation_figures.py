"""The figures of what came out: perplexity, contacts and secondary structure."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from esm1b.evaluation.measured import MODELS, Evaluation, Number
from esm1b.evaluation.structures.separation import pair_mask
from esm1b.plotting import INK, LINE, OTHER, PAPER, SOFT, TRAINED, render

_WIDTH: Final = 8.6  # inches
_SUBSETS: Final = {"test": "test", "unseen": "never seen"}
_PROBABILITY: Final = (
    "#2a86a6"  # readable on a light and on a dark page, as pixels are not recoloured
)
_NOT_COUNTED: Final = (0.5, 0.5, 0.5, 0.13)
_STATES: Final = {"H": "helix", "E": "strand", "C": "coil"}


def perplexity_figure(evaluation: Evaluation) -> str:
    """Return the perplexity of every model with its interval as SVG."""
    name, subset = "perplexity_mask_positions_20", "validation"
    models = evaluation.models(name)
    numbers = [evaluation.metric(name, model, subset) for model in models]
    bounds = {
        model: number.value
        for model, number in zip(models, numbers, strict=True)
        if number is not None and number.value is not None
    }

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if "exact_optimum" in bounds and "site_independent" in bounds:
            axes.axvspan(
                bounds["exact_optimum"],
                bounds["site_independent"],
                color=LINE,
                alpha=0.45,
                linewidth=0,
                label="the gap: what couplings can tell",
            )
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        axes.set_xscale("log")
        _draw_intervals(axes, models, [("", INK, numbers)], decimals=2)
        low, high = axes.get_xlim()
        ticks = [tick for tick in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25) if low <= tick <= high]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.set_xlabel("perplexity at <mask> positions, over the 20 amino acids; lower is better")

    return render("perplexity", _WIDTH, 0.95 + 0.3 * len(models), draw)


def contact_figure(evaluation: Evaluation, maps: Sequence[Mapping[str, Any]]) -> str:
    """Return the precision of every model, and contact maps, as SVG.

    Args:
        evaluation: of contacts.
        maps: rows of `contact_maps.parquet`; with none, only the precisions are drawn.
    """
    name = "precision_at_contacts"
    models = evaluation.models(name)
    series = [
        (_SUBSETS[subset], color, [evaluation.metric(name, model, subset) for model in models])
        for subset, color in (("test", INK), ("unseen", OTHER))
        if subset in evaluation.subsets(name)
    ]
    columns = 3
    rows = -(-len(maps) // columns)
    heights = [0.9 + 0.34 * len(models), *([3.0 * rows + 0.3] if maps else [])]

    def draw(figure: Figure) -> None:
        # Two parts, each with its own margins: the names of the models are long.
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
        axes = parts[0, 0].subplots()
        _draw_intervals(axes, models, series, decimals=3)
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.set_title("Precision of as many top pairs as there are contacts")
        if maps:
            below = parts[1, 0]
            panels = below.subplots(rows, columns, squeeze=False).ravel()
            highest = max(_highest_probability(row) for row in maps)
            for panel, row in zip_longest(panels, maps):
                if row is None:
                    panel.axis("off")
                else:
                    _draw_map(panel, row, highest)
            _draw_map_key(below, highest)

    return render("contacts", _WIDTH, sum(heights), draw)


def structure_figure(evaluation: Evaluation) -> str:
    """Return the accuracy of every model and the confusions as SVG."""
    name = "three_state_accuracy"
    models, subsets = evaluation.models(name), evaluation.subsets(name)
    colors = {"test": INK, "unseen": OTHER}
    series = [
        (_SUBSETS[subset], color, [evaluation.metric(name, model, subset) for model in models])
        for subset, color in colors.items()
        if subset in subsets
    ]
    pooled = evaluation.content["confusion"][subsets[-1]]

    def draw(figure: Figure) -> None:
        accuracy, trained, window = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
        _draw_intervals(accuracy, models, series, decimals=3)
        accuracy.set_title("Accuracy")
        for axes, model in ((trained, "trained"), (window, "one_hot_window")):
            _draw_confusion(axes, pooled[model]["states"], np.array(pooled[model]["counts"]))
            axes.set_title(MODELS[model].capitalize())

    return render("secondary_structure", _WIDTH, 3.1, draw)


def _draw_intervals(
    axes: Axes,
    models: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[Number | None]]],
    *,
    decimals: int,
) -> None:
    """Draw a row per model: a dot and a 95 % interval for each series, the value beside it."""
    spread = 0.34 if len(series) > 1 else 0.0
    for place, (_, color, numbers) in enumerate(series):
        offset = spread * (place - (len(series) - 1) / 2)
        for row, (model, number) in enumerate(zip(models, numbers, strict=True)):
            if number is not None:
                shown = TRAINED if model == "trained" and place == 0 else color
                fill = shown if place == 0 else PAPER
                _draw_interval(axes, row + offset, number, shown, fill, decimals)
    axes.set_yticks(range(len(models)), [MODELS[model] for model in models])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.12)
    if len(series) > 1:
        markers = [
            Line2D([], [], color=color, marker="o", linestyle="none", markersize=5.5, label=label)
            for label, color, _ in series
        ]
        for marker in markers[1:]:
            marker.set_markerfacecolor(PAPER)
        axes.legend(
            handles=markers,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(markers),
            handletextpad=0.1,
            borderaxespad=0,
        )


def _draw_interval(
    axes: Axes, y: float, number: Number, color: str, fill: str, decimals: int
) -> None:
    text: dict[str, Any] = {"va": "center", "fontsize": 8, "color": SOFT}
    if number.value is None:
        axes.annotate("failed", (0.01, y), xycoords=("axes fraction", "data"), **text)
        return
    right = number.value
    if number.low is not None and number.high is not None:
        right = number.high
        axes.plot([number.low, right], [y, y], color=color, linewidth=1.6, alpha=0.55)
    axes.plot([number.value], [y], "o", color=color, markerfacecolor=fill, markersize=5.5)
    label = f"{number.value:.{decimals}f}"
    axes.annotate(label, (right, y), xytext=(6, 0), textcoords="offset points", **text)


def _draw_map(axes: Axes, row: Mapping[str, Any], highest: float) -> None:
    """Draw one protein: probabilities above the diagonal, true contacts below, grey not counted."""
    length = row["length"]
    probability = np.array(row["probability"]).reshape(length, length)
    counted = pair_mask(np.array(row["observed"]))
    image = np.zeros((length, length, 4))
    image[:] = _NOT_COUNTED
    image[counted | counted.T] = (0, 0, 0, 0)
    image[counted] = [
        (*to_rgb(_PROBABILITY), opacity)
        for opacity in np.clip(probability[counted] / highest, 0, 1)
    ]
    image[row["contact_j"], row["contact_i"]] = (*to_rgb(OTHER), 1)
    axes.imshow(image, interpolation="none", extent=(0.5, length + 0.5, length + 0.5, 0.5))
    axes.plot([0.5, length + 0.5], [0.5, length + 0.5], color=LINE, linewidth=0.8)
    axes.set_title(f"{row['id']} ({_SUBSETS[row['kind']]})", fontsize=8.5, fontweight="normal")
    axes.grid(visible=False)
    axes.locator_params(nbins=4, integer=True)
    axes.spines[["top", "right"]].set_visible(True)


def _draw_map_key(figure: SubFigure, highest: float) -> None:
    patches = [
        Patch(facecolor=_PROBABILITY, label=f"predicted, full colour at probability {highest:.2g}"),
        Patch(facecolor=OTHER, label="true contact"),
        Patch(facecolor=_NOT_COUNTED, label="not counted"),
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), handlelength=1)


def _highest_probability(row: Mapping[str, Any]) -> float:
    counted = pair_mask(np.array(row["observed"]))
    probability = np.array(row["probability"]).reshape(counted.shape)
    return float(probability[counted].max(initial=1e-6))


def _draw_confusion(axes: Axes, states: Sequence[str], counts: NDArray[np.float64]) -> None:
    """Draw shares of each true state, a row each."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for true, predicted in np.ndindex(*shares.shape):
        share = shares[true, predicted]
        corner = (predicted - 0.5, true - 0.5)
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=TRAINED, alpha=float(share), edgecolor="none")
        )
        axes.text(
            predicted,
            true,
            f"{share:.2f}",
            ha="center",
            va="center",
            color=PAPER if share > 0.55 else INK,
        )
    names = [_STATES[state] for state in states]
    axes.set(xlim=(-0.5, 2.5), ylim=(2.5, -0.5), aspect="equal", anchor="N")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    axes.tick_params(length=0)
