"""The finished rows of an embedding job, in files that outlive it."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from esm1b.files import STAMP, atomic_directory, atomic_file, check_replaceable
from esm1b.inference.result_file import METADATA, write_results

_log = logging.getLogger(__name__)


class EmbeddingParts:
    """The finished chunks of one job, in files named after their first row.

    A chunk is a record batch of an Arrow file, which unlike Parquet is read back at no cost. Each
    file has the schema of the job with all that decides its values, so that parts of another
    input, model or option are recognised.

    Args:
        directory: directory of the parts; those that another job left there are removed.
        schema: columns, with metadata.

    Attributes:
        schema: columns, with metadata.
        rows: number of finished rows, the first ones of the job.
    """

    def __init__(self, directory: Path, schema: pa.Schema) -> None:
        if any(directory.glob("*.arrow")):
            check_replaceable(directory, "embeddings")
        else:
            with atomic_directory(directory, "embeddings"):
                pass
        self.rows = 0
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

    def assemble(self, output: Path) -> None:
        """Write all rows to `output`, the same bytes however they are spread over parts."""
        chunks = (chunk for path in self._paths for chunk in _chunks(path))
        with atomic_file(output) as temporary:
            write_results(temporary, self.schema, ((chunk, chunk.nbytes) for chunk in chunks))

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
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            yield file.get_batch(number)
