"""The residues of many sequences as one array, out of an Arrow column of strings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hashlib import _Hash


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
    def of(cls, column: pa.ChunkedArray) -> "SequenceColumn":
        """Return the content of a column of strings or large strings without nulls."""
        array = column.combine_chunks().cast(pa.large_string())
        _, offset_buffer, values = array.buffers()
        if not len(array):
            return cls(characters=np.empty(0, np.uint8), offsets=np.zeros(1, np.int64))
        offsets = np.frombuffer(offset_buffer, np.int64)[array.offset :][: len(array) + 1]
        characters = np.frombuffer(values, np.uint8)[offsets[0] : offsets[-1]]
        return cls(characters=characters, offsets=offsets - offsets[0])

    def lengths(self) -> NDArray[np.int32]:
        """Return `[sequences]` residues per sequence."""
        return np.diff(self.offsets).astype(np.int32)

    def update(self, digest: "_Hash") -> None:
        """Feed number, lengths and residues of the sequences to `digest`."""
        digest.update(len(self.offsets).to_bytes(8, "little"))
        digest.update(self.lengths().astype("<i4").tobytes())
        digest.update(self.characters.data)
