"""From a block of an input to the records of it that enter the corpus."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.selection import Counts, Selection
from esm1b.corpus.records.table import (
    EXCLUDED,
    NONE,
    NOT_IN_SAMPLE,
    OUTCOMES,
    ROW,
    TEXT_FIELDS,
    TOO_LONG,
    TOO_SHORT,
    Rows,
)
from esm1b.corpus.records.uniref_fasta import read_uniref_fasta
from esm1b.errors import UserError
from esm1b.sequences.formats import RawBlock, parse_block
from esm1b.sequences.hashes import SAMPLE_KEY, SEQUENCE_KEY, below, id_hashes, sequence_hashes
from esm1b.sequences.record import Header, clean, drop_reason, fault

# With more irregular records than this the whole block is parsed one by one, so that none is
# looked at twice.
_MOST_IRREGULAR: Final = 1 / 16


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


def parse_rows(block: RawBlock) -> Rows:
    """Return the records of a block in their order, cleaned; hashes and side are not set.

    The `outcome` of a record whose sequence cannot be kept is the reason.

    Raises:
        UserError: as `parse_block`.
    """
    if block.kind == "fasta":
        rows, starts, irregular = read_uniref_fasta(block.text)
        if not len(irregular):
            return rows
        if len(irregular) <= _MOST_IRREGULAR * len(rows):
            others = Rows.concatenate(
                [
                    _parsed(block, block.text[starts[number] : starts[number + 1]], number)
                    for number in irregular.tolist()
                ]
            )
            others.index["start"] += len(rows.text)
            rows.index[irregular] = others.index
            return Rows(index=rows.index, text=bytes(rows.text) + others.text)
    return _parsed(block, block.text, 0)


def _parsed(block: RawBlock, text: bytes, before: int) -> Rows:
    """Return the records of `text`, which stand in the block after `before` others."""
    parsed = parse_block(replace(block, text=text, first_record=block.first_record + before))
    return _rows(parsed.headers, [clean(sequence) for sequence in parsed.sequences])


def _rows(headers: Sequence[Header], sequences: Sequence[bytes]) -> Rows:
    index: NDArray[Any] = np.zeros(len(sequences), ROW)
    pieces: list[bytes] = []
    lengths: list[int] = []
    for header, sequence in zip(headers, sequences, strict=True):
        for text in (header.id, header.name, header.taxon, header.representative_id):
            piece = (text or "").encode()
            pieces.append(piece)
            lengths.append(NONE if text is None else len(piece))
        pieces.append(sequence)
        lengths.append(len(sequence))
    index["lengths"] = np.array(lengths, np.int32).reshape(-1, len(TEXT_FIELDS))
    # the fields of a record follow one another
    sizes = np.maximum(index["lengths"], 0)
    ends = np.cumsum(sizes, axis=1)
    index["starts"] = ends - sizes
    index["start"] = np.cumsum(ends[:, -1], dtype=np.int64) - ends[:, -1]
    for name in ("member_count", "taxon_id"):
        values = [getattr(header, name) for header in headers]
        index[name] = [NONE if value is None else value for value in values]
    index["outcome"] = [OUTCOMES.index(drop_reason(sequence)) for sequence in sequences]
    return Rows(index=index, text=b"".join(pieces))
