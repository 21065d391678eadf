"""The figures of the evaluations: the main metric of every model, and what else each one shows."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from esm1b.evaluation.results import MAPS_FILE, Evaluation, Number
from esm1b.evaluation.structures.geometry import pair_mask
from esm1b.plotting import INK, LINE, OTHER, PAPER, SOFT, TRAINED, WIDTH, render
from esm1b.report.catalogue import FACTS, MODEL_NAMES, STATE_NAMES, SUBSET_NAMES, model_name
from esm1b.report.variant_panels import variant_panels

# Readable on a light and on a dark page, since pixels are not recoloured.
_PROBABILITY: Final = "#2a86a6"
_NOT_COUNTED: Final = (0.5, 0.5, 0.5, 0.13)
_COLUMNS: Final = 3  # of contact maps


def evaluation_figure(kind: str, evaluation: Evaluation) -> str:
    """Return the main metric of every model with its interval as SVG, and what belongs to it.

    That is, with perplexities, the gap that couplings can close; with accuracies of structure, the
    confusions; with precisions of contacts, the maps beside the evaluation; with effects of
    mutations, the assays and epistasis.
    """
    models = len(evaluation.models(FACTS[kind].name))
    if kind == "perplexity":
        height = 0.95 + 0.3 * models
        return render(kind, WIDTH, height, lambda figure: _draw_perplexity(figure, evaluation))
    if kind == "secondary_structure":
        return render(kind, WIDTH, 3.1, lambda figure: _draw_structure(figure, evaluation))
    maps: list[dict[str, Any]] = []
    if kind == "contacts" and evaluation.directory is not None:
        maps = pq.read_table(evaluation.directory / MAPS_FILE).to_pylist()
    panels = variant_panels(evaluation) if kind == "variants" else []
    heights = [0.9 + 0.34 * models]
    if maps or panels:
        heights.append(3.0 * -(-len(maps or panels) // _COLUMNS) + 0.3)

    def draw(figure: Figure) -> None:
        # Two parts, each with its own margins: the names of the models are long.
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
        axes = parts[0, 0].subplots()
        _draw_metric(axes, kind, evaluation)
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.set_title(FACTS[kind].label)
        if maps:
            _draw_maps(parts[1, 0], maps)
        if panels:
            row = parts[1, 0].subplots(1, len(panels), squeeze=False)[0]
            for panel, axes in zip(panels, row, strict=True):
                panel(axes, evaluation)

    return render(kind, WIDTH, sum(heights), draw)


def _draw_perplexity(figure: Figure, evaluation: Evaluation) -> None:
    facts = FACTS["perplexity"]
    axes = figure.subplots()
    ends = [
        number.value
        for model in ("exact_optimum", "site_independent")
        if (number := evaluation.metric(facts.name, model, "validation")) and number.value
    ]
    if len(ends) == 2:
        label = "the gap: what couplings can tell"
        axes.axvspan(*ends, color=LINE, alpha=0.45, linewidth=0, label=label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    axes.set_xscale("log")
    _draw_metric(axes, "perplexity", evaluation)
    low, high = axes.get_xlim()
    ticks = [tick for tick in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25) if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.set_xlabel(facts.label)


def _draw_structure(figure: Figure, evaluation: Evaluation) -> None:
    facts = FACTS["secondary_structure"]
    pooled = evaluation.content["confusion"][evaluation.subsets(facts.name)[-1]]
    accuracy, *others = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _draw_metric(accuracy, "secondary_structure", evaluation)
    accuracy.set_title(facts.label)
    for axes, model in zip(others, ("trained", "one_hot_window"), strict=True):
        _draw_confusion(axes, pooled[model]["states"], np.array(pooled[model]["counts"]))
        axes.set_title(MODEL_NAMES[model].capitalize())


def _draw_metric(axes: Axes, kind: str, evaluation: Evaluation) -> None:
    """Draw a row per model: a dot and a 95 % interval for each subset, the value beside it."""
    facts = FACTS[kind]
    models = evaluation.models(facts.name)
    subsets = [each for each in evaluation.subsets(facts.name) if each != "not_fitted"]
    spread = 0.34 if len(subsets) > 1 else 0.0
    markers = []
    for place, subset in enumerate(subsets):
        offset = spread * (place - (len(subsets) - 1) / 2)
        color = OTHER if subset == "unseen" else INK
        for row, model in enumerate(models):
            ink = TRAINED if model == "trained" and place == 0 else color
            number = evaluation.metric(facts.name, model, subset)
            if number is not None:
                fill = PAPER if place else ink
                _draw_interval(axes, row + offset, number, ink, fill, facts.decimals)
        marker = Line2D([], [], color=color, marker="o", linestyle="none", markersize=5.5)
        marker.set(markerfacecolor=PAPER if place else color, label=SUBSET_NAMES[subset])
        markers.append(marker)
    axes.set_yticks(range(len(models)), [model_name(model) for model in models])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.12)
    if len(markers) > 1:
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


def _draw_maps(figure: SubFigure, maps: Sequence[Mapping[str, Any]]) -> None:
    """Draw contact maps on one scale, a panel each, and their key."""
    counted = [pair_mask(np.array(row["observed"])) for row in maps]
    squares = [np.array(row["probability"]).reshape(row["length"], row["length"]) for row in maps]
    highest = max(
        float(square[mask].max(initial=1e-6)) for square, mask in zip(squares, counted, strict=True)
    )
    panels = figure.subplots(-(-len(maps) // _COLUMNS), _COLUMNS, squeeze=False).ravel()
    for axes, row, mask, square in zip_longest(panels, maps, counted, squares):
        if row is None:
            axes.axis("off")
        else:
            _draw_map(axes, row, mask, square / highest)
    patches = [
        Patch(facecolor=_PROBABILITY, label=f"predicted, full colour at probability {highest:.2g}"),
        Patch(facecolor=OTHER, label="true contact"),
        Patch(facecolor=_NOT_COUNTED, label="not counted"),
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), handlelength=1)


def _draw_map(
    axes: Axes, row: Mapping[str, Any], counted: NDArray[np.bool_], shares: NDArray[np.float64]
) -> None:
    """Draw one protein: probabilities above the diagonal, true contacts below, grey not counted."""
    length = row["length"]
    image = np.zeros((length, length, 4))
    image[:] = _NOT_COUNTED
    image[counted | counted.T] = (0, 0, 0, 0)
    image[counted] = [(*to_rgb(_PROBABILITY), share) for share in np.clip(shares[counted], 0, 1)]
    image[row["contact_j"], row["contact_i"]] = (*to_rgb(OTHER), 1)
    axes.imshow(image, interpolation="none", extent=(0.5, length + 0.5, length + 0.5, 0.5))
    axes.plot([0.5, length + 0.5], [0.5, length + 0.5], color=LINE, linewidth=0.8)
    title = f"{row['id']} ({SUBSET_NAMES[row['kind']]})"
    axes.set_title(title, fontsize=8.5, fontweight="normal")
    axes.grid(visible=False)
    axes.locator_params(nbins=4, integer=True)
    axes.spines[["top", "right"]].set_visible(True)


def _draw_confusion(axes: Axes, states: Sequence[str], counts: NDArray[np.float64]) -> None:
    """Draw shares of each true state, a row each."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for true, predicted in np.ndindex(*shares.shape):
        share = shares[true, predicted]
        square = Rectangle((predicted - 0.5, true - 0.5), 1, 1, facecolor=TRAINED)
        square.set(alpha=float(share), edgecolor="none")
        axes.add_patch(square)
        color = PAPER if share > 0.55 else INK
        axes.text(predicted, true, f"{share:.2f}", ha="center", va="center", color=color)
    names = [STATE_NAMES[state] for state in states]
    axes.set(xlim=(-0.5, 2.5), ylim=(2.5, -0.5), aspect="equal", anchor="N")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    axes.tick_params(length=0)
