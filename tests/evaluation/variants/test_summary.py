from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from esm1b.evaluation.results import Interval, Number, parse_evaluation
from esm1b.evaluation.variants.scores import ScoredAssay
from esm1b.evaluation.variants.summary import AssayResult, summarise, summarise_assay
from tests.evaluation.variants.made_assays import assay

NOTHING: dict[str, Any] = {
    "doubles": np.zeros(0, dtype=np.int64), "epistasis": np.zeros(0), "predicted_epistasis": {},
}  # fmt: skip
POINT = Interval(value=0.5, low=0.4, high=0.6, n=7)


def result(protein: str, category: str | None, trained: float, other: float = 0.0) -> AssayResult:
    source = assay("AA", {"A1C": 0.0, "A1D": 1.0}, protein=protein, category=category).source
    return AssayResult(
        source=source,
        variants=2,
        left_out={},
        metrics={"spearman": {"trained": trained, "blosum62": other}},
        intervals={"trained": POINT, "blosum62": POINT},
        leads={"blosum62": POINT},
    )


def number(content: dict[str, Any], name: str, model: str = "trained") -> Number:
    found = parse_evaluation(content).metric(name, model, "assays")
    assert found is not None
    return found


def test_proteingyms_mean_is_over_proteins_then_categories() -> None:
    results = [
        result("P1", "Activity", 0.2),
        result("P1", "Activity", 0.4),  # with the first: 0.3 for P1
        result("P2", "Activity", 0.5),  # Activity: (0.3 + 0.5) / 2 = 0.4
        result("P1", "Stability", 0.8),  # Stability: 0.8
    ]
    content = summarise(results, seed=0)
    assert number(content, "spearman").value == pytest.approx((0.2 + 0.4 + 0.5 + 0.8) / 4)
    by_category = number(content, "spearman_by_category")
    assert by_category.value == pytest.approx((0.4 + 0.8) / 2)
    assert by_category.units == "2 proteins"
    assert [
        (entry["category"], round(entry["value"], 9), entry["n"])
        for entry in content["categories"]
        if entry["model"] == "trained"
    ] == [("Activity", 0.4, 2), ("Stability", 0.8, 1)]


def test_means_are_resampled_by_protein() -> None:
    # P1 or P2 twice, or one of each: means of 0.1, 0.9, or (0.1 + 0.1 + 0.9) / 3
    results = [result("P1", None, 0.1), result("P1", None, 0.1), result("P2", None, 0.9)]
    found = number(summarise(results, seed=0), "spearman")
    assert (found.value, found.low, found.high) == pytest.approx((1.1 / 3, 0.1, 0.9))


def test_an_undefined_value_is_left_out_of_means_and_differences() -> None:
    results = [result("P1", None, 0.2, 0.1), result("P2", None, np.nan, 0.6)]
    content = summarise(results, seed=0)
    assert number(content, "spearman").value == pytest.approx(0.2)
    assert number(content, "spearman", "blosum62").value == pytest.approx(0.35)
    lead = parse_evaluation(content).comparison("spearman", "assays", "blosum62")
    assert lead is not None
    assert lead.value == pytest.approx(0.1)
    assert lead.n == 1
    assert content["assays"][1]["metrics"]["spearman"]["trained"] is None


def test_a_single_assay_is_resampled_by_position() -> None:
    content = summarise([result("P1", None, 0.5)], seed=0)
    found = number(content, "spearman")
    assert (found.value, found.low, found.high, found.units) == (0.5, 0.4, 0.6, "7 positions")
    (lead,) = content["comparisons"]
    assert (lead["low"], lead["n_unit"]) == (0.4, "position")


def scored(effects: dict[str, float], *predictions: Sequence[float]) -> ScoredAssay:
    trained, *untrained = (np.array(each) for each in predictions)
    made = assay("AAAA", effects)
    return ScoredAssay(
        assay=made,
        predictions={"trained": trained[None], "untrained": np.array(untrained)},
        **NOTHING,
    )


def test_an_untrained_network_is_the_mean_of_several() -> None:
    effects = {"A1C": 1.0, "A2C": 2.0, "A3C": 3.0, "A4C": 4.0}
    found = summarise_assay(scored(effects, [1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]), seed=0)
    assert found.metrics["spearman"] == {"trained": 1.0, "untrained": 0.0}
    assert found.intervals["untrained"].value == pytest.approx(0)
    assert found.leads["untrained"].value == pytest.approx(1)
    assert found.intervals["trained"].n == 4


def test_correlations_are_by_number_of_mutations_where_numbers_differ() -> None:
    effects = {"A1C": 1.0, "A2C": 2.0, "A1C:A2C": 3.0, "A1D:A2C": 1.0}
    found = summarise_assay(scored(effects, [1, 2, 3, 4], [4, 1, 2, 3]), seed=0)
    assert found.metrics["spearman_1_mutation"]["trained"] == pytest.approx(1)
    assert found.metrics["spearman_2_mutations"]["trained"] == pytest.approx(-1)
    assert "spearman_1_mutation" in {each["name"] for each in summarise([found], seed=0)["metrics"]}
    singles = {name: effects[name] for name in ("A1C", "A2C")}
    only = summarise_assay(scored(singles, [1, 2], [2, 1]), seed=0)
    assert {each["name"] for each in summarise([only], seed=0)["metrics"]} == {
        "spearman",
        "ndcg",
        "top_recall",
    }


def test_the_interval_within_an_assay_is_that_of_resampled_positions() -> None:
    generator = np.random.default_rng(5)
    names = [f"A{place}{letter}" for place in range(1, 31) for letter in "CDEF"]
    shared = np.repeat(generator.normal(size=30), 4)  # what the variants of a position share
    measured = shared + 0.1 * generator.normal(size=120)
    predicted = shared + np.repeat(generator.normal(size=30), 4)
    made = assay("A" * 30, dict(zip(names, measured, strict=True)))
    found = summarise_assay(
        ScoredAssay(
            assay=made,
            predictions={"trained": predicted[None]},
            **NOTHING,
        ),
        seed=0,
    ).intervals["trained"]
    drawn = []
    for _ in range(600):
        rows = (4 * generator.integers(0, 30, 30)[:, None] + np.arange(4)).ravel()
        drawn.append(spearmanr(measured[rows], predicted[rows]).statistic)
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.08)
    assert found.n == 30
