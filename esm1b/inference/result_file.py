"""Files of results: Parquet with what decided the values, and the parts of an unfinished one."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.errors import UserError
from esm1b.files import TEMPORARY, atomic_file, told_if_removed
from esm1b.outputs import STAMP, OutputKind, check_replaceable, write_stamp
from esm1b.read_back import check_rows

_log = logging.getLogger(__name__)

METADATA: Final = b"esm1b"

_PART: Final = re.compile(r"\d{12}\.arrow")

# Readers take a row group at a time: large enough to be worth a read, small enough for any machine.
_ROW_GROUP_BYTES: Final = 64 << 20


def result_schema(columns: Mapping[str, pa.DataType], settings: Mapping[str, Any]) -> pa.Schema:
    """Return required columns, with the settings as JSON under the key `METADATA` of metadata."""
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    return pa.schema(fields, metadata={METADATA: json.dumps(settings, sort_keys=True)})


def is_result_file(path: Path) -> bool:
    """Return whether `path` is a Parquet file of results."""
    try:
        return METADATA in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def check_output_file(
    output: Path, source: str, command: str, is_ours: Callable[[Path], bool]
) -> None:
    """Check that `output` can become a file: new, or an earlier one, which `is_ours` recognises.

    Raises:
        UserError: it is a directory, the input `source`, or some other file.
    """
    if output.is_dir():
        raise UserError(f"{output}: is a directory; expected a file to write")
    if output.exists() and Path(source).exists() and output.samefile(source):
        raise UserError(f"{output}: is the input; expected another file to write")
    if output.exists() and not is_ours(output):
        raise UserError(
            f"{output}: is not an earlier output of {command}; expected a new file to write"
        )


def write_results(
    path: Path, schema: pa.Schema, batches: Iterable[tuple[pa.RecordBatch, int]], *, count: int
) -> None:
    """Write `batches` of rows, each with its size in bytes, about 64 MB in memory at a time.

    Among the columns are `id` and `length`.

    Raises:
        OutputError: the file does not hold `count` rows.
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
    check_rows(path, count)


class ResultParts:
    """The finished chunks of one job, in files named after their first row.

    A chunk is a record batch of an Arrow file, which unlike Parquet is read back at no cost. Each
    file has the schema of the job with all that decides its values, so that parts of another
    input, model or option are recognised.

    Args:
        output: output of the job; the parts are in `<output>.parts/`. Those that another job left
            there are removed, so only the owner of the output may call this.
        schema: columns, with metadata.
        kind: kind of output that the directory is marked as.

    Raises:
        UserError: the directory holds something else.
    """

    def __init__(self, output: Path, schema: pa.Schema, kind: OutputKind) -> None:
        place = output.resolve()
        directory = place.with_name(f"{place.name}.parts")
        names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
        # parts without the stamp are the rest of a removal that was cut short
        if not names or not all(_PART.fullmatch(n) or TEMPORARY.fullmatch(n) for n in names):
            check_replaceable(directory, kind)
        directory.mkdir(parents=True, exist_ok=True)
        write_stamp(directory, kind)
        self.rows = 0  # finished ones, the first of the job
        self._directory = directory
        self.schema = schema
        self._paths: list[Path] = []
        while (path := self._path(self.rows)).exists() and self._is_ours(path):
            self._paths.append(path)
            self.rows += sum(chunk.num_rows for chunk in _chunks(path))
        for file in directory.iterdir():
            if file.name != STAMP and file not in self._paths:
                file.unlink()

    def write(self, chunks: Sequence[pa.Table]) -> None:
        """Add the next chunks, in one file, whole or not at all."""
        path = self._path(self.rows)
        with atomic_file(path) as temporary, pa.ipc.new_file(temporary, self.schema) as file:
            for chunk in chunks:
                file.write_table(chunk, max_chunksize=chunk.num_rows)
        self._paths.append(path)
        self.rows += sum(chunk.num_rows for chunk in chunks)

    def assemble(self, output: Path, count: int) -> None:
        """Write all rows to `output`, the same bytes however they are spread over parts.

        Raises:
            OutputError: they are not `count`, or another program removed a part.
        """
        with atomic_file(output) as temporary:
            rows = ((chunk, chunk.nbytes) for chunk in self.chunks())
            write_results(temporary, self.schema, rows, count=count)

    def chunks(self) -> Iterator[pa.RecordBatch]:
        """Yield the finished chunks, mapped into memory."""
        for path in self._paths:
            yield from _chunks(path)

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self._directory)

    def _path(self, first_row: int) -> Path:
        return self._directory / f"{first_row:012d}.arrow"

    def _is_ours(self, path: Path) -> bool:
        """Return whether a part belongs to this job; log why if it does not."""
        try:
            with pa.memory_map(str(path)) as source:
                found = pa.ipc.open_file(source).schema
        except (OSError, pa.ArrowInvalid) as error:
            _log.info("%s: damaged, will be computed again: %s", path, error)
            return False
        if found.equals(self.schema, check_metadata=True):
            return True
        here, there = (
            json.loads((schema.metadata or {}).get(METADATA, b"{}"))
            for schema in (self.schema, found)
        )
        differing = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
        _log.info(
            "%s: from a job that differs in %s; starting again",
            self._directory,
            ", ".join(sorted(differing)) or "its columns",
        )
        return False


def _chunks(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the chunks of a part, mapped into memory."""
    with told_if_removed(path), pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            yield file.get_batch(number)


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
