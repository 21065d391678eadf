"""Contact precisions as metrics, comparisons and tables."""

from itertools import product
from typing import Any, Final

import numpy as np
import pyarrow as pa

from esm1b.evaluation.contacts.precision import PRECISIONS
from esm1b.evaluation.contacts.scores import ContactScores
from esm1b.evaluation.structures.summary import ProteinSummary

# The other precisions are reported with their intervals, without a comparison.
_COMPARED: Final = ("precision_at_contacts", "precision_at_L_long")


def summarise_contacts(
    scores: ContactScores, unit: str, seed: int
) -> tuple[dict[str, Any], pa.Table]:
    """Return `metrics` and `comparisons`, and the table with a row per protein and model.

    Baselines are compared on the same proteins; test is compared with unseen too. A precision that
    is not defined is null in the table.
    """
    summary = ProteinSummary(proteins=scores.proteins, unit=unit, seed=seed)
    values, failures = scores.precisions, scores.failures
    metrics = [
        summary.metric(name, model, subset, values[model][name], failed=failures.get(model))
        for name, subset, model in product(PRECISIONS, summary.subsets, values)
    ]
    others = [model for model in values if model != "trained"]
    compared: list[tuple[str, str, str, str | None]] = [
        (*each, None) for each in product(_COMPARED, summary.subsets, others)
    ]
    if len(summary.subsets) == 2:
        compared += [(name, "test", "trained", "unseen") for name in _COMPARED]
    comparisons = [
        summary.comparison(
            name,
            subset,
            against,
            {model: precisions[name] for model, precisions in values.items()},
            against_subset=against_subset,
            failed=failures.get("trained") or failures.get(against),
        )
        for name, subset, against, against_subset in compared
    ]
    stacked = {
        name: np.concatenate([values[model][name] for model in values]) for name in PRECISIONS
    }
    table = {
        **summary.columns(list(values)),
        **{name: pa.array(column, from_pandas=True) for name, column in stacked.items()},
    }
    return {"metrics": metrics, "comparisons": comparisons}, pa.table(table)


def map_table(scores: ContactScores) -> pa.Table:
    """Return a row per drawn protein; `probability` is its map, row by row."""
    drawn = [protein for protein in scores.proteins if protein.id in scores.maps]
    return pa.table(
        {
            "id": pa.array([protein.id for protein in drawn], pa.string()),
            "kind": pa.array([protein.kind for protein in drawn], pa.string()),
            "length": pa.array([protein.residues.size for protein in drawn], pa.int32()),
            "observed": pa.array(
                [protein.observed.tolist() for protein in drawn], pa.list_(pa.bool_())
            ),
            "contact_i": pa.array([protein.contacts[0] for protein in drawn], pa.list_(pa.int32())),
            "contact_j": pa.array([protein.contacts[1] for protein in drawn], pa.list_(pa.int32())),
            "probability": pa.array(
                [scores.maps[protein.id].ravel() for protein in drawn], pa.list_(pa.float32())
            ),
        }
    )
