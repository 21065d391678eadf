"""Results of assays: the metrics of each, and means over all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from esm1b.evaluation.bootstrap import (
    Values,
    bootstrap_counts,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_mean_of_categories,
    bootstrap_ratio,
)
from esm1b.evaluation.results import Interval, result_entry
from esm1b.evaluation.variants.assays import Assay, AssaySource
from esm1b.evaluation.variants.metrics import (
    OF_EFFECTS,
    OF_FITNESS,
    spearman,
    weighted_spearman,
)
from esm1b.evaluation.variants.scores import ScoredAssay

_MAIN: Final = "spearman"
_EPISTASIS: Final = "spearman_epistasis"
_DEPTH: Final = "_mutation"
_MANY: Final = 5  # mutations that are counted together with more, as in ProteinGym
_UNITS: Final = {"auroc": "area under the curve", "ndcg": "fraction", "top_recall": "fraction"}
_DRAWS: Final = 1000  # of the positions of an assay: ProteinGym has 2.7 million variants
_NUMBERS_AT_ONCE: Final = 200_000  # draws times variants; the fastest, as they fit the cache


@dataclass(frozen=True, kw_only=True, eq=False)
class AssayResult:
    """The metrics of an assay.

    Attributes:
        source: name, protein, category and kind of the assay.
        variants: number of variants.
        left_out: numbers of rows that cannot be scored, by reason.
        metrics: values by metric and model; NaN where undefined.
        intervals: Spearman by model, resampled over mutated positions.
        leads: Spearman of the trained model less that of each other model, likewise.
    """

    source: AssaySource
    variants: int
    left_out: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Interval]
    leads: Mapping[str, Interval]

    @property
    def subset(self) -> str:
        """The kind of the assay, or `assays`."""
        return self.source.kind or "assays"

    def entry(self) -> dict[str, Any]:
        """Return the result for `metrics.json`; null is an undefined value."""
        ends = {
            model: None if np.isnan(each.low) else [each.low, each.high]
            for model, each in self.intervals.items()
        }
        names = ("name", "protein", "category", "kind")
        return {
            **{name: getattr(self.source, name) for name in names},
            "residues": len(self.source.wild_type),
            "variants": self.variants,
            "positions": next(iter(self.intervals.values())).n,
            "left_out": dict(self.left_out),
            "metrics": {
                name: {model: None if np.isnan(value) else value for model, value in row.items()}
                for name, row in self.metrics.items()
            },
            f"{_MAIN}_intervals": ends,
        }


def summarise_assay(scored: ScoredAssay, *, seed: int) -> AssayResult:
    """Return the metrics of every model; those of untrained networks are means over them."""
    assay, predictions, epistasis = scored.assay, scored.predictions, scored.epistasis.measured
    measured, fit = assay.measured, assay.fit
    metrics = {
        name: _each(partial(function, measured), predictions)
        for name, function in OF_EFFECTS.items()
    }
    if fit is not None:
        for name, of_fit in OF_FITNESS.items():
            metrics[name] = _each(partial(of_fit, fit), predictions)
    depths = np.minimum(assay.mutations, _MANY)
    for depth in np.unique(depths).tolist():
        chosen = depths == depth
        some = {model: rows[:, chosen] for model, rows in predictions.items()}
        metrics[_depth_name(depth)] = _each(partial(spearman, measured[chosen]), some)
    if len(epistasis):
        metrics[_EPISTASIS] = _each(partial(spearman, epistasis), scored.predicted_epistasis)
    intervals, leads = _position_intervals(assay, predictions, seed)
    return AssayResult(
        source=assay.source,
        variants=len(measured),
        left_out=assay.left_out,
        metrics=metrics,
        intervals=intervals,
        leads=leads,
    )


def summarise(results: Sequence[AssayResult], *, seed: int) -> dict[str, Any]:
    """Return `metrics`, `comparisons`, `categories` and `assays` for `metrics.json`.

    A metric is the plain mean over assays, resampled by protein; `_by_category` is ProteinGym's:
    assays of one protein in one category are averaged, then proteins, then categories. The Spearman
    correlation of a single assay is resampled over its positions.
    """
    subsets = {
        name: [result for result in results if result.subset == name]
        for name in ("assays", "test", "unseen")
        if any(result.subset == name for result in results)
    }
    models = list(results[0].intervals)
    summaries = {name: _Subset(name, found, seed) for name, found in subsets.items()}
    content: dict[str, Any] = {
        "metrics": [entry for each in summaries.values() for entry in each.metrics(models)],
        "comparisons": [
            each.comparison(model) for each in summaries.values() for model in models[1:]
        ],
        "categories": [entry for each in summaries.values() for entry in each.categories(models)],
        "assays": [result.entry() for result in results],
    }
    if {"test", "unseen"} <= set(summaries):
        content["comparisons"].append(summaries["test"].lead_over(summaries["unseen"]))
    return content


@dataclass(frozen=True)
class _Subset:
    name: str
    results: Sequence[AssayResult]
    seed: int

    @property
    def unit(self) -> str:
        return "protein" if self.name == "assays" else "family"

    @property
    def proteins(self) -> list[str]:
        return [result.source.protein for result in self.results]

    def values(self, metric: str, model: str) -> Values:
        """Return a metric of each assay `[assays]`, NaN where it has none."""
        return np.array([each.metrics.get(metric, {}).get(model, np.nan) for each in self.results])

    def metrics(self, models: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield every metric of every model that has it, and its mean by category."""
        names = list(dict.fromkeys(name for result in self.results for name in result.metrics))
        depths = [name for name in names if _DEPTH in name]
        for name in names:
            for model in models:
                is_measured = any(model in each.metrics.get(name, {}) for each in self.results)
                if is_measured and (name not in depths or len(depths) > 1):
                    yield self._entry(name, model, self._mean(name, model))
        if any(result.source.category is None for result in self.results):
            return
        for name in (*OF_EFFECTS, *OF_FITNESS):
            for model in models if name in names else ():
                interval = bootstrap_mean_of_categories(
                    self.values(name, model),
                    self.proteins,
                    [str(result.source.category) for result in self.results],
                    seed=self.seed,
                )
                yield self._entry(f"{name}_by_category", model, interval)

    def categories(self, models: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the mean over proteins of the main metric in each category."""
        found = [result.source.category for result in self.results]
        for category in sorted({name for name in found if name is not None}):
            chosen = np.array([name == category for name in found])
            for model in models:
                values = np.where(chosen, self.values(_MAIN, model), np.nan)
                interval = bootstrap_mean(values, self.proteins, seed=self.seed)
                entry = self._entry(_MAIN, model, interval)
                yield {"category": category, **entry, "n_unit": self.unit}

    def comparison(self, against: str) -> dict[str, Any]:
        """Return the main metric of the trained model less that of another, paired by protein."""
        if len(self.results) == 1:
            interval = self.results[0].leads[against]
        else:
            lead = self.values(_MAIN, "trained") - self.values(_MAIN, against)
            interval = self._resampled(lead)
        return result_entry(self._pair(against, self.name), interval, n_unit=self._unit_of(_MAIN))

    def lead_over(self, other: "_Subset") -> dict[str, Any]:
        """Return the trained model's main metric less that on other proteins."""
        samples = [(each.values(_MAIN, "trained"), each.proteins) for each in (self, other)]
        interval = bootstrap_difference(*samples, seed=self.seed)
        return result_entry(self._pair("trained", other.name), interval, n_unit=self.unit)

    def _mean(self, name: str, model: str) -> Interval:
        if name == _MAIN and len(self.results) == 1:
            return self.results[0].intervals[model]
        return self._resampled(self.values(name, model))

    def _resampled(self, values: Values) -> Interval:
        """Return the plain mean over assays, resampled by protein."""
        defined = np.isfinite(values)
        groups = np.array(self.proteins, dtype=object)[defined]
        ones = np.ones(defined.sum())
        return bootstrap_ratio(values[defined], ones, groups, seed=self.seed)

    def _unit_of(self, name: str) -> str:
        return "position" if name == _MAIN and len(self.results) == 1 else self.unit

    def _entry(self, name: str, model: str, interval: Interval) -> dict[str, Any]:
        unit = _UNITS.get(name.removesuffix("_by_category"), "correlation")
        identity = {"name": name, "model": model, "subset": self.name}
        return result_entry(identity, interval, unit=unit, n_unit=self._unit_of(name))

    def _pair(self, against: str, against_subset: str) -> dict[str, str]:
        return {
            "name": _MAIN,
            "subset": self.name,
            "model": "trained",
            "against": against,
            "against_subset": against_subset,
        }


def _position_intervals(
    assay: Assay, predictions: Mapping[str, Values], seed: int
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Return Spearman's intervals by model, and those of the trained model's leads."""
    models = list(predictions)
    rows = np.concatenate(list(predictions.values()))
    networks = np.repeat(np.arange(len(models)), [len(each) for each in predictions.values()])
    of_model = np.eye(len(models))[networks] / np.bincount(networks)[networks][:, None]
    positions, place = np.unique(assay.positions, return_inverse=True)
    draws_at_once = max(1, _NUMBERS_AT_ONCE // len(place))

    def statistic(counts: Values) -> Values:
        parts = np.split(counts, range(draws_at_once, len(counts), draws_at_once))
        values = np.concatenate(
            [weighted_spearman(assay.measured, rows, part.T[place]) for part in parts], axis=1
        )
        means = of_model.T @ values
        return np.concatenate([means, means[0] - means[1:]])

    found = bootstrap_counts(statistic, len(positions), draws=_DRAWS, seed=seed)
    return (
        dict(zip(models, found, strict=False)),
        dict(zip(models[1:], found[len(models) :], strict=True)),
    )


def _each(metric: Callable[[Values], float], predictions: Mapping[str, Values]) -> dict[str, float]:
    """Return a metric by model, the mean over its networks."""
    return {
        model: float(np.mean([metric(row) for row in rows])) for model, rows in predictions.items()
    }


def _depth_name(mutations: int) -> str:
    if mutations == 1:
        return f"{_MAIN}_1{_DEPTH}"
    return f"{_MAIN}_{mutations}{'_or_more' if mutations == _MANY else ''}{_DEPTH}s"
