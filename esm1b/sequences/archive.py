"""UniRef50 out of a UniProt release archive, streamed."""

import logging
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from esm1b.errors import UserError
from esm1b.sequences.compressed import DamagedInputError, decompressed_chunks

_log = logging.getLogger(__name__)
# `uniref50.tar` in the archive of a release (uniref2018_03.tar.gz: behind uniref100.tar and
# uniref90.tar), `uniref50.xml.gz` in that.
_UNIREF50: Final = re.compile(r"uniref50\.(tar|xml|fasta)(\.gz)?")
_EXPECTED: Final = (
    "expected a whole archive with uniref50.tar, uniref50.xml.gz or uniref50.fasta.gz"
)
_MAGIC: Final = slice(257, 262)  # of the first member's header (POSIX.1-1988)
_READ_BYTES: Final = 1 << 18
_SHOWN_NAMES: Final = 8


class DamagedArchiveError(DamagedInputError):
    """The tar archive is cut short or corrupt."""

    expected = "a complete .tar file"


def is_archive(start: bytes) -> bool:
    """Return whether a stream that begins with `start` (512 bytes or more) is a tar archive."""
    return start[_MAGIC] == b"ustar"


def open_uniref50(chunks: Iterator[bytes], name: str, size: int) -> tuple[str, Iterator[bytes]]:
    """Return the name and the content of the first member of an archive that is UniRef50's.

    Nothing is written to disk; the members before it are passed over.

    Args:
        chunks: the archive, decompressed, cut anywhere.
        name: the input's name, for messages.
        size: of the pieces of content, in bytes after decompression.

    Raises:
        UserError: there is no such member, or one has a name that leads out of the archive.
        DamagedInputError: the archive is cut short or corrupt; the content raises it too.
    """
    found: list[str] = []
    try:
        # the content is read after this function's end
        archive = tarfile.open(  # type: ignore[call-overload]  # a stream needs only `read`  # noqa: SIM115
            fileobj=_Stream(chunks), mode="r|", bufsize=_READ_BYTES
        )
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(
                    f"{name}: member {member.name!r} leads out of the archive; expected plain names"
                )
            if member.isfile() and _UNIREF50.fullmatch(path.name.lower()):
                return member.name, _content(archive, member, size)
            _log.info("%s: passing over %s (%d bytes)", name, member.name, member.size)
            found.append(member.name)
    except (tarfile.TarError, ValueError) as error:
        raise DamagedArchiveError("the tar archive ends early or is corrupt") from error
    shown = ", ".join(found[:_SHOWN_NAMES]) + (", ..." if len(found) > _SHOWN_NAMES else "")
    raise UserError(f"{name}: an archive of {shown or 'nothing'}; {_EXPECTED}")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> Iterator[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise DamagedArchiveError(f"{member.name} has no content")

    def read(limit: int) -> bytes:
        try:
            return file.read(limit)
        except (tarfile.TarError, ValueError) as error:
            raise DamagedArchiveError("the tar archive ends early") from error

    return decompressed_chunks(read, size)


class _Stream:
    """Chunks as the file that `tarfile` wants to read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")  # cut without a copy: most of an archive is passed over

    def read(self, size: int) -> bytes:
        """Return `size` bytes; fewer at the end."""
        parts: list[memoryview] = []
        while size and (self._rest or self._next()):
            parts.append(self._rest[:size])
            self._rest = self._rest[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _next(self) -> bool:
        self._rest = memoryview(next(self._chunks, b""))
        return len(self._rest) > 0
