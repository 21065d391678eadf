"""One Parquet shard: written, read by column, and what the manifest says of it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.corpus.manifest import shard_entry
from esm1b.corpus.records.table import NONE, Rows, SequenceColumn, gather
from esm1b.errors import UserError

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
# Their text, some 3 MB, stays in the cache from one column to the next.
_GATHERED_AT_ONCE: Final = 8_192
# NumPy widens each value it counts to eight bytes: few enough at once to stay in the cache
_COUNTED_AT_ONCE: Final = 1 << 18


ShardFacts = tuple[dict[str, Any], Counter[int], NDArray[np.int64]]
"""A shard's entry in the manifest, its number of sequences of each length, and `[256]` its number
of occurrences of each character."""


def write_parquet(path: Path, pieces: Iterable[Rows]) -> ShardFacts:
    """Write a shard of records that come in order.

    Row groups are cut at fixed numbers of rows, so the bytes of the file follow from its rows
    alone, however they arrive.
    """
    digest = hashlib.sha256()
    lengths: Counter[int] = Counter()
    composition: NDArray[np.int64] = np.zeros(256, np.int64)
    with pq.ParquetWriter(
        path,
        CORPUS_SCHEMA,
        compression="zstd",
        use_dictionary=["taxon"],
        write_statistics=["length", "member_count", "taxon_id"],
    ) as writer:
        for table in _row_groups(pieces):
            column = SequenceColumn.of(table["sequence"].combine_chunks())
            column.update(digest)
            composition += byte_counts(column.characters)
            lengths.update(column.lengths().tolist())
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    entry = shard_entry(path, lengths.total(), int(composition.sum()))
    entry["sequences_sha256"] = digest.hexdigest()
    return entry, lengths, composition


def read_column(path: Path, name: str) -> Iterator[pa.Array]:
    """Yield a column of a shard, row group by row group.

    Raises:
        UserError: the file cannot be read, or has no such column.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=[name])[0].combine_chunks()
    except (pa.ArrowException, OSError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: {reason}; expected a Parquet shard of a corpus") from error


def _row_groups(pieces: Iterable[Rows]) -> Iterator[pa.Table]:
    """Yield tables of `ROW_GROUP_ROWS` records, the last one of the rest."""
    tables: list[pa.Table] = []
    waiting = 0
    for rows in pieces:
        start = 0
        while start < len(rows):
            end = min(len(rows), start + min(_GATHERED_AT_ONCE, ROW_GROUP_ROWS - waiting))
            tables.append(_table(Rows(index=rows.index[start:end], text=rows.text)))
            waiting += end - start
            start = end
            if waiting == ROW_GROUP_ROWS:
                yield pa.concat_tables(tables).combine_chunks()
                tables, waiting = [], 0
    if tables:
        yield pa.concat_tables(tables).combine_chunks()


def byte_counts(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return `[256]` number of occurrences of each byte."""
    counts: NDArray[np.int64] = np.zeros(256, np.int64)
    for start in range(0, len(values), _COUNTED_AT_ONCE):
        counts += np.bincount(values[start : start + _COUNTED_AT_ONCE], minlength=256)
    return counts


def _table(rows: Rows) -> pa.Table:
    """Return the columns of a corpus."""
    columns = {"length": pa.array(np.ascontiguousarray(rows.field("sequence")[1]))}
    for name in ("member_count", "taxon_id"):
        values = np.ascontiguousarray(rows.index[name])
        columns[name] = pa.array(values, mask=values == NONE)
    for name in ("id", "sequence", "name", "taxon", "representative_id"):
        columns[name] = gather(rows.text, *rows.field(name), pa.string())
    return pa.table([columns[name] for name in CORPUS_SCHEMA.names], schema=CORPUS_SCHEMA)
