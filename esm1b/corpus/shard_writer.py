"""Writing the Parquet shards of one split, and what is to be known of them."""

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.corpus.records import RECORD_SCHEMA
from esm1b.corpus.sequence_column import SequenceColumn
from esm1b.files import sha256_file

__all__ = ["CORPUS_SCHEMA", "ROW_GROUP_ROWS", "ShardWriter", "byte_counts"]

CORPUS_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("member_count", pa.int32()),
        pa.field("taxon", pa.string()),
        pa.field("taxon_id", pa.int64()),
        pa.field("representative_id", pa.string()),
    ]
)
# About 10 MB of UniRef50. The longest known proteins throughout (45,000 residues) would make
# 1.5 GB, still within the 2 GiB that one array of strings can address.
ROW_GROUP_ROWS: Final = 32_768


class ShardWriter:
    """Writes records that come sorted by `order` to a fixed number of shards.

    Each shard takes an equal interval of the 64-bit hashes. Row groups are cut at fixed numbers of
    rows, so the bytes of a file follow from its rows alone, however they arrive.

    Attributes:
        shards: the manifest's entries of the shards written so far.
        length_counts: `[longest length + 1]` sequences of each length.
        composition: `[256]` how often each character occurs.
    """

    def __init__(self, directory: Path, shards: int) -> None:
        self.shards: list[dict[str, Any]] = []
        self.length_counts: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self.composition: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        self._directory = directory
        self._count = shards
        directory.mkdir()
        self._open()

    def write(self, table: pa.Table) -> None:
        """Append records whose `order` is not below that of the records before."""
        # the upper half of the hash times the number of shards cannot overflow 64 bits
        upper = table["order"].to_numpy() >> np.uint64(32)
        shard = (upper * np.uint64(self._count)) >> np.uint64(32)
        start = 0
        while start < table.num_rows:
            end = int(np.searchsorted(shard, np.uint64(len(self.shards)), side="right"))
            self._append(table.slice(start, end - start))
            start = end
            if end < table.num_rows:
                self._close()
                self._open()

    def close(self) -> None:
        """Write what is waiting, and the shards that got no record as empty files."""
        self._close()
        while len(self.shards) < self._count:
            self._open()
            self._close()

    def _open(self) -> None:
        self._path = self._directory / f"{len(self.shards):05d}.parquet"
        self._writer = pq.ParquetWriter(
            self._path,
            CORPUS_SCHEMA,
            compression="zstd",
            use_dictionary=["taxon"],
            write_statistics=["length", "member_count", "taxon_id"],
        )
        self._digest = hashlib.sha256()
        self._rows = 0
        self._residues = 0
        self._waiting = RECORD_SCHEMA.empty_table()

    def _append(self, table: pa.Table) -> None:
        self._waiting = pa.concat_tables([self._waiting, table])
        while self._waiting.num_rows >= ROW_GROUP_ROWS:
            self._write_row_group(self._waiting.slice(0, ROW_GROUP_ROWS))
            self._waiting = self._waiting.slice(ROW_GROUP_ROWS)

    def _write_row_group(self, table: pa.Table) -> None:
        column = SequenceColumn.of(table["sequence"])
        lengths = column.lengths()
        column.update(self._digest)
        self._rows += table.num_rows
        self._residues += len(column.characters)
        self.composition += byte_counts(column.characters)
        counts = np.bincount(lengths, minlength=len(self.length_counts))
        counts[: len(self.length_counts)] += self.length_counts
        self.length_counts = counts
        table = table.append_column("length", pa.array(lengths))
        table = table.select(CORPUS_SCHEMA.names).cast(CORPUS_SCHEMA).combine_chunks()
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def _close(self) -> None:
        if self._waiting.num_rows:
            self._write_row_group(self._waiting)
        self._writer.close()
        self.shards.append(
            {
                "file": f"{self._directory.name}/{self._path.name}",
                "rows": self._rows,
                "residues": self._residues,
                "bytes": self._path.stat().st_size,
                "sha256": sha256_file(self._path),
                "sequences_sha256": self._digest.hexdigest(),
            }
        )


def byte_counts(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return `[256]` how often each byte occurs."""
    # two bytes at a time: NumPy widens each value it counts to eight bytes
    even = values[: len(values) // 2 * 2]
    pairs = np.bincount(even.view(np.uint16), minlength=1 << 16).reshape(256, 256)
    last = np.bincount(values[len(even) :], minlength=256)
    counts: NDArray[np.int64] = pairs.sum(axis=0) + pairs.sum(axis=1) + last
    return counts
