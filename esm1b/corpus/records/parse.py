"""From a block of an input to a table of its cleaned records."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.table import NONE, OUTCOMES, ROW, TEXT_FIELDS, Rows
from esm1b.corpus.records.uniref_fasta import read_uniref_fasta
from esm1b.sequences.formats import RawBlock, parse_block
from esm1b.sequences.record import Header, clean, drop_reason

# With more irregular records than this the whole block is parsed one by one, so that none is
# looked at twice.
_MOST_IRREGULAR: Final = 1 / 16


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
