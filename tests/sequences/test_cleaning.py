from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm1b.sequences.cleaning import clean, clean_all, drop_reason, fault


@pytest.mark.parametrize(
    ("sequence", "cleaned", "reason"),
    [
        (b"MKV", b"MKV", None),
        (b"m k\tv\r\n", b"MKV", None),
        (b"MKV*", b"MKV", None),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", None),
        (b"MK*V", b"MK*V", "other_characters"),
        (b"MKV**", b"MKV*", "other_characters"),
        (b"MK-V", b"MK-V", "other_characters"),
        (b"MK.V", b"MK.V", "other_characters"),
        (b"MK1", b"MK1", "other_characters"),
        (b"M\xc3\xa4", b"M\xc3\xa4", "other_characters"),
        (b"", b"", "empty_sequence"),
        (b"*", b"", "empty_sequence"),
        (b" \n", b"", "empty_sequence"),
    ],
)
def test_clean_and_reason(sequence: bytes, cleaned: bytes, reason: str | None) -> None:
    assert clean(sequence) == cleaned
    assert drop_reason(cleaned) == reason


@pytest.mark.parametrize(
    ("cleaned", "words"),
    [
        (b"", "has no sequence; expected residues"),
        (b"MK-V.", "'-' at position 3 of the sequence; expected the letters A to Z"),
        (b"M\xc3\xa4", "byte 0xc3 at position 2 of the sequence; expected the letters A to Z"),
    ],
)
def test_fault_in_words(cleaned: bytes, words: str) -> None:
    assert fault(cleaned) == words


def test_kept_and_dropped_of_a_block() -> None:
    kept, indices, dropped = clean_all([b"MKV", b"", b"mk*", b"M?", b"*", b"W"])
    assert kept == [b"MKV", b"MK", b"W"]
    assert indices == [0, 2, 5]
    assert dropped == Counter({"empty_sequence": 2, "other_characters": 1})


@given(st.lists(st.binary(max_size=12) | st.from_regex(rb"[A-Z]{1,12}", fullmatch=True)))
def test_a_block_is_cleaned_as_its_sequences_are(sequences: list[bytes]) -> None:
    kept, indices, dropped = clean_all(sequences)
    assert kept == [clean(sequences[index]) for index in indices]
    assert indices == [
        index for index, sequence in enumerate(sequences) if drop_reason(clean(sequence)) is None
    ]
    assert len(kept) + dropped.total() == len(sequences)
