"""UniRef XML of any size cut into blocks of whole entries."""

import re
from collections.abc import Iterator
from typing import Final
from xml.parsers import expat

from esm1b.errors import UserError
from esm1b.sequences.compressed import DamagedInputError
from esm1b.sequences.fasta import LONGEST_RECORD
from esm1b.sequences.uniref_entries import ENTRY_END

_ENTRY_START: Final = b"<entry"
_MEMBER_END: Final = b"</member>"
_LONGEST_HEAD: Final = 1 << 20  # the text before the first entry takes some 300 bytes
# The largest clusters have a hundred thousand members, at some 700 bytes each: an entry that grows
# beyond this is passed on in parts.
_LARGE_ENTRY: Final = 1 << 22
_ENCODINGS: Final = ("utf-8", "us-ascii", "iso-8859-1")
_ROOT: Final = re.compile("UniRef(50|90|100)")
_CUT_SHORT: Final = (
    expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
    expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
    expat.errors.codes[expat.errors.XML_ERROR_PARTIAL_CHAR],
)


def cut_uniref_xml(chunks: Iterator[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Cut UniRef XML where entries end.

    This process reads the text around the entries with expat, so that all of the XML has been
    checked once `parse_entries` has read the blocks. The members of a very large entry come in
    blocks of their own.

    Args:
        chunks: consecutive pieces of the XML.
        name: input's name, for messages.

    Yields:
        The number of entries before the block, and whole entries of about a chunk's size, as UTF-8.

    Raises:
        UserError: it is not UniRef XML, has a document type declaration (and with it entities), is
            cut short, or has an entry too long for a protein.
    """
    frame = _Frame(name)
    records = 0
    text = b""
    parted = False  # whether the beginning of the entry at the start of `text` has been passed on
    try:
        for chunk in chunks:
            if b"\0" in chunk:
                raise UserError(
                    f"{name}: a NUL byte after {records} complete entries; expected XML as text"
                )
            text += frame.recoded(chunk)
            if not frame.opened:
                text = frame.open(text)
            if parted and (end := text.find(ENTRY_END)) >= 0:
                yield records - 1, text[:end]
                text = text[end + len(ENTRY_END) :]
                parted = False
            if not parted and (end := text.rfind(ENTRY_END)) >= 0:
                end += len(ENTRY_END)
                yield records, text[:end]
                records += text.count(ENTRY_END, 0, end)
                text = text[end:]
            elif len(text) > _LARGE_ENTRY and (end := text.rfind(_MEMBER_END)) >= 0:
                end += len(_MEMBER_END)
                if parted:
                    yield records - 1, text[:end]
                else:
                    yield records, text[:end] + ENTRY_END
                    records += 1
                    parted = True
                text = text[end:]
            elif len(text) > LONGEST_RECORD:
                raise UserError(
                    f"{name}: entry {records + 1}: longer than {LONGEST_RECORD} characters; "
                    "expected protein sequences"
                )
    except DamagedInputError as error:
        raise UserError(
            f"{name}: {error} after {records - parted} complete entries; expected {error.expected}"
        ) from error
    if parted or (frame.opened and _ENTRY_START in text):
        raise frame.ends_early(records - parted)
    frame.close(text, records)


class _Frame:
    """The XML around the entries: declaration, root element, end.

    Attributes:
        opened: whether the first entry has begun.
    """

    def __init__(self, name: str) -> None:
        self.opened = False
        self._name = name
        self._root = ""
        self._latin = False
        self._parser = expat.ParserCreate()
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._document_type
        self._parser.StartElementHandler = self._start
        self._parser.CharacterDataHandler = self._characters

    def recoded(self, chunk: bytes) -> bytes:
        """Return a chunk after the head as UTF-8."""
        return chunk.decode("latin-1").encode() if self._latin and not chunk.isascii() else chunk

    def open(self, text: bytes) -> bytes:
        """Read the head if `text` has all of it; return the rest of `text`, as UTF-8."""
        start = text.find(_ENTRY_START)
        if start < 0 and len(text) <= _LONGEST_HEAD:
            return text
        self._parse(text[:start] if start >= 0 else text, 0)
        if not self._root or start < 0:
            raise self._error(f"no entry after {len(text)} bytes; expected UniRef XML")
        self.opened = True
        return self.recoded(text[start:])

    def close(self, text: bytes, records: int) -> None:
        """Read the end."""
        self._parse(text, records)
        self._parse(b"", records)
        if not records:
            raise self._error("no entry; expected UniRef XML with entries")

    def ends_early(self, records: int) -> UserError:
        """Return the error for XML that is cut short."""
        root = self._root or "UniRef50"
        return self._error(
            f"the XML ends early after {records} complete entries; expected </{root}>"
        )

    def _error(self, problem: str) -> UserError:
        return UserError(f"{self._name}: {problem}")

    def _parse(self, text: bytes, records: int) -> None:
        try:
            self._parser.Parse(text, not text)
        except expat.ExpatError as error:
            if error.code in _CUT_SHORT:
                raise self.ends_early(records) from error
            raise self._error(
                f"after {records} complete entries: {expat.ErrorString(error.code)}; "
                "expected well-formed UniRef XML"
            ) from error

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding and encoding.lower() not in _ENCODINGS:
            raise self._error(f"encoding {encoding!r}; expected one of {', '.join(_ENCODINGS)}")
        self._latin = encoding is not None and encoding.lower() == "iso-8859-1"

    def _document_type(self, root: str, *_: object) -> None:
        raise self._error(
            f"a document type declaration (DOCTYPE {root}), which can define entities; "
            "expected UniRef XML, which has none"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._root:
            raise self._error(f"element {tag!r} beside the entries; expected entries")
        if not _ROOT.fullmatch(tag):
            raise self._error(f"root element {tag!r}; expected UniRef50, as in uniref50.xml")
        self._root = tag

    def _characters(self, text: str) -> None:
        if shown := text.strip()[:40]:
            raise self._error(f"text {shown!r} beside the entries; expected entries")
