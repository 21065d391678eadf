"""Parquet files of results: what decided the values, and rows in groups of bounded size."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

METADATA: Final = b"esm1b"

# Readers take a row group at a time: large enough to be worth a read, small enough for any machine.
_ROW_GROUP_BYTES: Final = 64 << 20


def described_by(settings: Mapping[str, Any]) -> dict[bytes, str]:
    """Return the metadata of a schema: the settings as JSON under the key `METADATA`."""
    return {METADATA: json.dumps(settings, sort_keys=True)}


def is_result_file(path: Path) -> bool:
    """Return whether `path` is a Parquet file of results."""
    try:
        return METADATA in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def write_results(
    path: Path, schema: pa.Schema, batches: Iterable[tuple[pa.RecordBatch, int]]
) -> None:
    """Write `batches` of rows, each with its size in bytes, about 64 MB in memory at a time.

    Among the columns are `id` and `length`.
    """
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=_float_columns(schema),  # a tenth smaller, and no slower
        write_statistics=["id", "length"],
    ) as file:
        for row_group in _row_groups(batches):
            file.write_table(row_group, row_group_size=row_group.num_rows)


def _row_groups(batches: Iterable[tuple[pa.RecordBatch, int]]) -> Iterator[pa.Table]:
    """Yield all rows in tables of `_ROW_GROUP_BYTES` or little more, cut between batches."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch, batch_bytes in batches:
        waiting.append(batch)
        size += batch_bytes
        if size >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _float_columns(schema: pa.Schema) -> list[str]:
    """Return Parquet's names of the columns of floating-point numbers, nested ones included."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    columns = [parquet.column(index) for index in range(len(parquet))]
    return [column.path for column in columns if column.physical_type == "FLOAT"]
