import logging
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from esm1b.alphabet import encode
from esm1b.inference.jacobian import average_product_correction, coupling_scores
from esm1b.inference.model import Model, load_model
from tests.inference.models import write_model

SEQUENCE = "MKTVRQGXLA"
GENERATOR = np.random.default_rng(2)
_WEIGHTS = GENERATOR.normal(size=(33, 10, 10, 33)) / 10


def logits_of(sequences: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Return logits in which every site acts on every other one, and sites act together."""
    found = []
    for tokens in sequences:
        acting = np.stack([_WEIGHTS[token, site] for site, token in enumerate(tokens)]).sum(axis=0)
        found.append((acting + np.tanh(acting * 3)).astype(np.float32))
    return found


def by_loops(sequence: str) -> NDArray[np.float64]:
    """Return the scores of `logits_of` by the steps of Zhang et al.'s code, in float64."""
    tokens = encode(sequence)
    length = len(tokens)
    jacobian = np.zeros((length, 20, length, 20))
    native = logits_of([tokens])[0].astype(np.float64)
    for i in range(length):
        for a in range(20):
            mutant = tokens.copy()
            mutant[i] = 4 + a
            logits = logits_of([mutant])[0].astype(np.float64)
            for j in range(length):
                for b in range(20):
                    jacobian[i, a, j, b] = logits[j, 4 + b] - native[j, 4 + b]
    for axis in range(4):
        jacobian -= jacobian.mean(axis=axis, keepdims=True)
    norms = np.zeros((length, length))
    for i in range(length):
        for j in range(length):
            symmetric = (jacobian[i, :, j, :] + jacobian[j, :, i, :].T) / 2
            norms[i, j] = 0 if i == j else np.sqrt((symmetric**2).sum())
    scores = np.zeros((length, length))
    for i in range(length):
        for j in range(length):
            if i != j:
                product = norms[i].sum() * norms[:, j].sum() / norms.sum()
                scores[i, j] = norms[i, j] - product
    return scores


def test_the_scores_are_those_of_plain_loops() -> None:
    found = coupling_scores(logits_of, encode(SEQUENCE))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, by_loops(SEQUENCE), rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_model(tmp_path_factory.mktemp("jacobian") / "model"))


@pytest.mark.parametrize("batch_tokens", [1, 37, 10_000])
def test_the_scores_of_a_network_do_not_depend_on_batches(model: Model, batch_tokens: int) -> None:
    def logits(sequences: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return model.logits(sequences, batch_tokens=batch_tokens)

    found = coupling_scores(logits, encode(SEQUENCE))
    expected = model.contacts(SEQUENCE, method="jacobian")
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


def test_a_residue_is_not_replaced_by_itself() -> None:
    counted = []

    def logits(sequences: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        counted.append(len(sequences))
        return logits_of(sequences)

    coupling_scores(logits, encode(SEQUENCE))
    assert sum(counted) == 1 + 9 * 19 + 20  # X is none of the 20


def test_one_residue_has_no_pair(model: Model) -> None:
    assert model.contacts("M", method="jacobian").tolist() == [[0]]


def test_windows_of_a_long_sequence(model: Model) -> None:
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 4
    found = model.contacts(sequence, method="jacobian", long_sequences="windows")
    first = model.contacts(sequence[:64], method="jacobian")
    assert found.shape == (80, 80)
    assert np.isnan(found[0, 64:]).all()
    np.testing.assert_array_equal(found[:16, :16], first[:16, :16])


def test_a_product_of_rows_and_columns_is_removed() -> None:
    explained = np.outer([1, 2, 3], [1, 2, 3.0])
    np.testing.assert_allclose(average_product_correction(explained), 0, atol=1e-15)
    assert average_product_correction(np.zeros((2, 3, 3))).tolist() == np.zeros((2, 3, 3)).tolist()


def test_the_cost_is_told(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model.log_jacobian_cost([30, 50])
    # 20 x (30 x 32 + 50 x 52) tokens, and 800 x 50^2 bytes
    said = "categorical Jacobian in 2 MB of memory: 1,600 passes of the network, 71,200 tokens"
    assert caplog.messages == [f"{said}; about 00:00"]
