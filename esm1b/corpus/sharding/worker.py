"""What one process does of the work on a corpus."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from esm1b.corpus.manifest import SplitName
from esm1b.corpus.records.selection import Counts, Selection, select_rows
from esm1b.corpus.records.table import Rows, drop_duplicate_ids, sort_rows
from esm1b.corpus.sharding.inputs import SharedBlock
from esm1b.corpus.sharding.parquet_shard import ShardFacts, write_parquet
from esm1b.corpus.sharding.spill import read_interval, write_run
from esm1b.freed_memory import LARGEST_KEPT
from esm1b.sequences.formats import RawBlock

# Bytes of one run, and of what is read back at once: a worker takes some 250 MB for either, and the
# text is in one array, which must not be too large for the allocator to keep.
_RUN_BYTES: Final = LARGEST_KEPT
_PIECE_BYTES: Final = LARGEST_KEPT * 7 // 8

HELD_OUT_SEQUENCES: Final = "held-out-sequences.npy"
"""File of the sorted hashes of the sequences that listed ids hold out."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write.

    Attributes:
        number: number of the shard, from 0.
        shards: number of shards of the split.
        size: bytes spilled for all shards of the split.
    """

    split: SplitName
    number: int
    shards: int
    size: int

    def intervals(self) -> Iterator[tuple[int, int]]:
        """Yield the intervals of the order that make up the shard, each small enough for memory."""
        pieces = 1 + self.size // self.shards // _PIECE_BYTES
        first, all_pieces = self.number * pieces, self.shards * pieces
        # equal parts of the range of 64-bit hashes, bounded by multiples of 2^32
        edges = (-(-n * 2**32 // all_pieces) << 32 for n in range(first, first + pieces + 1))
        return pairwise(edges)


class ShardWorker:
    """Reads blocks, spills their records as sorted runs, and writes shards of all runs.

    Args:
        directory: directory of the corpus, with folders for the splits.
        spill: folder of the runs, shared by all workers.
        number: number of the worker, which tells its runs from those of others.
    """

    def __init__(self, directory: Path, spill: Path, selection: Selection, number: int) -> None:
        self._directory = directory
        self._spill = spill
        self._selection = selection
        self._number = number
        self._runs = 0
        self._waiting: list[Rows] = []
        self._counts = Counts()

    def add(self, block: RawBlock | SharedBlock) -> None:
        """Select the records of a block, and spill them once there are enough."""
        raw = block.load() if isinstance(block, SharedBlock) else block
        rows, counts = select_rows(raw, self._selection)
        self._counts += counts
        if not self._counts.first_ids and len(rows):
            self._counts += Counts(first_ids=[(rows.value("id", 0) or b"").decode()])
        # the text still holds what was dropped
        self._waiting.append(rows if len(rows) > counts.read // 2 else rows.compact())
        if sum(part.size for part in self._waiting) >= _RUN_BYTES:
            self._write_run()

    def flush(self) -> Counts:
        """Spill what is waiting, and return the counts of all that this worker has done so far."""
        if self._waiting:
            self._write_run()
        return self._counts + self._selection.found()

    def write_shard(self, task: ShardTask) -> ShardFacts:
        """Write a shard from all runs; a training shard leaves what is held out as new runs."""
        path = self._directory / task.split / f"{task.number:05d}.parquet"
        return write_parquet(path, self._pieces(task))

    def _pieces(self, task: ShardTask) -> Iterator[Rows]:
        runs = sorted(self._spill.glob("run-*" if task.split == "train" else "held-out-*.run"))
        for piece, (low, high) in enumerate(task.intervals()):
            rows = read_interval(runs, low, high)
            if task.split == "train":
                rows = self._train(rows, f"held-out-{task.number:06d}-{piece:06d}.run")
            # held-out runs are of consecutive intervals, so that together they are in order
            yield rows

    def _write_run(self) -> None:
        rows = Rows.concatenate(self._waiting)
        self._waiting = []
        if self._selection.listed is not None:
            hashes = rows.index["sequence_hash"][rows.index["is_validation"]]
            self._counts += Counts(held_out_sequences=[hashes])
        # also here, so that an input that repeats one id without end takes no more memory
        rows = self._unique(rows).compact()
        self._spill_rows(f"run-{self._number:06d}-{self._runs:06d}", rows)
        self._runs += 1

    def _train(self, rows: Rows, name: str) -> Rows:
        """Return the records of the training split, and spill the others as the run `name`."""
        rows = self._unique(rows)
        is_validation = rows.index["is_validation"]
        if is_validation.any():
            self._spill_rows(name, rows.take(is_validation).compact())
        rows = rows.take(~is_validation)
        if self._selection.listed is None:
            return rows
        held_out = np.load(self._spill / HELD_OUT_SEQUENCES, mmap_mode="r")
        hashes = rows.index["sequence_hash"]
        is_held_out = held_out.take(np.searchsorted(held_out, hashes), mode="clip") == hashes
        self._counts += Counts(dropped=Counter(held_out_sequence=int(is_held_out.sum())))
        return rows.take(~is_held_out)

    def _unique(self, rows: Rows) -> Rows:
        unique = drop_duplicate_ids(sort_rows(rows), strict=self._selection.strict)
        self._counts += Counts(dropped=Counter(duplicate_id=len(rows) - len(unique)))
        return unique

    def _spill_rows(self, name: str, rows: Rows) -> None:
        self._counts += Counts(spilled=write_run(self._spill / name, rows))
