"""Which sequences enter a corpus, and in which form."""

from typing import Final

from esm1b.alphabet import RESIDUES

OTHER_CHARACTERS: Final = "other_characters"
EMPTY_SEQUENCE: Final = "empty_sequence"
WHITE_SPACE: Final = b" \t\n\v\f\r"

_ACCEPTED: Final = (RESIDUES + "J").encode()


def clean(sequence: bytes) -> bytes:
    """Return `sequence` in upper case, without white space and without one final `*` (stop)."""
    return sequence.translate(None, WHITE_SPACE).upper().removesuffix(b"*")


def drop_reason(cleaned: bytes) -> str | None:
    """Return why a cleaned sequence is dropped, or None if it is kept.

    All 26 letters stand for residues: the 20 amino acids, B, J, O, U, X and Z. Anything else (gaps,
    stops within the sequence, digits) is an error in the record.
    """
    if not cleaned:
        return EMPTY_SEQUENCE
    if cleaned.translate(None, _ACCEPTED):
        return OTHER_CHARACTERS
    return None


def fault(cleaned: bytes) -> str:
    """Return the sentence for a user about a cleaned sequence that is dropped."""
    other = cleaned.translate(None, _ACCEPTED)
    if not other:
        return "has no sequence; expected residues"
    shown = repr(chr(other[0])) if other[0] < 128 else f"byte {other[0]:#x}"
    position = cleaned.index(other[:1]) + 1
    return f"{shown} at position {position} of the sequence; expected the letters A to Z"
