import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm1b.evaluation.contacts.precision import (
    PRECISIONS,
    contact_precisions,
    precision_at,
)
from esm1b.evaluation.structures.geometry import pair_mask


def test_ranges_are_short_medium_and_long_of_observed_residues() -> None:
    observed = np.ones(40, dtype=bool)
    # Of 40 residues, 40 - s pairs have the separation s.
    assert pair_mask(observed, 6, 12).sum() == 34 + 33 + 32 + 31 + 30 + 29
    assert pair_mask(observed, 24).sum() == 16 * 17 // 2
    assert pair_mask(observed).sum() == 34 * 35 // 2
    observed[0] = False
    assert pair_mask(observed).sum() == 34 * 35 // 2 - 34
    assert not pair_mask(observed)[10, 3]


def test_precision_counts_contacts_among_the_best() -> None:
    scores = np.array([0.1, 0.9, 0.8, 0.3])
    contacts = np.array([True, True, False, False])
    assert precision_at(scores, contacts, 1) == 1.0
    assert precision_at(scores, contacts, 2) == 0.5
    assert precision_at(scores, contacts, 4) == 0.5


def test_pairs_tied_at_the_cut_count_by_expectation() -> None:
    contacts = np.array([True, True, False, False])
    assert precision_at(np.array([0.5, 0.9, 0.5, 0.1]), contacts, 2) == 0.75
    assert precision_at(np.zeros(4), contacts, 3) == 0.5


def test_the_denominator_stays_where_pairs_run_out() -> None:
    assert precision_at(np.array([1.0, 2.0]), np.array([True, True]), 4) == 0.5


def test_precision_of_nothing_is_undefined() -> None:
    assert np.isnan(precision_at(np.array([]), np.array([], dtype=bool), 3))
    assert np.isnan(precision_at(np.array([1.0]), np.array([True]), 0))


def test_precisions_of_one_protein() -> None:
    length = 40
    contacts = np.zeros((length, length), dtype=bool)
    for i, j in [(0, 6), (0, 12), (0, 30), (5, 39)]:
        contacts[i, j] = contacts[j, i] = True
    precisions = contact_precisions(
        contacts.astype(np.float64), contacts, np.ones(length, dtype=bool)
    )
    assert list(precisions) == list(PRECISIONS)
    assert precisions["precision_at_contacts"] == 1.0
    # Both long-range contacts are found, and L/5 = 8 pairs are asked for; the 6 others are drawn
    # from 134 pairs without a contact.
    assert precisions["precision_at_L5_long"] == 0.25
    assert precisions["precision_at_L_long"] == 2 / 40
    assert precisions["precision_at_L5_short"] == 1 / 8
    assert precisions["precision_at_L2_all"] == 4 / 20


def test_unobserved_residues_are_in_no_pair_but_count_in_the_length() -> None:
    contacts = np.zeros((40, 40), dtype=bool)
    contacts[0, 30] = contacts[30, 0] = contacts[5, 39] = contacts[39, 5] = True
    observed = np.ones(40, dtype=bool)
    observed[0] = False
    precisions = contact_precisions(contacts.astype(np.float64), contacts, observed)
    assert precisions["precision_at_contacts"] == 1.0  # of one contact left
    assert precisions["precision_at_L5_long"] == 1 / 8


def test_a_short_protein_has_no_long_range() -> None:
    precisions = contact_precisions(
        np.zeros((20, 20)), np.zeros((20, 20), dtype=bool), np.ones(20, dtype=bool)
    )
    assert np.isnan(precisions["precision_at_L_long"])
    assert np.isnan(precisions["precision_at_contacts"])
    assert precisions["precision_at_L_short"] == 0.0


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 25),
)
def test_precision_does_not_depend_on_the_order_of_pairs(
    pairs: list[tuple[float, bool]], count: int
) -> None:
    scores, contacts = (np.array(values) for values in zip(*pairs, strict=True))
    forward = precision_at(scores, contacts, count)
    assert forward == pytest.approx(precision_at(scores[::-1], contacts[::-1], count))
    assert 0 <= forward <= 1
