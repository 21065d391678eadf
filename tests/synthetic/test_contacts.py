import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.synthetic.contacts import COMPLEMENTARY, complementarity, draw_contacts
from esm1b.synthetic.secondary_structure import draw_segments, hydrophobic_phase


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
