"""The audit of a run on disk: `esm1b audit`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.batches.order import SequenceOrder
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.errors import UserError
from esm1b.files import atomic_directory, check_replaceable, write_json
from esm1b.pretraining.audit.run_record import read_run_record
from esm1b.pretraining.audit.sequence_ids import id_columns, ids_of
from esm1b.pretraining.audit.times_seen import Audit, audit, times_seen

AUDIT_FILE: Final = "audit.json"
_TABLE: Final = "times_seen.parquet"
_ROWS: Final = 1 << 20


def audit_run(
    checkpoints: Path,
    tokens: Path,
    *,
    updates: int | None = None,
    corpus: Path | None = None,
    output: Path | None = None,
    table: bool = False,
) -> tuple[Audit, dict[int, str] | None]:
    """Return the audit of a run, and the ids of skipped sequences by number where known.

    Args:
        checkpoints: of the run.
        tokens: that it trains on.
        updates: up to which; None is the newest checkpoint's.
        corpus: that the tokens were made of, for the ids.
        output: directory for `audit.json`.
        table: whether to write there how often each sequence was seen.

    Raises:
        UserError: the run has not come that far or recorded nothing, or data are not its own.
    """
    inputs = [checkpoints, tokens, *([] if corpus is None else [corpus])]
    if output is not None:
        check_replaceable(output, "audit", inputs)
    record = read_run_record(checkpoints)
    if updates is None:
        updates = record.updates
    if updates > record.updates:
        raise UserError(
            f"--updates: {updates}; expected at most {record.updates}, as far as the newest "
            f"checkpoint of {checkpoints} has come"
        )
    dataset = open_tokens(tokens, "train")
    if dataset.fingerprint != record.tokens_fingerprint:
        raise UserError(
            f"{tokens}: fingerprint {dataset.fingerprint}; expected {record.tokens_fingerprint}, "
            f"the tokens that the run of {checkpoints} trains on"
        )
    order = SequenceOrder(
        dataset.lengths,
        crop_residues=record.crop_residues,
        tokens_per_update=record.tokens_per_update,
        seed=record.seed,
    )
    result = audit(order, updates, record.skipped, sequences=len(dataset), logged=record.logged)
    ids = None
    if corpus is not None:
        taken_out = {sequence for update in result.skipped for sequence in update.sequences}
        ids = ids_of(corpus, taken_out, fingerprint=dataset.corpus_fingerprint)
    if output is not None:
        with atomic_directory(output, "audit", inputs) as directory:
            content = {"tokens_fingerprint": dataset.fingerprint, **result.as_json(ids)}
            write_json(directory / AUDIT_FILE, content)
            if table:
                seen = times_seen(order, updates, result.skipped, sequences=len(dataset))
                _write_table(directory / _TABLE, seen, _id_columns(corpus, dataset))
    return result, ids


def _id_columns(corpus: Path | None, dataset: TokenDataset) -> Iterator[pa.ChunkedArray] | None:
    if corpus is None:
        return None
    return id_columns(corpus, fingerprint=dataset.corpus_fingerprint)


def _write_table(
    path: Path, seen: NDArray[np.int32], ids: Iterator[pa.ChunkedArray] | None
) -> None:
    """Write a row for each sequence: its number, how often it was seen, its id where known."""
    fields = [pa.field("sequence", pa.int64()), pa.field("times_seen", pa.int32())]
    if ids is not None:
        fields.append(pa.field("id", pa.string()))
    schema = pa.schema(fields)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        first = 0
        while first < len(seen):
            column = None if ids is None else next(ids)
            last = min(first + _ROWS, len(seen)) if column is None else first + len(column)
            columns = [pa.array(np.arange(first, last)), pa.array(seen[first:last])]
            if column is not None:
                columns.append(column.cast(pa.string()))
            writer.write_table(pa.table(columns, schema=schema))
            first = last
