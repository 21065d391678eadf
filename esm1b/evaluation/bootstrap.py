"""The percentile bootstrap over groups: proteins, or families where several members are alike.

Residues and pairs of one protein are not independent, so they are never the unit. The interval is
the percentile interval of B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993),
chapter 13, at 95 %. Values are float64 `[items]`, each in its own group where no groups are given.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from esm1b.evaluation.results import Interval

Values = NDArray[np.float64]
Groups = Sequence[Any] | NDArray[np.object_]

_RESAMPLES: Final = 2000
_ENDS: Final = (2.5, 97.5)  # percentiles
_DRAWS_AT_ONCE: Final = 4_000_000  # 32 MB of indices


def bootstrap_mean(values: Values, groups: Groups | None = None, *, seed: int = 0) -> Interval:
    """Return the mean of the group means, NaN left out, with its interval.

    Given the differences of two models on the same items, this is the paired bootstrap.
    """
    return _interval((group_means(values, groups),), lambda means, axis: means.mean(axis), seed)


def bootstrap_difference(
    first: tuple[Values, Groups], second: tuple[Values, Groups], *, seed: int = 0
) -> Interval:
    """Return the difference of the means of two samples, values and groups, both resampled.

    `n` is the smaller number of groups.
    """
    return _interval(
        (group_means(*first), group_means(*second)),
        lambda ours, theirs, axis: ours.mean(axis) - theirs.mean(axis),
        seed,
    )


def bootstrap_ratio(
    numerators: Values, denominators: Values, groups: Groups | None = None, *, seed: int = 0
) -> Interval:
    """Return `sum(numerators) / sum(denominators)`, resampled by group.

    The pooled form: the weight of an item is its denominator (its residues, say). Items without a
    numerator (NaN) and groups with a denominator of zero are left out.
    """
    sums, totals = _group_sums(groups, numerators, denominators)
    return _interval(
        (sums[totals != 0], totals[totals != 0]),
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        seed,
        paired=True,
    )


def bootstrap_mean_of_categories(
    values: Values, groups: Groups, categories: Groups, *, seed: int = 0
) -> Interval:
    """Return the mean over categories of the mean over their groups, NaN left out.

    A group counts in a category with the mean of its values there. Groups are resampled with all
    their values; a category without any group in a draw is left out of that draw.
    """
    names = np.array(categories, dtype=object)
    samples: list[Values] = []
    for category in np.unique(names[np.isfinite(values)]):
        sums, counts = _group_sums(groups, np.where(names == category, values, np.nan))
        samples += [sums / np.maximum(counts, 1), (counts > 0).astype(np.float64)]
    if not samples:
        return Interval(value=np.nan, low=np.nan, high=np.nan, n=0)
    present = np.sum(samples[1::2], axis=0) > 0

    def mean(*parts: Values, axis: int) -> Values:
        with np.errstate(invalid="ignore"):
            pairs = zip(parts[::2], parts[1::2], strict=True)
            means = np.array([total.sum(axis) / count.sum(axis) for total, count in pairs])
        result: Values = np.nanmean(means, axis=0)
        return result

    return _interval([sample[present] for sample in samples], mean, seed, paired=True)


def bootstrap_counts(
    statistic: Callable[[Values], Values], groups: int, *, draws: int = _RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Return several numbers with their intervals, all from the same draws of `groups` groups.

    `statistic` returns numbers `[numbers, draws]` from how often a draw has each group,
    `[draws, groups]`; a number that is undefined in a draw is left out of its interval.
    """
    points = statistic(np.ones((1, groups)))[:, 0]
    if groups < 2:
        ends = np.full((2, len(points)), np.nan)
    else:
        generator = np.random.default_rng(seed)
        counts = generator.multinomial(groups, np.full(groups, 1 / groups), size=draws)
        drawn = statistic(counts.astype(np.float64))
        drawn[np.isnan(points)] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that have no value
            ends = np.nanpercentile(drawn, _ENDS, axis=1)
    return [
        Interval(value=float(point), low=float(low), high=float(high), n=groups)
        for point, low, high in zip(points, *ends, strict=True)
    ]


def group_means(values: Values, groups: Groups | None = None) -> Values:
    """Return the mean of each group that has a value, NaN left out, groups in sorted order."""
    sums, counts = _group_sums(groups, values)
    means: Values = sums[counts > 0] / counts[counts > 0]
    return means


def _group_sums(
    groups: Groups | None, values: Values, weights: Values | float = 1.0
) -> tuple[Values, Values]:
    """Return the sums of values and weights by group, sorted, without the items that are NaN."""
    names = np.arange(len(values)) if groups is None else np.array(groups, dtype=object)
    unique, index = np.unique(names, return_inverse=True)
    defined = np.isfinite(values)
    sums, totals = (
        np.bincount(index, np.where(defined, each, 0), len(unique)).astype(np.float64)
        for each in (values, weights)
    )
    return sums, totals


def _interval(
    samples: Sequence[Values], statistic: Callable[..., Values], seed: int, *, paired: bool = False
) -> Interval:
    n = min(sample.size for sample in samples)
    value = float(statistic(*samples, axis=-1)) if n else np.nan
    if n < 2:
        return Interval(value=value, low=np.nan, high=np.nan, n=n)
    low, high = bootstrap(
        samples,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(1, _DRAWS_AT_ONCE // max(sample.size for sample in samples)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value=value, low=float(low), high=float(high), n=n)
