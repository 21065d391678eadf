import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.alphabet import AMINO_ACIDS
from esm1b.synthetic.structure import (
    COMPLEMENTARY,
    HYDROPHOBICITY,
    PROPENSITIES,
    Segment,
    complementarity,
    draw_contacts,
    draw_segments,
    hydrophobic_phase,
    segment_string,
)


def test_propensities_are_the_published_ones() -> None:
    def propensity(state: str, symbol: str) -> float:
        return float(PROPENSITIES[state][AMINO_ACIDS.index(symbol)])

    assert propensity("H", "E") == 1.51
    assert propensity("H", "P") == 0.57
    assert propensity("E", "V") == 1.70
    assert propensity("E", "E") == 0.37
    assert propensity("C", "G") == 1.56
    assert propensity("C", "I") == 0.47
    assert max(AMINO_ACIDS, key=lambda symbol: propensity("E", symbol)) == "V"


def test_hydrophobicity_is_standardised() -> None:
    assert HYDROPHOBICITY.mean() == pytest.approx(0, abs=1e-12)
    assert HYDROPHOBICITY.std() == pytest.approx(1)
    order = "".join(AMINO_ACIDS[index] for index in np.argsort(-HYDROPHOBICITY))
    assert order[:3] == "IVL"
    assert order[-1] == "R"


def test_segments_alternate_with_loops() -> None:
    generator = np.random.default_rng(0)
    for length in (30, 40, 100):
        segments = draw_segments(length, generator)
        assert [segment.state == "C" for segment in segments] == [
            index % 2 == 0 for index in range(len(segments))
        ]
        assert segments[0].start == 0
        assert all(a.stop == b.start for a, b in itertools.pairwise(segments))
        ss3 = segment_string(segments)
        assert len(ss3) == length
        assert min(ss3.count(state) for state in "HEC") >= 0.2 * length


def test_strands_alternate_and_helices_turn() -> None:
    segments = [
        Segment(start=0, stop=2, state="C"),
        Segment(start=2, stop=6, state="E"),
        Segment(start=6, stop=8, state="C"),
        Segment(start=8, stop=27, state="H"),
    ]
    facing = hydrophobic_phase(segments, np.random.default_rng(0))
    np.testing.assert_array_equal(facing[[0, 1, 6, 7]], 0)
    np.testing.assert_allclose(facing[2:6] * facing[2], [1, -1, 1, -1])
    # 18 residues of a helix are five turns
    assert facing[8] == pytest.approx(facing[26])
    assert np.abs(facing).max() <= 1


def test_every_residue_has_two_partners() -> None:
    matrix = complementarity()
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(matrix.sum(axis=1), 2)
    assert len(COMPLEMENTARY) == len({frozenset(pair) for pair in COMPLEMENTARY}) == 20


@given(seed=st.integers(0, 10_000), length=st.integers(30, 60))
@settings(deadline=None, max_examples=20)
def test_contacts_face_the_same_side_and_come_sorted(seed: int, length: int) -> None:
    generator = np.random.default_rng(seed)
    segments = draw_segments(length, generator)
    facing = hydrophobic_phase(segments, generator)
    contacts = draw_contacts(segments, facing, generator)
    assert (facing[contacts[:, 0]] * facing[contacts[:, 1]] >= 0).all()
    assert contacts.tolist() == sorted(contacts.tolist())
    assert contacts.dtype == np.int64
