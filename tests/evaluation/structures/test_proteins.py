import numpy as np
import pytest

from esm1b.alphabet import encode
from esm1b.evaluation.structures.proteins import Protein, overlap, share_groups, unit_of


def protein(identifier: str, group: str, sequence: str) -> Protein:
    return Protein(
        id=identifier,
        group=group,
        kind=None,
        residues=encode(sequence),
        observed=np.ones(len(sequence), dtype=bool),
        contacts=np.empty((2, 0), dtype=np.int64),
    )


def groups(*proteins: Protein) -> list[str]:
    return [each.group for each in share_groups(proteins)]


def test_equal_sequences_join_their_groups() -> None:
    # b and c share a sequence, c and d another one through their groups
    chain = [
        protein("1", "b", "MKT"),
        protein("2", "c", "MKT"),
        protein("3", "c", "AAA"),
        protein("4", "d", "AAA"),
        protein("5", "e", "MK"),
    ]
    assert groups(*chain) == ["b", "b", "b", "b", "e"]
    assert groups(*chain[::-1]) == ["e", "b", "b", "b", "b"]


def test_different_sequences_keep_their_groups() -> None:
    assert groups(protein("1", "z", "MKT"), protein("2", "z", "AAA"), protein("3", "a", "C")) == [
        "z", "z", "a",
    ]  # fmt: skip
    assert groups() == []


def test_the_unit_is_a_protein_where_a_group_is_one_sequence() -> None:
    alone = [protein("p1", "p1", "MKT"), protein("p2", "p2", "AAA")]
    again = protein("p0", "p0", "AAA")
    assert unit_of(alone) == "protein"
    assert unit_of(share_groups([*alone, again])) == "protein"
    assert unit_of([protein("p1", "family", "MKT"), *alone[1:]]) == "family"
    assert unit_of([*alone, protein("p3", "p1", "CC")]) == "family"


def test_overlap_counts_and_warns(caplog: pytest.LogCaptureFixture) -> None:
    fitted = [protein("1", "a", "MKT"), protein("2", "b", "AAA")]
    tested = [protein("3", "a", "MKT"), protein("4", "b", "CC"), protein("5", "c", "C")]
    assert overlap(fitted, tested) == {
        "test_sequences_also_fitted": 1,
        "test_proteins_of_fitted_groups": 2,
    }
    assert caplog.messages == [
        "1 of 3 proteins to test have the sequence of a fitted one, 2 its group"
    ]
    caplog.clear()
    assert set(overlap(fitted, tested[2:]).values()) == {0}
    assert caplog.messages == []
