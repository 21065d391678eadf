"""`metrics.json`: what every evaluation writes and the report reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esm1b.evaluation.bootstrap import Interval
from esm1b.files import write_json

MARKER: Final = "metrics.json"

_NOTHING: Final = "no group has a value"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of one model on one subset; `failed` says why there is none."""

    name: str
    model: str
    subset: str
    interval: Interval
    unit: str
    n_unit: str
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `metrics`."""
        failed = self.failed or (_NOTHING if math.isnan(self.interval.value) else None)
        return {
            "name": self.name,
            "model": self.model,
            "subset": self.subset,
            "value": None if failed else self.interval.value,
            **_ends(self.interval, failed),
            "unit": self.unit,
            "n": self.interval.n,
            "n_unit": self.n_unit,
            **({"failed": failed} if failed else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`model` on `subset` less `against` on `against_subset`.

    Paired on the same items where the subsets are the same; two independent samples where not.
    """

    name: str
    model: str
    subset: str
    against: str
    against_subset: str
    interval: Interval
    n_unit: str
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `comparisons`."""
        failed = self.failed or (_NOTHING if math.isnan(self.interval.value) else None)
        return {
            "name": self.name,
            "subset": self.subset,
            "model": self.model,
            "against": self.against,
            "against_subset": self.against_subset,
            "difference": None if failed else self.interval.value,
            **_ends(self.interval, failed),
            "n": self.interval.n,
            "n_unit": self.n_unit,
            **({"failed": failed} if failed else {}),
        }


def write_metrics(
    directory: Path,
    *,
    evaluation: str,
    model: Mapping[str, Any],
    protocol: Mapping[str, Any],
    metrics: Sequence[Metric],
    comparisons: Sequence[Comparison],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `metrics.json` to `directory`; `more` adds keys of the evaluation's own."""
    write_json(
        directory / MARKER,
        {
            "evaluation": evaluation,
            "model": model,
            "protocol": protocol,
            "metrics": [metric.as_json() for metric in metrics],
            "comparisons": [comparison.as_json() for comparison in comparisons],
            **(more or {}),
        },
    )


def _ends(interval: Interval, failed: str | None) -> dict[str, float | None]:
    """Return the ends of the interval, null where there are none."""
    return {
        end: None if failed or math.isnan(value) else value
        for end, value in (("low", interval.low), ("high", interval.high))
    }
