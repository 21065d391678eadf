"""Records as rows: one table of numbers over the bytes of many records."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.sequences.hashes import first_words

if TYPE_CHECKING:
    from hashlib import _Hash

TEXT_FIELDS: Final = ("id", "name", "taxon", "representative_id", "sequence")
"""The fields that are text, in the order of `starts` and `lengths`."""

DROP_REASONS: Final = (
    *("other_characters", "empty_sequence", "excluded", "too_short", "too_long"),
    *("not_in_sample", "duplicate_id", "held_out_sequence"),
)
"""In the order in which they are tested: a record counts under the first that holds."""

OUTCOMES: Final = (None, *DROP_REASONS)
"""What can become of a record; None is kept."""

NONE: Final = -1
"""Stands for a missing number, and as the length of a missing text."""

# 80 bytes a record. A row of text holds the fields of one record and, between them, whatever stood
# there in the input; it begins with the id and ends with the sequence.
ROW: Final = np.dtype(
    [
        ("order", "<u8"),  # hash of the id: the place in the corpus
        ("sequence_hash", "<u8"),  # hash of the cleaned sequence: the side of the split
        ("start", "<i8"),  # start of the row in the text
        ("taxon_id", "<i8"),
        ("starts", "<i4", (len(TEXT_FIELDS),)),  # start of each field in the row
        ("lengths", "<i4", (len(TEXT_FIELDS),)),  # length of each field, or NONE
        ("member_count", "<i4"),
        ("is_validation", "?"),
        ("outcome", "u1"),  # index in `OUTCOMES`
    ],
    align=True,
)

# An Arrow view is 16 bytes: up to 12 bytes of text follow their number at once, a longer text is
# given by buffer and offset (https://arrow.apache.org/docs/format/Columnar.html).
_VIEW: Final = np.dtype([("length", "<i4"), ("start", "<u8"), ("end", "<u4")])
_POINTER: Final = np.dtype([("length", "<i4"), ("prefix", "<u4"), ("buffer", "<i4"), ("at", "<i4")])
_INLINE: Final = 12


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some records.

    Attributes:
        index: `[records]` of type `ROW`.
        text: bytes of all rows, less than 2 GiB, in any order; fields but `sequence` are UTF-8.
    """

    index: NDArray[Any]
    text: bytes | memoryview

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> int:
        """Bytes that the records take."""
        return len(self.text) + self.index.nbytes

    @classmethod
    def concatenate(cls, parts: Sequence["Rows"]) -> "Rows":
        """Return the records of all `parts`, at least one."""
        index = np.concatenate([part.index for part in parts])
        first = text_start = 0
        for part in parts:
            index["start"][first : first + len(part)] += text_start
            first += len(part)
            text_start += len(part.text)
        return cls(index=index, text=b"".join([part.text for part in parts]))

    def take(self, places: NDArray[Any]) -> "Rows":
        """Return the records at `places` (numbers or a mask) with the same text."""
        if places.dtype == np.bool_:
            places = np.flatnonzero(places)
        # for structured arrays 15 times as fast as indexing
        return Rows(index=self.index.take(places), text=self.text)

    def field(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return `[records]` starts in the text and `[records]` lengths of a text field."""
        column = TEXT_FIELDS.index(name)
        starts: NDArray[np.int64] = self.index["start"] + self.index["starts"][:, column]
        return starts, self.index["lengths"][:, column]

    def value(self, name: str, place: int) -> bytes | None:
        """Return a text field of one record."""
        (start,), (length,) = Rows(index=self.index[place : place + 1], text=b"").field(name)
        return None if length == NONE else bytes(memoryview(self.text)[start : start + length])

    def compact(self) -> "Rows":
        """Return the same records with a text that holds nothing else, in their order."""
        index = self.index.copy()
        sizes = index["starts"][:, -1] + index["lengths"][:, -1]
        text = gather(self.text, index["start"], sizes, pa.large_binary()).buffers()[2]
        index["start"] = np.cumsum(sizes, dtype=np.int64) - sizes
        return Rows(index=index, text=memoryview(text) if len(index) else b"")


@dataclass(frozen=True, kw_only=True)
class SequenceColumn:
    """Views of an Arrow column, without copies.

    Attributes:
        characters: `[residues]` the sequences one after another.
        offsets: `[sequences + 1]` where each begins in `characters`; the last is where they end.
    """

    characters: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, array: pa.Array) -> "SequenceColumn":
        """Return the content of an array of strings or bytes without nulls."""
        array = array.cast(pa.large_binary())
        _, offset_buffer, values = array.buffers()
        if not len(array):
            return cls(characters=np.empty(0, np.uint8), offsets=np.zeros(1, np.int64))
        offsets = np.frombuffer(offset_buffer, np.int64)[array.offset :][: len(array) + 1]
        characters = np.frombuffer(values, np.uint8)[offsets[0] : offsets[-1]]
        return cls(characters=characters, offsets=offsets - offsets[0] if offsets[0] else offsets)

    def lengths(self) -> NDArray[np.int32]:
        """Return `[sequences]` residues per sequence."""
        return np.diff(self.offsets).astype(np.int32)

    def update(self, digest: "_Hash") -> None:
        """Feed number, lengths and residues of the sequences to `digest`."""
        digest.update(len(self.offsets).to_bytes(8, "little"))
        digest.update(self.lengths().astype("<i4").tobytes())
        digest.update(self.characters.data)


def gather(
    text: bytes | memoryview, starts: NDArray[np.int64], lengths: NDArray[np.int32], to: pa.DataType
) -> pa.Array:
    """Return pieces of `text` as an Arrow column of their own.

    Arrow's loop over views of the text copies them faster than NumPy or Python can.

    Args:
        text: less than 2 GiB.
        starts: `[pieces]`.
        lengths: `[pieces]`; `NONE` makes a null.
        to: type of the column, of strings or bytes.
    """
    missing = lengths == NONE
    views = np.zeros(len(starts), _VIEW)
    views["length"] = np.where(missing, 0, lengths)
    views.view(_POINTER)["at"] = starts
    short = np.flatnonzero(lengths <= _INLINE)
    at, sizes = starts.take(short), lengths.take(short)
    views["start"][short] = first_words(text, at, sizes)
    views["end"][short] = first_words(text, at + 8, np.minimum(sizes - 8, 4))
    validity = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    view = pa.string_view() if pa.types.is_string(to) else pa.binary_view()
    buffers = [validity, pa.py_buffer(views), pa.py_buffer(text)]
    return pa.Array.from_buffers(view, len(starts), buffers).cast(to)


def sort_rows(rows: Rows) -> Rows:
    """Return the records by rising hash of the id; those with equal hashes in any order."""
    return rows.take(np.argsort(rows.index["order"]))


def drop_duplicate_ids(rows: Rows, *, strict: bool = False) -> Rows:
    """Return records that `sort_rows` sorted, with one per id, in order of (hash, id).

    Of records with one id the one with the smallest sequence is kept; of those with one sequence
    too, the one whose name, number of members, taxon, taxon's id and representative are the
    smallest, a missing value before all others. The choice is the same for any order of the input.

    Raises:
        UserError: `strict`, and an id is that of several records; names the first in order.
    """
    order = rows.index["order"]
    # equal ids have equal hashes; unequal ids with equal hashes are all but impossible
    is_tied = np.zeros(len(order), np.bool_)
    is_tied[1:] = order[1:] == order[:-1]
    is_tied[:-1] |= is_tied[1:]
    if not is_tied.any():
        return rows
    ranked = sorted((_rank(rows, place), place) for place in np.flatnonzero(is_tied).tolist())
    kept = []
    for (_, identifier), same in groupby(ranked, key=lambda item: item[0][:2]):
        (_, best), *others = same
        if others and strict:
            name = str(identifier[1], "utf-8")
            raise UserError(f"duplicate id {name!r}; expected unique ids")
        kept.append(best)
    # untied rows stay where they are; those kept of a tie follow one another in its place
    places = np.concatenate([np.flatnonzero(~is_tied), np.array(kept, np.int64)])
    return rows.take(places[np.argsort(order[places], kind="stable")])


def _rank(rows: Rows, place: int) -> tuple[Any, ...]:
    """Return what decides between records of one hash: order, id, sequence, the other fields."""

    def text(name: str) -> tuple[bool, bytes]:
        value = rows.value(name, place)
        return value is not None, value or b""

    order, members, taxon_id = rows.index[["order", "member_count", "taxon_id"]][place].tolist()
    name, taxon, representative = map(text, ("name", "taxon", "representative_id"))
    return order, text("id"), text("sequence"), name, members, taxon, taxon_id, representative
