from pathlib import Path

import numpy as np
import pytest

from esm1b.corpus.records.split import FractionSplit, read_id_split
from esm1b.errors import UserError
from esm1b.sequences.hashes import id_hashes, joined, sequence_hashes


def test_fraction_is_met_and_larger_fractions_hold_out_more() -> None:
    sequences = sequence_hashes([b"MKV" + str(number).encode() for number in range(20_000)])
    ids = np.zeros_like(sequences)
    few = FractionSplit(fraction=0.01).is_validation(sequences, ids)
    many = FractionSplit(fraction=0.1).is_validation(sequences, ids)
    # binomial: 200 +- 14 and 2,000 +- 42, four standard deviations
    assert abs(int(few.sum()) - 200) < 56
    assert abs(int(many.sum()) - 2000) < 170
    assert not (few & ~many).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"expected a number above 0 and below 1"):
        FractionSplit(fraction=fraction)


def test_listed_ids_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a\nb\nc\n")
    split = read_id_split(tmp_path / "ids")
    ids = id_hashes(*joined([b"a", b"A", b"b", b"c", b"d"]))
    held_out = split.is_validation(np.zeros_like(ids), ids)
    np.testing.assert_array_equal(held_out, [True, False, True, True, False])
    assert split.definition() == {
        "method": "ids",
        "ids_file_sha256": "880553fca8fcea94e325ee2cfb48e5a985cc797f39a14cc6d3cedecfeb2ae4d2",
        "ids": 3,
    }
