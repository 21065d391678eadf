"""A record: the fields of its header line or UniRef entry, and the cleaned form of its sequence."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from esm1b.alphabet import RESIDUES, character_name

MEMBER_DIGITS: Final = 9  # fits 32 bits
TAXON_DIGITS: Final = 18  # fits 64 bits

WHITE_SPACE: Final = b" \t\n\v\f\r"

NUCLEOTIDES: Final = b"ACGTUN"

_ACCEPTED: Final = (RESIDUES + "J").encode()
_UTF8_BYTES: Final = 4  # of one character, at most
_ENOUGH_RESIDUES: Final = 500
_DNA_SHARE: Final = 0.9


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


@dataclass(frozen=True, kw_only=True)
class RecordBlock:
    """Some consecutive records; sequences are without white space, otherwise as written."""

    headers: list[Header]
    sequences: list[bytes]


def parse_header(line: str) -> Header:
    """Return the fields of a non-empty header line without `>` and without white space around it.

    The id is the first word. UniRef's tags count at the end of the line, in UniRef's order, each
    one optional; the text before them is the name.
    """
    identifier, *others = line.split(None, 1)
    name = " " + others[0] if others else ""
    values: dict[str, str] = {}
    for tag in ("RepID", "TaxID", "Tax", "n"):  # from the end of the line
        before, found, value = name.rpartition(f" {tag}=")
        # a text after "n=" that is not a number is part of the name
        if found and (tag != "n" or _integer(value.strip(), MEMBER_DIGITS) is not None):
            name, values[tag] = before, value.strip()
    return header_of(identifier, name, *map(values.get, ("n", "Tax", "TaxID", "RepID")))


def header_of(identifier: str, *texts: str | None) -> Header:
    """Return a header from the text of its fields, in the order of `Header`.

    An empty text, or one that is not a number where one belongs, becomes None.
    """
    name, taxon, representative = ((text and text.strip()) or None for text in texts[::2])
    members, taxon_id = _integer(texts[1], MEMBER_DIGITS), _integer(texts[3], TAXON_DIGITS)
    return Header(identifier, name, members, taxon, taxon_id, representative)


def _integer(value: str | None, digits: int) -> int | None:
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > digits:
        return None
    return int(value)


def clean(sequence: bytes) -> bytes:
    """Return `sequence` in upper case, without white space and without one final `*` (stop)."""
    return sequence.translate(None, WHITE_SPACE).upper().removesuffix(b"*")


def drop_reason(cleaned: bytes) -> str | None:
    """Return why a cleaned sequence is dropped, or None if it is kept.

    All 26 letters stand for residues: the 20 amino acids, B, J, O, U, X and Z. Anything else (gaps,
    stops within the sequence, digits) is an error in the record.
    """
    if not cleaned:
        return "empty_sequence"
    return "other_characters" if cleaned.translate(None, _ACCEPTED) else None


def fault(cleaned: bytes) -> str:
    """Return the sentence for a user about a cleaned sequence that is dropped."""
    other = cleaned.translate(None, _ACCEPTED)
    if not other:
        return "has no sequence; expected residues"
    position = cleaned.index(other[:1])
    character = cleaned[position : position + _UTF8_BYTES].decode("utf-8", "replace")[0]
    shown = f"byte {other[0]:#x}" if character == "\ufffd" else character_name(character)
    return f"{shown} at position {position + 1} of the sequence; expected the letters A to Z"


def count_nucleotides(sequence: bytes) -> int:
    """Return how many characters of a sequence are among `NUCLEOTIDES`."""
    return len(sequence) - len(sequence.translate(None, NUCLEOTIDES))


def nucleotide_warning(nucleotides: int, residues: int) -> str | None:
    """Return a warning where nearly all `residues` are among `NUCLEOTIDES`; else, or of few, None.

    Of the residues of proteins about a quarter are.
    """
    if residues < _ENOUGH_RESIDUES or nucleotides < _DNA_SHARE * residues:
        return None
    share = nucleotides / residues
    return f"{share:.0%} of the residues are A, C, G, T, U or N: DNA or RNA; expected proteins"
