"""Contact precisions as metrics, comparisons and tables."""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.evaluation.bootstrap import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_unpaired_difference,
)
from esm1b.evaluation.contacts.precision import PRECISIONS
from esm1b.evaluation.contacts.scores import BASELINES, ContactScores
from esm1b.evaluation.results import Comparison, Metric

# The other precisions are reported with their intervals, without a comparison.
_COMPARED: Final = ("precision_at_contacts", "precision_at_L_long")


def summarise_contacts(
    scores: ContactScores, unit: str, seed: int
) -> tuple[list[Metric], list[Comparison]]:
    """Return every precision of every model by subset, and the trained network against the others.

    `unit` names what a group is. Baselines are compared on the same proteins; test is compared with
    unseen too, as two independent samples.
    """
    kinds = np.array([protein.kind for protein in scores.proteins])
    groups = np.array([protein.group for protein in scores.proteins], dtype=object)
    subsets = [subset for subset in ("test", "unseen") if (kinds == subset).any()]

    def values(model: str, name: str, subset: str) -> NDArray[np.float64]:
        chosen: NDArray[np.float64] = scores.precisions[model][name][kinds == subset]
        return chosen

    metrics = [
        Metric(
            name=name,
            model=model,
            subset=subset,
            interval=bootstrap_mean(
                values(model, name, subset), groups[kinds == subset], seed=seed
            ),
            unit="fraction",
            n_unit=unit,
            failed=scores.failed(model),
        )
        for name in PRECISIONS
        for subset in subsets
        for model in ("trained", *BASELINES)
    ]

    def comparison(
        name: str, subset: str, against: str, against_subset: str, interval: Interval
    ) -> Comparison:
        return Comparison(
            name=name,
            model="trained",
            subset=subset,
            against=against,
            against_subset=against_subset,
            interval=interval,
            n_unit=unit,
            failed=scores.failed("trained") or scores.failed(against),
        )

    comparisons = [
        comparison(
            name,
            subset,
            against,
            subset,
            bootstrap_difference(
                values("trained", name, subset),
                values(against, name, subset),
                groups[kinds == subset],
                seed=seed,
            ),
        )
        for name in _COMPARED
        for subset in subsets
        for against in BASELINES
    ]
    if len(subsets) == 2:
        comparisons += [
            comparison(
                name,
                "test",
                "trained",
                "unseen",
                bootstrap_unpaired_difference(
                    values("trained", name, "test"),
                    groups[kinds == "test"],
                    values("trained", name, "unseen"),
                    groups[kinds == "unseen"],
                    seed=seed,
                ),
            )
            for name in _COMPARED
        ]
    return metrics, comparisons


def protein_table(scores: ContactScores) -> pa.Table:
    """Return a row per protein and model; a precision that is not defined is null."""
    models = list(scores.precisions)
    return pa.table(
        {
            "id": [protein.id for protein in scores.proteins] * len(models),
            "group": [protein.group for protein in scores.proteins] * len(models),
            "kind": [protein.kind for protein in scores.proteins] * len(models),
            "length": pa.array(
                [protein.residues.size for protein in scores.proteins] * len(models), pa.int32()
            ),
            "model": [model for model in models for _ in scores.proteins],
            **{
                name: pa.array(
                    np.concatenate([scores.precisions[model][name] for model in models]),
                    from_pandas=True,  # NaN becomes null
                )
                for name in PRECISIONS
            },
        }
    )


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
