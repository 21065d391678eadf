"""Values per protein as metrics and comparisons by subset, and the table of the proteins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.evaluation.bootstrap import Values, bootstrap_difference, bootstrap_mean, bootstrap_ratio
from esm1b.evaluation.results import result_entry
from esm1b.evaluation.structures.proteins import Protein


@dataclass(frozen=True, kw_only=True, eq=False)
class ProteinSummary:
    """Turns fractions of each protein, `[proteins]` in the order of `proteins`, into results.

    Attributes:
        proteins: proteins that nothing was fitted on.
        unit: word for a group, the unit of the bootstrap.
        seed: random seed of the bootstrap.
    """

    proteins: Sequence[Protein]
    unit: str
    seed: int

    @cached_property
    def subsets(self) -> dict[str, NDArray[np.bool_]]:
        """The proteins of kind test and those of kind unseen, `[proteins]`, where there are any."""
        kinds = np.array([protein.kind for protein in self.proteins])
        return {name: kinds == name for name in ("test", "unseen") if (kinds == name).any()}

    @cached_property
    def groups(self) -> NDArray[np.object_]:
        """The group of each protein, `[proteins]`."""
        return np.array([protein.group for protein in self.proteins], dtype=object)

    def metric(
        self,
        name: str,
        model: str,
        subset: str,
        values: Values,
        weights: Values | None = None,
        *,
        failed: str | None = None,
    ) -> dict[str, Any]:
        """Return the mean of `values`, or their sum over that of `weights`."""
        chosen = self.subsets[subset]
        if weights is None:
            interval = bootstrap_mean(values[chosen], self.groups[chosen], seed=self.seed)
        else:
            interval = bootstrap_ratio(
                values[chosen], weights[chosen], self.groups[chosen], seed=self.seed
            )
        identity = {"name": name, "model": model, "subset": subset}
        return result_entry(identity, interval, unit="fraction", n_unit=self.unit, failed=failed)

    def comparison(
        self,
        name: str,
        subset: str,
        against: str,
        values: Mapping[str, Values],
        *,
        against_subset: str | None = None,
        failed: str | None = None,
    ) -> dict[str, Any]:
        """Return the mean of the trained model's `values` on `subset` less that of another model.

        Paired by protein, or with `against_subset` two independent samples.
        """
        chosen = self.subsets[subset]
        ours, theirs = values["trained"], values[against]
        if against_subset is None:
            interval = bootstrap_mean((ours - theirs)[chosen], self.groups[chosen], seed=self.seed)
        else:
            others = self.subsets[against_subset]
            interval = bootstrap_difference(
                (ours[chosen], self.groups[chosen]),
                (theirs[others], self.groups[others]),
                seed=self.seed,
            )
        identity = {
            "name": name,
            "subset": subset,
            "model": "trained",
            "against": against,
            "against_subset": against_subset or subset,
        }
        return result_entry(identity, interval, n_unit=self.unit, failed=failed)

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
