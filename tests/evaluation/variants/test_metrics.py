import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from sklearn.metrics import matthews_corrcoef, ndcg_score, roc_auc_score

from esm1b.evaluation.variants.metrics import (
    auroc,
    mcc,
    ndcg,
    spearman,
    top_recall,
    weighted_spearman,
)

RANDOM = np.random.default_rng(3)
MEASURED = RANDOM.normal(size=40)
PREDICTED = 0.5 * MEASURED + RANDOM.normal(size=40)
FIT = MEASURED > 0.2


def proteingym_ndcg(measured: list[float], predicted: list[float], top: int) -> float:
    """Return ProteinGym's value, written out from its definition, of untied predictions."""
    low, high = min(measured), max(measured)
    gains = [(value - low) / (high - low) for value in measured]
    by_score = sorted(range(len(gains)), key=lambda place: -predicted[place])[:top]
    found = sum(gains[place] / np.log2(rank + 2) for rank, place in enumerate(by_score))
    best = sorted(gains, reverse=True)[:top]
    return float(found / sum(gain / np.log2(rank + 2) for rank, gain in enumerate(best)))


def test_metrics_are_those_of_scipy_and_scikit_learn() -> None:
    assert spearman(MEASURED, PREDICTED) == spearmanr(MEASURED, PREDICTED).statistic
    assert auroc(FIT, PREDICTED) == roc_auc_score(FIT, PREDICTED)
    halves = np.median(PREDICTED) <= PREDICTED
    assert mcc(FIT, PREDICTED) == matthews_corrcoef(FIT, halves)
    gains = MEASURED - MEASURED.min()
    assert ndcg(MEASURED, PREDICTED) == pytest.approx(ndcg_score([gains], [PREDICTED], k=4))


def test_the_sign_of_a_correlation_counts() -> None:
    assert spearman(MEASURED, -MEASURED) == pytest.approx(-1)


def test_ndcg_is_that_of_proteingym() -> None:
    expected = proteingym_ndcg(MEASURED.tolist(), PREDICTED.tolist(), 4)
    assert ndcg(MEASURED, PREDICTED) == pytest.approx(expected)
    assert ndcg(MEASURED, MEASURED) == pytest.approx(1)


def test_ndcg_of_ties_is_their_average_in_any_order() -> None:
    measured = np.array([3.0, *[0.0] * 9, 1.0])
    tied = np.zeros(11)
    tied[[0, 10]] = 1  # one of the two is first: gains 1 and 1/3 of an ideal 1
    assert ndcg(measured, tied) == pytest.approx(2 / 3)
    assert ndcg(measured[::-1], tied[::-1]) == pytest.approx(2 / 3)


def test_top_recall_counts_the_best_tenth_of_both() -> None:
    measured = np.arange(20.0)  # the best tenth: 18 and 19, at least the percentile 17.1
    predicted = np.arange(20.0)
    assert top_recall(measured, predicted) == 1
    predicted[[18, 3]] = predicted[[3, 18]]
    assert top_recall(measured, predicted) == 0.5


def test_a_constant_side_has_no_value() -> None:
    constant = np.ones(40)
    assert np.isnan(spearman(MEASURED, constant))
    assert np.isnan(spearman(constant, PREDICTED))
    assert np.isnan(spearman(MEASURED[:1], PREDICTED[:1]))
    assert np.isnan(ndcg(constant, PREDICTED))
    assert np.isnan(ndcg(MEASURED[:9], PREDICTED[:9]))  # a tenth of nine is none
    assert np.isnan(auroc(constant > 0, PREDICTED))
    assert np.isnan(mcc(constant < 0, PREDICTED))


@settings(max_examples=40)
@given(
    arrays(np.int64, (3, 7), elements=st.integers(0, 3)),
    arrays(np.int64, (4, 7), elements=st.integers(0, 3)),
)
def test_weights_are_repeated_variants(values: np.ndarray, weights: np.ndarray) -> None:
    measured, *predicted = values.astype(float)
    found = weighted_spearman(measured, np.array(predicted), weights.T.astype(float))
    for draw, counts in enumerate(weights):
        for model, row in enumerate(predicted):
            expected = spearman(np.repeat(measured, counts), np.repeat(row, counts))
            assert found[model, draw] == pytest.approx(expected, nan_ok=True)
