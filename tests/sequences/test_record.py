import pytest

from esm1b.sequences.record import clean, drop_reason, fault, nucleotide_warning


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
        (
            b"M\xc3\xa4",
            "'\u00e4', U+00E4 (LATIN SMALL LETTER A WITH DIAERESIS) at position 2 of the sequence; "
            "expected the letters A to Z",
        ),
        (
            "MK\u200bV".encode(),
            "U+200B (ZERO WIDTH SPACE) at position 3 of the sequence; expected the letters A to Z",
        ),
        (
            "MK\u00a0V".encode(),
            "U+00A0 (NO-BREAK SPACE) at position 3 of the sequence; expected the letters A to Z",
        ),
        (b"M\xe4", "byte 0xe4 at position 2 of the sequence; expected the letters A to Z"),
    ],
)
def test_fault_in_words(cleaned: bytes, words: str) -> None:
    assert fault(cleaned) == words


def test_few_residues_or_some_nucleotides_are_no_surprise() -> None:
    assert nucleotide_warning(499, 499) is None
    assert nucleotide_warning(899, 1000) is None
    assert nucleotide_warning(920, 1000) == (
        "92% of the residues are A, C, G, T, U or N: DNA or RNA; expected proteins"
    )
