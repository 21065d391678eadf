"""Accuracy, recall and confusion of secondary structure, from counts per protein."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.alphabet import SECONDARY_STRUCTURE
from esm1b.evaluation.structures.proteins import Protein, protein_columns, subsets_of
from esm1b.evaluation.summary import Summary

Confusions = Mapping[str, NDArray[np.float64]]
"""By model, the trained one first: counts `[proteins, true state, predicted state]`."""


def summarise_structure(
    confusions: Confusions, proteins: Sequence[Protein], unit: str, seed: int
) -> tuple[dict[str, Any], pa.Table]:
    """Return the results by subset, and the table with a row per protein and model.

    The results are `metrics`, `comparisons` (the trained network's accuracy minus every other
    model's) and `confusion`, the counts of all proteins: rows are true states, columns predicted.
    """
    models = list(confusions)
    values = {model: _fractions(confusion) for model, confusion in confusions.items()}
    names = list(values["trained"])
    subsets = subsets_of(proteins)
    if len(subsets) == 2:
        subsets["not_fitted"] = np.ones(len(proteins), dtype=bool)
    summary = Summary(
        values={name: {model: values[model][name] for model in models} for name in names},
        groups=np.array([protein.group for protein in proteins], dtype=object),
        subsets=subsets,
        unit=unit,
        seed=seed,
    )
    results = {
        "metrics": [
            summary.metric(name, model, subset)
            for subset, model, name in product(subsets, models, names)
        ],
        "comparisons": [
            summary.comparison("three_state_accuracy", *each)
            for each in product(subsets, models[1:])
        ],
        "confusion": {
            subset: {
                model: {
                    "states": SECONDARY_STRUCTURE,
                    "counts": confusion[chosen].sum(axis=0).tolist(),
                }
                for model, confusion in confusions.items()
            }
            for subset, chosen in subsets.items()
        },
    }
    stacked = _fractions(np.concatenate(list(confusions.values())))
    (accuracies,) = stacked["three_state_accuracy"]
    correct, residues = stacked["three_state_accuracy_per_residue"]
    table = {
        **protein_columns(proteins, models),
        "residues": pa.array(residues.round().astype(np.int32)),
        "correct": pa.array(correct),
        "three_state_accuracy": pa.array(accuracies, from_pandas=True),
    }
    return results, pa.table(table)


def _fractions(confusion: NDArray[np.float64]) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """Return by metric the accuracy of each protein, or its correct and all residues to pool."""
    correct, residues = np.trace(confusion, axis1=1, axis2=2), confusion.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        accuracies = correct / residues  # NaN without a known label
    return {
        "three_state_accuracy": (accuracies,),
        "three_state_accuracy_per_residue": (correct, residues),
        **{
            f"recall_{state}": (confusion[:, index, index], confusion[:, index].sum(axis=1))
            for index, state in enumerate(SECONDARY_STRUCTURE)
        },
    }
