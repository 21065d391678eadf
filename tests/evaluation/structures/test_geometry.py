import numpy as np
import pytest

from esm1b.evaluation.structures.geometry import beta_carbons, contact_pairs, impute_beta_carbons

# An ideal alanine: CA at the origin, C on the x axis (angstrom).
NITROGEN = np.array([[-0.525, 1.363, 0.000]])
ALPHA = np.zeros((1, 3))
CARBONYL = np.array([[1.526, 0.000, 0.000]])
BETA = np.array([[-0.529, -0.774, -1.205]])


def test_the_imputed_beta_carbon_is_that_of_an_l_amino_acid() -> None:
    imputed = impute_beta_carbons(NITROGEN, ALPHA, CARBONYL)
    assert np.linalg.norm(imputed - BETA) < 0.05
    assert np.linalg.norm(imputed) == pytest.approx(1.522)


def test_imputing_has_the_published_angle_and_dihedral() -> None:
    beta = impute_beta_carbons(NITROGEN, ALPHA, CARBONYL)[0]
    to_nitrogen = NITROGEN[0] / np.linalg.norm(NITROGEN[0])
    assert np.arccos(to_nitrogen @ beta / 1.522) == pytest.approx(1.927)
    # Dihedral C-N-CA-CB: the angle between the two planes that share N-CA.
    first = np.cross(NITROGEN[0] - CARBONYL[0], -NITROGEN[0])
    second = np.cross(-NITROGEN[0], beta)
    sign = np.sign(np.cross(first, second) @ -NITROGEN[0])
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert sign * np.arccos(cosine) == pytest.approx(-2.143)


def test_turning_the_residue_turns_its_beta_carbon() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    shift = np.array([3.0, -2.0, 7.0])
    moved = impute_beta_carbons(NITROGEN @ turn + shift, ALPHA + shift, CARBONYL @ turn + shift)
    expected = impute_beta_carbons(NITROGEN, ALPHA, CARBONYL) @ turn + shift
    assert moved == pytest.approx(expected)


def test_a_beta_carbon_is_imputed_only_where_it_is_missing() -> None:
    missing = np.full((1, 3), np.nan)
    backbone = np.stack(
        [
            np.concatenate([NITROGEN, ALPHA, CARBONYL, [[9.0, 9.0, 9.0]]]),
            np.concatenate([NITROGEN, ALPHA, CARBONYL, missing]),
            np.concatenate([NITROGEN, ALPHA, missing, missing]),
        ]
    )
    beta = beta_carbons("AGG", backbone, glycine="impute")
    assert beta[0].tolist() == [9.0, 9.0, 9.0]
    assert np.linalg.norm(beta[1] - BETA) < 0.05
    assert np.isnan(beta[2]).all()


def test_glycine_can_stand_at_its_alpha_carbon() -> None:
    backbone = np.stack([np.concatenate([NITROGEN, ALPHA, CARBONYL, BETA])] * 2)
    beta = beta_carbons("AG", backbone, glycine="ca")
    assert beta[0].tolist() == BETA[0].tolist()
    assert beta[1].tolist() == [0.0, 0.0, 0.0]


def test_contacts_are_closer_than_8_angstrom_and_6_apart() -> None:
    beta = np.full((9, 3), 100.0) * np.arange(9.0)[:, None]
    beta[0] = [0, 0, 0]
    beta[5] = [1, 0, 0]  # near, five apart
    beta[6] = [7.999, 0, 0]
    beta[7] = [-8.0, 0, 0]
    beta[8] = np.nan
    assert contact_pairs(beta).tolist() == [[0], [6]]
