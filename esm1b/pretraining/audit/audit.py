"""The audit of a run on disk: `esm1b audit`."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.batches.order import SequenceOrder
from esm1b.corpus.manifest import CORPUS_FORMAT, MANIFEST, read_manifest
from esm1b.corpus.sharding.parquet_shard import read_column
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.errors import UserError
from esm1b.files import write_json
from esm1b.outputs import own_output, replace_directory
from esm1b.pretraining.audit.times_seen import Audit, audit
from esm1b.pretraining.checkpoints.files import (
    STATE_FILE,
    StoredState,
    read_state,
    saved_checkpoints,
)
from esm1b.pretraining.checkpoints.run_identity import RUN_FILE, recorded_fingerprint
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE, read_metrics
from esm1b.read_back import check_rows

AUDIT_FILE: Final = "audit.json"
_TABLE: Final = "times_seen.parquet"
_ROWS: Final = 1 << 20
# What decides the order of a run, in its record.
_RECORDED: Final = {
    "tokens": str,
    "seed": int,
    "pretraining.crop_residues": int,
    "pretraining.tokens_per_update": int,
}


def audit_run(
    directory: Path,
    tokens: Path,
    *,
    updates: int | None = None,
    corpus: Path | None = None,
    output: Path | None = None,
    table: bool = False,
) -> Audit:
    """Return the audit of the run whose checkpoints are in `directory`.

    Args:
        directory: directory of the checkpoints.
        tokens: tokens that the run trains on.
        updates: number of updates to audit; None takes the newest checkpoint's.
        corpus: corpus behind the tokens; the ids of sequences are read from it.
        output: directory for `audit.json`.
        table: True for a table of all sequences beside it.

    Raises:
        UserError: the run has done fewer updates or recorded nothing, or the data are not its own.
    """
    inputs = [directory, tokens, *([] if corpus is None else [corpus])]
    with nullcontext() if output is None else own_output(output, "audit", inputs):
        dataset, result = _audit(directory, tokens, updates, corpus)
        if output is not None:
            with replace_directory(output, "audit") as written:
                content = {"tokens_fingerprint": dataset.fingerprint, **result.as_json()}
                write_json(written / AUDIT_FILE, content)
                if table:
                    _write_table(written, result.counts, corpus, dataset.corpus_fingerprint)
    return result


def _audit(
    directory: Path, tokens: Path, updates: int | None, corpus: Path | None
) -> tuple[TokenDataset, Audit]:
    """Return the sequences that a run trains on, and its audit."""
    if (recorded := recorded_fingerprint(directory)) is None:
        raise UserError(
            f"{directory}: no {RUN_FILE}; expected the directory of a run's checkpoints"
        )
    state = _newest_state(directory)
    for key, kind in _RECORDED.items():
        if not isinstance(value := recorded.get(key), kind):
            raise UserError(
                f"{directory / RUN_FILE}: {key}: {value!r}; expected {kind.__name__}, as pretrain "
                "writes it"
            )
    fingerprint, seed, crop_residues, tokens_per_update = (recorded[key] for key in _RECORDED)
    updates = state.updates if updates is None else updates
    if updates > state.updates:
        raise UserError(
            f"--updates: {updates}; expected at most {state.updates}, as far as the newest "
            f"checkpoint of {directory} has come"
        )
    dataset = open_tokens(tokens, "train")
    if dataset.fingerprint != fingerprint:
        raise UserError(
            f"{tokens}: fingerprint {dataset.fingerprint}; expected {fingerprint}, the tokens that "
            f"the run of {directory} trains on"
        )
    order = SequenceOrder(
        dataset.lengths,
        crop_residues=crop_residues,
        tokens_per_update=tokens_per_update,
        seed=seed,
    )
    result = audit(order, updates, state.skipped, logged=_logged(directory / METRICS_FILE))
    if corpus is not None:
        skipped = {sequence for update in result.skipped for sequence in update.sequences}
        ids = _ids_of(corpus, skipped, fingerprint=dataset.corpus_fingerprint)
        result = replace(result, ids=ids)
    return dataset, result


def _newest_state(directory: Path) -> StoredState:
    """Return the state of the newest checkpoint whose state is whole.

    Raises:
        UserError: no state is whole, or it names skipped updates that it has not come to.
    """
    problem = "no checkpoint"
    records = [directory] if (directory / STATE_FILE).exists() else []  # of a run's outputs
    for path in [*reversed(saved_checkpoints(directory).values()), *records]:
        try:
            state = read_state(path)
        except UserError as error:  # pretrain skips a damaged checkpoint too
            problem = str(error)
            continue
        for record in state.skipped:
            if not 1 <= record.update <= state.updates:
                raise UserError(
                    f"{directory}: update {record.update} is recorded as skipped by the checkpoint "
                    f"of update {state.updates}; expected 1 to {state.updates}"
                )
        return state
    raise UserError(f"{directory}: {problem}; expected a run that has saved a checkpoint")


def _logged(metrics: Path) -> list[tuple[int, int]]:
    """Return (updates done, sequences seen until then) of each line that has both."""
    return [
        (line["update"], line["sequences_seen"])
        for line in (read_metrics(metrics) if metrics.is_file() else [])
        if isinstance(line.get("sequences_seen"), int)
    ]


def _ids_of(corpus: Path, sequences: Iterable[int], *, fingerprint: str) -> dict[int, str]:
    """Return the ids of some training sequences by their number."""
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


def _write_table(
    directory: Path, counts: NDArray[np.int32], corpus: Path | None, fingerprint: str
) -> None:
    """Write a row for each sequence: number, count of int32 `[sequences]`, and id with a corpus."""
    fields = [pa.field("sequence", pa.int64()), pa.field("times_seen", pa.int32())]
    ids = None
    if corpus is not None:
        fields.append(pa.field("id", pa.string()))
        ids = _id_columns(corpus, fingerprint)
    schema = pa.schema(fields)
    with pq.ParquetWriter(directory / _TABLE, schema, compression="zstd") as writer:
        first = 0
        while first < len(counts):
            named = [] if ids is None else [next(ids)]
            last = first + len(named[0]) if named else min(first + _ROWS, len(counts))
            columns = [pa.array(np.arange(first, last)), pa.array(counts[first:last]), *named]
            writer.write_table(pa.table(columns, schema=schema))
            first = last
    check_rows(directory / _TABLE, len(counts))


def _id_columns(corpus: Path, fingerprint: str) -> Iterator[pa.ChunkedArray]:
    """Yield the ids of the training sequences, shard by shard, in the order of their numbers.

    Raises:
        UserError: the corpus has another fingerprint, or a shard cannot be read.
    """
    manifest = read_manifest(corpus, CORPUS_FORMAT)
    if manifest["fingerprint"] != fingerprint:
        raise UserError(
            f"{corpus / MANIFEST}: fingerprint {manifest['fingerprint']}; expected {fingerprint}, "
            "the corpus that the tokens were made of"
        )
    for shard in manifest["shards"]["train"]:
        path = corpus / shard["file"]
        column = pa.chunked_array([*read_column(path, "id")], pa.string())
        if len(column) != shard["rows"]:
            raise UserError(
                f"{path}: {len(column)} rows; expected {shard['rows']}, as in {MANIFEST}"
            )
        yield column
