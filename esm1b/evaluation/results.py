"""The files that evaluations write and the report and the release read; `metrics.json` first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError
from esm1b.files import read_json, write_json
from esm1b.weights.model_directory import ModelDirectory

METRICS_FILE: Final = "metrics.json"
MAPS_FILE: Final = "contact_maps.parquet"  # a few proteins, for figures; of contacts
REGRESSION_FILE: Final = "contact_regression.json"  # the contact head of a release; of contacts
VARIANTS_FILE: Final = "variants.parquet"  # a row per variant; of variants
EVALUATIONS: Final = ("perplexity", "contacts", "secondary_structure", "variants")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval; `n` is the number of groups behind it.

    Every number is NaN where it is undefined: the value without a group, the ends with fewer than
    two.
    """

    value: float
    low: float
    high: float
    n: int


def result_entry(
    identity: Mapping[str, str],
    interval: Interval,
    *,
    unit: str | None = None,
    n_unit: str,
    failed: str | None = None,
) -> dict[str, Any]:
    """Return an entry of `metrics`, or without a `unit` of `comparisons`.

    The `identity` of a metric is its `name`, `model` and `subset`; in a comparison, the number of
    the `model` on the `subset` minus that of `against` on `against_subset`. `n_unit` is the word
    for a group; `failed` says why there is no number.
    """
    failed = failed or ("no group has a value" if math.isnan(interval.value) else None)
    numbers = {
        "value" if unit else "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
    }
    return {
        **identity,
        **{key: None if failed or math.isnan(each) else each for key, each in numbers.items()},
        **({"unit": unit} if unit else {}),
        "n": interval.n,
        "n_unit": n_unit,
        **({"failed": failed} if failed else {}),
    }


def write_metrics(
    directory: Path, *, evaluation: str, model: ModelDirectory, **content: Any
) -> None:
    """Write `metrics.json`: `inputs`, `protocol`, `metrics`, `comparisons` and more keys."""
    head = {"evaluation": evaluation, "model": model.description}
    write_json(directory / METRICS_FILE, {**head, **content})


@dataclass(frozen=True, kw_only=True)
class Number:
    """A metric or a difference with its 95 % interval, None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_unit: str
    failed: str | None

    @property
    def units(self) -> str:
        """The number of groups and their kind: `8 families`."""
        plural = {"family": "families"}.get(self.n_unit, f"{self.n_unit}s")
        return f"{self.n:,} {self.n_unit if self.n == 1 else plural}"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One `metrics.json`: its `content` and the directory that it was read from.

    `metrics` are by name, model and subset; `comparisons` by name, model, subset, the other model
    and its subset.
    """

    content: Mapping[str, Any]
    metrics: Mapping[tuple[str, str, str], Number]
    comparisons: Mapping[tuple[str, str, str, str, str], Number]
    directory: Path | None = None

    def models(self, name: str) -> list[str]:
        """Return the models that have the metric `name`, as the file orders them."""
        return list(dict.fromkeys(model for metric, model, _ in self.metrics if metric == name))

    def subsets(self, name: str) -> list[str]:
        """Return the subsets of the metric `name`, as the file orders them."""
        return list(dict.fromkeys(subset for metric, _, subset in self.metrics if metric == name))

    def failures(self, name: str, model: str) -> list[str]:
        """Return the reasons why a model has no value of the metric `name`, sorted."""
        numbers = [self.metric(name, model, subset) for subset in self.subsets(name)]
        return sorted({number.failed for number in numbers if number and number.failed})

    def metric(self, name: str, model: str, subset: str) -> Number | None:
        """Return a metric, None where it was not measured."""
        return self.metrics.get((name, model, subset))

    def units(self, name: str, subset: str) -> str:
        """Return what the metric `name` was measured on, such as `8 families`.

        They are those of the model with most, since a model whose fit failed has none.
        """
        numbers = [self.metric(name, model, subset) for model in self.models(name)]
        return max(filter(None, numbers), key=lambda number: number.n).units

    def comparison(
        self,
        name: str,
        subset: str,
        against: str,
        against_subset: str | None = None,
        *,
        model: str = "trained",
    ) -> Number | None:
        """Return `model` on `subset` minus another, None where they were not compared."""
        return self.comparisons.get((name, model, subset, against, against_subset or subset))


def read_evaluations(directories: Sequence[Path], model: ModelDirectory) -> dict[str, Evaluation]:
    """Return the evaluations of a model in `directories` by kind, in the order of `EVALUATIONS`.

    Raises:
        UserError: a directory is not an evaluation, is about another model, or repeats a kind.
    """
    found: dict[str, Evaluation] = {}
    digest = cache(model.digest)
    for directory in directories:
        path = directory / METRICS_FILE
        if not path.exists():
            raise UserError(
                f"{directory}: no {METRICS_FILE}; expected a directory that evaluate wrote"
            )
        content = read_json(path)
        kind = content.get("evaluation") if isinstance(content, dict) else None
        if kind not in EVALUATIONS:
            raise UserError(
                f"{path}: evaluation is {kind!r}; expected one of {', '.join(EVALUATIONS)}"
            )
        if kind in found:
            raise UserError(f"{path}: a second evaluation of {kind}; expected one of each kind")
        ours, theirs = content["model"], model.description
        differing = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
        measured = content.get("inputs", {}).get("model", {}).get("sha256")  # not in older files
        if not differing and measured not in (None, digest()):
            differing = ["weights"]  # the same recipe ends elsewhere on another machine
        if differing:
            raise UserError(
                f"{path}: is about another model ({', '.join(differing)} differ); "
                "expected an evaluation of the model of this report"
            )
        found[kind] = parse_evaluation(content, directory)
    return {kind: found[kind] for kind in EVALUATIONS if kind in found}


def parse_evaluation(content: Mapping[str, Any], directory: Path | None = None) -> Evaluation:
    """Return the content of a `metrics.json`, indexed; `directory` holds its tables."""

    def index(entries: str, key: str, *identity: str) -> dict[Any, Number]:
        names = ("low", "high", "n", "n_unit", "failed")
        return {
            tuple(entry[name] for name in identity): Number(
                value=entry[key], **{name: entry.get(name) for name in names}
            )
            for entry in content[entries]
        }

    return Evaluation(
        content=content,
        metrics=index("metrics", "value", "name", "model", "subset"),
        comparisons=index(
            "comparisons", "difference", "name", "model", "subset", "against", "against_subset"
        ),
        directory=directory,
    )
