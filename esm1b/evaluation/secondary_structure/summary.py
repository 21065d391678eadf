"""Accuracy, recall and confusion of secondary structure, from counts per protein."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.alphabet import SECONDARY_STRUCTURE
from esm1b.evaluation.structures.proteins import Protein
from esm1b.evaluation.structures.summary import ProteinSummary

Confusions = Mapping[str, NDArray[np.float64]]
"""By model, the trained one first: counts `[proteins, true state, predicted state]`."""


def summarise_structure(
    confusions: Confusions, proteins: Sequence[Protein], unit: str, seed: int
) -> tuple[dict[str, Any], pa.Table]:
    """Return the results by subset, and the table with a row per protein and model.

    The results are `metrics`, `comparisons` (the trained network's accuracy minus every other
    model's) and `confusion`, the counts of all proteins: rows are true states, columns predicted.
    """
    models, fractions = list(confusions), {m: _fractions(c) for m, c in confusions.items()}
    names = list(fractions["trained"])
    summary = ProteinSummary(
        proteins=proteins,
        values={name: {model: fractions[model][name] for model in models} for name in names},
        unit=unit,
        seed=seed,
    )
    if len(summary.subsets) == 2:
        summary.subsets["not_fitted"] = np.ones(len(proteins), dtype=bool)
    results = {
        "metrics": [
            summary.metric(name, model, subset)
            for subset, model, name in product(summary.subsets, models, names)
        ],
        "comparisons": [
            summary.comparison("three_state_accuracy", *each)
            for each in product(summary.subsets, models[1:])
        ],
        "confusion": {
            subset: {
                model: {
                    "states": SECONDARY_STRUCTURE,
                    "counts": confusion[chosen].sum(axis=0).tolist(),
                }
                for model, confusion in confusions.items()
            }
            for subset, chosen in summary.subsets.items()
        },
    }
    stacked = np.concatenate(list(confusions.values()))
    table = {
        **summary.columns(models),
        "residues": pa.array(stacked.sum(axis=(1, 2)).round().astype(np.int32)),
        "correct": pa.array(np.trace(stacked, axis1=1, axis2=2)),
        "three_state_accuracy": pa.array(_accuracies(stacked), from_pandas=True),
    }
    return results, pa.table(table)


def _fractions(confusion: NDArray[np.float64]) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """Return by metric the accuracy of each protein, or its correct and all residues to pool."""
    return {
        "three_state_accuracy": (_accuracies(confusion),),
        "three_state_accuracy_per_residue": (
            np.trace(confusion, axis1=1, axis2=2),
            confusion.sum(axis=(1, 2)),
        ),
        **{
            f"recall_{state}": (confusion[:, index, index], confusion[:, index].sum(axis=1))
            for index, state in enumerate(SECONDARY_STRUCTURE)
        },
    }


def _accuracies(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the accuracy of each protein `[proteins]`; NaN without a known label."""
    counted = confusion.sum(axis=(1, 2))
    correct = np.trace(confusion, axis1=1, axis2=2)
    accuracies = np.full(len(counted), np.nan)
    np.divide(correct, counted, out=accuracies, where=counted > 0)
    return accuracies
