"""A part of a release, written as FASTA while it is fetched: its first records, or a fair sample.

The release as a whole is never on the disk.
"""

import gzip
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from esm1b.download.find_release import Source
from esm1b.download.lock import ALGORITHMS, file_digests, make_lock
from esm1b.download.mirrors import MirroredFile
from esm1b.download.partial_file import tracked
from esm1b.download.release import LIMIT_PATTERN
from esm1b.errors import DownloadError, UserError
from esm1b.files import atomic_file
from esm1b.sequences.fasta import cut_fasta
from esm1b.sequences.formats import cut_blocks, parse_block
from esm1b.sequences.hashes import SAMPLE_KEY, below, sequence_hashes
from esm1b.sequences.input_file import (
    CHUNK_BYTES,
    ChunkReader,
    CutShortError,
    decompressed_chunks,
    prefetch,
)
from esm1b.sequences.record import Header, clean

_log = logging.getLogger(__name__)

_UNITS: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_CHUNK_BYTES: Final = 1 << 14  # of the beginning, so that a small one is found early


def parse_limit(text: str) -> tuple[int | None, int | None]:
    """Return the most bytes of the compressed file, or the most records; the other is None.

    Raises:
        UserError: `text` is neither bytes, such as `10MB`, nor records, such as `1000records`.
    """
    found = re.fullmatch(LIMIT_PATTERN, text)
    if found is None:
        raise UserError(f"limit {text!r}: expected bytes as in '10MB', or '1000records'")
    unit = found[1]
    number = int(text.removesuffix(unit))
    return (None, number) if unit == "records" else (number * _UNITS[unit], None)


def fetch_excerpt(
    source: Source, output: Path, limit: str | None, sample: float | None
) -> dict[str, Any]:
    """Write the beginning of a release, or a share of its records, as .fasta.gz; return its lock.

    Only a sample is verified: the digest of a release needs all its bytes.

    Raises:
        UserError: the limit is too small, or one of an archive, which begins with UniRef100.
        DownloadError: the mirrors do not deliver the release, or not the right one.
    """
    if limit is not None and source.file.endswith(".tar.gz"):
        problem = f"{source} is an archive in which UniRef50 comes last"
        raise UserError(f"limit {limit!r}: {problem}; expected the current release, or a sample")
    what = f"sample-{sample}" if limit is None else f"first-{limit}"
    path = output / f"uniref50.{source.release}.{what}.fasta.gz"

    def attempt(remote: MirroredFile) -> dict[str, Any]:
        facts: dict[str, Any] = {"limit": limit, "sample": sample}
        with atomic_file(path) as temporary:
            if limit is not None:
                facts |= {"verified_by": None, **_write_beginning(remote, temporary, limit)}
            elif sample is not None:
                facts |= _write_sample(source, remote, temporary, sample)
        digests = file_digests(path, ALGORITHMS)
        return make_lock(source, remote, path, digests, **facts, part_of=source.facts())

    return source.fetch(attempt, has_digest=limit is None)


def _write_beginning(remote: MirroredFile, path: Path, limit: str) -> dict[str, Any]:
    """Write the first records and return their facts for the lock."""
    most_bytes, most_records = parse_limit(limit)
    records = _first_records(remote.read(0, most_bytes))
    facts = _write_fasta(islice(records, most_records), path)
    if not facts["records"]:
        raise UserError(f"limit {limit!r}: no whole record in it; expected a larger one")
    _log.warning(
        "%(records)d records with a mean length of %(mean_length).0f residues: UniRef50 files "
        "begin with the longest proteins, so this is suitable for a smoke test, not for training",
        facts,
    )
    return facts


def _first_records(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the whole records of the beginning of a gzip-compressed FASTA file, as written.

    Raises:
        DownloadError: this is not gzip-compressed FASTA.
    """
    chunks = decompressed_chunks(ChunkReader(pieces).read, _CHUNK_BYTES)
    try:
        for _, text in cut_fasta(chunks, "the server's file"):
            for record in text[1:].split(b"\n>"):
                yield b">%b\n" % record.rstrip(b"\n")
    except UserError as error:
        if not isinstance(error.__cause__, CutShortError):
            raise DownloadError(str(error)) from error


def _write_sample(source: Source, remote: MirroredFile, path: Path, share: float) -> dict[str, Any]:
    """Write the records with a sequence hash in the sample and return their facts for the lock.

    They are the ones that `esm1b shard --sample` keeps of the whole file.
    """
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in source.digests}

    def pieces() -> Iterator[bytes]:
        for piece in tracked(remote.read(), source.file, source.size):
            for digest in digests.values():
                digest.update(piece)
            yield piece

    stream = ChunkReader(pieces())
    read = 0

    def sampled() -> Iterator[bytes]:
        nonlocal read
        chunks = prefetch(decompressed_chunks(stream.read, CHUNK_BYTES))
        for raw in cut_blocks(chunks, source.file, CHUNK_BYTES):
            block = parse_block(raw)
            read += len(block.sequences)
            hashes = sequence_hashes(map(clean, block.sequences), SAMPLE_KEY)
            for index in np.flatnonzero(below(hashes, share)):
                yield _fasta(block.headers[index], block.sequences[index])

    unreadable = None
    try:
        facts = _write_fasta(sampled(), path)
    except UserError as error:
        unreadable = error  # because the bytes are wrong, or the published file is
    while stream.read(CHUNK_BYTES):  # the rest of an archive, after UniRef50
        pass
    source.check({name: digest.hexdigest() for name, digest in digests.items()})
    if unreadable is not None:
        raise unreadable
    _log.info("%d of %d records kept", facts["records"], read)
    return {**facts, "records_read": read}


def _write_fasta(records: Iterable[bytes], path: Path) -> dict[str, Any]:
    """Write records to a gzip-compressed file and return their number and mean length."""
    count = residues = 0
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        for record in records:
            packed.write(record)
            sequence = record.partition(b"\n")[2]
            count += 1
            residues += len(sequence) - sequence.count(b"\n")
    return {"records": count, "mean_length": round(residues / max(count, 1), 1)}


def _fasta(header: Header, sequence: bytes) -> bytes:
    """Return a record as UniProt writes it, 60 residues a line."""
    identifier, name, *values = header
    words = [identifier] if name is None else [identifier, name]
    tags = zip(("n", "Tax", "TaxID", "RepID"), values, strict=True)
    words += [f"{tag}={value}" for tag, value in tags if value is not None]
    lines = [sequence[start : start + 60] for start in range(0, len(sequence), 60)]
    return b"\n".join([b">" + " ".join(words).encode(), *lines, b""])
