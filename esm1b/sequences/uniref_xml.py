"""UniRef XML of any size: cut into blocks of whole entries, and read as records.

Entries are read by a pattern where they look as usual, else by a parser.
"""

import html
import re
from collections.abc import Iterator, Sequence
from typing import Final
from xml.etree import ElementTree
from xml.parsers import expat

from esm1b.errors import UserError
from esm1b.sequences.fasta import LONGEST_RECORD
from esm1b.sequences.input_file import DamagedInputError
from esm1b.sequences.record import WHITE_SPACE, Header, RecordBlock, header_of

_ENTRY_START: Final = b"<entry"
_ENTRY_END: Final = b"</entry>"
_MEMBER_END: Final = b"</member>"
_LONGEST_HEAD: Final = 1 << 20  # the text before the first entry takes some 300 bytes
# The largest clusters have a hundred thousand members, at some 700 bytes each: an entry that grows
# beyond this is passed on in parts.
_LARGE_ENTRY: Final = 1 << 22
_ENCODINGS: Final = ("utf-8", "us-ascii", "iso-8859-1")
_CUT_SHORT: Final = ("no element found", "unclosed token", "partial character")  # in expat's words

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
# The remaining members of an entry that was cut for its size.
_MEMBERS: Final = re.compile((_SPACE + _MEMBERS_PATTERN).encode(), re.VERBOSE)
# An ampersand that begins none of XML's own references.
_OTHER_REFERENCE: Final = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos);)")

# An entry as written: its texts, None where it has none (id, name, member count, common taxon and
# its id, id of the representative member, length of the sequence), and its sequence.
_Entry = tuple[Sequence[str | None], bytes]


def cut_uniref_xml(chunks: Iterator[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Cut UniRef XML where entries end.

    This process reads the text around the entries with expat, so that all of the XML has been
    checked once `parse_entries` has read the blocks. The members of a very large entry come in
    blocks of their own.

    Yields:
        The number of entries before the block, and whole entries of about a chunk's size, as UTF-8.

    Raises:
        UserError: it is not UniRef XML, has a document type declaration (and with it entities), is
            cut short, or has an entry too long for a protein.
    """
    frame = _Frame()
    records = 0
    text = b""
    parted = False  # whether the beginning of the entry at the start of `text` has been passed on
    try:
        for chunk in chunks:
            if b"\0" in chunk:
                raise _Fault(f"a NUL byte after {records} complete entries; expected XML as text")
            text += frame.recoded(chunk)
            if not frame.root:
                text = frame.open(text)
            if parted and (end := text.find(_ENTRY_END)) >= 0:
                yield records - 1, text[:end]
                text = text[end + len(_ENTRY_END) :]
                parted = False
            if not parted and (end := text.rfind(_ENTRY_END)) >= 0:
                end += len(_ENTRY_END)
                yield records, text[:end]
                records += text.count(_ENTRY_END, 0, end)
                text = text[end:]
            elif len(text) > _LARGE_ENTRY and (end := text.rfind(_MEMBER_END)) >= 0:
                end += len(_MEMBER_END)
                yield records - parted, text[:end] + (b"" if parted else _ENTRY_END)
                records += not parted
                parted = True
                text = text[end:]
            elif len(text) > LONGEST_RECORD:
                problem = f"entry {records + 1}: longer than {LONGEST_RECORD} characters"
                raise _Fault(f"{problem}; expected protein sequences")
        if parted or (frame.root and _ENTRY_START in text):
            raise frame.ends_early(records - parted)
        frame.close(text, records)
    except DamagedInputError as error:
        raise error.for_user(name, f" after {records - parted} complete entries") from error
    except _Fault as fault:
        raise UserError(f"{name}: {fault}") from fault


def parse_entries(text: bytes, name: str, first_record: int) -> RecordBlock:
    """Return the records of a block that `cut_uniref_xml` made.

    Headers are as in the FASTA file of the same release; the sequence is that of the
    representative member, and empty where an entry has none.

    Raises:
        UserError: the XML is not well-formed, an entry has no id, or a sequence does not have the
            length written beside it.
    """
    block = RecordBlock(headers=[], sequences=[])
    plain = not _OTHER_REFERENCE.search(text)
    if plain and _MEMBERS.fullmatch(text):
        return block
    position = 0
    try:
        while position < len(text):
            match = _ENTRY.match(text, position)
            found = text.find(_ENTRY_END, position)
            end = match.end() if match else found + len(_ENTRY_END) if found >= 0 else len(text)
            if match and (plain or not _OTHER_REFERENCE.search(text, position, end)):
                *values, residues = match.groups()
                texts = [None if part is None else html.unescape(part.decode()) for part in values]
                entries: list[_Entry] = [(texts, residues)]
            else:
                entries = _read(text[position:end])
            for entry in entries:
                header, sequence = _record(entry)
                block.headers.append(header)
                block.sequences.append(sequence)
            position = end
    except _Fault as fault:
        number = first_record + len(block.headers) + 1
        raise UserError(f"{name}: entry {number}{fault}") from fault
    return block


class _Fault(Exception):  # noqa: N818 (of the input; the error names it)
    """The XML cannot be used; the message continues the input's name or the words "entry 1"."""


class _Frame:
    """Reads the XML around the entries: declaration, root element, end."""

    def __init__(self) -> None:
        self.root = ""  # name of the root element, empty before the first entry
        self._latin = False
        self._parser = expat.ParserCreate()
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._document_type
        self._parser.StartElementHandler = self._start
        self._parser.CharacterDataHandler = self._characters

    def recoded(self, chunk: bytes) -> bytes:
        """Return a chunk as UTF-8; before the head has been read, as it is."""
        return chunk.decode("latin-1").encode() if self._latin and not chunk.isascii() else chunk

    def open(self, text: bytes) -> bytes:
        """Read the head if `text` has all of it; return the rest of `text`, as UTF-8."""
        start = text.find(_ENTRY_START)
        if start < 0 and len(text) <= _LONGEST_HEAD:
            return text
        self._parse(text[:start] if start >= 0 else text, 0)
        if not self.root or start < 0:
            raise _Fault(f"no entry after {len(text)} bytes; expected UniRef XML")
        return self.recoded(text[start:])

    def close(self, text: bytes, records: int) -> None:
        """Read the end."""
        self._parse(text, records)
        self._parse(b"", records)
        if not records:
            raise _Fault("no entry; expected UniRef XML with entries")

    def ends_early(self, records: int) -> _Fault:
        """Return the error for XML that is cut short."""
        end = f"</{self.root or 'UniRef50'}>"
        return _Fault(f"the XML ends early after {records} complete entries; expected {end}")

    def _parse(self, text: bytes, records: int) -> None:
        try:
            self._parser.Parse(text, not text)
        except expat.ExpatError as error:
            problem = expat.ErrorString(error.code)
            if problem in _CUT_SHORT:
                raise self.ends_early(records) from error
            expected = "expected well-formed UniRef XML"
            raise _Fault(f"after {records} complete entries: {problem}; {expected}") from error

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding and encoding.lower() not in _ENCODINGS:
            raise _Fault(f"encoding {encoding!r}; expected one of {', '.join(_ENCODINGS)}")
        self._latin = (encoding or "").lower() == "iso-8859-1"

    def _document_type(self, root: str, *_: object) -> None:
        problem = f"a document type declaration (DOCTYPE {root}), which can define entities"
        raise _Fault(f"{problem}; expected UniRef XML, which has none")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self.root:
            raise _Fault(f"element {tag!r} beside the entries; expected entries")
        if tag not in ("UniRef50", "UniRef90", "UniRef100"):
            raise _Fault(f"root element {tag!r}; expected UniRef50, as in uniref50.xml")
        self.root = tag

    def _characters(self, text: str) -> None:
        if shown := text.strip()[:40]:
            raise _Fault(f"text {shown!r} beside the entries; expected entries")


def _record(entry: _Entry) -> tuple[Header, bytes]:
    (identifier, name, *others, length), residues = entry
    if not identifier or len(identifier.split()) != 1:
        raise _Fault(f": id {identifier!r}; expected one word")
    sequence = residues.translate(None, WHITE_SPACE)
    if length is not None and length != str(len(sequence)):
        problem = f"a sequence of {len(sequence)} residues with length {length!r}"
        raise _Fault(f" ({identifier}): {problem}; expected them to agree")
    cluster = name and name.strip().removeprefix("Cluster: ")
    return header_of(identifier, cluster, *others), sequence


def _read(text: bytes) -> list[_Entry]:
    """Return the entries of `text`, read by expat."""
    problem = ""
    try:
        entries = ElementTree.fromstring(b"<UniRef>%b</UniRef>" % text)
    except ElementTree.ParseError as error:
        problem = expat.ErrorString(error.code)
    else:
        between = "".join([entries.text or "", *(child.tail or "" for child in entries)]).strip()
        others = [child.tag for child in entries if child.tag not in ("entry", "member")]
        if others:
            problem = f"element {others[0]!r} where an entry belongs"
        elif between:
            problem = f"text {between[:40]!r} between entries"
    if problem:
        found = re.search(rb"<entry[^>]*\sid=[\"']([^\"'<>]*)", text)
        # on one line, although damaged text may hold anything
        identifier = f" ({' '.join(found[1].decode('utf-8', 'replace').split())})" if found else ""
        raise _Fault(f"{identifier}: {problem}; expected well-formed UniRef XML")
    return [_taken(entry) for entry in entries.iterfind("entry")]


def _taken(entry: ElementTree.Element) -> _Entry:
    """Return the texts and the sequence of an entry, the first where it has several."""
    values = ("member count", "common taxon", "common taxon ID")
    paths = {f"property[@type='{value}']": "value" for value in values}
    paths |= {"representativeMember/dbReference": "id", "representativeMember/sequence": "length"}
    found = [(entry.find(path), key) for path, key in paths.items()]
    texts = [None if element is None else element.get(key) for element, key in found]
    sequence = entry.findtext("representativeMember/sequence", "")
    return [entry.get("id"), entry.findtext("name"), *texts], sequence.encode()
