"""The ids of training sequences, looked up in the corpus that their tokens were made of."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.corpus.manifest import CORPUS_FORMAT, MANIFEST, read_manifest
from esm1b.errors import UserError


def id_columns(corpus: Path, *, fingerprint: str) -> Iterator[pa.ChunkedArray]:
    """Yield the ids of the training sequences, shard by shard, in the order of their numbers.

    Args:
        corpus: what `shard` wrote.
        fingerprint: of the corpus that the tokens were made of.

    Raises:
        UserError: it is another corpus, or a shard cannot be read.
    """
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


def ids_of(corpus: Path, sequences: Iterable[int], *, fingerprint: str) -> dict[int, str]:
    """Return the ids of some training sequences by their number; arguments as of `id_columns`."""
    wanted = np.unique(np.fromiter(sequences, dtype=np.int64))
    found: dict[int, str] = {}
    first = 0
    for column in id_columns(corpus, fingerprint=fingerprint):
        here = wanted[(wanted >= first) & (wanted < first + len(column))]
        if len(here):
            ids = column.take(pa.array(here - first)).to_pylist()
            found.update(zip(here.tolist(), ids, strict=True))
        first += len(column)
    return found
