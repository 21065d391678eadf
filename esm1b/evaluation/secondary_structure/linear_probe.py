"""A linear probe: multinomial logistic regression on frozen features."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

# L2 strengths on standardised features, per residue; each fit starts from the one before.
PENALTIES: Final = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)

_ITERATIONS: Final = 200
_TOLERANCE: Final = 1e-7  # relative decrease of the loss, near the precision of float32 products


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """A fitted probe: `weights` `[features, classes]` and `bias` `[classes]` on raw features.

    `penalty` is the L2 strength, the best of those tried; `held_out_loss` the mean cross-entropy of
    the rows held out, in nats, by strength.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    penalty: float
    held_out_loss: dict[float, float]

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the most likely class of each row of `features` `[rows, features]`."""
        return np.asarray((features @ self.weights.astype(np.float32) + self.bias).argmax(axis=1))


def fit_linear_probe(
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    *,
    classes: int,
    held_out: int,
) -> LinearProbe:
    """Choose the L2 strength on the last `held_out` rows, of equals the strongest; fit on all rows.

    The loss is the mean cross-entropy plus `penalty / 2` times the squared weights; the bias is
    free.

    Args:
        features: features `[rows, features]`, **standardised in place**, since at full size a copy
            would not fit in memory.
        labels: class of each row, from 0.
        classes: number of classes.
        held_out: number of rows at the end to choose on; at least one other row must be left.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1  # a constant feature is all zero once centred
    features -= mean.astype(np.float32)
    features /= scale.astype(np.float32)

    targets = np.eye(classes, dtype=np.float64)[labels]
    rows = len(features) - held_out
    moments = (features.T @ features).astype(np.float64) / len(features)
    values, vectors = np.linalg.eigh(moments)
    basis = np.maximum(values, 0), vectors
    losses: dict[float, float] = {}
    start = np.zeros((features.shape[1] + 1, classes))
    starts: dict[float, NDArray[np.float64]] = {}
    for penalty in PENALTIES:
        start = _minimise(features[:rows], targets[:rows], penalty, basis, start)
        starts[penalty] = start
        logits = features[rows:] @ start[:-1].astype(np.float32) + start[-1]
        losses[penalty] = float(-(targets[rows:] * log_softmax(logits, axis=1)).sum() / held_out)
    best = min(PENALTIES, key=lambda penalty: losses[penalty])
    fitted = _minimise(features, targets, best, basis, starts[best])
    weights = fitted[:-1] / scale[:, None]
    return LinearProbe(
        weights=weights, bias=fitted[-1] - mean @ weights, penalty=best, held_out_loss=losses
    )


def _minimise(
    features: NDArray[np.float32],
    targets: NDArray[np.float64],
    penalty: float,
    basis: tuple[NDArray[np.float64], NDArray[np.float64]],
    start: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return weights and, in the last row, bias, `[features + 1, classes]`, by L-BFGS.

    The loss's second derivative is at most half the features' second moments (D. Böhning, 1992,
    Ann. Inst. Stat. Math. 44:197) plus the penalty; `basis` holds the eigenvalues and eigenvectors
    of the moments. In coordinates where that bound is the identity, correlated features cost a
    dozen steps instead of hundreds.
    """
    values, vectors = basis
    stretch = np.sqrt(values / 2 + penalty)
    rows = len(features)

    def to_weights(point: NDArray[np.float64]) -> NDArray[np.float64]:
        weights: NDArray[np.float64] = vectors @ (point / stretch[:, None])
        return weights

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        point = flat.reshape(start.shape)
        weights, bias = to_weights(point[:-1]), point[-1]
        log_probabilities = log_softmax(features @ weights.astype(np.float32) + bias, axis=1)
        value = -(targets * log_probabilities).sum() / rows + penalty / 2 * (weights**2).sum()
        residuals = (np.exp(log_probabilities) - targets) / rows
        slope = features.T @ residuals.astype(np.float32) + penalty * weights
        gradient = np.vstack([(vectors.T @ slope) / stretch[:, None], residuals.sum(axis=0)])
        return float(value), gradient.ravel()

    first = np.vstack([stretch[:, None] * (vectors.T @ start[:-1]), start[-1:]])
    result = minimize(
        loss,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS, "ftol": _TOLERANCE, "gtol": 1e-6},
    )
    point = result.x.reshape(start.shape)
    return np.vstack([to_weights(point[:-1]), point[-1:]])
