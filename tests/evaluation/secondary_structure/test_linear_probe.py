import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from esm1b.evaluation.secondary_structure import linear_probe
from esm1b.evaluation.secondary_structure.linear_probe import PENALTIES, fit_linear_probe


def problem(rows: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated features on different scales, one of them constant, and three classes."""
    generator = np.random.default_rng(3)
    mixing = generator.normal(size=(5, 5)) * [1, 10, 0.1, 1, 1]
    features = generator.normal(size=(rows, 5)) @ mixing + [0, 100, 0, -3, 0]
    features[:, 4] = 7.0
    weights = generator.normal(size=(5, 3)) / (features.std(axis=0) + 1e-9)[:, None]
    weights[4] = 0
    logits = (features - features.mean(axis=0)) @ weights + noise * generator.gumbel(size=(rows, 3))
    return features.astype(np.float32), logits.argmax(axis=1).astype(np.int8)


def test_the_fit_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_probe, "PENALTIES", (0.01,))
    features, labels = problem(400, noise=1.0)
    probe = fit_linear_probe(features.copy(), labels, classes=3, held_out=100)
    scale = features.std(axis=0)
    scale[4] = 1
    standardised = (features - features.mean(axis=0)) / scale
    # scikit-learn's C is one over the penalty of the summed loss.
    reference = LogisticRegression(C=1 / (0.01 * 400), tol=1e-8, max_iter=1000)
    reference.fit(standardised.astype(np.float64), labels)
    # At a tolerance of 1e-7 of the loss, weights agree to about its root.
    assert probe.weights * scale[:, None] == pytest.approx(reference.coef_.T, abs=5e-3)
    assert (probe.predict(features) == reference.predict(standardised)).mean() > 0.99


def test_the_penalty_is_chosen_on_the_rows_held_out() -> None:
    features, labels = problem(2000, noise=0.0)
    clear = fit_linear_probe(features.copy(), labels, classes=3, held_out=500)
    assert clear.penalty == PENALTIES[-1]
    assert (clear.predict(features) == labels).mean() > 0.97
    shuffled = np.random.default_rng(0).permutation(labels)
    nothing = fit_linear_probe(features.copy(), shuffled, classes=3, held_out=500)
    assert nothing.penalty >= 0.1
    assert nothing.held_out_loss[nothing.penalty] == min(nothing.held_out_loss.values())


def test_a_class_without_rows_is_never_predicted() -> None:
    features, labels = problem(300, noise=0.0)
    labels[labels == 2] = 0
    probe = fit_linear_probe(features.copy(), labels, classes=3, held_out=50)
    assert set(probe.predict(features)) <= {0, 1}
