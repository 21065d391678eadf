"""Counts of records: how many were read, and what became of them."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.sequences.cleaning import EMPTY_SEQUENCE, OTHER_CHARACTERS

DROP_REASONS: Final = (
    *(OTHER_CHARACTERS, EMPTY_SEQUENCE, "excluded", "too_short", "too_long"),
    *("not_in_sample", "duplicate_id", "held_out_sequence"),
)
"""In the order in which they are tested: a record counts under the first that holds."""
EXCLUDED, TOO_SHORT, TOO_LONG, NOT_IN_SAMPLE, DUPLICATE_ID, HELD_OUT_SEQUENCE = DROP_REASONS[2:]

OUTCOMES: Final = (None, *DROP_REASONS)
"""What can become of a record; None is kept."""


NO_IDS: Final = np.zeros(1, np.bool_)
"""No id of a list of any length, as it adds up with `[ids]`."""


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
    listed: NDArray[np.bool_] = field(default_factory=NO_IDS.copy)
    excluded: NDArray[np.bool_] = field(default_factory=NO_IDS.copy)
    held_out_sequences: list[NDArray[np.uint64]] = field(default_factory=list)

    def __add__(self, other: "Counts") -> "Counts":
        names = [one.name for one in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})
