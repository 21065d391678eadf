"""The entries of UniRef XML as records: by a pattern where they look as usual, else by a parser."""

import re
from typing import Final, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import unescape

from esm1b.errors import UserError
from esm1b.sequences.header import Header, header_of

ENTRY_END: Final = b"</entry>"

# UniRef's files write every entry alike (https://www.uniprot.org/docs/uniref.xsd), which one
# pattern checks to the last byte, four times as fast as expat reads it. To expat it leaves what
# takes thought: other attributes, quotes or order, comments, bytes beyond printable ASCII.
_SPACE: Final = r"[ \t\r\n]*"
_VALUE: Final = r'"[ !#-;=-~]*"'
_KEPT_VALUE: Final = r'"([ !#-;=-~]*)"'
_PROPERTIES: Final = rf"(?:<property\ type={_VALUE}\ value={_VALUE}/>{_SPACE})*"
_MEMBERS_PATTERN: Final = rf"""
    (?:<member>{_SPACE}
      <dbReference\ type={_VALUE}\ id={_VALUE}>{_SPACE}{_PROPERTIES}</dbReference>{_SPACE}
      (?:<sequence\ length={_VALUE}\ checksum={_VALUE}>[A-Z \t\r\n]*</sequence>{_SPACE})?
    </member>{_SPACE})*
"""
_ENTRY: Final = re.compile(
    rf"""
    {_SPACE}<entry\ id={_KEPT_VALUE}\ updated={_VALUE}>{_SPACE}
    <name>([ -;=?-~]*)</name>{_SPACE}
    <property\ type="member\ count"\ value={_KEPT_VALUE}/>{_SPACE}
    (?:<property\ type="common\ taxon"\ value={_KEPT_VALUE}/>{_SPACE})?
    (?:<property\ type="common\ taxon\ ID"\ value={_KEPT_VALUE}/>{_SPACE})?
    (?:<property\ type="GO\ [A-Za-z ]+"\ value={_VALUE}/>{_SPACE})*
    <representativeMember>{_SPACE}
      <dbReference\ type={_VALUE}\ id={_KEPT_VALUE}>{_SPACE}{_PROPERTIES}</dbReference>{_SPACE}
      <sequence\ length={_KEPT_VALUE}\ checksum={_VALUE}>([A-Z \t\r\n]*)</sequence>{_SPACE}
    </representativeMember>{_SPACE}
    {_MEMBERS_PATTERN}
    </entry>
    """.encode(),
    re.VERBOSE,
)
# Of an entry that was cut for its size.
_MEMBERS: Final = re.compile((_SPACE + _MEMBERS_PATTERN).encode(), re.VERBOSE)
# An ampersand that begins none of XML's own references.
_OTHER_REFERENCE: Final = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos);)")
_QUOTES: Final = {"&quot;": '"', "&apos;": "'"}
_WHITE_SPACE: Final = b" \t\n\v\f\r"
_NAME_PREFIX: Final = "Cluster: "

# What `_Entry` takes its fields from: attributes, elements and types of properties.
_KEYS: Final = (
    "id",
    "name",
    "property member count",
    "property common taxon",
    "property common taxon ID",
    "representative",
    "length",
    "sequence",
)


class _Entry(NamedTuple):
    """What is taken of an entry, as written; None where it is not there."""

    identifier: str | None
    name: str | None
    members: str | None
    taxon: str | None
    taxon_id: str | None
    representative: str | None
    length: str | None
    sequence: bytes


def parse_entries(text: bytes, name: str, first_record: int) -> tuple[list[Header], list[bytes]]:
    """Return headers and sequences of the entries of a text.

    Args:
        text: whole entries as `cut_uniref_xml` makes them.
        name: the input's name, for messages.
        first_record: how many entries stand before the text.

    Returns:
        The headers, as in the FASTA file of the same release, and the sequences of the
        representative members without white space; empty where an entry has none.

    Raises:
        UserError: the XML is not well-formed, an entry has no id, or a sequence has not the length
            that stands beside it.
    """
    headers: list[Header] = []
    sequences: list[bytes] = []
    plain = not _OTHER_REFERENCE.search(text)
    if plain and _MEMBERS.fullmatch(text):
        return headers, sequences
    position = 0
    while position < len(text):
        match = _ENTRY.match(text, position)
        end = match.end() if match else _end_of_entry(text, position)
        if match and (plain or not _OTHER_REFERENCE.search(text, position, end)):
            entries = [_entry_of(match)]
        else:
            entries = _read(text[position:end], name, first_record + len(headers) + 1)
        for entry in entries:
            header, sequence = _record(entry, name, first_record + len(headers) + 1)
            headers.append(header)
            sequences.append(sequence)
        position = end
    return headers, sequences


def _end_of_entry(text: bytes, position: int) -> int:
    end = text.find(ENTRY_END, position)
    return len(text) if end < 0 else end + len(ENTRY_END)


def _entry_of(match: re.Match[bytes]) -> _Entry:
    *fields, sequence = match.groups()
    texts = [None if field is None else _unescaped(field.decode("ascii")) for field in fields]
    return _Entry._make((*texts, sequence))


def _unescaped(text: str) -> str:
    return unescape(text, _QUOTES) if "&" in text else text


def _record(entry: _Entry, name: str, number: int) -> tuple[Header, bytes]:
    identifier = entry.identifier
    if not identifier or len(identifier.split()) != 1:
        raise UserError(f"{name}: entry {number}: id {identifier!r}; expected one word")
    sequence = entry.sequence.translate(None, _WHITE_SPACE)
    if entry.length is not None and entry.length != str(len(sequence)):
        raise UserError(
            f"{name}: entry {number} ({identifier}): a sequence of {len(sequence)} residues with "
            f"length {entry.length!r}; expected them to agree"
        )
    cluster = entry.name and entry.name.strip().removeprefix(_NAME_PREFIX)
    header = header_of(
        identifier,
        cluster,
        entry.members,
        entry.taxon,
        entry.taxon_id,
        entry.representative,
    )
    return header, sequence


def _read(text: bytes, name: str, number: int) -> list[_Entry]:
    """Return the entries of `text`, one or none, read by expat."""
    try:
        return _EntryReader().read(text)
    except (expat.ExpatError, _UnexpectedError) as error:
        found = re.search(rb"<entry[^>]*\sid=[\"']([^\"'<>]*)", text)
        # on one line, though what is damaged may hold anything
        identifier = f" ({' '.join(found[1].decode('utf-8', 'replace').split())})" if found else ""
        what = expat.ErrorString(error.code) if isinstance(error, expat.ExpatError) else error
        raise UserError(
            f"{name}: entry {number}{identifier}: {what}; expected well-formed UniRef XML"
        ) from error


class _UnexpectedError(Exception):
    """Well-formed, but nothing that belongs into UniRef XML; the message says what."""


class _EntryReader:
    """Reads entries with expat, of each field the first."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._places: list[str] = []
        self._found: dict[str, str | None] = {}
        self._text: list[str] = []
        self._parser = expat.ParserCreate("UTF-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def read(self, text: bytes) -> list[_Entry]:
        """Return the entries among the children of an element with the content `text`."""
        for part in (b"<UniRef>", text, b"</UniRef>"):
            self._parser.Parse(part, False)
        self._parser.Parse(b"", True)
        return self._entries

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        place = self._place_of(tag)
        self._places.append(place)
        self._text = []
        match place:
            case "/entry":
                self._found = {"id": attributes.get("id")}
            case "/entry/property":
                key = f"property {attributes.get('type')}"
                self._found.setdefault(key, attributes.get("value"))
            case "/entry/representativeMember/dbReference":
                self._found.setdefault("representative", attributes.get("id"))
            case "/entry/representativeMember/sequence":
                self._found.setdefault("length", attributes.get("length"))
            case _ if len(self._places) == 2 and tag != "member":
                raise _UnexpectedError(f"element {tag!r} where an entry belongs")

    def _place_of(self, tag: str) -> str:
        if not self._places:
            return ""  # what `read` puts around the entries
        parent = self._places[-1]
        # deeper than anything that is looked at, in XML that is nested without end
        return parent if len(parent) > 100 else f"{parent}/{tag}"

    def _characters(self, text: str) -> None:
        self._text.append(text)
        if len(self._places) == 1 and text.strip():
            raise _UnexpectedError(f"text {text.strip()[:40]!r} between entries")

    def _end(self, tag: str) -> None:
        match self._places.pop():
            case "/entry/name":
                self._found.setdefault("name", "".join(self._text))
            case "/entry/representativeMember/sequence":
                self._found.setdefault("sequence", "".join(self._text))
            case "/entry":
                *fields, sequence = map(self._found.get, _KEYS)
                residues = (sequence or "").encode()
                self._entries.append(_Entry._make((*fields, residues)))
