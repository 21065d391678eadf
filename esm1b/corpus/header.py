"""What a FASTA header line says, in UniRef's form and in any other."""

import re
from typing import Final, NamedTuple

__all__ = ["Header", "parse_header"]

# A complete UniRef header with no '=' but its tags': nearly all are, and it is read twice as fast.
_COMPLETE: Final = re.compile(
    r"(\S+) (?=\S)([^=]*[^=\s]) n=([0-9]{1,9}) Tax=(?=\S)([^=]*[^=\s]) "
    r"TaxID=([0-9]{1,18}) RepID=(\S+)"
)


class Header(NamedTuple):
    """The fields of a header line; None where the header does not give one.

    The form is UniProt's (https://www.uniprot.org/help/fasta-headers):
    `>UniRef50_K7G060 Titin n=25 Tax=Amniota TaxID=32524 RepID=K7G060_PELSI`.
    """

    id: str
    name: str | None
    member_count: int | None
    taxon: str | None
    taxon_id: int | None
    representative_id: str | None


def parse_header(line: str) -> Header:
    """Return the fields of a non-empty header line without `>`.

    The id is the first word. UniRef's tags count at the end of the line, in UniRef's order, each
    one optional; what stands before them is the name.
    """
    if complete := _COMPLETE.fullmatch(line):
        first, name, members, taxon, taxon_id, representative = complete.groups()
        return Header(first, name, int(members), taxon, int(taxon_id), representative)
    return _parse_tags(line)


def _parse_tags(line: str) -> Header:
    first, *others = line.split(None, 1)
    if not others:
        return Header(first, None, None, None, None, None)
    rest = others[0].rstrip()
    if "=" not in rest:
        return Header(first, rest, None, None, None, None)
    rest, representative = _tag(" " + rest, " RepID=")
    rest, taxon_id = _tag(rest, " TaxID=")
    rest, taxon = _tag(rest, " Tax=")
    rest, members = _tag(rest, " n=")
    if members is not None and _integer(members, digits=9) is None:
        rest, members = f"{rest} n={members}", None
    return Header(
        first,
        rest.strip() or None,
        _integer(members, digits=9),  # fits 32 bits
        taxon or None,
        _integer(taxon_id, digits=18),  # fits 64 bits
        representative or None,
    )


def _tag(text: str, key: str) -> tuple[str, str | None]:
    """Return what stands before and after the last `key`."""
    before, found, value = text.rpartition(key)
    return (before, value.strip()) if found else (text, None)


def _integer(text: str | None, *, digits: int) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > digits:
        return None
    return int(text)
