"""Results of assays: the metrics of each, and means over all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, product
from typing import Any, Final

import numpy as np

from esm1b.evaluation.bootstrap import (
    Values,
    bootstrap_counts,
    bootstrap_mean,
    bootstrap_mean_of_categories,
)
from esm1b.evaluation.results import Interval
from esm1b.evaluation.summary import Summary
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
    assay, predictions, epistasis = scored.assay, scored.predictions, scored.epistasis
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
    kinds = np.array([result.subset for result in results])
    subsets = {name: kinds == name for name in ("assays", "test", "unseen") if name in kinds}
    models = list(results[0].intervals)
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    ones = np.ones(len(results))
    summary = Summary(
        values={
            name: {model: (_values(results, name, model), ones) for model in models}
            for name in names
        },
        groups=np.array([result.source.protein for result in results], dtype=object),
        subsets=subsets,
        unit="family",
        seed=seed,
    )
    content: dict[str, Any] = {"metrics": [], "comparisons": [], "categories": []}
    for subset, chosen in subsets.items():
        of_subset = replace(summary, unit="protein" if subset == "assays" else "family")
        some = list(compress(results, chosen))
        alone = some[0] if len(some) == 1 else None
        leads = alone.leads if alone else {}
        content["metrics"] += _metrics(of_subset, subset, some, alone)
        content["categories"] += _categories(of_subset, subset, some)
        content["comparisons"] += [
            of_subset.comparison(
                _MAIN,
                subset,
                against,
                interval=leads.get(against),
                n_unit="position" if leads else None,
            )
            for against in models[1:]
        ]
    if {"test", "unseen"} <= set(subsets):
        content["comparisons"].append(summary.comparison(_MAIN, "test", "trained", "unseen"))
    return {**content, "assays": [result.entry() for result in results]}


def _metrics(
    summary: Summary, subset: str, results: Sequence[AssayResult], alone: AssayResult | None
) -> Iterator[dict[str, Any]]:
    """Yield every metric of every model that has it, and its mean by category.

    They are of the `results` of a subset; `alone` is the only one, or None.
    """
    models, groups = list(results[0].intervals), summary.groups[summary.subsets[subset]]
    names = [name for name in summary.values if any(name in each.metrics for each in results)]
    depths = [name for name in names if _DEPTH in name]
    for name, model in product(names, models):
        is_measured = any(model in each.metrics.get(name, {}) for each in results)
        if is_measured and (name not in depths or len(depths) > 1):
            of_positions = alone.intervals if alone and name == _MAIN else {}
            yield summary.metric(
                name,
                model,
                subset,
                unit=_UNITS.get(name, "correlation"),
                interval=of_positions.get(model),
                n_unit="position" if of_positions else None,
            )
    categories = [result.source.category for result in results]
    for name in (*OF_EFFECTS, *OF_FITNESS) if None not in categories else ():
        for model in models if name in names else ():
            values = _values(results, name, model)
            yield summary.metric(
                f"{name}_by_category",
                model,
                subset,
                unit=_UNITS.get(name, "correlation"),
                interval=bootstrap_mean_of_categories(
                    values, groups, categories, seed=summary.seed
                ),
            )


def _categories(
    summary: Summary, subset: str, results: Sequence[AssayResult]
) -> Iterator[dict[str, Any]]:
    """Yield the mean over proteins of the main metric in each category."""
    found = [result.source.category for result in results]
    groups = summary.groups[summary.subsets[subset]]
    for category in sorted({name for name in found if name is not None}):
        chosen = np.array([name == category for name in found])
        for model in results[0].intervals:
            values = np.where(chosen, _values(results, _MAIN, model), np.nan)
            interval = bootstrap_mean(values, groups, seed=summary.seed)
            entry = summary.metric(_MAIN, model, subset, unit="correlation", interval=interval)
            yield {"category": category, **entry}


def _values(results: Sequence[AssayResult], metric: str, model: str) -> Values:
    """Return a metric of each assay `[assays]`, NaN where it has none."""
    return np.array([each.metrics.get(metric, {}).get(model, np.nan) for each in results])


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
