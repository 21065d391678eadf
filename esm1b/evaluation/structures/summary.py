"""Values per protein as metrics and comparisons by subset, and the table of the proteins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.evaluation.bootstrap import (
    Values,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
)
from esm1b.evaluation.results import result_entry
from esm1b.evaluation.structures.proteins import Protein


@dataclass(frozen=True, kw_only=True, eq=False)
class ProteinSummary:
    """Turns values of each protein, `[proteins]` in the order of `proteins`, into results.

    `values` is by metric and model: one array for a mean, two for a ratio of sums. `unit` is the
    word for a group, over which the bootstrap with `seed` resamples; `failures` holds by model the
    reason why it has no values.
    """

    proteins: Sequence[Protein]
    values: Mapping[str, Mapping[str, tuple[Values, ...]]]
    unit: str
    seed: int
    failures: Mapping[str, str | None] = field(default_factory=dict)

    @cached_property
    def subsets(self) -> dict[str, NDArray[np.bool_]]:
        """The proteins of kind test and those of kind unseen, `[proteins]`, where there are any."""
        kinds = np.array([protein.kind for protein in self.proteins])
        return {name: kinds == name for name in ("test", "unseen") if (kinds == name).any()}

    @cached_property
    def groups(self) -> NDArray[np.object_]:
        """The group of each protein, `[proteins]`."""
        return np.array([protein.group for protein in self.proteins], dtype=object)

    def metric(self, name: str, model: str, subset: str) -> dict[str, Any]:
        """Return the metric `name` of a model on a subset."""
        chosen = self.subsets[subset]
        values, groups = [each[chosen] for each in self.values[name][model]], self.groups[chosen]
        if len(values) == 1:
            interval = bootstrap_mean(values[0], groups, seed=self.seed)
        else:
            interval = bootstrap_ratio(values[0], values[1], groups, seed=self.seed)
        return result_entry(
            {"name": name, "model": model, "subset": subset},
            interval,
            unit="fraction",
            n_unit=self.unit,
            failed=self.failures.get(model),
        )

    def comparison(
        self,
        name: str,
        subset: str,
        against: str,
        against_subset: str | None = None,
        *,
        model: str = "trained",
    ) -> dict[str, Any]:
        """Return the mean of `model` on `subset` minus that of another model.

        Paired by protein, or with `against_subset` two independent samples.
        """
        (ours,), (theirs,) = self.values[name][model], self.values[name][against]
        chosen = self.subsets[subset]
        if against_subset is None:
            groups = self.groups[chosen]
            interval = bootstrap_mean((ours - theirs)[chosen], groups, seed=self.seed)
        else:
            others = self.subsets[against_subset]
            interval = bootstrap_difference(
                (ours[chosen], self.groups[chosen]),
                (theirs[others], self.groups[others]),
                seed=self.seed,
            )
        return result_entry(
            {
                "name": name,
                "subset": subset,
                "model": model,
                "against": against,
                "against_subset": against_subset or subset,
            },
            interval,
            n_unit=self.unit,
            failed=self.failures.get(model) or self.failures.get(against),
        )

    def columns(self, models: Sequence[str]) -> dict[str, Any]:
        """Return the first columns of a table with a row for each model and, within it, protein."""
        rows = [(model, protein) for model in models for protein in self.proteins]
        return {
            "id": [protein.id for _, protein in rows],
            "group": [protein.group for _, protein in rows],
            "kind": [protein.kind for _, protein in rows],
            "length": pa.array([protein.residues.size for _, protein in rows], pa.int32()),
            "model": [model for model, _ in rows],
        }
