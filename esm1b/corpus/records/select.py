"""From a block of an input to the records of it that enter the corpus."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.parse import BlockRows, read_rows
from esm1b.corpus.records.selection import (
    DROP_REASONS,
    EXCLUDED,
    NOT_IN_SAMPLE,
    TOO_LONG,
    TOO_SHORT,
    Selection,
)
from esm1b.corpus.records.split import Split
from esm1b.corpus.records.table import Rows
from esm1b.errors import UserError
from esm1b.sequences.cleaning import fault
from esm1b.sequences.formats import RawBlock
from esm1b.sequences.hashes import below, id_hashes, sample_hashes, sequence_hashes

_KEPT: Final = -1


@dataclass(frozen=True, kw_only=True)
class SelectedRecords:
    """The records of a block that are kept, and the account of all.

    Attributes:
        rows: the kept records, with hashes and side.
        read: records of the block.
        dropped: how many of them were dropped for which reason.
        listed: places in the split's list of ids that the block's records have.
        excluded: places in the list of excluded ids that the block's records have.
    """

    rows: Rows
    read: int
    dropped: Counter[str]
    listed: NDArray[np.intp]
    excluded: NDArray[np.intp]


def select_records(block: RawBlock, selection: Selection, split: Split) -> SelectedRecords:
    """Parse and clean the records of a block, and say which are kept and on which side.

    Raises:
        UserError: the block cannot be parsed, or `selection` is strict and a record is refused.
    """
    records = read_rows(block)
    rows = records.rows
    rows.index["order"] = id_hashes(bytes(rows.text), *rows.field("id"))
    reasons = np.full(len(rows), _KEPT, np.int8)
    for place, reason in records.reasons.items():
        reasons[place] = DROP_REASONS.index(reason)

    def drop(which: NDArray[np.bool_], reason: str) -> None:
        reasons[which & (reasons == _KEPT)] = DROP_REASONS.index(reason)

    nowhere = np.empty(0, np.intp)
    listed = excluded = nowhere
    if split.listed is not None:
        places = split.listed.places(rows.index["order"])
        listed = places[places >= 0]
    if selection.excluded is not None:
        places = selection.excluded.places(rows.index["order"])
        excluded = places[places >= 0]
        drop(places >= 0, EXCLUDED)
    lengths = rows.field("sequence")[1]
    if selection.minimum_length is not None:
        drop(lengths < selection.minimum_length, TOO_SHORT)
    if selection.maximum_length is not None:
        drop(lengths > selection.maximum_length, TOO_LONG)
    if selection.strict:
        _check(block.source, records, reasons, selection)
    if selection.sample is not None:
        drop(~below(sample_hashes(_sequences(rows)), selection.sample), NOT_IN_SAMPLE)

    counts = np.bincount(reasons[reasons != _KEPT], minlength=len(DROP_REASONS))
    kept = rows if not counts.any() else rows.take(reasons == _KEPT)
    kept.index["sequence_hash"] = sequence_hashes(_sequences(kept))
    kept.index["is_validation"] = split.is_validation(
        kept.index["sequence_hash"], kept.index["order"]
    )
    return SelectedRecords(
        rows=kept,
        read=len(rows),
        dropped=Counter(dict(zip(DROP_REASONS, counts.tolist(), strict=True))),
        listed=listed,
        excluded=excluded,
    )


def _sequences(rows: Rows) -> list[bytes]:
    starts, lengths = rows.field("sequence")
    text = bytes(rows.text)  # no copy: these rows come from a block
    bounds = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    return [text[start:end] for start, end in bounds]


def _check(
    source: str, records: BlockRows, reasons: NDArray[np.int8], selection: Selection
) -> None:
    """Raise for the first record that strictness refuses."""
    refused = (reasons != _KEPT) & (reasons != DROP_REASONS.index(EXCLUDED))
    if not refused.any():
        return
    places = np.flatnonzero(refused)
    place = int(places[np.argmin(records.numbers[places])])
    name = (records.rows.value("id", place) or b"").decode()
    sequence = records.rows.value("sequence", place) or b""
    why = {
        TOO_SHORT: f"length {len(sequence)}; expected at least {selection.minimum_length}",
        TOO_LONG: f"length {len(sequence)}; expected at most {selection.maximum_length}",
    }.get(DROP_REASONS[reasons[place]]) or fault(sequence)
    raise UserError(f"{source}: record {records.numbers[place]} ({name}): {why}")
