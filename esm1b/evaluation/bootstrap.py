"""The percentile bootstrap over groups: proteins, or families where several members are alike.

Residues and pairs of one protein are not independent, so they are never the unit. The interval is
the percentile interval of B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993),
chapter 13, at 95 %.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_PERCENTILES: Final = (2.5, 97.5)
_DRAWS_AT_ONCE: Final = 4_000_000  # 32 MB of indices


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


def group_means(
    values: NDArray[np.float64], groups: Sequence[str] | None = None
) -> tuple[list[str], NDArray[np.float64]]:
    """Return the sorted groups and the mean of `values` `[items]` in each, NaN left out.

    Without `groups` every item is its own group. A group whose values are all NaN is left out.
    """
    names = _item_names(len(values)) if groups is None else list(groups)
    defined = np.isfinite(values)
    kept = [name for name, keep in zip(names, defined, strict=True) if keep]
    unique, index = np.unique(np.array(kept, dtype=object), return_inverse=True)
    sums = np.bincount(index, weights=values[defined], minlength=len(unique))
    return list(unique), sums / np.bincount(index, minlength=len(unique))


def bootstrap_mean(
    values: NDArray[np.float64],
    groups: Sequence[str] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of the group means of `values` `[items]` with its interval.

    NaN marks items for which the value is not defined; they are left out.
    """
    _, means = group_means(values, groups)
    return _interval(
        means.mean() if means.size else np.nan, _resampled_means(means, resamples, seed), means.size
    )


def bootstrap_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    groups: Sequence[str] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of `first - second`, paired on the same items `[items]`.

    An item that is NaN in either is left out of both.
    """
    return bootstrap_mean(first - second, groups, resamples=resamples, seed=seed)


def bootstrap_unpaired_difference(
    first: NDArray[np.float64],
    first_groups: Sequence[str] | None,
    second: NDArray[np.float64],
    second_groups: Sequence[str] | None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the difference of two means over different groups, both resampled.

    `n` is the smaller number of groups.
    """
    _, ours = group_means(first, first_groups)
    _, theirs = group_means(second, second_groups)
    n = min(ours.size, theirs.size)
    if n == 0:
        return Interval(value=np.nan, low=np.nan, high=np.nan, n=0)
    # Another seed for the second: with the same one, samples of equal size would move together.
    draws = _resampled_means(ours, resamples, seed) - _resampled_means(theirs, resamples, seed + 1)
    return _interval(ours.mean() - theirs.mean(), draws, n)


def bootstrap_ratio(
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    groups: Sequence[str] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return `sum(numerators) / sum(denominators)` over items `[items]`, resampled by group.

    The pooled form: an item counts by its denominator (residues, say). Groups with a denominator of
    zero are left out.
    """
    names = _item_names(len(numerators)) if groups is None else list(groups)
    unique, index = np.unique(np.array(names, dtype=object), return_inverse=True)
    above = np.bincount(index, weights=numerators, minlength=len(unique))
    below = np.bincount(index, weights=denominators, minlength=len(unique))
    above, below = above[below != 0], below[below != 0]
    if below.size == 0:
        return Interval(value=np.nan, low=np.nan, high=np.nan, n=0)
    return _interval(
        above.sum() / below.sum(),
        _resampled(below.size, resamples, seed, lambda i: above[i].sum(1) / below[i].sum(1)),
        below.size,
    )


def _item_names(count: int) -> list[str]:
    width = len(str(count))
    return [f"{item:0{width}d}" for item in range(count)]


def _resampled_means(means: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    return _resampled(means.size, resamples, seed, lambda i: means[i].mean(1))


def _resampled(
    groups: int,
    resamples: int,
    seed: int,
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return `statistic` of every resample `[resamples]`; it gets indices `[some, groups]`."""
    if groups < 2:
        return np.empty(0)
    return np.concatenate([statistic(i) for i in _draws(groups, resamples, seed)])


def _draws(groups: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // groups)
    for start in range(0, resamples, step):
        yield generator.integers(0, groups, size=(min(step, resamples - start), groups))


def _interval(value: float, draws: NDArray[np.float64], n: int) -> Interval:
    low, high = np.percentile(draws, _PERCENTILES) if draws.size else (np.nan, np.nan)
    return Interval(value=float(value), low=float(low), high=float(high), n=n)
