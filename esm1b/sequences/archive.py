"""UniRef50 out of a UniProt release archive, streamed."""

import logging
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Final

from esm1b.errors import UserError
from esm1b.sequences.compressed import ChunkReader, DamagedInputError, decompressed_chunks

_log = logging.getLogger(__name__)

# The archive of a release has `uniref50.tar` (in uniref2018_03.tar.gz after uniref100.tar and
# uniref90.tar), and that has `uniref50.xml.gz`.
_UNIREF50: Final = re.compile(r"uniref50\.(tar|xml|fasta)(\.gz)?")
_EXPECTED: Final = (
    "expected a whole archive with uniref50.tar, uniref50.xml.gz or uniref50.fasta.gz"
)
_READ_BYTES: Final = 1 << 18


def open_uniref50(chunks: Iterator[bytes], name: str, size: int) -> tuple[str, Iterator[bytes]]:
    """Return the name and the content of the first member of an archive that is UniRef50's.

    Nothing is written to disk; the members before it are skipped. The content is decompressed, in
    chunks of `size` bytes.

    Raises:
        UserError: there is no such member, or one has a name that leads out of the archive.
        DamagedInputError: the archive is cut short or corrupt; the content raises it too.
    """
    found: list[str] = []
    with _damage_reported():
        # not closed here: the content is read after this function returns
        archive = tarfile.open(  # type: ignore[call-overload]  # a stream needs only `read`  # noqa: SIM115
            fileobj=ChunkReader(chunks), mode="r|", bufsize=_READ_BYTES
        )
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(
                    f"{name}: member {member.name!r} leads out of the archive; expected plain names"
                )
            if member.isfile() and _UNIREF50.fullmatch(path.name.lower()):
                read = _damage_reported()(archive.extractfile(member).read)
                return member.name, decompressed_chunks(read, size)
            _log.info("%s: passing over %s (%d bytes)", name, member.name, member.size)
            found.append(member.name)
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    raise UserError(f"{name}: an archive of {shown or 'nothing'}; {_EXPECTED}")


@contextmanager
def _damage_reported() -> Iterator[None]:
    """Raise the errors of `tarfile` in this block, or this function, as `DamagedInputError`."""
    try:
        yield
    except (tarfile.TarError, ValueError) as error:
        raise DamagedInputError(
            "the tar archive ends early or is corrupt", expected="a complete .tar file"
        ) from error
