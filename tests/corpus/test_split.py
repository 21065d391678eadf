import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from esm1b.corpus.split import FractionSplit, id_hashes, read_id_split, sequence_hashes
from esm1b.errors import UserError


def test_hashes_are_those_of_the_documented_keys() -> None:
    """Other values would move the held-out sequences of every corpus made so far."""
    assert sequence_hashes([b"MKV"]).tolist() == [534495540493666200]
    assert id_hashes([b"UniRef50_K7G060"]).tolist() == [6776515684729089456]
    digest = hashlib.blake2b(b"MKV", digest_size=8, key=b"esm1b validation split").digest()
    assert sequence_hashes([b"MKV"]).tolist() == [int.from_bytes(digest, "big")]


def test_fraction_is_met_and_larger_fractions_hold_out_more() -> None:
    sequences = [b"MKV" + str(number).encode() for number in range(20_000)]
    ids = id_hashes(sequences)
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


@pytest.mark.parametrize("compressed", [False, True])
def test_ids_of_a_file_are_held_out(tmp_path: Path, compressed: bool) -> None:
    content = b"a\r\n>b with a name\n\nc"
    path = tmp_path / "ids"
    path.write_bytes(gzip.compress(content) if compressed else content)
    split = read_id_split(path)
    ids = [b"a", b"A", b"b", b"c", b"d"]
    held_out = split.is_validation([b"MK"] * 5, id_hashes(ids))
    np.testing.assert_array_equal(held_out, [True, False, True, True, False])
    assert split.definition() == {
        "method": "ids",
        "ids_file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "ids": 3,
    }


def test_file_without_ids_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_bytes(b"\n \n")
    with pytest.raises(UserError, match="ids: names no id; expected one sequence id per line"):
        read_id_split(path)
    path.write_bytes(gzip.compress(b"a\nb\n")[:-4])
    with pytest.raises(UserError, match=r"ids: the gzip data ends early; expected a complete .gz"):
        read_id_split(path)
