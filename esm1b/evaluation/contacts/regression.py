"""Contacts from attention: a sparse logistic regression over the heads' attention maps.

The protocol of R. Rao et al., Transformer protein language models are unsupervised structure
learners (ICLR 2021): symmetrised, APC-corrected maps of all heads as features, pairs at separation
6 or more, L1 penalty with C = 0.15 on 20 proteins, scikit-learn's liblinear.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from esm1b.evaluation.contacts.precision import correct_average_product, precision_at, symmetrise
from esm1b.evaluation.structures.proteins import Protein
from esm1b.evaluation.structures.separation import pair_mask

_log = logging.getLogger(__name__)

Regularisation = float | Literal["cross-validate"]

PUBLISHED_C: Final = 0.15

# Half-decades around the published value, towards weaker penalties: fewer and shorter proteins than
# the published 20 need them.
STRENGTHS: Final = (0.015, 0.05, 0.15, 0.5, 1.5, 5.0, 15.0, 50.0, 150.0, 500.0)
_FOLDS: Final = 5


class AttentionModel(Protocol):
    """A network that attends."""

    def attentions(self, residues: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return attention weights `[channels, length, length]` for the tokens `[length]`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactRegression:
    """A fitted regression.

    `coefficients` `[channels]` and `intercept` apply to the corrected maps; `inverse_strength` is
    scikit-learn's C. `held_out_precision` holds, by C, the precision on groups left out where C was
    chosen; NaN where a fit kept no coefficient.
    """

    coefficients: NDArray[np.float64]
    intercept: float
    inverse_strength: float
    converged: bool
    held_out_precision: Mapping[float, float] = field(default_factory=dict)

    @property
    def failed(self) -> str | None:
        """Why the fit is of no use, or None."""
        if self.coefficients.any():
            return None
        return f"the regression kept no coefficient at C = {self.inverse_strength:g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """The pairs of one protein: features `[pairs, channels]` and labels `[pairs]`."""

    group: str
    features: NDArray[np.float32]
    labels: NDArray[np.bool_]


def fit_contact_regression(
    model: AttentionModel,
    proteins: Sequence[Protein],
    *,
    regularisation: Regularisation = PUBLISHED_C,
    seed: int = 0,
) -> ContactRegression:
    """Fit on all pairs of all `proteins`: both residues observed, separation 6 or more.

    With `cross-validate`, C is the one of `STRENGTHS` with the best precision (as many top pairs as
    contacts, mean over groups) on groups left out, up to five folds; the smallest C of equals. A C
    at which a fold keeps no coefficient is not a candidate. The number of pairs times channels
    sets the memory: 20 bytes for each pair and channel.
    """
    pairs = [_pairs_of(model, protein) for protein in proteins]
    if regularisation != "cross-validate":
        return _fit(pairs, float(regularisation))
    scores = {strength: _held_out_precision(pairs, strength, seed) for strength in STRENGTHS}
    candidates = [strength for strength in STRENGTHS if np.isfinite(scores[strength])]
    # Without a candidate the weakest penalty has the last word, and its failure is the result.
    best = max(candidates, key=lambda strength: scores[strength], default=STRENGTHS[-1])
    chosen = _fit(pairs, best)
    return ContactRegression(
        coefficients=chosen.coefficients,
        intercept=chosen.intercept,
        inverse_strength=best,
        converged=chosen.converged,
        held_out_precision=scores,
    )


def contact_probabilities(
    regression: ContactRegression, attentions: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the probability of a contact `[length, length]`, symmetric.

    Args:
        regression: fitted on the same network.
        attentions: weights `[channels, length, length]`, without `<cls>` and `<eos>`.
    """
    length = attentions.shape[-1]
    logits = np.full((length, length), regression.intercept)
    for channel in np.flatnonzero(regression.coefficients):
        corrected = correct_average_product(symmetrise(attentions[channel]))
        logits += regression.coefficients[channel] * corrected
    return np.asarray(expit(logits))


def _pairs_of(model: AttentionModel, protein: Protein) -> _Pairs:
    attentions = model.attentions(protein.residues)
    pairs = pair_mask(protein.observed)
    features = np.empty((int(pairs.sum()), len(attentions)), dtype=np.float32)
    for channel, weights in enumerate(attentions):  # one at a time: all at once may be gigabytes
        features[:, channel] = correct_average_product(symmetrise(weights))[pairs]
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
    channels = pairs[0].features.shape[1]
    if labels.all() or not labels.any():  # nothing to tell apart
        return ContactRegression(
            coefficients=np.zeros(channels),
            intercept=0.0,
            inverse_strength=strength,
            converged=True,
        )
    # liblinear computes in float64; filling it here spares it a copy.
    features = np.empty((labels.size, channels))
    np.concatenate([item.features for item in pairs], out=features)
    regression = LogisticRegression(l1_ratio=1.0, C=strength, solver="liblinear", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        regression.fit(features, labels)
    converged = bool(regression.n_iter_[0] < regression.max_iter)
    if not converged:
        _log.info("C = %g: liblinear stopped after %d iterations", strength, regression.max_iter)
    return ContactRegression(
        coefficients=regression.coef_[0],
        intercept=float(regression.intercept_[0]),
        inverse_strength=strength,
        converged=converged,
    )
