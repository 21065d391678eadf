import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm1b.evaluation.bootstrap import (
    Values,
    bootstrap_counts,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_mean_of_categories,
    bootstrap_ratio,
    group_means,
)


def test_members_are_averaged_within_their_group_first() -> None:
    values = np.array([1.0, 3.0, 10.0, np.nan])
    assert group_means(values, ["b", "b", "a", "c"]).tolist() == [10.0, 2.0]  # a and b
    interval = bootstrap_mean(values, ["b", "b", "a", "c"])
    assert (interval.value, interval.n) == (6.0, 2)


def test_two_groups_give_the_interval_between_them() -> None:
    # Resampling two groups gives 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4.
    interval = bootstrap_mean(np.array([0.0, 1.0]), ["a", "b"])
    assert (interval.value, interval.low, interval.high, interval.n) == (0.5, 0.0, 1.0, 2)


def test_the_interval_of_many_groups_is_that_of_the_normal() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_pairing_takes_out_what_the_items_share() -> None:
    shared = np.array([0.1, 0.9, 0.4, 0.6])
    interval = bootstrap_mean((shared + 0.25) - shared)
    assert interval.value == pytest.approx(0.25)
    assert interval.low == pytest.approx(0.25)
    assert interval.high == pytest.approx(0.25)


def test_an_item_undefined_in_one_is_left_out_of_both() -> None:
    interval = bootstrap_mean(np.array([1.0, np.nan, 3.0]) - np.array([0.0, 0.0, 0.0]))
    assert (interval.value, interval.n) == (2.0, 2)


def test_unpaired_samples_move_independently() -> None:
    values = np.array([0.0, 1.0])
    interval = bootstrap_difference((values, ["a", "b"]), (values, ["c", "d"]))
    assert interval.value == 0.0
    assert (interval.low, interval.high) == (-1.0, 1.0)


def test_a_ratio_pools_its_items() -> None:
    interval = bootstrap_ratio(np.array([1.0, 0.0]), np.array([1.0, 3.0]), ["a", "b"])
    assert (interval.value, interval.low, interval.high) == (0.25, 0.0, 1.0)


def test_one_group_has_a_value_and_no_interval() -> None:
    interval = bootstrap_mean(np.array([0.5, 0.7]), ["a", "a"])
    assert interval.value == pytest.approx(0.6)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)


def test_nothing_has_no_value() -> None:
    assert np.isnan(bootstrap_mean(np.array([np.nan])).value)
    assert np.isnan(bootstrap_ratio(np.zeros(2), np.zeros(2)).value)
    assert bootstrap_difference((np.array([]), []), (np.array([1.0]), ["a"])).n == 0


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=12))
def test_the_order_of_the_groups_does_not_matter(values: list[float]) -> None:
    items = list(zip(values, (f"g{index}" for index in range(len(values))), strict=True))
    turned = items[1:] + items[:1]
    first = bootstrap_mean(np.array([v for v, _ in items]), [g for _, g in items])
    second = bootstrap_mean(np.array([v for v, _ in turned]), [g for _, g in turned])
    assert first == second


def test_the_draws_in_parts_are_the_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(10.0)
    whole = bootstrap_mean(values)
    monkeypatch.setattr("esm1b.evaluation.bootstrap._DRAWS_AT_ONCE", 70)
    assert bootstrap_mean(values) == whole


def test_categories_are_averaged_after_their_groups() -> None:
    values = np.array([1.0, 3.0, 6.0, 10.0, np.nan])
    groups, categories = ["a", "a", "b", "a", "b"], ["x", "x", "x", "y", "y"]
    # x: a has 2, b 6, so 4; y: a has 10
    assert bootstrap_mean_of_categories(values, groups, categories).value == 7.0
    interval = bootstrap_mean_of_categories(values, groups, categories)
    # Twice a gives (2 + 10) / 2; twice b leaves y out and gives 6; one of each 7.
    assert (interval.low, interval.high, interval.n) == (6.0, 7.0, 2)


def test_categories_without_a_value_have_none() -> None:
    interval = bootstrap_mean_of_categories(np.array([np.nan]), ["a"], ["x"])
    assert np.isnan(interval.value)
    assert interval.n == 0


def test_counts_say_how_often_a_group_is_drawn() -> None:
    def means(counts: Values) -> Values:
        assert (counts.sum(axis=1) == 3).all()
        first = counts @ np.array([0.0, 0.5, 1.0]) / 3
        return np.array([first, np.full(len(counts), np.nan)])

    mean, undefined = bootstrap_counts(means, 3)
    assert (mean.value, mean.low, mean.high, mean.n) == (
        0.5,
        0.0,
        1.0,
        3,
    )  # 1 in 27 draws has one group alone
    assert np.isnan([undefined.value, undefined.low]).all()


def test_one_group_has_no_counts_to_draw() -> None:
    (interval,) = bootstrap_counts(lambda counts: counts.T * 2, 1)
    assert interval.value == 2.0
    assert np.isnan(interval.low)
