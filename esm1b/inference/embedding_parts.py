"""What an embedding job has finished, in files that outlive it."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.files import STAMP, atomic_directory, atomic_file, check_replaceable
from esm1b.inference.embedding_table import METADATA

_log = logging.getLogger(__name__)

# Readers take a row group at a time: large enough to be worth a read, small enough for any machine.
_ROW_GROUP_BYTES: Final = 64 << 20


class EmbeddingParts:
    """The finished chunks of one job, in files named after their first row.

    A chunk is a record batch of an Arrow file: unlike Parquet, it is read back for nothing. Each
    file has the schema of the job with all that decides its values, so that parts of another
    input, model or choice are told apart.

    Attributes:
        rows: how many of the first rows are here.
    """

    def __init__(self, directory: Path, schema: pa.Schema) -> None:
        """Find the parts that an earlier attempt left, and remove what is of no use."""
        if any(directory.glob("*.arrow")):
            check_replaceable(directory, "embeddings")
        else:
            with atomic_directory(directory, "embeddings"):
                pass
        self.rows = 0
        self._directory = directory
        self._schema = schema
        self._paths: list[Path] = []
        while (path := self._path(self.rows)).exists() and self._is_ours(path):
            self._paths.append(path)
            self.rows += sum(chunk.num_rows for chunk in _chunks(path))
        for file in directory.iterdir():
            if file.name != STAMP and file not in self._paths:
                file.unlink()

    def write(self, chunks: Sequence[pa.Table]) -> None:
        """Add the chunks that follow, in one file, whole or not at all."""
        path = self._path(self.rows)
        with (
            atomic_file(path) as temporary,
            pa.ipc.new_file(temporary, self._schema) as file,
        ):
            for chunk in chunks:
                file.write_table(chunk, max_chunksize=chunk.num_rows)
        self._paths.append(path)
        self.rows += sum(chunk.num_rows for chunk in chunks)

    def assemble(self, output: Path) -> None:
        """Write all rows to `output`, the same bytes however they are spread over parts."""
        vectors = [path for path in _column_paths(self._schema) if path.startswith("layer_")]
        with (
            atomic_file(output) as temporary,
            pq.ParquetWriter(
                temporary,
                self._schema,
                compression="zstd",
                use_dictionary=False,
                use_byte_stream_split=vectors,  # a tenth smaller, and no slower
                write_statistics=["id", "length"],
            ) as file,
        ):
            for row_group in self._row_groups():
                file.write_table(row_group, row_group_size=row_group.num_rows)

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self._directory)

    def _path(self, first_row: int) -> Path:
        return self._directory / f"{first_row:012d}.arrow"

    def _is_ours(self, path: Path) -> bool:
        """Return whether a part belongs to this job; say so if it does not."""
        try:
            with pa.memory_map(str(path)) as source:
                found = pa.ipc.open_file(source).schema
        except (OSError, pa.ArrowInvalid) as error:
            _log.info("%s: damaged, computed anew: %s", path, error)
            return False
        if found.equals(self._schema, check_metadata=True):
            return True
        here, there = _description(self._schema), _description(found)
        differing = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
        _log.info(
            "%s: left by a job that differs in %s; starting anew",
            self._directory,
            ", ".join(sorted(differing)) or "its columns",
        )
        return False

    def _row_groups(self) -> Iterator[pa.Table]:
        """Yield all rows in tables of `_ROW_GROUP_BYTES` or little more, cut between chunks."""
        waiting: list[pa.RecordBatch] = []
        size = 0
        for path in self._paths:
            for chunk in _chunks(path):
                waiting.append(chunk)
                size += chunk.nbytes
                if size >= _ROW_GROUP_BYTES:
                    yield pa.Table.from_batches(waiting)
                    waiting, size = [], 0
        if waiting:
            yield pa.Table.from_batches(waiting)


def _chunks(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the chunks of a part, mapped into memory."""
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            yield file.get_batch(number)


def _column_paths(schema: pa.Schema) -> list[str]:
    """Return the names by which Parquet calls the columns of `schema`."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [parquet.column(index).path for index in range(len(parquet))]


def _description(schema: pa.Schema) -> dict[str, Any]:
    try:
        description = json.loads((schema.metadata or {})[METADATA])
    except (KeyError, ValueError):
        return {}
    return description if isinstance(description, dict) else {}
