"""Records of any input in blocks: cut by one process, parsed by many."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, Literal

from esm1b.errors import UserError
from esm1b.sequences.archive import is_archive, open_uniref50
from esm1b.sequences.compressed import DamagedInputError
from esm1b.sequences.fasta import cut_fasta, parse_fasta
from esm1b.sequences.header import Header, parse_header
from esm1b.sequences.input_file import InputFile
from esm1b.sequences.prefetch import prefetch
from esm1b.sequences.uniref_entries import parse_entries
from esm1b.sequences.uniref_xml import cut_uniref_xml

# What one step of the pipeline works on; larger blocks are no faster.
_BLOCK_BYTES: Final = 4 << 20
# Enough of an input to tell what it is.
_START_BYTES: Final = 1024
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_HTML: Final = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_OTHER_FORMATS: Final = {
    b"\x1f\x8b": "gzip data within gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "Parquet",
}
_EXPECTED: Final = (
    "expected FASTA, UniRef XML or a UniProt release archive, plain or gzip-compressed"
)


@dataclass(frozen=True, kw_only=True)
class RawBlock:
    """Some whole consecutive records of an input, not yet parsed.

    Attributes:
        text: the records; FASTA with lines ending in LF, or XML in UTF-8.
        kind: what they are written in.
        source: the input's name, for messages.
        first_record: records of this input before the block.
    """

    text: bytes
    kind: Literal["fasta", "uniref-xml"]
    source: str
    first_record: int


@dataclass(frozen=True, kw_only=True)
class RecordBlock:
    """Some consecutive records.

    Attributes:
        headers: what is known of each record.
        sequences: one per header, without white space, otherwise as written.
    """

    headers: list[Header]
    sequences: list[bytes]


def raw_blocks(file: InputFile, block_bytes: int = _BLOCK_BYTES) -> Iterator[RawBlock]:
    """Yield the records of `file` in blocks of about `block_bytes` bytes of text.

    What the input is (FASTA, UniRef XML, or an archive with either for UniRef50) is told by its
    content. Cheap, so that one process can feed many that call `parse_block`.

    Raises:
        UserError: the file is of no known kind, is empty, is cut short, or holds a record so long
            that it cannot be a protein; the message names the file and the place.
    """
    chunks = prefetch(file.chunks(block_bytes))
    yield from _blocks(chunks, file.name, block_bytes)


def _blocks(chunks: Iterator[bytes], name: str, block_bytes: int) -> Iterator[RawBlock]:
    start, whole = _peeked(chunks)
    if is_archive(start):
        yield from _archived_blocks(whole, name, block_bytes)
        return
    for magic, what in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise UserError(f"{name}: {what}; {_EXPECTED}")
    text = start.removeprefix(_UTF8_MARK).lstrip()
    if _HTML.match(text):
        raise UserError(f"{name}: a web page (HTML); {_EXPECTED}")
    kind: Literal["fasta", "uniref-xml"] = "uniref-xml" if text.startswith(b"<") else "fasta"
    cut = cut_uniref_xml if kind == "uniref-xml" else cut_fasta
    for first_record, block in cut(whole, name):
        yield RawBlock(text=block, kind=kind, source=name, first_record=first_record)


def _peeked(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the start of a stream, and all of it; damage comes out at its place in that."""
    start = b""
    try:
        while len(start) < _START_BYTES and (chunk := next(chunks, b"")):
            start += chunk
    except DamagedInputError as error:
        return start, chain([start], _raising(error))
    return start, chain([start], chunks)


def _raising(error: Exception) -> Iterator[bytes]:
    yield b""
    raise error


def _archived_blocks(chunks: Iterator[bytes], name: str, block_bytes: int) -> Iterator[RawBlock]:
    """Yield the blocks of the archive's UniRef50, and no more of the archive than its end."""
    try:
        member, content = open_uniref50(chunks, name, block_bytes)
        yield from _blocks(prefetch(content), f"{name}: {member}", block_bytes)
        # A release archive ends here, but for padding: then its checksum is checked, too.
        for _ in islice(chunks, 1):
            pass
    except DamagedInputError as error:
        raise UserError(f"{name}: {error}; expected {error.expected}") from error


def parse_block(block: RawBlock) -> RecordBlock:
    """Return the records of `block`.

    Raises:
        UserError: a record has no id, or its XML is wrong; the message names the input and the
            record.
    """
    if block.kind == "uniref-xml":
        headers, sequences = parse_entries(block.text, block.source, block.first_record)
        return RecordBlock(headers=headers, sequences=sequences)
    lines, sequences = parse_fasta(block.text, block.source, block.first_record)
    return RecordBlock(headers=[parse_header(line) for line in lines], sequences=sequences)
