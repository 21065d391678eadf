"""Contacts from attention: a sparse logistic regression over the heads' attention maps.

The protocol of R. Rao et al., Transformer protein language models are unsupervised structure
learners (ICLR 2021): symmetrised maps of all heads with average product correction as features,
pairs at separation 6 or more, L1 penalty with C = 0.15 on 20 proteins, scikit-learn's liblinear.
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from esm1b.evaluation.contacts.precision import precision_at
from esm1b.evaluation.structures.geometry import pair_mask
from esm1b.evaluation.structures.proteins import Protein
from esm1b.inference.jacobian import average_product_correction

_log = logging.getLogger(__name__)

Regularisation = float | Literal["cross-validate"]

PUBLISHED_C: Final = 0.15

# Half-decades around the published value, towards weaker penalties: fewer and shorter proteins than
# the published 20 need them.
STRENGTHS: Final = (0.015, 0.05, 0.15, 0.5, 1.5, 5.0, 15.0, 50.0, 150.0, 500.0)
_FOLDS: Final = 5


Attend = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Returns the attention weights of a network, `[channels, length, length]`, for tokens `[length]`;
`<cls>` and `<eos>` are in neither."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactRegression:
    """A regression on `contact_features`, with `coefficients` `[channels]`.

    `inverse_strength` is scikit-learn's C; where it was chosen, `held_out_precision` holds by C the
    precision on the groups left out, NaN where a fit kept no coefficient.
    """

    coefficients: NDArray[np.float64]
    intercept: float
    inverse_strength: float
    converged: bool
    held_out_precision: Mapping[float, float] = field(default_factory=dict)

    @property
    def failed(self) -> str | None:
        """The reason why the fit is useless, or None."""
        if self.coefficients.any():
            return None
        return f"the regression kept no coefficient at C = {self.inverse_strength:g}"

    def as_json(self) -> dict[str, Any]:
        """Return the facts of the fit, without the coefficients."""
        return {
            "C": self.inverse_strength,
            "coefficients_kept": int(np.count_nonzero(self.coefficients)),
            "converged": self.converged,
            "held_out_precision": {
                f"{strength:g}": None if np.isnan(precision) else precision
                for strength, precision in self.held_out_precision.items()
            },
            "failed": self.failed,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """The pairs of one protein, with features `[pairs, channels]` and labels `[pairs]`."""

    group: str
    features: NDArray[np.float32]
    labels: NDArray[np.bool_]


def fit_contact_regression(
    attend: Attend,
    proteins: Sequence[Protein],
    *,
    regularisation: Regularisation = PUBLISHED_C,
    seed: int = 0,
) -> ContactRegression:
    """Fit on all pairs of all `proteins`: both residues observed, separation 6 or more.

    With `cross-validate`, C is the one of `STRENGTHS` with the best precision (as many top pairs as
    contacts, mean over groups) on groups left out, up to five folds; the smallest C of equals. A C
    at which a fold keeps no coefficient is not a candidate. The memory is 20 bytes for each pair
    and channel.
    """
    pairs = [_pairs_of(attend, protein) for protein in proteins]
    if regularisation != "cross-validate":
        return _fit(pairs, float(regularisation))
    scores = {strength: _held_out_precision(pairs, strength, seed) for strength in STRENGTHS}
    candidates = [strength for strength in STRENGTHS if np.isfinite(scores[strength])]
    # Without a candidate the result is the weakest penalty's, and its failure is reported.
    best = max(candidates, key=lambda strength: scores[strength], default=STRENGTHS[-1])
    return replace(_fit(pairs, best), held_out_precision=scores)


def contact_features(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return attention maps `[..., length, length]` symmetrised and corrected.

    First `a + a^T`, the sum and not the mean (facebookresearch/esm, `esm/modules.py`): with an L1
    penalty the scale of the features matters. Then `average_product_correction`. The fitted
    `ContactHead` computes the same for all heads at once.
    """
    return average_product_correction(maps + np.swapaxes(maps, -1, -2))


def contact_probabilities(
    regression: ContactRegression, attentions: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the probability of a contact, `[length, length]`, symmetric.

    The `attentions` are weights `[channels, length, length]` of the network of the `regression`.
    """
    logits = np.full(attentions.shape[1:], regression.intercept)
    for channel in np.flatnonzero(regression.coefficients):
        logits += regression.coefficients[channel] * contact_features(attentions[channel])
    return np.asarray(expit(logits))


def _pairs_of(attend: Attend, protein: Protein) -> _Pairs:
    attentions = attend(protein.residues)
    pairs = pair_mask(protein.observed)
    features = np.empty((int(pairs.sum()), len(attentions)), dtype=np.float32)
    for channel, weights in enumerate(attentions):  # one at a time: all at once may be gigabytes
        features[:, channel] = contact_features(weights)[pairs]
    return _Pairs(group=protein.group, features=features, labels=protein.contact_map()[pairs])


def _held_out_precision(pairs: Sequence[_Pairs], strength: float, seed: int) -> float:
    groups = sorted({item.group for item in pairs})
    order = np.random.default_rng(seed).permutation(len(groups))
    fold_of = {groups[group]: place % _FOLDS for place, group in enumerate(order)}
    precisions: dict[str, list[float]] = {}
    for fold in range(min(_FOLDS, len(groups))):
        regression = _fit([item for item in pairs if fold_of[item.group] != fold], strength)
        if regression.failed:
            return float("nan")
        for item in pairs:
            if fold_of[item.group] == fold and item.labels.any():
                logits = item.features @ regression.coefficients
                precision = precision_at(logits, item.labels, int(item.labels.sum()))
                precisions.setdefault(item.group, []).append(precision)
    return float(np.mean([np.mean(values) for values in precisions.values()]))


def _fit(pairs: Sequence[_Pairs], strength: float) -> ContactRegression:
    labels = np.concatenate([item.labels for item in pairs])
    # liblinear computes in float64; filling it here spares it a copy.
    features = np.empty((labels.size, pairs[0].features.shape[1]))
    np.concatenate([item.features for item in pairs], out=features)
    coefficients, intercept, converged = np.zeros(features.shape[1]), 0.0, True
    if labels.any() and not labels.all():  # else there is nothing to tell apart
        fit = LogisticRegression(l1_ratio=1.0, C=strength, solver="liblinear", random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
            fit.fit(features, labels)
        coefficients, intercept = fit.coef_[0], float(fit.intercept_[0])
        converged = bool(fit.n_iter_[0] < fit.max_iter)
        if not converged:
            _log.info("C = %g: liblinear stopped after %d iterations", strength, fit.max_iter)
    return ContactRegression(
        coefficients=coefficients,
        intercept=intercept,
        inverse_strength=strength,
        converged=converged,
    )
