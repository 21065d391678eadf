"""Blocks of records as rows: UniRef's FASTA column by column, everything else record by record.

Nearly every record of a release is regular: a complete header in ASCII, with no `=` but those of
the tags, and a sequence of capital letters. NumPy finds and cuts these in a quarter of the time
that Python needs to look at them one by one. `esm1b.sequences.record` decides what all other
headers mean; tests show that both agree.

    >UniRef50_K7G060 Titin n=25 Tax=Amniota TaxID=32524 RepID=K7G060_PELSI
     id              name    members        taxon id          representative
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.table import NONE, OUTCOMES, ROW, TEXT_FIELDS, Rows
from esm1b.sequences.formats import RawBlock, parse_block
from esm1b.sequences.hashes import first_words
from esm1b.sequences.record import MEMBER_DIGITS, TAXON_DIGITS, Header, clean, drop_reason

_NEW_LINE: Final = ord("\n")
_SPACE: Final = ord(" ")
_EQUAL_SIGN: Final = ord("=")
_TAGS: Final = (b" n=", b" Tax=", b" TaxID=", b" RepID=")
# With more irregular records than this the whole block is parsed one by one, so that none is
# looked at twice.
_MOST_IRREGULAR: Final = 1 / 16

Places = NDArray[np.intp]
"""Offsets in a text, or numbers of records."""


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


def read_uniref_fasta(text: bytes) -> tuple[Rows, Places, Places]:
    """Read a text that begins with `>` and holds whole records.

    Returns:
        All records in their order, without hashes and side, those that are not regular without
        meaning; `[records + 1]` where each record begins in `text`, and where the last one ends;
        the numbers of the records that are not regular.
    """
    if not text.endswith(b"\n"):
        text += b"\n"
    characters = np.frombuffer(text, np.uint8)
    # outside the visible characters of ASCII, 33 to 126: the unsigned difference wraps around
    is_special = characters - np.uint8(33) > 93
    is_special |= characters == _EQUAL_SIGN
    special = np.flatnonzero(is_special)
    kinds = characters.take(special)
    is_new_line, is_space, is_equal_sign = (
        kinds == kind for kind in (_NEW_LINE, _SPACE, _EQUAL_SIGN)
    )
    new_lines = special.compress(is_new_line)
    odd = special.compress(~(is_new_line | is_space | is_equal_sign))

    line_starts = np.concatenate([[0], new_lines[:-1] + 1])
    # for each record the number of its header line, which is how many line ends come before it
    line = np.flatnonzero(characters.take(line_starts) == ord(">"))
    starts = np.append(line_starts[line], len(text))
    header_ends = new_lines[line]
    index, is_regular = _headers(
        text, starts, header_ends, special.compress(is_space), special.compress(is_equal_sign)
    )
    is_regular[np.searchsorted(starts, odd, side="right") - 1] = False

    # without line ends every record is one piece: header and sequence
    flat = text.replace(b"\n", b"")
    flat_starts = np.append(starts[:-1] - line, len(flat))
    sequence_starts = header_ends - line
    lengths = flat_starts[1:] - sequence_starts
    is_regular &= lengths > 0
    is_regular &= _is_capital(flat, flat_starts[:-1], sequence_starts)
    index["start"] = flat_starts[:-1] + 1  # after '>'
    index["starts"][:, -1] = header_ends - starts[:-1] - 1
    index["lengths"][:, -1] = lengths
    return Rows(index=index, text=flat), starts, np.flatnonzero(~is_regular)


def _headers(
    text: bytes, starts: Places, header_ends: Places, spaces: Places, equal_signs: Places
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the fields of all headers, and which headers are regular.

    Args:
        text: the block.
        starts: `[records + 1]` start of each record, and the end of the last.
        header_ends: `[records]` end of each header line.
        spaces: places of all spaces.
        equal_signs: places of all equal signs.

    Returns:
        `[records]` of type `ROW` without sequence, hashes and side, and `[records]`.
    """
    characters = np.frombuffer(text, np.uint8)
    first = np.searchsorted(equal_signs, starts)
    ok = np.diff(first) == len(_TAGS)
    padded = np.append(equal_signs, [0] * len(_TAGS))
    # `[records, tags]` place of the tag's '=', anywhere where there are not four
    signs = padded[np.where(ok, first[:-1], 0)[:, None] + np.arange(len(_TAGS))]
    for column, tag in enumerate(_TAGS):
        # a tag begins with a space, and the text with '>', so at 0 there is none
        found = first_words(text, np.maximum(signs[:, column] + 1 - len(tag), 0), len(tag))
        ok &= found == int.from_bytes(tag, "little")
    # where the fields begin and end
    ids = starts[:-1] + 1  # after '>'
    members, taxa, taxon_ids, representatives = signs.T + 1
    spaces = np.append(spaces, len(text))
    id_ends = spaces[np.searchsorted(spaces, ids)]
    names = id_ends + 1
    name_ends, member_ends, taxon_ends, taxon_id_ends = (
        signs[:, column] + 1 - len(tag) for column, tag in enumerate(_TAGS)
    )
    ok &= (ids < id_ends) & (names < name_ends) & (taxa < taxon_ends)
    ok &= representatives < header_ends
    # the last space of the line is the one before RepID
    ok &= spaces[np.searchsorted(spaces, header_ends) - 1] == taxon_id_ends
    for places in (names, name_ends - 1, taxa, taxon_ends - 1):
        ok &= characters.take(places, mode="clip") != _SPACE
    index: NDArray[Any] = np.zeros(len(ids), ROW)
    for name, begin, end, digits in (
        ("member_count", members, member_ends, MEMBER_DIGITS),
        ("taxon_id", taxon_ids, taxon_id_ends, TAXON_DIGITS),
    ):
        index[name], are_numbers = _numbers(characters, begin, end - begin, digits)
        ok &= are_numbers
    for column, (begin, end) in enumerate(
        ((ids, id_ends), (names, name_ends), (taxa, taxon_ends), (representatives, header_ends))
    ):
        index["starts"][:, column] = begin - ids
        index["lengths"][:, column] = end - begin
    return index, ok


def _numbers(
    characters: NDArray[np.uint8], starts: Places, lengths: Places, most_digits: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the numbers at `starts`, and which are numbers of at most `most_digits` digits."""
    ok = (lengths > 0) & (lengths <= most_digits)
    lengths = np.where(ok, lengths, 0)
    numbers = np.zeros(len(starts), np.int64)
    for place in range(int(lengths.max(initial=0))):
        digits = characters.take(starts + place, mode="clip") - np.uint8(ord("0"))
        inside = place < lengths
        ok &= ~inside | (digits <= 9)
        numbers = np.where(inside, 10 * numbers + digits, numbers)
    return np.where(ok, numbers, NONE), ok


def _is_capital(flat: bytes, starts: Places, sequence_starts: Places) -> NDArray[np.bool_]:
    """Return whether each record's sequence has only letters A to Z."""
    bounds = np.minimum(np.stack([starts, sequence_starts], axis=1).ravel(), len(flat) - 1)
    # the difference of what comes before 'A' wraps around and is large too
    above = np.frombuffer(flat, np.uint8) - np.uint8(ord("A"))
    # the largest of each header and of each sequence, in turn
    largest: NDArray[np.uint8] = np.maximum.reduceat(above, bounds)[1::2]
    return largest < 26
