"""Records of any input in blocks: cut by one process, parsed by many.

The input is FASTA, UniRef XML, or a UniProt release archive, out of which UniRef50 is streamed.
"""

import logging
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Final, Literal

from esm1b.errors import UserError
from esm1b.sequences.fasta import cut_fasta, parse_fasta
from esm1b.sequences.input_file import (
    CHUNK_BYTES,
    UTF8_MARK,
    ChunkReader,
    DamagedInputError,
    InputFile,
    decompressed_chunks,
    foreign_format,
    prefetch,
)
from esm1b.sequences.record import RecordBlock
from esm1b.sequences.uniref_xml import cut_uniref_xml, parse_entries

_log = logging.getLogger(__name__)

_START_BYTES: Final = 1024  # enough of an input to tell its format
# The archive of a release has `uniref50.tar` (in uniref2018_03.tar.gz after uniref100.tar and
# uniref90.tar), and that has `uniref50.xml.gz`.
_UNIREF50: Final = re.compile(r"uniref50\.(tar|xml|fasta)(\.gz)?")
_EXPECTED_MEMBER: Final = (
    "expected a whole archive with uniref50.tar, uniref50.xml.gz or uniref50.fasta.gz"
)
_TAR_BYTES: Final = 1 << 18  # read at a time


@dataclass(frozen=True, kw_only=True)
class RawBlock:
    """Whole consecutive records of an input, and the number of its records before them.

    The text is FASTA with lines ending in LF, or XML in UTF-8; `source` is the input's name.
    """

    text: bytes
    kind: Literal["fasta", "uniref-xml"]
    source: str
    first_record: int


def raw_blocks(file: InputFile, block_bytes: int = CHUNK_BYTES) -> Iterator[RawBlock]:
    """Yield the records of `file` in blocks of about `block_bytes` bytes of text.

    The content tells what the input is: FASTA, UniRef XML, or an archive with either for UniRef50.
    Cheap, so that one process can feed many that call `parse_block`.

    Raises:
        UserError: the file is of no known kind, is empty, is cut short, or holds a record too long
            for a protein; the message names the file and the place.
    """
    return cut_blocks(file.chunks(block_bytes), file.name, block_bytes)


def cut_blocks(chunks: Iterator[bytes], name: str, block_bytes: int) -> Iterator[RawBlock]:
    """Yield the records of a decompressed stream; see `raw_blocks`."""
    start = b""
    try:
        while len(start) < _START_BYTES and (chunk := next(chunks, b"")):
            start += chunk
    except DamagedInputError as error:
        chunks = _raising(error)  # after the records before the damage
    whole = chain([start], chunks)
    if start[257:262] == b"ustar":  # in the first member's header (POSIX.1-1988)
        yield from _archived_blocks(whole, name, block_bytes)
        return
    if other := foreign_format(start):
        expected = "FASTA, UniRef XML or a UniProt release archive, plain or gzip-compressed"
        raise UserError(f"{name}: {other}; expected {expected}")
    text = start.removeprefix(UTF8_MARK).lstrip()
    kind: Literal["fasta", "uniref-xml"] = "uniref-xml" if text.startswith(b"<") else "fasta"
    cut = cut_uniref_xml if kind == "uniref-xml" else cut_fasta
    for first_record, block in cut(whole, name):
        yield RawBlock(text=block, kind=kind, source=name, first_record=first_record)


def parse_block(block: RawBlock) -> RecordBlock:
    """Return the records of `block`.

    Raises:
        UserError: a record has no id, or its XML is wrong; the message names the input and the
            record.
    """
    parse = parse_entries if block.kind == "uniref-xml" else parse_fasta
    return parse(block.text, block.source, block.first_record)


def _raising(error: Exception) -> Iterator[bytes]:
    yield b""
    raise error


class _DamagedArchiveError(DamagedInputError):
    kind = "tar"


@contextmanager
def _damage_reported() -> Iterator[None]:
    """Raise the errors of `tarfile` in this block, or this function, as `DamagedInputError`."""
    try:
        yield
    except (tarfile.TarError, ValueError) as error:
        raise _DamagedArchiveError("the tar archive ends early or is corrupt") from error


def _archived_blocks(chunks: Iterator[bytes], name: str, block_bytes: int) -> Iterator[RawBlock]:
    """Yield the blocks of the first member of an archive that is UniRef50's.

    Nothing is written to disk; the members before it are skipped, those after it are not read.
    """
    found: list[str] = []
    try:
        with _damage_reported():
            archive = tarfile.open(  # type: ignore[call-overload]  # a stream needs only `read`  # noqa: SIM115
                fileobj=ChunkReader(chunks), mode="r|", bufsize=_TAR_BYTES
            )
            for member in archive:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    problem = f"member {member.name!r} leads out of the archive"
                    raise UserError(f"{name}: {problem}; expected plain names")
                if member.isfile() and _UNIREF50.fullmatch(path.name.lower()):
                    read = _damage_reported()(archive.extractfile(member).read)
                    content = prefetch(decompressed_chunks(read, block_bytes))
                    yield from cut_blocks(content, f"{name}: {member.name}", block_bytes)
                    # The archive ends here, but for padding: one more chunk checks its checksum.
                    next(chunks, None)
                    return
                _log.info("%s: passing over %s (%d bytes)", name, member.name, member.size)
                found.append(member.name)
    except DamagedInputError as error:
        raise error.for_user(name) from error
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    raise UserError(f"{name}: an archive of {shown or 'nothing'}; {_EXPECTED_MEMBER}")
