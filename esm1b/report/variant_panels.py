"""Panels of the figure of mutations: the correlation in each assay, and epistasis."""

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes

from esm1b.evaluation.results import VARIANTS_FILE, Evaluation
from esm1b.plotting import INK, LINE, OTHER, SOFT, TRAINED
from esm1b.report.catalogue import SUBSET_NAMES, model_name

_SHOWN: Final = {"trained": TRAINED, "site_independent": INK, "blosum62": INK, "untrained": OTHER}
_SUBSETS: Final = {"assays": TRAINED, "test": TRAINED, "unseen": OTHER}
_MOST_POINTS: Final = 1500  # of a subset


def variant_panels(evaluation: Evaluation) -> list[Callable[[Axes, Evaluation], None]]:
    """Return what draws the panels that the evaluation has data for."""
    has_effects = bool(evaluation.models("spearman_epistasis")) and evaluation.directory is not None
    assays = [_draw_assays] if len(evaluation.content["assays"]) > 1 else []
    return [*assays, *([_draw_epistasis] if has_effects else [])]


def _draw_assays(axes: Axes, evaluation: Evaluation) -> None:
    """Draw the correlations in all assays, sorted by the trained model's."""
    rows = [entry["metrics"]["spearman"] for entry in evaluation.content["assays"]]
    rows = sorted((row for row in rows if row["trained"] is not None), key=lambda r: r["trained"])
    place = np.arange(1, len(rows) + 1)
    for model, color in _SHOWN.items():
        values = [row.get(model) for row in rows]
        if any(value is not None for value in values):
            is_trained = model == "trained"
            axes.plot(
                place,
                [np.nan if value is None else value for value in values],
                "o" if is_trained or model == "blosum62" else "x",
                color=color,
                markersize=4 if is_trained else 3,
                alpha=1 if is_trained else 0.6,
                markerfacecolor=color if is_trained else "none",
                label=model_name(model),
            )
    axes.axhline(0, color=LINE, linewidth=0.8)
    axes.set_xlabel("assays, sorted")
    axes.locator_params(axis="x", integer=True)
    axes.set_title("In each assay")
    axes.legend(fontsize=7, handletextpad=0.1, borderaxespad=0.2)


def _draw_epistasis(axes: Axes, evaluation: Evaluation) -> None:
    """Draw measured against predicted epistasis of the double mutants that have both."""
    assert evaluation.directory is not None  # it has no panel without
    names = ["assay", "epistasis", "epistasis_trained"]
    table = pq.read_table(evaluation.directory / VARIANTS_FILE, columns=names)
    assay, measured, predicted = (table[name].to_numpy(zero_copy_only=False) for name in names)
    kinds = {each["name"]: each["kind"] or "assays" for each in evaluation.content["assays"]}
    subset = np.array([kinds[name] for name in assay])
    for name, color in _SUBSETS.items():
        chosen = np.flatnonzero((subset == name) & np.isfinite(measured.astype(float)))
        if len(chosen):
            shown = chosen[:: -(-len(chosen) // _MOST_POINTS)]
            number = evaluation.metric("spearman_epistasis", "trained", name)
            value = "" if number is None or number.value is None else f": {number.value:.2f}"
            axes.plot(
                measured[shown],
                predicted[shown],
                ".",
                color=color,
                markersize=3,
                alpha=0.6,
                zorder=2 if color == TRAINED else 1.5,  # those never seen lie below
                label=f"{SUBSET_NAMES[name]}{value}",
            )
    if "site_independent" in evaluation.models("spearman"):  # both are exact in nats
        axes.axline((0, 0), slope=1, color=SOFT, linewidth=0.8, linestyle=":")
    axes.set_xlabel("measured: double mutant less both single ones")
    axes.set_ylabel("predicted, nats")
    axes.set_title("Epistasis")
    axes.legend(fontsize=7, handletextpad=0.1, borderaxespad=0.2)
