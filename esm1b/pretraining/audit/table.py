"""The number of times that each sequence was seen as a table, and the ids of sequences."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.corpus.manifest import CORPUS_FORMAT, MANIFEST, read_manifest
from esm1b.errors import UserError

_TABLE: Final = "times_seen.parquet"
_ROWS: Final = 1 << 20


def ids_of(corpus: Path, sequences: Iterable[int], *, fingerprint: str) -> dict[int, str]:
    """Return the ids of some training sequences by their number.

    Raises:
        UserError: the corpus has another fingerprint, or a shard cannot be read.
    """
    wanted = np.unique(np.fromiter(sequences, dtype=np.int64))
    found: dict[int, str] = {}
    first = 0
    for column in _id_columns(corpus, fingerprint):
        here = wanted[(wanted >= first) & (wanted < first + len(column))]
        if len(here):
            ids = column.take(pa.array(here - first)).to_pylist()
            found.update(zip(here.tolist(), ids, strict=True))
        first += len(column)
    return found


def write_table(
    directory: Path, counts: NDArray[np.int32], corpus: Path | None, fingerprint: str
) -> None:
    """Write `times_seen.parquet`: a row for each sequence with its number, its count and its id.

    Args:
        directory: directory to write to.
        counts: times that each sequence was seen, int32 `[sequences]`.
        corpus: corpus with the ids; None leaves them out.
        fingerprint: expected fingerprint of the corpus.

    Raises:
        UserError: the corpus has another fingerprint, or a shard cannot be read.
    """
    fields = [pa.field("sequence", pa.int64()), pa.field("times_seen", pa.int32())]
    ids = None
    if corpus is not None:
        fields.append(pa.field("id", pa.string()))
        ids = _id_columns(corpus, fingerprint)
    schema = pa.schema(fields)
    with pq.ParquetWriter(directory / _TABLE, schema, compression="zstd") as writer:
        first = 0
        while first < len(counts):
            named = [] if ids is None else [next(ids).cast(pa.string())]
            last = first + len(named[0]) if named else min(first + _ROWS, len(counts))
            columns = [pa.array(np.arange(first, last)), pa.array(counts[first:last]), *named]
            writer.write_table(pa.table(columns, schema=schema))
            first = last


def _id_columns(corpus: Path, fingerprint: str) -> Iterator[pa.ChunkedArray]:
    """Yield the ids of the training sequences, shard by shard, in the order of their numbers."""
    manifest = read_manifest(corpus, CORPUS_FORMAT)
    if manifest["fingerprint"] != fingerprint:
        raise UserError(
            f"{corpus / MANIFEST}: fingerprint {manifest['fingerprint']}; expected {fingerprint}, "
            "the corpus that the tokens were made of"
        )
    for shard in manifest["shards"]["train"]:
        path = corpus / shard["file"]
        try:
            column = pq.read_table(path, columns=["id"])["id"]
        except (pa.ArrowException, OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: {reason}; expected a Parquet shard of a corpus") from error
        if len(column) != shard["rows"]:
            raise UserError(
                f"{path}: {len(column)} rows; expected {shard['rows']}, as in {MANIFEST}"
            )
        yield column
