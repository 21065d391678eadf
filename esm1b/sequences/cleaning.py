"""Which sequences enter a corpus, and in which form."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from esm1b.alphabet import RESIDUES

OTHER_CHARACTERS: Final = "other_characters"
EMPTY_SEQUENCE: Final = "empty_sequence"

_ACCEPTED: Final = (RESIDUES + "J").encode()
_WHITE_SPACE: Final = b" \t\n\v\f\r"


def clean(sequence: bytes) -> bytes:
    """Return `sequence` in upper case, without white space and without one final `*` (stop)."""
    return sequence.translate(None, _WHITE_SPACE).upper().removesuffix(b"*")


def drop_reason(cleaned: bytes) -> str | None:
    """Return why a cleaned sequence cannot be kept, or None if it can.

    All 26 letters stand for residues: the 20 amino acids, B, J, O, U, X and Z. Anything else (gaps,
    stops within the sequence, digits) is a fault of the record, not a residue.
    """
    if not cleaned:
        return EMPTY_SEQUENCE
    if cleaned.translate(None, _ACCEPTED):
        return OTHER_CHARACTERS
    return None


def fault(cleaned: bytes) -> str:
    """Return in words why a cleaned sequence cannot be kept, and what was expected."""
    other = cleaned.translate(None, _ACCEPTED)
    if not other:
        return "has no sequence; expected residues"
    shown = repr(chr(other[0])) if other[0] < 128 else f"byte {other[0]:#x}"
    position = cleaned.index(other[:1]) + 1
    return f"{shown} at position {position} of the sequence; expected the letters A to Z"


def clean_all(sequences: Sequence[bytes]) -> tuple[list[bytes], list[int], Counter[str]]:
    """Clean many sequences at once.

    Returns:
        The cleaned sequences that are kept, their indices among `sequences`, and how many were
        dropped for which reason.
    """
    # Nearly every block is clean already, which one pass over its joined bytes shows: the
    # difference to 'A' is unsigned, so that what lies before 'A' is large too.
    joined = np.frombuffer(b"".join(sequences), dtype=np.uint8)
    if all(sequences) and not (joined - np.uint8(ord("A")) >= len(_ACCEPTED)).any():
        return list(sequences), list(range(len(sequences))), Counter()
    kept: list[bytes] = []
    indices: list[int] = []
    dropped: Counter[str] = Counter()
    for index, sequence in enumerate(sequences):
        cleaned = clean(sequence)
        reason = drop_reason(cleaned)
        if reason is None:
            kept.append(cleaned)
            indices.append(index)
        else:
            dropped[reason] += 1
    return kept, indices, dropped
