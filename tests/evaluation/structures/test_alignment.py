import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esm1b.evaluation.structures.alignment import bonded_segments, place_segments


def test_a_gap_of_repeated_letters_is_placed_by_numbering() -> None:
    # G at 3, 4 or 5 of AAGGGCC would do: the numbers say that the first two are missing.
    positions = place_segments("AAGGGCC", "AAGCC", [1, 2, 5, 6, 7], [(0, 2), (2, 5)])
    assert positions == [0, 1, 4, 5, 6]


def test_letters_weigh_more_than_numbering() -> None:
    positions = place_segments("ACDEFGHIK", "ACHIK", [1, 2, 3, 4, 5], [(0, 2), (2, 5)])
    assert positions == [0, 1, 6, 7, 8]


def test_a_break_in_the_chain_need_not_be_a_gap() -> None:
    assert place_segments("ACDE", "ACDE", [1, 2, 30, 31], [(0, 2), (2, 4)]) == [0, 1, 2, 3]


def test_a_different_letter_is_tolerated() -> None:
    assert place_segments("MACDEF", "ASDE", [1, 2, 3, 4], [(0, 4)]) == [1, 2, 3, 4]


def test_more_residues_than_the_sequence_have_no_place() -> None:
    assert place_segments("ACD", "ACDE", [1, 2, 3, 4], [(0, 4)]) == []
    assert place_segments("ACD", "ACAC", [1, 2, 3, 4], [(0, 2), (2, 4)]) == []


def test_segments_break_where_the_peptide_bond_does() -> None:
    def residue(x: float) -> np.ndarray:
        return np.array([[x, 0, 0], [x + 1.4, 0, 0], [x + 2.5, 0, 0], [np.nan] * 3])

    assert bonded_segments([residue(0), residue(3.8), residue(11.4)]) == [(0, 2), (2, 3)]
    assert bonded_segments([residue(0)]) == [(0, 1)]
    assert bonded_segments([]) == []


def test_without_nitrogen_the_alpha_carbons_decide() -> None:
    def residue(x: float) -> np.ndarray:
        return np.array([[np.nan] * 3, [x, 0, 0], [np.nan] * 3, [np.nan] * 3])

    assert bonded_segments([residue(0), residue(3.8), residue(10.0)]) == [(0, 2), (2, 3)]


@given(st.text("ACDE", min_size=1, max_size=25), st.data())
def test_what_is_left_of_a_sequence_finds_its_letters(sequence: str, data: st.DataObject) -> None:
    kept = data.draw(
        st.lists(st.sampled_from(range(len(sequence))), min_size=1, unique=True).map(sorted)
    )
    starts = [k for k, place in enumerate(kept) if k == 0 or place != kept[k - 1] + 1]
    segments = list(zip(starts, [*starts[1:], len(kept)], strict=True))
    positions = place_segments(sequence, "".join(sequence[place] for place in kept), kept, segments)
    # Perfectly numbered, every residue goes back to where it was, up to where the first one stands.
    assert [sequence[place] for place in positions] == [sequence[place] for place in kept]
    assert np.diff(positions).tolist() == np.diff(kept).tolist()
