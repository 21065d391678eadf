"""Values of items (sequences, proteins, assays) as metrics and comparisons by subset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm1b.evaluation.bootstrap import (
    Values,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
)
from esm1b.evaluation.results import Interval, result_entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """Turns values of items, `[items]`, into entries of `metrics.json`.

    Attributes:
        values: values by metric and model: one array to average over groups, or numerators and
            denominators of a ratio of sums.
        groups: group of each item, over which the bootstrap resamples.
        subsets: items of each subset, bool `[items]`.
        unit: word for a group.
        seed: random seed of the bootstrap.
        failures: reasons by model why it has no values.
    """

    values: Mapping[str, Mapping[str, tuple[Values, ...]]]
    groups: NDArray[np.object_]
    subsets: Mapping[str, NDArray[np.bool_]]
    unit: str
    seed: int
    failures: Mapping[str, str | None] = field(default_factory=dict)

    def metric(
        self,
        name: str,
        model: str,
        subset: str,
        *,
        unit: str = "fraction",
        interval: Interval | None = None,
        n_unit: str | None = None,
    ) -> dict[str, Any]:
        """Return the metric `name` of a model on a subset.

        An `interval` that is given is not resampled here, but over groups called `n_unit`.
        """
        return result_entry(
            {"name": name, "model": model, "subset": subset},
            interval or self.resampled(self.values[name][model], subset),
            unit=unit,
            n_unit=n_unit or self.unit,
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
        called: str | None = None,
        interval: Interval | None = None,
        n_unit: str | None = None,
    ) -> dict[str, Any]:
        """Return the metric of `model` on `subset` minus that of another model.

        Paired by item, or with `against_subset` two independent samples of means over groups. The
        results know it as `called`, without that as `name`; for the rest see `metric`.
        """
        ours, theirs = self.values[name][model], self.values[name][against]
        if against_subset is not None:
            here, there = self.subsets[subset], self.subsets[against_subset]
            interval = bootstrap_difference(
                (ours[0][here], self.groups[here]),
                (theirs[0][there], self.groups[there]),
                seed=self.seed,
            )
        return result_entry(
            {
                "name": called or name,
                "subset": subset,
                "model": model,
                "against": against,
                "against_subset": against_subset or subset,
            },
            interval or self.resampled((ours[0] - theirs[0], *ours[1:]), subset),
            n_unit=n_unit or self.unit,
            failed=self.failures.get(model) or self.failures.get(against),
        )

    def resampled(self, values: Sequence[Values], subset: str) -> Interval:
        """Return the interval of `values`, in either form that `values` of the summary have."""
        chosen = self.subsets[subset]
        samples, groups = [each[chosen] for each in values], self.groups[chosen]
        if len(samples) == 1:
            return bootstrap_mean(samples[0], groups, seed=self.seed)
        return bootstrap_ratio(samples[0], samples[1], groups, seed=self.seed)
