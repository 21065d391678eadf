import pytest

from esm1b.sequences.record import clean, drop_reason, fault


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
