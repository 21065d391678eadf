"""Sorting more records than memory holds, so that the result does not depend on their order."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.corpus.records import RECORD_SCHEMA

__all__ = ["RecordSort", "drop_duplicate_ids"]

# The sort holds about three times this at once: the records, their copy in order, and the copy's
# source while it is made.
_RUN_BYTES: Final = 64 << 20


class RecordSort:
    """Collects records in any order and gives them back in order of (hash of id, id).

    Records are kept in memory until they pass `run_bytes`; then they are sorted and written to
    `directory` as one run. The second phase cuts the range of hashes into as many equal intervals
    as there are `run_bytes` of records, and merges the runs interval by interval: hashes are
    uniform, so each interval holds about the same share.

    Attributes:
        rows: records taken in so far.
    """

    def __init__(self, directory: Path, run_bytes: int = _RUN_BYTES) -> None:
        self.rows = 0
        self._directory = directory
        self._run_bytes = run_bytes
        self._runs: list[Path] = []
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._total_bytes = 0
        directory.mkdir()

    def add(self, table: pa.Table) -> None:
        """Take in some records (columns as `RECORD_SCHEMA`)."""
        if not table.num_rows:
            return
        self.rows += table.num_rows
        self._waiting.append(table)
        self._waiting_bytes += table.nbytes
        self._total_bytes += table.nbytes
        if self._waiting_bytes >= self._run_bytes:
            self._write_run()

    def intervals(self) -> Iterator[pa.Table]:
        """Yield all records, sorted by `order`, in tables that follow one another.

        Rows of equal `order` are in one table, in no particular order.
        """
        if self._waiting:
            self._write_run()
        count = 1 + self._total_bytes // self._run_bytes
        edges = [interval * 2**64 // count for interval in range(count + 1)]
        for low, high in pairwise(edges):
            parts = [_rows_between(run, low, high) for run in self._runs]
            yield _sorted(pa.concat_tables(parts) if parts else RECORD_SCHEMA.empty_table())

    def _write_run(self) -> None:
        path = self._directory / f"{len(self._runs):05d}.arrow"
        (batch,) = _sorted(pa.concat_tables(self._waiting)).to_batches()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, RECORD_SCHEMA) as writer:
            writer.write_batch(batch)
        self._runs.append(path)
        self._waiting, self._waiting_bytes = [], 0


def drop_duplicate_ids(table: pa.Table) -> pa.Table:
    """Return a table sorted by `order` with one row per id, sorted by (`order`, `id`).

    Of rows with one id the smallest counts, by sequence first and the other columns after it: the
    choice is the same for any order of the input.
    """
    order = table["order"].to_numpy()
    # equal ids have equal hashes; unequal ids with equal hashes are all but impossible
    is_tied = np.zeros(len(order), dtype=np.bool_)
    is_tied[1:] = order[1:] == order[:-1]
    is_tied[:-1] |= is_tied[1:]
    tied = np.flatnonzero(is_tied)
    if not len(tied):
        return table
    rows = table.take(pa.array(tied)).to_pylist()
    ranked = sorted(range(len(rows)), key=lambda row: _rank(rows[row]))
    keep = [
        tied[row]
        for place, row in enumerate(ranked)
        if place == 0 or rows[ranked[place - 1]]["id"] != rows[row]["id"]
    ]
    # untied rows stay where they are; those kept of a tie follow one another in its place
    places = np.concatenate([np.flatnonzero(~is_tied), np.array(keep, dtype=np.int64)])
    return table.take(pa.array(places[np.argsort(order[places], kind="stable")]))


def _rank(row: dict[str, Any]) -> list[Any]:
    first = [row["order"], row["id"], row["sequence"]]
    return first + [(row[name] is not None, row[name]) for name in RECORD_SCHEMA.names[4:]]


def _sorted(table: pa.Table) -> pa.Table:
    table = table.combine_chunks()
    return table.take(pa.array(np.argsort(table["order"].to_numpy(), kind="stable")))


def _rows_between(run: Path, low: int, high: int) -> pa.Table:
    """Return the rows with `low <= order < high` of a sorted run, still in the mapped file."""
    with pa.memory_map(str(run)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
    order: NDArray[np.uint64] = batch.column("order").to_numpy()
    start = int(np.searchsorted(order, np.uint64(low)))
    end = len(order) if high == 2**64 else int(np.searchsorted(order, np.uint64(high)))
    return pa.Table.from_batches([batch.slice(start, end - start)])
