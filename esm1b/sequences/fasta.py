"""FASTA records from a plain or compressed file, in blocks and in constant memory."""

from collections.abc import Iterator
from typing import Final

from esm1b.errors import UserError
from esm1b.sequences.input_file import (
    CHUNK_BYTES,
    UTF8_MARK,
    DamagedInputError,
    InputFile,
    foreign_format,
)
from esm1b.sequences.record import WHITE_SPACE, RecordBlock, parse_header

# Characters of a record, which is in memory: far above the longest known protein (some 45,000).
LONGEST_RECORD: Final = 1 << 26
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_EXPECTED_HEADER: Final = "expected a FASTA header line beginning with '>'"


def read_fasta_blocks(file: InputFile, block_bytes: int = CHUNK_BYTES) -> Iterator[RecordBlock]:
    """Yield the records of `file` in blocks of about `block_bytes` bytes of text.

    Lines may end in LF, CR LF or CR and be of any width.

    Raises:
        UserError: the file is not FASTA, is empty, is cut short, holds a record without an id, or
            one too long for a protein; the message names the file and the place.
    """
    for first_record, text in cut_fasta(file.chunks(block_bytes), file.name):
        yield parse_fasta(text, file.name, first_record)


def cut_fasta(chunks: Iterator[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Cut a FASTA text where records begin, which is where a line begins with `>`.

    Anywhere else a `>` is a character of the header or sequence.

    Yields:
        The number of records before the block, and whole records of about a chunk's size: the text
        begins with `>` and its lines end in LF.

    Raises:
        UserError: as `read_fasta_blocks`, but for records without an id.
    """
    records = 0
    text = b""
    try:
        for chunk in chunks:
            started = bool(text)
            if not started and (other := foreign_format(chunk)):
                raise UserError(f"{name}: {other}; {_EXPECTED_HEADER}")
            text += _checked(chunk, name, records)
            if not started:
                text = _from_first_header(text, name)
            end = text.rfind(b"\n>")
            if end < 0:
                if len(text) > LONGEST_RECORD:
                    problem = f"record {records + 1}: longer than {LONGEST_RECORD} characters"
                    raise UserError(f"{name}: {problem}; expected protein sequences")
                continue
            yield records, text[:end]
            records += text.count(b"\n>", 0, end) + 1
            text = text[end + 1 :]
    except DamagedInputError as error:
        raise error.for_user(name, f" after {records} complete records") from error
    if not text:
        raise UserError(f"{name}: empty; {_EXPECTED_HEADER}")
    yield records, text


def parse_fasta(text: bytes, name: str, first_record: int) -> RecordBlock:
    """Return the records of a block that `cut_fasta` made.

    Raises:
        UserError: a header line has no id.
    """
    block = RecordBlock(headers=[], sequences=[])
    for number, record in enumerate(text[1:].split(b"\n>"), start=first_record + 1):
        header, _, lines = record.partition(b"\n")
        try:
            line = header.decode("utf-8").strip()
        except UnicodeDecodeError:
            line = header.decode("latin-1").strip()  # old files; there every byte is a character
        if not line:
            problem = f"record {number}: a header line without an id"
            raise UserError(f"{name}: {problem}; expected '>' followed by an id")
        block.headers.append(parse_header(line))
        block.sequences.append(lines.translate(None, WHITE_SPACE))
    return block


def _checked(chunk: bytes, name: str, records: int) -> bytes:
    """Return `chunk` with LF line ends, or raise if it cannot be part of a FASTA text."""
    if b"\0" in chunk:
        record = records + chunk.count(b"\n>", 0, chunk.index(b"\0")) + 1
        kind = "UTF-16 text" if chunk.startswith(_UTF16_MARKS) else "a NUL byte"
        raise UserError(f"{name}: {kind} near record {record}; expected FASTA as plain ASCII text")
    if b"\r" in chunk:
        # A pair cut by the chunk's end becomes an empty line, which changes no record.
        chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return chunk


def _from_first_header(text: bytes, name: str) -> bytes:
    """Return `text` from the first `>`; only white space may come before it."""
    start = text.removeprefix(UTF8_MARK).lstrip(WHITE_SPACE)
    if not start or start.startswith(b">"):
        return start
    line_number = text.count(b"\n", 0, len(text) - len(start)) + 1
    line = start.split(b"\n", 1)[0].decode("utf-8", "replace").rstrip()
    shown = line if len(line) <= 40 else line[:40] + "..."
    is_sequence = line.replace("*", "").replace("-", "").isalpha()
    what = "a sequence before any header: " if is_sequence else ""
    raise UserError(f"{name}: line {line_number}: {what}{shown!r}; {_EXPECTED_HEADER}")
