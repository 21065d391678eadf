"""UniRef's FASTA read column by column: all records of a block at once.

Nearly every record of a release is regular: a complete header in ASCII, with no `=` but those of
the tags, and a sequence of capital letters. Those are found and cut here with NumPy, at a quarter
of the time that Python takes to look at them one by one. The others are left to `parse_block`,
which decides what every record means; tests show that both agree.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.table import NONE, ROW, Rows

_NEW_LINE: Final = ord("\n")
_SPACE: Final = ord(" ")
_EQUAL_SIGN: Final = ord("=")
_TAGS: Final = (b" n=", b" Tax=", b" TaxID=", b" RepID=")
# as in `esm1b.sequences.header`: what fits 32 and 64 bits
_MEMBER_DIGITS: Final = 9
_TAXON_DIGITS: Final = 18


@dataclass(frozen=True, kw_only=True)
class UnirefRows:
    """The regular records of a block, and where the others are.

    Attributes:
        rows: the regular records; hashes and side are not set.
        numbers: `[regular records]` their numbers in the block, from 0.
        others: `[other records]` numbers in the block.
        starts: `[records + 1]` where each record begins in the block's text, and where it ends.
    """

    rows: Rows
    numbers: NDArray[np.intp]
    others: NDArray[np.intp]
    starts: NDArray[np.intp]


def read_uniref_rows(text: bytes) -> UnirefRows:
    """Return the regular records of a text that begins with `>` and holds whole records."""
    if not text.endswith(b"\n"):
        text += b"\n"
    characters = np.frombuffer(text, np.uint8)
    # below and above the visible characters of ASCII; the difference wraps around
    is_special = characters - np.uint8(33) > 93
    is_special |= characters == _EQUAL_SIGN
    special = np.flatnonzero(is_special)
    kinds = characters.take(special)
    new_lines, spaces, equal_signs = (
        special.compress(kinds == kind) for kind in (_NEW_LINE, _SPACE, _EQUAL_SIGN)
    )
    odd = special.compress((kinds != _NEW_LINE) & (kinds != _SPACE) & (kinds != _EQUAL_SIGN))

    line_starts = np.concatenate([[0], new_lines[:-1] + 1])
    # of each record, the number of its header line: as many line ends come before it
    line = np.flatnonzero(characters.take(line_starts) == ord(">"))
    starts = np.append(line_starts[line], len(text))
    header_ends = new_lines[line]

    index, is_regular = _headers(text, starts, header_ends, spaces, equal_signs)
    is_regular[np.searchsorted(starts, odd, side="right") - 1] = False

    # without line ends every record is one piece: header and sequence
    flat = text.replace(b"\n", b"")
    flat_starts = np.append(starts[:-1] - line, len(flat))
    sequence_starts = header_ends - line
    lengths = flat_starts[1:] - sequence_starts
    is_regular &= lengths > 0
    is_regular &= _is_capital(flat, flat_starts[:-1], sequence_starts)

    numbers = np.flatnonzero(is_regular)
    index["start"] = flat_starts[:-1] + 1  # after '>'
    index["starts"][:, -1] = header_ends - starts[:-1] - 1
    index["lengths"][:, -1] = lengths
    return UnirefRows(
        rows=Rows(index=index.take(numbers), text=flat),
        numbers=numbers,
        others=np.flatnonzero(~is_regular),
        starts=starts,
    )


def _headers(
    text: bytes,
    starts: NDArray[np.intp],
    header_ends: NDArray[np.intp],
    spaces: NDArray[np.intp],
    equal_signs: NDArray[np.intp],
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the fields of all headers, and where they are right: where a header is regular.

    Args:
        text: the block.
        starts: `[records + 1]` where the records begin and end.
        header_ends: `[records]` where the header lines end.
        spaces: the places of all spaces.
        equal_signs: the places of all equal signs.

    Returns:
        `[records]` of type `ROW` without sequence, hashes and side, and `[records]`.
    """
    characters = np.frombuffer(text, np.uint8)
    first = np.searchsorted(equal_signs, starts)
    ok = np.diff(first) == len(_TAGS)
    padded = np.append(equal_signs, [0] * len(_TAGS))
    # `[records, tags]` where the tags end
    ends = padded[np.where(ok, first[:-1], 0)[:, None] + np.arange(len(_TAGS))]
    for column, tag in enumerate(_TAGS):
        ok &= _stands_before(text, ends[:, column], tag)
    # where the fields begin and end
    members, taxa, taxon_ids, representatives = ends.T + 1
    ids = starts[:-1] + 1  # after '>'
    spaces = np.append(spaces, len(text))
    id_ends = spaces[np.searchsorted(spaces, ids)]
    names, name_ends = id_ends + 1, members - len(_TAGS[0])
    member_ends = taxa - len(_TAGS[1])
    taxon_ends = taxon_ids - len(_TAGS[2])
    taxon_id_ends = representatives - len(_TAGS[3])

    ok &= (ids < id_ends) & (names < name_ends) & (taxa < taxon_ends)
    ok &= representatives < header_ends
    # the last space of the line is the one before RepID
    ok &= spaces[np.searchsorted(spaces, header_ends) - 1] == taxon_id_ends
    for places in (names, name_ends - 1, taxa, taxon_ends - 1):
        ok &= characters.take(places, mode="clip") != _SPACE
    index: NDArray[Any] = np.zeros(len(ids), ROW)
    for name, begin, end, digits in (
        ("member_count", members, member_ends, _MEMBER_DIGITS),
        ("taxon_id", taxon_ids, taxon_id_ends, _TAXON_DIGITS),
    ):
        index[name], are_numbers = _numbers(characters, begin, end - begin, digits)
        ok &= are_numbers
    text_fields = [
        (ids, id_ends),
        (names, name_ends),
        (taxa, taxon_ends),
        (representatives, header_ends),
    ]
    for column, (begin, end) in enumerate(text_fields):
        index["starts"][:, column] = begin - ids
        index["lengths"][:, column] = end - begin
    return index, ok


def _stands_before(text: bytes, ends: NDArray[np.intp], tag: bytes) -> NDArray[np.bool_]:
    """Return, for each place in `text`, whether `tag` ends there."""
    if len(text) < 8:
        return np.zeros(len(ends), np.bool_)
    # the eight bytes from every place on, as little-endian numbers: the last byte is the highest
    words = np.ndarray(len(text) - 7, "<u8", text, strides=(1,))
    found = words[np.maximum(ends - 7, 0)] >> np.uint64(8 * (8 - len(tag)))
    stands: NDArray[np.bool_] = found == int.from_bytes(tag, "little")
    return (ends >= 7) & stands


def _numbers(
    characters: NDArray[np.uint8],
    starts: NDArray[np.intp],
    lengths: NDArray[np.intp],
    most_digits: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the numbers written at `starts`, and which of them are numbers of so many digits."""
    ok = (lengths > 0) & (lengths <= most_digits)
    lengths = np.where(ok, lengths, 0)
    numbers = np.zeros(len(starts), np.int64)
    for place in range(int(lengths.max(initial=0))):
        digits = characters.take(starts + place, mode="clip") - np.uint8(ord("0"))
        inside = place < lengths
        ok &= ~inside | (digits <= 9)
        numbers = np.where(inside, 10 * numbers + digits, numbers)
    return np.where(ok, numbers, NONE), ok


def _is_capital(
    flat: bytes, starts: NDArray[np.intp], sequence_starts: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return whether each record's sequence has only letters A to Z."""
    bounds = np.minimum(np.stack([starts, sequence_starts], axis=1).ravel(), len(flat) - 1)
    # what lies before 'A' wraps around and is large too
    above = np.frombuffer(flat, np.uint8) - np.uint8(ord("A"))
    largest: NDArray[np.uint8] = np.maximum.reduceat(above, bounds)[1::2]
    return largest < 26
