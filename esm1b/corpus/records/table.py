"""Records as rows: one table of numbers over the bytes of many records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

TEXT_FIELDS: Final = ("id", "name", "taxon", "representative_id", "sequence")
"""The fields that are text, in the order of `starts` and `lengths`."""

NONE: Final = -1
"""Stands for a missing number, and as the length of a missing text."""

# 80 bytes a record. A row of text holds the fields of one record and, between them, whatever stood
# there in the input; it begins with the id and ends with the sequence.
ROW: Final = np.dtype(
    [
        ("order", "<u8"),  # hash of the id: the place in the corpus
        ("sequence_hash", "<u8"),  # of the cleaned sequence: the side of the split
        ("start", "<i8"),  # of the row in the text
        ("taxon_id", "<i8"),
        ("starts", "<i4", (len(TEXT_FIELDS),)),  # of each field in the row
        ("lengths", "<i4", (len(TEXT_FIELDS),)),  # of each field, or NONE
        ("member_count", "<i4"),
        ("is_validation", "<i4"),
    ]
)

# An Arrow view is 16 bytes: up to 12 bytes of text follow their number at once, a longer text is
# given by buffer and offset (https://arrow.apache.org/docs/format/Columnar.html).
_VIEW: Final = np.dtype([("length", "<i4"), ("start", "<u8"), ("end", "<u4")])
_INLINE: Final = 12
# `[9]` what to keep of a word of which 0 to 8 bytes, the lowest, count
_MASKS: Final = np.array([2 ** (8 * size) - 1 for size in range(9)], np.uint64)
_POINTER: Final = np.dtype([("length", "<i4"), ("prefix", "<u4"), ("buffer", "<i4"), ("at", "<i4")])


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some records.

    Attributes:
        index: `[records]` of type `ROW`.
        text: the rows' bytes, in any order; fields other than `sequence` are UTF-8.
    """

    index: NDArray[Any]
    text: bytes | memoryview | pa.Buffer

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> int:
        """Bytes that the records take."""
        return len(self.text) + self.index.nbytes

    @classmethod
    def concatenate(cls, parts: Sequence["Rows"]) -> "Rows":
        """Return the records of all `parts`."""
        index = np.concatenate([part.index for part in parts])
        first = text_start = 0
        for part in parts:
            index["start"][first : first + len(part)] += text_start
            first += len(part)
            text_start += len(part.text)
        return cls(index=index, text=b"".join([part.text for part in parts]))

    def take(self, places: NDArray[Any] | slice) -> "Rows":
        """Return the records at `places` (numbers, a mask or a slice) with the same text."""
        if isinstance(places, slice):
            return Rows(index=self.index[places], text=self.text)
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
        column = TEXT_FIELDS.index(name)
        row = self.index[place]
        start, length = int(row["start"] + row["starts"][column]), int(row["lengths"][column])
        return None if length == NONE else bytes(memoryview(self.text)[start : start + length])

    def compact(self) -> "Rows":
        """Return the same records with a text that holds nothing else, in their order."""
        return _compact([self], self.index.copy(), np.int32(0))

    @classmethod
    def sorted_together(cls, parts: Sequence["Rows"]) -> "Rows":
        """Return the records of all `parts` by rising `order`, compact; equal ones in any order."""
        index = np.concatenate([part.index for part in parts])
        order = np.argsort(index["order"])
        part = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        return _compact(parts, index.take(order), part.take(order))


def gather(
    texts: Sequence[bytes | memoryview | pa.Buffer],
    text: NDArray[np.int32] | np.int32,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    view: pa.DataType,
    to: pa.DataType,
) -> pa.Array:
    """Return pieces of `texts` as an Arrow column of their own.

    Args:
        texts: each less than 2 GiB.
        text: `[pieces]` the number of the text that each is in, or the same for all.
        starts: `[pieces]` in their texts.
        lengths: `[pieces]`; `NONE` makes a null.
        view: the type of the views into the text, `binary_view` or `string_view`.
        to: the type of the column.
    """
    missing = lengths == NONE
    views = np.zeros(len(starts), _VIEW)
    views["length"] = np.where(missing, 0, lengths)
    pointers = views.view(_POINTER)
    pointers["buffer"], pointers["at"] = text, starts
    short = np.flatnonzero(lengths <= _INLINE)
    if len(short):
        of_short = np.broadcast_to(text, starts.shape)[short]
        for number in np.unique(of_short).tolist():
            _put_inline(views, short[of_short == number], texts[number], starts)
    validity = None
    if missing.any():
        validity = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    buffers = [validity, pa.py_buffer(views), *map(pa.py_buffer, texts)]
    # Arrow's loop over the views copies the pieces faster than NumPy or Python can
    return pa.Array.from_buffers(view, len(starts), buffers).cast(to)


def _compact(
    parts: Sequence[Rows], index: NDArray[Any], part: NDArray[np.int32] | np.int32
) -> Rows:
    """Give the records of `index`, each in the text of its `part`, a text of their own."""
    sizes = index["starts"][:, -1] + index["lengths"][:, -1]
    texts = [part.text for part in parts]
    rows = gather(texts, part, index["start"], sizes, pa.binary_view(), pa.large_binary())
    index["start"] = np.cumsum(sizes, dtype=np.int64) - sizes
    return Rows(index=index, text=rows.buffers()[2] if len(rows) else b"")


def _put_inline(
    views: NDArray[Any],
    short: NDArray[np.intp],
    text: bytes | memoryview | pa.Buffer,
    starts: NDArray[np.int64],
) -> None:
    """Write the text of the `short` pieces into their views, followed by zeros."""
    lengths, starts = views["length"].take(short), starts.take(short)
    # twelve bytes are read whatever the length, so the end of the text needs some after it
    last = max(0, len(text) - _INLINE)
    end = bytes(memoryview(text)[last:]) + bytes(_INLINE)
    is_last = starts >= last
    for buffer, pieces, first in (
        (text, np.flatnonzero(~is_last), 0),
        (end, np.flatnonzero(is_last), last),
    ):
        if len(pieces):
            at, size = starts.take(pieces) - first, lengths.take(pieces)
            # from every place on, as little-endian numbers: the first byte is the lowest
            words = np.ndarray(len(buffer) - 7, "<u8", buffer, strides=(1,))[at]
            halves = np.ndarray(len(buffer) - 3, "<u4", buffer, strides=(1,))[at + 8]
            places = short.take(pieces)
            views["start"][places] = words & _MASKS.take(size, mode="clip")
            views["end"][places] = halves & _MASKS.take(size - 8, mode="clip").astype(np.uint32)
