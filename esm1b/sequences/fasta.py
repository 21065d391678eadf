"""FASTA records from a plain or compressed file, in blocks and in constant memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from esm1b.errors import UserError
from esm1b.sequences.compressed import DamagedInputError
from esm1b.sequences.input_file import InputFile
from esm1b.sequences.prefetch import prefetch

# A block is what one step of the pipeline works on; larger ones are no faster.
_BLOCK_BYTES: Final = 4 << 20
# Far above the longest known protein (some 45,000 residues): what is longer is no protein, and
# would have to be held in memory.
_LONGEST_RECORD: Final = 1 << 26
_WHITE_SPACE: Final = b" \t\n\v\f\r"
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_EXPECTED_HEADER: Final = "expected a FASTA header line beginning with '>'"


@dataclass(frozen=True, kw_only=True)
class FastaBlock:
    """Some consecutive records.

    Attributes:
        headers: the header lines without `>`, white space at both ends removed.
        sequences: the sequences without white space, otherwise as written.
    """

    headers: list[str]
    sequences: list[bytes]


def read_fasta_records(name: str) -> Iterator[tuple[str, str]]:
    """Yield the header line (without `>`) and the sequence of each record of a FASTA file.

    Args:
        name: a path, plain or gzip-compressed; `-` is standard input.

    Raises:
        UserError: as `read_fasta_blocks`, or a sequence that is not ASCII.
    """
    for block in read_fasta_blocks(InputFile(name)):
        for header, sequence in zip(block.headers, block.sequences, strict=True):
            try:
                yield header, sequence.decode("ascii")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name}: record {header!r}: byte {sequence[error.start]:#x} in the sequence; "
                    "expected letters"
                ) from error


def read_fasta_blocks(file: InputFile, block_bytes: int = _BLOCK_BYTES) -> Iterator[FastaBlock]:
    """Yield the records of `file` in blocks of about `block_bytes` bytes of text.

    Lines may end in LF, CR LF or CR and be of any width.

    Raises:
        UserError: the file is not FASTA, is empty, is cut short, holds a record without an id, or
            one so long that it cannot be a protein; the message names the file and the place.
    """
    for first_record, text in cut_fasta(prefetch(file.chunks(block_bytes)), file.name):
        headers, sequences = parse_fasta(text, file.name, first_record)
        yield FastaBlock(headers=headers, sequences=sequences)


def cut_fasta(chunks: Iterator[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Cut a FASTA text where records begin, which is where a line begins with `>`.

    Anywhere else a `>` is a character of the header or sequence that it stands in.

    Args:
        chunks: the text, cut anywhere.
        name: the input's name, for messages.

    Yields:
        How many records stand before, and whole records of about a chunk's size: the text begins
        with `>` and its lines end in LF.

    Raises:
        UserError: as `read_fasta_blocks`, but for records without an id.
    """
    records = 0
    text = b""
    try:
        for chunk in chunks:
            started = bool(text)
            text += _checked(chunk, name, records)
            if not started:
                text = _from_first_header(text, name)
            end = text.rfind(b"\n>")
            if end < 0:
                if len(text) > _LONGEST_RECORD:
                    raise UserError(
                        f"{name}: record {records + 1}: longer than {_LONGEST_RECORD} "
                        "characters; expected protein sequences"
                    )
                continue
            yield records, text[:end]
            records += text.count(b"\n>", 0, end) + 1
            text = text[end + 1 :]
    except DamagedInputError as error:
        complete = records + text.count(b"\n>")
        raise UserError(
            f"{name}: {error} after {complete} complete records; expected {error.expected}"
        ) from error
    if not text:
        raise UserError(f"{name}: empty; {_EXPECTED_HEADER}")
    yield records, text


def parse_fasta(text: bytes, name: str, first_record: int) -> tuple[list[str], list[bytes]]:
    """Return header lines and sequences of a text that `cut_fasta` made.

    Args:
        text: begins with `>` and ends with a whole record.
        name: the input's name, for messages.
        first_record: how many records stand before the text.

    Returns:
        The header lines without `>`, white space at both ends removed, and the sequences without
        white space, otherwise as written.

    Raises:
        UserError: a header line without an id.
    """
    lines_of_headers: list[bytes] = []
    sequences: list[bytes] = []
    for record in text[1:].split(b"\n>"):
        header, _, lines = record.partition(b"\n")
        lines_of_headers.append(header)
        sequences.append(lines.translate(None, _WHITE_SPACE))
    try:
        headers = b"\n".join(lines_of_headers).decode("utf-8").split("\n")
    except UnicodeDecodeError:
        headers = [_decoded(header) for header in lines_of_headers]
    headers = [header.strip() for header in headers]
    if not all(headers):
        raise UserError(
            f"{name}: record {first_record + headers.index('') + 1}: a header line without an id; "
            "expected '>' followed by an id"
        )
    return headers, sequences


def _checked(chunk: bytes, name: str, records: int) -> bytes:
    """Return `chunk` with LF line ends, or raise for what no FASTA text holds."""
    if b"\0" in chunk:
        record = records + chunk.count(b"\n>", 0, chunk.index(b"\0")) + 1
        kind = "UTF-16 text" if chunk.startswith(_UTF16_MARKS) else "a NUL byte"
        raise UserError(f"{name}: {kind} near record {record}; expected FASTA as plain ASCII text")
    if b"\r" in chunk:
        # A pair cut by the chunk's end becomes an empty line, which changes no record.
        chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return chunk


def _from_first_header(text: bytes, name: str) -> bytes:
    """Return `text` from the first `>` on; only white space may stand before it."""
    start = text.removeprefix(_UTF8_MARK).lstrip(_WHITE_SPACE)
    if not start or start.startswith(b">"):
        return start
    line_number = text.count(b"\n", 0, len(text) - len(start)) + 1
    line = start.split(b"\n", 1)[0].decode("utf-8", "replace").rstrip()
    shown = line if len(line) <= 40 else line[:40] + "..."
    is_sequence = line.replace("*", "").replace("-", "").isalpha()
    what = "a sequence before any header: " if is_sequence else ""
    raise UserError(f"{name}: line {line_number}: {what}{shown!r}; {_EXPECTED_HEADER}")


def _decoded(header: bytes) -> str:
    try:
        return header.decode("utf-8")
    except UnicodeDecodeError:
        return header.decode("latin-1")  # old files; every byte is a character there
