"""How well predictions rank measured effects: the metrics of ProteinGym.

Definitions are those of OATML-Markslab/ProteinGym, `proteingym/performance_DMS_benchmarks.py`,
where tied predictions are ranked in arbitrary order by NDCG; here it is their average. `measured`
and `predicted` are float64 `[variants]`, the higher the fitter.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import matthews_corrcoef, ndcg_score, roc_auc_score

from esm1b.evaluation.bootstrap import Values

_TOP: Final = 0.1  # share of the variants that NDCG and top recall look at


def spearman(measured: Values, predicted: Values) -> float:
    """Return Spearman's rank correlation with its sign; NaN where one side is constant."""
    if len(measured) < 2 or np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return np.nan
    return float(spearmanr(measured, predicted).statistic)


def auroc(fit: NDArray[np.bool_], predicted: Values) -> float:
    """Return the area under the ROC curve of the fit variants; NaN if all are alike."""
    return np.nan if fit.all() or not fit.any() else float(roc_auc_score(fit, predicted))


def mcc(fit: NDArray[np.bool_], predicted: Values) -> float:
    """Return Matthews' correlation of the fit variants with predictions of at least the median.

    NaN if all variants are alike.
    """
    if fit.all() or not fit.any():
        return np.nan
    return float(matthews_corrcoef(fit, predicted >= np.median(predicted)))


def ndcg(measured: Values, predicted: Values) -> float:
    """Return the normalised discounted cumulative gain of the top 10 % of the predictions.

    Gains are the measured effects between 0 (least) and 1 (most); the number of variants is rounded
    down, and NaN is the value of less than one.
    """
    top = int(_TOP * len(measured))
    if top == 0 or np.ptp(measured) == 0:
        return np.nan
    gains = (measured - measured.min()) / np.ptp(measured)
    return float(ndcg_score(gains[None], predicted[None], k=top))


def top_recall(measured: Values, predicted: Values) -> float:
    """Return the share of the top 10 % by measurement that is in the top 10 % by prediction."""
    share = 100 * (1 - _TOP)
    best = measured >= np.percentile(measured, share)
    return float((best & (predicted >= np.percentile(predicted, share))).sum() / best.sum())


OF_EFFECTS: Final[Mapping[str, Callable[[Values, Values], float]]] = {
    "spearman": spearman,
    "ndcg": ndcg,
    "top_recall": top_recall,
}
OF_FITNESS: Final[Mapping[str, Callable[[NDArray[np.bool_], Values], float]]] = {
    "auroc": auroc,
    "mcc": mcc,
}


def weighted_spearman(measured: Values, predicted: Values, weights: Values) -> Values:
    """Return Spearman's correlations where variants count several times, `[models, draws]`.

    Args:
        measured: measured effects, `[variants]`.
        predicted: predictions, `[models, variants]`.
        weights: number of times that each variant counts in each draw, `[variants, draws]`.

    A draw costs no sorting: ranks are running sums of weights in an order that is found once.
    """
    first = _midranks(measured, weights)
    spread = _sums(weights, first, first)
    correlations = []
    for row in predicted:
        second = _midranks(row, weights)
        product = spread * _sums(weights, second, second)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlations.append(_sums(weights, first, second) / np.sqrt(product))
    return np.array(correlations)


def _midranks(values: Values, weights: Values) -> Values:
    """Return midranks less their weighted mean, `[variants, draws]`."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    running = np.cumsum(weights[np.argsort(inverse, kind="stable")], axis=0)
    upto = running[np.cumsum(counts) - 1]  # weight of the values up to each different one
    below = np.pad(upto, ((1, 0), (0, 0)))[:-1]
    ranks: Values = ((below + upto - upto[-1]) / 2)[inverse]
    return ranks


def _sums(weights: Values, first: Values, second: Values) -> Values:
    total: Values = np.einsum("vd,vd,vd->d", weights, first, second)
    return total
