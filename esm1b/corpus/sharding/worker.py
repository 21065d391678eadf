"""What one process does of the work on a corpus."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.duplicates import drop_duplicate_ids, duplicated_id, sort_rows
from esm1b.corpus.records.select import select_records
from esm1b.corpus.records.selection import DUPLICATE_ID, HELD_OUT_SEQUENCE, Selection
from esm1b.corpus.records.split import Split
from esm1b.corpus.records.table import Rows
from esm1b.corpus.sharding.parquet_shard import ShardFacts, ShardWriter
from esm1b.corpus.sharding.shared_blocks import SharedBlock, load_block
from esm1b.corpus.sharding.spill import read_interval, write_run
from esm1b.errors import UserError
from esm1b.sequences.formats import RawBlock
from esm1b.worker_pool import LARGEST_KEPT

# Of one run, and of what is read back at once: a worker takes some 250 MB for either, and the text
# is in one array, which is not to be too large to be kept.
_RUN_BYTES: Final = LARGEST_KEPT
_PIECE_BYTES: Final = LARGEST_KEPT * 7 // 8


@dataclass(frozen=True, kw_only=True)
class BlockAccount:
    """What became of a block of the input.

    Attributes:
        counts: records `read`, and dropped by reason.
        kept: records that go on.
        held_out: how many of them are held out.
        listed: places in the split's list of ids that were found.
        excluded: places in the list of excluded ids that were found.
        held_out_sequences: hashes of the sequences that listed ids hold out.
    """

    counts: Counter[str]
    kept: int
    held_out: int
    listed: NDArray[np.intp]
    excluded: NDArray[np.intp]
    held_out_sequences: NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class RunAccount:
    """What a worker has spilled: bytes, and duplicate ids that it met and dropped."""

    size: int
    duplicates: int


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write.

    Attributes:
        number: of the shard, from 0.
        shards: of its split.
        train_shards: of the training split.
        size: bytes that were spilled for all shards of its split.
    """

    number: int
    shards: int
    train_shards: int
    size: int

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield the intervals of the order that make up the shard, small enough for memory."""
        low, high = _edge(self.number, self.shards), _edge(self.number + 1, self.shards)
        count = 1 + self.size // self.shards // _PIECE_BYTES
        return pairwise(low + (high - low) * piece // count for piece in range(count + 1))


@dataclass(frozen=True, kw_only=True)
class ShardAccount:
    """A shard that was written.

    Attributes:
        facts: of the shard.
        dropped: records that were dropped, by reason.
        held_out_size: bytes spilled of records for the validation shards.
    """

    facts: ShardFacts
    dropped: Counter[str]
    held_out_size: int


class ShardWorker:
    """Takes in blocks, spills their records as sorted runs, and writes shards of all runs.

    Args:
        directory: where the corpus is written; `directory / "spill"` exists.
        selection: which records are kept.
        split: which of them are held out.
        number: tells the runs of this worker from those of others.
    """

    def __init__(self, directory: Path, selection: Selection, split: Split, number: int) -> None:
        self._directory = directory
        self._spill = directory / "spill"
        self._selection = selection
        self._split = split
        self._number = number
        self._runs = 0
        self._waiting: list[Rows] = []
        self._account = RunAccount(size=0, duplicates=0)

    def add(self, block: RawBlock | SharedBlock) -> BlockAccount:
        """Take in the records of a block."""
        selected = select_records(load_block(block), self._selection, self._split)
        rows = selected.rows
        is_validation = rows.index["is_validation"] != 0
        sequences = rows.index["sequence_hash"][is_validation & (self._split.listed is not None)]
        # what was dropped is in the text still
        self._waiting.append(rows if len(rows) > selected.read // 2 else rows.compact())
        if sum(part.size for part in self._waiting) >= _RUN_BYTES:
            self._write_run()
        return BlockAccount(
            counts=Counter(read=selected.read) + selected.dropped,
            kept=len(rows),
            held_out=int(is_validation.sum()),
            listed=selected.listed,
            excluded=selected.excluded,
            held_out_sequences=sequences,
        )

    def flush(self) -> RunAccount:
        """Spill what is waiting and return the account of all runs."""
        if self._waiting:
            self._write_run()
        return self._account

    def write_train(self, task: ShardTask) -> ShardAccount:
        """Write a training shard from all runs, and leave what is held out of it as runs."""
        writer = ShardWriter(self._directory / "train", task.number)
        dropped: Counter[str] = Counter()
        held_out_size = 0
        runs = sorted(self._spill.glob("run-*"))
        held_out_sequences = np.load(self._spill / "held-out.npy", mmap_mode="r")
        for place, (low, high) in enumerate(task.pieces()):
            rows = sort_rows(read_interval(runs, low, high))
            unique = self._unique(rows)
            dropped[DUPLICATE_ID] += len(rows) - len(unique)
            is_validation = unique.index["is_validation"] != 0
            if is_validation.any():
                held_out = unique.take(is_validation)
                path = self._spill / f"held-out-{task.number:06d}-{place:06d}"
                held_out_size += write_run(path, held_out.compact())
            train = unique.take(~is_validation)
            is_held_out = _contains(held_out_sequences, train.index["sequence_hash"])
            dropped[HELD_OUT_SEQUENCE] += int(is_held_out.sum())
            writer.write(train.take(~is_held_out))
        return ShardAccount(facts=writer.close(), dropped=dropped, held_out_size=held_out_size)

    def write_validation(self, task: ShardTask) -> ShardAccount:
        """Write a validation shard from what `write_train` left."""
        writer = ShardWriter(self._directory / "validation", task.number)
        for low, high in task.pieces():
            # their intervals follow one another, so that together they are in order
            first, last = (_shard(order, task.train_shards) for order in (low, high - 1))
            for number in range(first, last + 1):
                for run in sorted(self._spill.glob(f"held-out-{number:06d}-*")):
                    writer.write(read_interval([run], low, high))
        return ShardAccount(facts=writer.close(), dropped=Counter(), held_out_size=0)

    def _write_run(self) -> None:
        rows = Rows.sorted_together(self._waiting)
        self._waiting = []
        # also here, so that an input that repeats one id without end takes no more memory
        unique = self._unique(rows)
        if len(unique) < len(rows):
            unique = unique.compact()
        size = write_run(self._spill / f"run-{self._number:06d}-{self._runs:06d}", unique)
        self._runs += 1
        self._account = RunAccount(
            size=self._account.size + size,
            duplicates=self._account.duplicates + len(rows) - len(unique),
        )

    def _unique(self, rows: Rows) -> Rows:
        if self._selection.strict and (name := duplicated_id(rows)) is not None:
            raise UserError(f"id {name!r} is that of several records; expected ids that differ")
        return drop_duplicate_ids(rows)


def _edge(number: int, shards: int) -> int:
    """Return where a shard's interval of the 64-bit hashes begins: multiples of 2^32."""
    return -(-number * 2**32 // shards) << 32


def _shard(order: int, shards: int) -> int:
    """Return the number of the shard that holds `order`."""
    return (order >> 32) * shards >> 32


def _contains(ordered: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.equal(ordered[places], values)
