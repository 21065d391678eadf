"""Counts of records: how many were read, and what became of them."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.sequences.cleaning import EMPTY_SEQUENCE, OTHER_CHARACTERS

EXCLUDED: Final = "excluded"
TOO_SHORT: Final = "too_short"
TOO_LONG: Final = "too_long"
NOT_IN_SAMPLE: Final = "not_in_sample"
DUPLICATE_ID: Final = "duplicate_id"
HELD_OUT_SEQUENCE: Final = "held_out_sequence"
DROP_REASONS: Final = (
    OTHER_CHARACTERS,
    EMPTY_SEQUENCE,
    EXCLUDED,
    TOO_SHORT,
    TOO_LONG,
    NOT_IN_SAMPLE,
    DUPLICATE_ID,
    HELD_OUT_SEQUENCE,
)
"""In the order in which they are tested: a record counts under the first that holds."""

OUTCOMES: Final = (None, *DROP_REASONS)
"""What can become of a record; None is kept."""


def _nothing_found() -> NDArray[np.bool_]:
    return np.zeros(1, np.bool_)  # one for all ids: adds up with `[ids]`


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of some records; the sum of two counts is that of their records together.

    Attributes:
        read: number of records read.
        selected: number of records that every rule on single records keeps: no duplicate has been
            dropped yet.
        held_out: number of selected records on the validation side.
        dropped: number of records by the reason to drop them.
        spilled: bytes written to disk and read back later.
        listed: `[ids]`, the ids of the split's list that were read.
        excluded: `[ids]`, the ids to leave out that were read.
        held_out_sequences: hashes of the sequences that listed ids hold out, in several arrays.
    """

    read: int = 0
    selected: int = 0
    held_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    spilled: int = 0
    listed: NDArray[np.bool_] = field(default_factory=_nothing_found)
    excluded: NDArray[np.bool_] = field(default_factory=_nothing_found)
    held_out_sequences: list[NDArray[np.uint64]] = field(default_factory=list)

    def __add__(self, other: "Counts") -> "Counts":
        names = [one.name for one in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})
