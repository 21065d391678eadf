from pathlib import Path

import numpy as np
import pytest

from esm1b.evaluation.contacts.precision import contact_precisions
from esm1b.evaluation.contacts.regression import (
    STRENGTHS,
    ContactRegression,
    contact_features,
    contact_probabilities,
    fit_contact_regression,
)
from esm1b.evaluation.structures.proteins import Protein
from esm1b.evaluation.structures.table import read_structures
from tests.evaluation.fake_models import FakeModel, examples, truth_of, write_table


def proteins(tmp_path: Path, families: int = 6) -> list[Protein]:
    path = write_table(tmp_path / "table.parquet", examples({"fit": families}))
    return read_structures(path)


def test_the_head_that_attends_to_contacts_is_found(tmp_path: Path) -> None:
    model = FakeModel(attend=truth_of(examples({"fit": 6})))
    regression = fit_contact_regression(model.attentions, proteins(tmp_path))
    assert regression.failed is None
    assert regression.inverse_strength == 0.15
    assert np.flatnonzero(regression.coefficients).tolist() == [1]
    assert regression.coefficients[1] > 0
    for protein in proteins(tmp_path):
        scores = contact_probabilities(regression, model.attentions(protein.residues))
        assert scores == pytest.approx(scores.T)
        assert ((scores > 0) & (scores < 1)).all()
        precisions = contact_precisions(scores, protein.contact_map(), protein.observed)
        assert precisions["precision_at_contacts"] == 1.0


def test_noise_at_the_published_strength_keeps_no_coefficient(tmp_path: Path) -> None:
    regression = fit_contact_regression(FakeModel().attentions, proteins(tmp_path))
    assert regression.failed == "the regression kept no coefficient at C = 0.15"
    assert not regression.coefficients.any()


def test_the_strength_is_chosen_on_groups_left_out(tmp_path: Path) -> None:
    model = FakeModel(attend=truth_of(examples({"fit": 6})))
    regression = fit_contact_regression(
        model.attentions, proteins(tmp_path), regularisation="cross-validate"
    )
    assert list(regression.held_out_precision) == list(STRENGTHS)
    # The signal is perfect, so the strongest penalty that keeps it is as good as any.
    kept = [c for c, precision in regression.held_out_precision.items() if precision == 1.0]
    assert regression.inverse_strength == min(kept)
    assert np.isnan(regression.held_out_precision[0.015])


def test_the_order_of_the_proteins_does_not_matter(tmp_path: Path) -> None:
    model = FakeModel(attend=truth_of(examples({"fit": 4})))
    some = proteins(tmp_path, 4)
    first = fit_contact_regression(model.attentions, some, regularisation="cross-validate")
    second = fit_contact_regression(model.attentions, some[::-1], regularisation="cross-validate")
    assert first.inverse_strength == second.inverse_strength
    assert first.coefficients == pytest.approx(second.coefficients, rel=1e-2)


def test_proteins_without_contacts_fit_nothing(tmp_path: Path) -> None:
    rows = [
        Protein(
            id=protein.id,
            group=protein.group,
            kind="fit",
            residues=protein.residues,
            observed=protein.observed,
            contacts=np.empty((2, 0), dtype=np.int64),
        )
        for protein in proteins(tmp_path)
    ]
    for regularisation in (0.15, "cross-validate"):
        regression = fit_contact_regression(
            FakeModel().attentions, rows, regularisation=regularisation
        )
        assert regression.failed is not None


def test_features_are_symmetric_sums_without_the_average_product() -> None:
    maps = np.array([[[1, 2], [3, 4]], [[0.5, 0.5], [0.5, 0.5]]], dtype=np.float32)
    features = contact_features(maps)
    # The first a + a^T, the sum and not the mean, is 2 5 / 5 8: rows and columns sum to 7 and 13,
    # all to 20.
    expected = [[2 - 49 / 20, 5 - 91 / 20], [5 - 91 / 20, 8 - 169 / 20]]
    assert features[0] == pytest.approx(np.array(expected), abs=1e-6)
    assert features[1].tolist() == [[0, 0], [0, 0]]


def test_features_of_a_map_of_zeros_are_zero() -> None:
    assert contact_features(np.zeros((1, 2, 2), dtype=np.float32)).tolist() == [[[0, 0]] * 2]


def test_probabilities_are_the_logistic_of_corrected_maps() -> None:
    attentions = np.array([[[1, 2], [3, 4]], [[9, 9], [9, 9]]], dtype=np.float32)
    regression = ContactRegression(
        coefficients=np.array([2.0, 0.0]), intercept=-1.0, inverse_strength=1.0, converged=True
    )
    # a + a^T is 2 5 / 5 8; less 49/20, 91/20, 169/20 it is -0.45, 0.45, -0.45.
    expected = 1 / (1 + np.exp(-(2 * np.array([[-0.45, 0.45], [0.45, -0.45]]) - 1)))
    assert contact_probabilities(regression, attentions) == pytest.approx(expected, abs=1e-6)
