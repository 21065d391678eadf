"""What the evaluations wrote, looked up by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError
from esm1b.evaluation.results import MARKER
from esm1b.files import read_json

EVALUATIONS: Final = ("perplexity", "contacts", "secondary_structure")

MODELS: Final[Mapping[str, str]] = {
    "trained": "trained model",
    "untrained": "untrained networks",
    "residue_frequencies": "residue frequencies",
    "site_independent": "site-independent bound",
    "exact_optimum": "exact optimum",
    "mean_map": "mean map",
    "separation_prior": "separation prior",
    "random_pairs": "random pairs",
    "one_hot_window": "one-hot window",
    "majority_class": "majority class",
}
"""What a reader calls each model, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A metric or a difference with its 95 % interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_unit: str
    failed: str | None = None

    @property
    def units(self) -> str:
        """How many of what are behind it: `8 families`."""
        plural = {"family": "families"}.get(self.n_unit, f"{self.n_unit}s")
        return f"{self.n:,} {self.n_unit if self.n == 1 else plural}"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One `metrics.json`.

    `metrics` is by name, model and subset; `comparisons`, all of them of the trained model, by
    name, subset, the other model and its subset. `content` is the whole file.
    """

    content: Mapping[str, Any]
    metrics: Mapping[tuple[str, str, str], Number]
    comparisons: Mapping[tuple[str, str, str, str], Number]
    directory: Path | None = None

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How it was done."""
        protocol: Mapping[str, Any] = self.content["protocol"]
        return protocol

    def models(self, name: str) -> list[str]:
        """Return the models that have the metric `name`, in the order of `MODELS`."""
        found = {model for metric, model, _ in self.metrics if metric == name}
        return [model for model in MODELS if model in found]

    def subsets(self, name: str) -> list[str]:
        """Return the subsets of the metric `name`, as the file orders them."""
        return list(dict.fromkeys(subset for metric, _, subset in self.metrics if metric == name))

    def metric(self, name: str, model: str, subset: str) -> Number | None:
        """Return a metric, None where it was not measured."""
        return self.metrics.get((name, model, subset))

    def comparison(
        self, name: str, subset: str, against: str, against_subset: str | None = None
    ) -> Number | None:
        """Return the trained model on `subset` less another, None where it was not compared."""
        return self.comparisons.get((name, subset, against, against_subset or subset))


def read_evaluations(
    directories: Sequence[Path], model: Mapping[str, Any]
) -> dict[str, Evaluation]:
    """Return the evaluations by kind, in the order of `EVALUATIONS`.

    Args:
        directories: what `esm1b evaluate` wrote, at most one of each kind.
        model: the description of the model that the report is about.

    Raises:
        UserError: a directory is not of an evaluation, is of another model, or its kind came twice.
    """
    found: dict[str, Evaluation] = {}
    for directory in directories:
        path = directory / MARKER
        if not path.exists():
            raise UserError(f"{directory}: no {MARKER}; expected a directory that evaluate wrote")
        content = read_json(path)
        kind = content.get("evaluation") if isinstance(content, dict) else None
        if kind not in EVALUATIONS:
            raise UserError(
                f"{path}: evaluation is {kind!r}; expected one of {', '.join(EVALUATIONS)}"
            )
        if kind in found:
            raise UserError(f"{path}: a second evaluation of {kind}; expected one of each kind")
        if content["model"] != model:
            differing = sorted(
                key
                for key in {*content["model"], *model}
                if content["model"].get(key) != model.get(key)
            )
            raise UserError(
                f"{path}: is about another model ({', '.join(differing)} differ); "
                "expected an evaluation of the model of this report"
            )
        found[kind] = parse_evaluation(content, directory)
    return {kind: found[kind] for kind in EVALUATIONS if kind in found}


def parse_evaluation(content: Mapping[str, Any], directory: Path | None = None) -> Evaluation:
    """Return the content of a `metrics.json`, indexed; `directory` holds its tables."""
    return Evaluation(
        content=content,
        metrics={
            (entry["name"], entry["model"], entry["subset"]): _number(entry, "value")
            for entry in content["metrics"]
        },
        comparisons={
            (entry["name"], entry["subset"], entry["against"], entry["against_subset"]): _number(
                entry, "difference"
            )
            for entry in content["comparisons"]
            if entry["model"] == "trained"
        },
        directory=directory,
    )


def _number(entry: Mapping[str, Any], key: str) -> Number:
    return Number(
        value=entry[key],
        low=entry["low"],
        high=entry["high"],
        n=entry["n"],
        n_unit=entry["n_unit"],
        failed=entry.get("failed"),
    )
