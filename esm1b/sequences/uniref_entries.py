"""The entries of UniRef XML as records: by a pattern where they look as usual, else by a parser."""

import re
from collections.abc import Sequence
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import unescape

from esm1b.errors import UserError
from esm1b.sequences.cleaning import WHITE_SPACE
from esm1b.sequences.header import Header, RecordBlock, header_of

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
# The remaining members of an entry that was cut for its size.
_MEMBERS: Final = re.compile((_SPACE + _MEMBERS_PATTERN).encode(), re.VERBOSE)
# An ampersand that begins none of XML's own references.
_OTHER_REFERENCE: Final = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos);)")
_QUOTES: Final = {"&quot;": '"', "&apos;": "'"}

# An entry as written: its texts, None where it has none (id, name, member count, common taxon and
# its id, id of the representative member, length of the sequence), and its sequence.
_Entry = tuple[Sequence[str | None], bytes]


class _FaultyEntryError(Exception):
    """An entry cannot be used; the message continues the words "entry 1"."""


def parse_entries(text: bytes, name: str, first_record: int) -> RecordBlock:
    """Return the records of the entries of a text.

    Headers are as in the FASTA file of the same release; the sequence is that of the
    representative member, and empty where an entry has none.

    Args:
        text: whole entries as `cut_uniref_xml` makes them.
        name: input's name, for messages.
        first_record: number of entries before the text.

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
            end = match.end() if match else _end_of_entry(text, position)
            if match and (plain or not _OTHER_REFERENCE.search(text, position, end)):
                *values, residues = match.groups()
                entries: list[_Entry] = [([_unescaped(value) for value in values], residues)]
            else:
                entries = _read(text[position:end])
            for entry in entries:
                header, sequence = _record(entry)
                block.headers.append(header)
                block.sequences.append(sequence)
            position = end
    except _FaultyEntryError as fault:
        number = first_record + len(block.headers) + 1
        raise UserError(f"{name}: entry {number}{fault}") from fault
    return block


def _end_of_entry(text: bytes, position: int) -> int:
    end = text.find(ENTRY_END, position)
    return len(text) if end < 0 else end + len(ENTRY_END)


def _unescaped(value: bytes | None) -> str | None:
    text = None if value is None else value.decode("ascii")
    return unescape(text, _QUOTES) if text and "&" in text else text


def _record(entry: _Entry) -> tuple[Header, bytes]:
    (identifier, name, *others, length), residues = entry
    if not identifier or len(identifier.split()) != 1:
        raise _FaultyEntryError(f": id {identifier!r}; expected one word")
    sequence = residues.translate(None, WHITE_SPACE)
    if length is not None and length != str(len(sequence)):
        raise _FaultyEntryError(
            f" ({identifier}): a sequence of {len(sequence)} residues with length {length!r}; "
            "expected them to agree"
        )
    cluster = name and name.strip().removeprefix("Cluster: ")
    return header_of(identifier, cluster, *others), sequence


def _read(text: bytes) -> list[_Entry]:
    """Return the entries of `text`, read by expat."""
    tree = TreeBuilder()
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler, parser.EndElementHandler = tree.start, tree.end
    parser.CharacterDataHandler = tree.data
    problem = ""
    try:
        for part in (b"<UniRef>", text, b"</UniRef>"):
            parser.Parse(part, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        problem = expat.ErrorString(error.code)
    else:
        entries = tree.close()
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
        raise _FaultyEntryError(f"{identifier}: {problem}; expected well-formed UniRef XML")
    return [_taken(entry) for entry in entries.iterfind("entry")]


def _taken(entry: Element) -> _Entry:
    """Return the texts and the sequence of an entry, the first where it has several."""

    def attribute(path: str, key: str) -> str | None:
        element = entry.find(path)
        return None if element is None else element.get(key)

    texts = [
        entry.get("id"),
        entry.findtext("name"),
        attribute("property[@type='member count']", "value"),
        attribute("property[@type='common taxon']", "value"),
        attribute("property[@type='common taxon ID']", "value"),
        attribute("representativeMember/dbReference", "id"),
        attribute("representativeMember/sequence", "length"),
    ]
    return texts, entry.findtext("representativeMember/sequence", "").encode()
