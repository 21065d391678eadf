import numpy as np

from esm1b.evaluation.results import Interval
from esm1b.evaluation.summary import Summary

SUMMARY = Summary(
    values={
        "mean": {
            "trained": (np.array([1.0, 0.0, 1.0, 0.5, 0.0]),),
            "other": (np.array([0.5, 0.5, np.nan, 0.0, 0.0]),),
        },
        "pooled": {
            "trained": (np.array([3.0, 1.0, np.nan, 1.0, 1.0]), np.array([3.0, 3, 9, 1, 1])),
            "other": (np.ones(5), np.array([3.0, 3, 9, 1, 1])),
        },
    },
    groups=np.array(["a", "a", "b", "c", "d"], dtype=object),
    subsets={"test": np.array([1, 1, 1, 0, 0]) == 1, "unseen": np.array([0, 0, 0, 1, 1]) == 1},
    unit="family",
    seed=0,
    failures={"other": None},
)


def test_one_array_is_averaged_over_groups_and_two_are_pooled() -> None:
    assert SUMMARY.metric("mean", "trained", "test") == {
        "name": "mean", "model": "trained", "subset": "test", "value": 0.75, "low": 0.5,
        "high": 1.0, "unit": "fraction", "n": 2, "n_unit": "family",
    }  # fmt: skip
    pooled = SUMMARY.metric("pooled", "trained", "test", unit="nats")
    assert (pooled["value"], pooled["n"], pooled["unit"]) == (4 / 6, 1, "nats")  # b has no value


def test_models_are_paired_and_subsets_are_not() -> None:
    paired = SUMMARY.comparison("mean", "test", "other")
    assert (paired["difference"], paired["n"]) == (0.0, 1)
    assert (paired["against"], paired["against_subset"]) == ("other", "test")
    unpaired = SUMMARY.comparison("mean", "test", "trained", "unseen")
    assert (unpaired["difference"], unpaired["n"]) == (0.75 - 0.25, 2)
    assert (unpaired["low"], unpaired["high"]) == (0.0, 1.0)
    pooled = SUMMARY.comparison("pooled", "test", "other", called="difference")
    assert (pooled["name"], pooled["difference"]) == ("difference", 2 / 6)


def test_an_interval_of_other_groups_is_taken_as_it_is() -> None:
    given = Interval(value=0.5, low=0.4, high=0.6, n=7)
    entry = SUMMARY.metric("mean", "trained", "test", interval=given, n_unit="position")
    assert (entry["value"], entry["n"], entry["n_unit"]) == (0.5, 7, "position")
    entry = SUMMARY.comparison("mean", "test", "other", interval=given, n_unit="position")
    assert (entry["difference"], entry["n_unit"]) == (0.5, "position")
