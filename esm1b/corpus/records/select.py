"""From a block of an input to the records of it that enter the corpus."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.parse import parse_rows
from esm1b.corpus.records.selection import Counts, Selection
from esm1b.corpus.records.table import EXCLUDED, NOT_IN_SAMPLE, OUTCOMES, TOO_LONG, TOO_SHORT, Rows
from esm1b.errors import UserError
from esm1b.sequences.formats import RawBlock
from esm1b.sequences.hashes import SAMPLE_KEY, SEQUENCE_KEY, below, id_hashes, sequence_hashes
from esm1b.sequences.record import fault


def select_rows(block: RawBlock, selection: Selection) -> tuple[Rows, Counts]:
    """Return the records of a block that are kept, with hashes and side, and the counts of all.

    The lists of `selection` note which of their ids the block has.

    Raises:
        UserError: the block cannot be parsed, or `selection` is strict and a record is refused.
    """
    rows = parse_rows(block)
    index = rows.index
    index["order"] = id_hashes(bytes(rows.text), *rows.field("id"))

    def drop(which: NDArray[np.bool_], reason: str) -> None:
        index["outcome"][which & (index["outcome"] == 0)] = OUTCOMES.index(reason)

    if selection.listed is not None:
        index["is_validation"] = selection.listed.find(index["order"])
    if selection.excluded is not None:
        drop(selection.excluded.find(index["order"]), EXCLUDED)
    lengths = rows.field("sequence")[1]
    if selection.minimum_length is not None:
        drop(lengths < selection.minimum_length, TOO_SHORT)
    if selection.maximum_length is not None:
        drop(lengths > selection.maximum_length, TOO_LONG)
    if selection.strict:
        _refuse(block, rows, selection)
    if selection.sample is not None:
        drop(~below(sequence_hashes(_sequences(rows), SAMPLE_KEY), selection.sample), NOT_IN_SAMPLE)

    outcomes = np.bincount(index["outcome"], minlength=len(OUTCOMES)).tolist()
    kept = rows if outcomes[0] == len(rows) else rows.take(index["outcome"] == 0)
    kept.index["sequence_hash"] = sequence_hashes(_sequences(kept), SEQUENCE_KEY)
    if selection.listed is None:
        kept.index["is_validation"] = below(
            kept.index["sequence_hash"], selection.validation_fraction
        )
    return kept, Counts(
        read=len(rows),
        selected=len(kept),
        held_out=int(kept.index["is_validation"].sum()),
        dropped=Counter(
            {reason: n for reason, n in zip(OUTCOMES, outcomes, strict=True) if reason}
        ),
    )


def _sequences(rows: Rows) -> list[bytes]:
    starts, lengths = rows.field("sequence")
    text = bytes(rows.text)  # no copy: the rows of a block are over bytes
    bounds = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    return [text[start:end] for start, end in bounds]


def _refuse(block: RawBlock, rows: Rows, selection: Selection) -> None:
    """Raise for the first record that strictness refuses."""
    outcomes = rows.index["outcome"]
    refused = np.flatnonzero((outcomes != 0) & (outcomes != OUTCOMES.index(EXCLUDED)))
    if not len(refused):
        return
    place = int(refused[0])
    name = (rows.value("id", place) or b"").decode()
    sequence = rows.value("sequence", place) or b""
    why = {
        TOO_SHORT: f"length {len(sequence)}; expected at least {selection.minimum_length}",
        TOO_LONG: f"length {len(sequence)}; expected at most {selection.maximum_length}",
    }.get(OUTCOMES[outcomes[place]] or "") or fault(sequence)
    raise UserError(f"{block.source}: record {block.first_record + place + 1} ({name}): {why}")
