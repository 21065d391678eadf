"""What a FASTA header line or a UniRef entry says of a record."""

import re
from typing import Final, NamedTuple

MEMBERS_DIGITS: Final = 9  # fits 32 bits
TAXON_DIGITS: Final = 18  # fits 64 bits
# A complete UniRef header with no '=' but its tags': nearly all are, and it is read twice as fast.
_COMPLETE: Final = re.compile(
    r"(\S+) (?=\S)([^=]*[^=\s]) n=([0-9]{1,9}) Tax=(?=\S)([^=]*[^=\s]) "
    r"TaxID=([0-9]{1,18}) RepID=(\S+)"
)


class Header(NamedTuple):
    """The fields of a record; None where its source does not give one.

    UniProt's form in FASTA (https://www.uniprot.org/help/fasta-headers):
    `>UniRef50_K7G060 Titin n=25 Tax=Amniota TaxID=32524 RepID=K7G060_PELSI`.
    """

    id: str
    name: str | None
    member_count: int | None
    taxon: str | None
    taxon_id: int | None
    representative_id: str | None


def parse_header(line: str) -> Header:
    """Return the fields of a non-empty header line without `>` and without white space around it.

    The id is the first word. UniRef's tags count at the end of the line, in UniRef's order, each
    one optional; what stands before them is the name.
    """
    if complete := _COMPLETE.fullmatch(line):
        first, name, members, taxon, taxon_id, representative = complete.groups()
        return Header(first, name, int(members), taxon, int(taxon_id), representative)
    return _parse_tags(line)


def header_of(
    identifier: str,
    name: str | None,
    members: str | None,
    taxon: str | None,
    taxon_id: str | None,
    representative: str | None,
) -> Header:
    """Return the fields given as text; what is empty, or no number where one belongs, is None."""
    return Header(
        identifier,
        _text(name),
        _integer(members, MEMBERS_DIGITS),
        _text(taxon),
        _integer(taxon_id, TAXON_DIGITS),
        _text(representative),
    )


def _parse_tags(line: str) -> Header:
    first, *others = line.split(None, 1)
    rest = " " + others[0] if others else ""
    rest, representative = _tag(rest, " RepID=")
    rest, taxon_id = _tag(rest, " TaxID=")
    rest, taxon = _tag(rest, " Tax=")
    name, members = _tag(rest, " n=")
    if members is not None and _integer(members, MEMBERS_DIGITS) is None:
        name, members = rest, None  # no tag but a part of the name
    return header_of(first, name, members, taxon, taxon_id, representative)


def _tag(text: str, key: str) -> tuple[str, str | None]:
    """Return what stands before and after the last `key`."""
    before, found, value = text.rpartition(key)
    return (before, value.strip()) if found else (text, None)


def _text(value: str | None) -> str | None:
    return (value and value.strip()) or None


def _integer(value: str | None, digits: int) -> int | None:
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > digits:
        return None
    return int(value)
