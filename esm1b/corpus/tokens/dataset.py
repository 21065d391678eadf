"""Reading the memory-mapped tokens of one split."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.alphabet import TOKENS
from esm1b.corpus.manifest import (
    MANIFEST,
    TOKENS_FORMAT,
    SplitName,
    checked_shards,
    read_manifest,
)
from esm1b.corpus.records.table import SequenceColumn
from esm1b.errors import UserError


def open_tokens(directory: Path, split: SplitName, *, preload: bool = False) -> "TokenDataset":
    """Open one split of a tokens directory.

    With `preload` the shards are read into memory once, a byte for each residue and eight for each
    sequence, instead of mapping the files and reading parts on demand.

    Raises:
        UserError: the directory holds no tokens of this format and alphabet, or a file is missing,
            damaged or of another size than the manifest says.
    """
    manifest = read_manifest(directory, TOKENS_FORMAT)
    if manifest["alphabet"] != list(TOKENS):
        raise UserError(f"{directory / MANIFEST}: another alphabet; expected {' '.join(TOKENS)}")
    shards = [
        open_shard(directory / shard["file"], shard, preload)
        for shard in checked_shards(directory, manifest, [split])
    ]
    return TokenDataset(
        shards,
        fingerprint=manifest["fingerprint"],
        corpus_fingerprint=manifest["corpus_fingerprint"],
        reopen=partial(open_tokens, directory, split, preload=preload),
    )


class TokenDataset:
    """The sequences of one split, all shards in order, as views of memory-mapped files.

    Or of memory, where they were read once. Pickling passes on where the files are, so that worker
    processes map or read them for themselves.

    Attributes:
        lengths: `[sequences]` int32, residues per sequence.
        fingerprint: SHA-256 over the corpus, the alphabet and the format.
        corpus_fingerprint: SHA-256 over the corpus alone.
    """

    def __init__(
        self,
        shards: Sequence[tuple[NDArray[np.int64], NDArray[np.uint8]]],
        *,
        fingerprint: str,
        corpus_fingerprint: str,
        reopen: Callable[[], "TokenDataset"],
    ) -> None:
        self.fingerprint = fingerprint
        self.corpus_fingerprint = corpus_fingerprint
        self._reopen = reopen
        # memory from which Python reads a few items in a fraction of the time of NumPy
        self._shards = [(offsets.data, values.data) for offsets, values in shards]
        # `[shards + 1]` number of the first sequence of each shard
        self._first = np.cumsum([0] + [len(offsets) - 1 for offsets, _ in shards])
        self.lengths: NDArray[np.int32] = np.empty(self._first[-1], dtype=np.int32)
        for (offsets, _), (first, end) in zip(shards, pairwise(self._first), strict=True):
            np.subtract(offsets[1:], offsets[:-1], out=self.lengths[first:end], casting="same_kind")

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, ()

    def gather(
        self,
        indices: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        *,
        before: bytes = b"",
        after: bytes = b"",
    ) -> NDArray[np.uint8]:
        """Return residues `start` to `start + count - 1` of many sequences, end to end.

        Args:
            indices: `[pieces]` indices of sequences.
            starts: `[pieces]` first residue of each piece within its sequence.
            counts: `[pieces]` residues of each piece.
            before: tokens to put before each piece.
            after: tokens to put after each piece.

        Returns:
            Tokens, read-only: the residues and, around each piece, `before` and `after`.

        Raises:
            IndexError: a piece is not within its sequence.
        """
        if not len(indices):
            return np.empty(0, dtype=np.uint8)
        if indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(f"sequence {indices.min()} to {indices.max()} of {len(self)}")
        shards = np.searchsorted(self._first, indices, side="right") - 1
        rows = indices - self._first[shards]
        pieces: list[bytes | memoryview] = [b""]
        # Python's own loop and join: NumPy takes longer to start on a piece than to copy it
        for shard, row, start, count in zip(
            shards.tolist(), rows.tolist(), starts.tolist(), counts.tolist(), strict=True
        ):
            offsets, values = self._shards[shard]
            low = offsets[row] + start
            high = low + count
            if not offsets[row] <= low <= high <= offsets[row + 1]:
                raise IndexError("a piece that is not within its sequence")
            pieces.append(values[low:high])
        pieces.append(b"")
        joined = (after + before).join(pieces)
        return np.frombuffer(joined, dtype=np.uint8)[len(after) : len(joined) - len(before)]


def open_shard(
    path: Path, shard: Mapping[str, Any], preload: bool
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return `[rows + 1]` offsets and `[residues]` tokens of a file, mapped or read.

    Raises:
        UserError: it cannot be read, or differs from `shard`, its entry in the manifest.
    """
    try:
        with pa.memory_map(str(path)) as source:
            column = SequenceColumn.of(pa.ipc.open_file(source).get_batch(0).column("tokens"))
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: {reason}; expected an Arrow file of tokens") from error
    offsets, values = column.offsets, column.characters
    if (len(offsets) - 1, len(values)) != (shard["rows"], shard["residues"]):
        raise UserError(
            f"{path}: {len(offsets) - 1} rows with {len(values)} residues; expected "
            f"{shard['rows']} with {shard['residues']}, as in {MANIFEST}"
        )
    if preload:
        offsets, values = offsets.copy(), values.copy()
        offsets.flags.writeable = values.flags.writeable = False  # as mapped ones are
    return offsets, values
