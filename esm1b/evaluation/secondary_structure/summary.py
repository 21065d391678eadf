"""Accuracy, recall and confusion of secondary structure, from counts per protein."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.evaluation.bootstrap import bootstrap_difference, bootstrap_mean, bootstrap_ratio
from esm1b.evaluation.results import Comparison, Metric
from esm1b.evaluation.secondary_structure.data import STATES
from esm1b.evaluation.structures.proteins import Protein, unit_of

Confusions = Mapping[str, NDArray[np.float64]]
"""By model: counts `[proteins, true state, predicted state]`."""


def subsets_of(proteins: Sequence[Protein]) -> dict[str, NDArray[np.bool_]]:
    """Return which proteins are in each subset that is not empty."""
    kinds = np.array([protein.kind for protein in proteins])
    subsets = {name: kinds == name for name in ("test", "unseen") if (kinds == name).any()}
    if len(subsets) == 2:
        subsets["not_fitted"] = np.ones(len(proteins), dtype=bool)
    return subsets


def metrics_of(
    confusions: Confusions,
    proteins: Sequence[Protein],
    subsets: Mapping[str, NDArray[np.bool_]],
    seed: int,
) -> list[Metric]:
    """Return accuracy per protein and per residue and the recall of each state, by subset."""
    groups = np.array([protein.group for protein in proteins], dtype=object)
    metrics = []
    for subset, chosen in subsets.items():
        for model, everything in confusions.items():
            confusion, names = everything[chosen], groups[chosen].tolist()
            correct = np.trace(confusion, axis1=1, axis2=2)
            intervals = {
                "three_state_accuracy": bootstrap_mean(_accuracies(confusion), names, seed=seed),
                "three_state_accuracy_per_residue": bootstrap_ratio(
                    correct, confusion.sum(axis=(1, 2)), names, seed=seed
                ),
                **{
                    f"recall_{state}": bootstrap_ratio(
                        confusion[:, index, index],
                        confusion[:, index].sum(axis=1),
                        names,
                        seed=seed,
                    )
                    for index, state in enumerate(STATES)
                },
            }
            metrics += [
                Metric(
                    name=name,
                    model=model,
                    subset=subset,
                    interval=interval,
                    unit="fraction",
                    n_unit=unit_of(proteins),
                )
                for name, interval in intervals.items()
            ]
    return metrics


def comparisons_of(
    confusions: Confusions,
    proteins: Sequence[Protein],
    subsets: Mapping[str, NDArray[np.bool_]],
    seed: int,
) -> list[Comparison]:
    """Return the trained network's accuracy less every other model's, paired by protein."""
    groups = np.array([protein.group for protein in proteins], dtype=object)
    accuracies = {model: _accuracies(confusion) for model, confusion in confusions.items()}
    return [
        Comparison(
            name="three_state_accuracy",
            model="trained",
            subset=subset,
            against=against,
            against_subset=subset,
            interval=bootstrap_difference(
                accuracies["trained"][chosen],
                accuracies[against][chosen],
                groups[chosen].tolist(),
                seed=seed,
            ),
            n_unit=unit_of(proteins),
        )
        for subset, chosen in subsets.items()
        for against in confusions
        if against != "trained"
    ]


def confusion_as_json(
    confusions: Confusions, subsets: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    """Return the pooled counts by subset and model: rows are true states, columns predicted."""
    return {
        subset: {
            model: {"states": STATES, "counts": confusion[chosen].sum(axis=0).tolist()}
            for model, confusion in confusions.items()
        }
        for subset, chosen in subsets.items()
    }


def protein_table(confusions: Confusions, proteins: Sequence[Protein]) -> pa.Table:
    """Return a row per protein and model."""
    models = list(confusions)
    stacked = np.concatenate([confusions[model] for model in models])
    return pa.table(
        {
            "id": [protein.id for protein in proteins] * len(models),
            "group": [protein.group for protein in proteins] * len(models),
            "kind": [protein.kind for protein in proteins] * len(models),
            "length": pa.array(
                [protein.residues.size for protein in proteins] * len(models), pa.int32()
            ),
            "model": [model for model in models for _ in proteins],
            "residues": pa.array(stacked.sum(axis=(1, 2)).round().astype(np.int32)),
            "correct": pa.array(np.trace(stacked, axis1=1, axis2=2)),
            "three_state_accuracy": pa.array(_accuracies(stacked), from_pandas=True),
        }
    )


def _accuracies(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the accuracy of each protein `[proteins]`; NaN without a known label."""
    counted = confusion.sum(axis=(1, 2))
    correct = np.trace(confusion, axis1=1, axis2=2)
    accuracies = np.full(len(counted), np.nan)
    np.divide(correct, counted, out=accuracies, where=counted > 0)
    return accuracies
