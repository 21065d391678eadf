"""A part of a release, written as FASTA: its first records, or a fair sample of all."""

import gzip
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from esm1b.download.release import LIMIT
from esm1b.errors import DownloadError, UserError
from esm1b.sequences.cleaning import clean
from esm1b.sequences.compressed import DamagedInputError, decompressed_chunks
from esm1b.sequences.formats import parse_block, raw_blocks
from esm1b.sequences.hashes import below, sample_hashes
from esm1b.sequences.header import Header
from esm1b.sequences.input_file import InputFile

_UNITS: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_CHUNK_BYTES: Final = 1 << 14
_LINE_LENGTH: Final = 60  # as UniProt writes it


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How much of the beginning of a file to fetch.

    Attributes:
        text: as the user wrote it.
        size: bytes of the compressed file at most, or None.
        records: at most, or None.
    """

    text: str
    size: int | None
    records: int | None


@dataclass
class RecordCounts:
    """How many records and residues were written, of how many records that were read."""

    records: int = 0
    residues: int = 0
    read: int = 0

    @property
    def mean_length(self) -> float:
        """Residues per record."""
        return self.residues / self.records if self.records else 0.0


def parse_limit(text: str) -> Limit:
    """Return the limit that `10MB` or `1000records` stands for.

    Raises:
        UserError: it is neither.
    """
    found = re.fullmatch(LIMIT, text)
    if found is None:
        raise UserError(f"limit {text!r}: expected bytes as in '10MB', or '1000records'")
    unit = found[1]
    number = int(text.removesuffix(unit))
    if unit == "records":
        return Limit(text=text, size=None, records=number)
    return Limit(text=text, size=number * _UNITS[unit], records=None)


def first_records(pieces: Iterable[bytes], records: int | None = None) -> Iterator[bytes]:
    """Yield the whole records at the beginning of a gzip-compressed FASTA file, as written.

    Args:
        pieces: of the file, which may end anywhere; a record that it cuts is left out.
        records: at most; no piece is asked for that is not needed for them.

    Raises:
        DownloadError: this is not gzip-compressed FASTA.
    """
    stream = PieceReader(pieces)
    text = b""
    try:
        for chunk in decompressed_chunks(stream.read, _CHUNK_BYTES):
            if not chunk:
                continue
            text += chunk
            if not text.startswith(b">"):
                raise DownloadError(f"what is sent begins with {text[:20]!r}; expected FASTA")
            *whole, last = text[1:].split(b"\n>")
            for record in whole if records is None else whole[:records]:
                yield b">" + record + b"\n"
            if records is not None and (records := records - len(whole)) <= 0:
                return
            text = b">" + last
    except DamagedInputError as error:
        if not stream.has_ended:
            raise DownloadError(f"what is sent cannot be read: {error}") from error
    else:
        if text:
            yield text.rstrip(b"\n") + b"\n"


def sample_records(file: InputFile, fraction: float, counts: RecordCounts) -> Iterator[bytes]:
    """Yield as FASTA the records of `file` whose sequence's hash is in the sample.

    They are the ones that `esm1b shard --sample` keeps of the whole file.

    Args:
        file: FASTA, UniRef XML or a release archive.
        fraction: above 0 and below 1.
        counts: its `read` is kept up to date.
    """
    for raw in raw_blocks(file):
        block = parse_block(raw)
        counts.read += len(block.sequences)
        is_kept = below(sample_hashes(map(clean, block.sequences)), fraction)
        for index in np.flatnonzero(is_kept):
            yield _fasta(block.headers[index], block.sequences[index])


def write_fasta(records: Iterable[bytes], path: Path, counts: RecordCounts) -> None:
    """Write records, which end in a line end, to a gzip-compressed file and count them."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        for record in records:
            packed.write(record)
            sequence = record.partition(b"\n")[2]
            counts.records += 1
            counts.residues += len(sequence) - sequence.count(b"\n")


class PieceReader:
    """Reads bytes that come in pieces, for several threads.

    Attributes:
        has_ended: whether there are no more.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.has_ended = False
        self._pieces = iter(pieces)
        self._rest = b""
        self._lock = threading.Lock()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, and none at the end."""
        with self._lock:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                self.has_ended = not self._rest
            data, self._rest = self._rest[:size], self._rest[size:]
            return data


def _fasta(header: Header, sequence: bytes) -> bytes:
    """Return a record as UniProt writes it."""
    words = [header.id]
    if header.name is not None:
        words.append(header.name)
    for tag, value in (
        ("n", header.member_count),
        ("Tax", header.taxon),
        ("TaxID", header.taxon_id),
        ("RepID", header.representative_id),
    ):
        if value is not None:
            words.append(f"{tag}={value}")
    lines = [" ".join(words).encode()]
    for start in range(0, len(sequence), _LINE_LENGTH):
        lines.append(sequence[start : start + _LINE_LENGTH])
    return b">" + b"\n".join(lines) + b"\n"
