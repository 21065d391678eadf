"""The records of a block as cleaned rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.table import NONE, ROW, TEXT_FIELDS, Rows
from esm1b.corpus.records.uniref_fasta import read_uniref_rows
from esm1b.sequences.cleaning import clean, drop_reason
from esm1b.sequences.formats import RawBlock, parse_block
from esm1b.sequences.header import Header

# With more irregular records than this the whole block is parsed one by one, so that none is
# looked at twice.
_MOST_OTHERS: Final = 1 / 16


@dataclass(frozen=True, kw_only=True)
class BlockRows:
    """All records of a block.

    Attributes:
        rows: the records with cleaned sequences; hashes and side are not set.
        numbers: `[records]` the number of each in its input, from 1.
        reasons: for some records, by their place in `rows`, why they cannot be kept.
    """

    rows: Rows
    numbers: NDArray[np.int64]
    reasons: dict[int, str]


def read_rows(block: RawBlock) -> BlockRows:
    """Parse and clean the records of a block.

    Raises:
        UserError: as `parse_block`.
    """
    if block.kind == "fasta":
        regular = read_uniref_rows(block.text)
        if len(regular.others) <= _MOST_OTHERS * (len(regular.starts) - 1):
            parts = [
                BlockRows(
                    rows=regular.rows, numbers=regular.numbers + block.first_record + 1, reasons={}
                )
            ]
            for number in regular.others.tolist():
                text = block.text[regular.starts[number] : regular.starts[number + 1]]
                parts.append(
                    _parsed(replace(block, text=text, first_record=block.first_record + number))
                )
            return _together(parts)
    return _parsed(block)


def _together(parts: Sequence[BlockRows]) -> BlockRows:
    if len(parts) == 1:
        return parts[0]
    reasons: dict[int, str] = {}
    before = 0
    for part in parts:
        reasons.update((before + place, reason) for place, reason in part.reasons.items())
        before += len(part.rows)
    return BlockRows(
        rows=Rows.concatenate([part.rows for part in parts]),
        numbers=np.concatenate([part.numbers for part in parts]),
        reasons=reasons,
    )


def _parsed(block: RawBlock) -> BlockRows:
    """Parse the records one by one."""
    parsed = parse_block(block)
    sequences = [clean(sequence) for sequence in parsed.sequences]
    found = enumerate(map(drop_reason, sequences))
    return BlockRows(
        rows=_rows(parsed.headers, sequences),
        numbers=np.arange(len(sequences)) + block.first_record + 1,
        reasons={place: reason for place, reason in found if reason is not None},
    )


def _rows(headers: Sequence[Header], sequences: Sequence[bytes]) -> Rows:
    index: NDArray[Any] = np.zeros(len(sequences), ROW)
    pieces: list[bytes] = []
    lengths: list[int] = []
    for header, sequence in zip(headers, sequences, strict=True):
        texts = (header.id, header.name, header.taxon, header.representative_id)
        for text in texts:
            piece = b"" if text is None else text.encode()
            pieces.append(piece)
            lengths.append(NONE if text is None else len(piece))
        pieces.append(sequence)
        lengths.append(len(sequence))
    index["lengths"] = np.array(lengths, dtype=np.int32).reshape(-1, len(TEXT_FIELDS))
    # the fields of a record follow one another
    sizes = np.maximum(index["lengths"], 0)
    ends = np.cumsum(sizes, axis=1)
    index["starts"] = ends - sizes
    index["start"] = np.cumsum(ends[:, -1], dtype=np.int64) - ends[:, -1]
    for name in ("member_count", "taxon_id"):
        values = [getattr(header, name) for header in headers]
        index[name] = [NONE if value is None else value for value in values]
    return Rows(index=index, text=b"".join(pieces))
