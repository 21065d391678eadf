"""Fetching a part of a release, which never lies on the disk as a whole."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from esm1b.download.excerpt import (
    Limit,
    PieceReader,
    RecordCounts,
    first_records,
    sample_records,
    write_fasta,
)
from esm1b.download.find_release import Source
from esm1b.download.lock import ALGORITHMS, make_lock
from esm1b.download.mirrors import FileChangedError, MirroredFile, Patience, Validator
from esm1b.download.partial_file import Progress, file_digests
from esm1b.errors import DownloadError, UserError
from esm1b.files import atomic_file
from esm1b.sequences.input_file import STANDARD_INPUT, InputFile

_log = logging.getLogger(__name__)

_REST_BYTES: Final = 1 << 20


def fetch_excerpt(
    source: Source,
    wanted: Mapping[str, Any],
    output: Path,
    patience: Patience,
    part: Limit | float,
) -> dict[str, Any]:
    """Write the beginning or a sample of a release as .fasta.gz and return its lock.

    The digest of a release is that of all its bytes: a sample is verified by it, since all of them
    pass by; a beginning cannot be.

    Raises:
        UserError: the limit is too small, or the release is an archive, whose beginning is not
            UniRef50.
        DownloadError: no mirror delivers the release, or not what it should be.
    """
    what = f"first-{part.text}" if isinstance(part, Limit) else f"sample-{part}"
    if isinstance(part, Limit) and source.path.is_archive:
        raise UserError(
            f"limit {part.text!r}: {source} is an archive in which UniRef50 comes last; expected "
            "the current release, or a sample"
        )
    path = output / f"uniref50.{source.release}.{what}.fasta.gz"
    urls = list(source.urls)
    problems = []
    for _ in range(2):
        remote = MirroredFile(
            urls, patience=patience, size=source.size, has_digest=isinstance(part, float)
        )
        try:
            counts = _write_from_start(source, remote, path, part)
        except _WrongDigestError as error:
            problems.append(f"{' and '.join(remote.validators)}: {error}")
            _log.warning("%s; nothing of it is kept", problems[-1])
            urls = remote.others_first()
        else:
            return _lock(source, wanted, remote, path, counts)
    raise DownloadError(f"{source}: {'; '.join(problems)}; fetched twice, nothing of it is kept")


class _WrongDigestError(Exception):
    """What was sent is not what it should be."""


def _write_from_start(
    source: Source, remote: MirroredFile, path: Path, part: Limit | float
) -> RecordCounts:
    while True:
        counts = RecordCounts()
        try:
            with atomic_file(path) as temporary:
                if isinstance(part, Limit):
                    _write_beginning(remote, temporary, part, counts)
                else:
                    _write_sample(source, remote, temporary, part, counts)
            return counts
        except FileChangedError as error:
            _log.warning("%s; fetched again from its beginning", error)
            remote.forget()
        except DownloadError as error:
            raise DownloadError(f"{source}: {source.path.name}: {error}") from error


def _write_beginning(remote: MirroredFile, path: Path, limit: Limit, counts: RecordCounts) -> None:
    pieces = remote.read(0, limit.size)
    write_fasta(first_records(pieces, limit.records), path, counts)
    if not counts.records:
        raise UserError(f"limit {limit.text!r}: no whole record in it; expected a larger one")
    _log.warning(
        "%d records with a mean length of %.0f residues: UniRef50 files begin with the longest "
        "proteins, so that this is fit for a smoke test, not for training",
        counts.records,
        counts.mean_length,
    )


def _write_sample(
    source: Source, remote: MirroredFile, path: Path, fraction: float, counts: RecordCounts
) -> None:
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in source.digests}

    def passing() -> Iterator[bytes]:
        held = 0
        with Progress(source.path.name, source.size, 0) as progress:
            for piece in remote.read():
                for digest in digests.values():
                    digest.update(piece)
                held += len(piece)
                progress.came(held)
                yield piece

    stream = PieceReader(passing())
    unreadable = None
    try:
        file = _StreamedInput(source.path.name, source.size, stream)
        write_fasta(sample_records(file, fraction, counts), path, counts)
    except UserError as error:
        unreadable = error  # by the digest's fault, or by its own
    while stream.read(_REST_BYTES):  # what comes after UniRef50
        pass
    for name, digest in digests.items():
        if digest.hexdigest() != source.digests[name]:
            raise _WrongDigestError(f"{name} {digest.hexdigest()}; expected {source.digests[name]}")
    if unreadable is not None:
        raise unreadable
    _log.info("%d of %d records kept", counts.records, counts.read)


def _lock(
    source: Source,
    wanted: Mapping[str, Any],
    remote: MirroredFile,
    path: Path,
    counts: RecordCounts,
) -> dict[str, Any]:
    facts = {"records": counts.records, "mean_length": round(counts.mean_length, 1)}
    if wanted["sample"] is not None:
        facts["records_read"] = counts.read
    return make_lock(
        wanted,
        file=path.name,
        url=remote.url,
        validator=remote.validators.get(remote.url or "", Validator()),
        size=path.stat().st_size,
        digests=file_digests(path, ALGORITHMS),
        verified_by=None if wanted["sample"] is None else source.verified_by,
        **facts,
        part_of={
            "file": source.path.name,
            "size": source.size,
            "digests": dict(source.digests),
        },
    )


class _StreamedInput(InputFile):
    """An input that comes over the network."""

    def __init__(self, name: str, size: int | None, stream: PieceReader) -> None:
        super().__init__(STANDARD_INPUT)
        self.name = name
        self.size = size
        self._stream = stream

    def _open(self) -> AbstractContextManager[BinaryIO]:
        return nullcontext(cast("BinaryIO", self._stream))  # of which only `read` is called
