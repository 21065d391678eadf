"""The content of a byte stream that may be gzip-compressed."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Final

from isal import igzip_lib

_GZIP_MAGIC: Final = b"\x1f\x8b"
# Read at once, and decompressed at once: larger pieces leave the processor's cache.
_READ_BYTES: Final = 1 << 18
_PIECE_BYTES: Final = 1 << 20
_HEADER_BYTES: Final = 1 << 17  # the longest optional field has 64 KiB, the others are names


class DamagedInputError(Exception):
    """The input is cut short or corrupt; the message says which.

    Attributes:
        expected: what was expected instead.
    """

    expected: ClassVar[str]


class DamagedGzipError(DamagedInputError):
    """The gzip data is cut short or corrupt."""

    expected = "a complete .gz file"


def decompressed_chunks(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Yield the content in pieces of `size` to 2 `size` bytes (the last: fewer).

    Whether it is compressed is told by its first bytes. Gzip members may follow one another, with
    zeros between and after them, as tape and block devices add.

    Args:
        read: returns at most so many bytes of the stream; none at its end.
        size: in bytes, after decompression.

    Raises:
        DamagedInputError: the compressed data ends early or is corrupt, or `read` found damage.
    """
    pieces: list[bytes] = []
    gathered = 0
    try:
        for piece in _pieces(read, min(size, _PIECE_BYTES)):
            pieces.append(piece)
            gathered += len(piece)
            if gathered >= size:
                yield b"".join(pieces)
                pieces, gathered = [], 0
    except DamagedInputError:
        yield b"".join(pieces)  # so that the reader can say how far it came
        raise
    if pieces:
        yield b"".join(pieces)


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    data = read(len(_GZIP_MAGIC))
    if data == _GZIP_MAGIC:
        yield from _decompressed(read, data, size)
        return
    while data:
        yield data
        data = read(size)


def _decompressed(read: Callable[[int], bytes], data: bytes, size: int) -> Iterator[bytes]:
    """Yield the content of all gzip members, at most `size` bytes at a time."""
    while data := _with_header(read, data.lstrip(b"\0")):
        # ISA-L takes half the time of zlib for UniRef's files, and a release is one gzip stream,
        # which nothing but a faster decompressor speeds up.
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not member.eof:
            try:
                piece = member.decompress(data, size)
            except igzip_lib.error as error:  # type: ignore[misc]  # a class, typed as an instance
                raise DamagedGzipError("the gzip data is corrupt") from error
            if piece:
                yield piece
            data = b""
            if member.needs_input:
                data = read(_READ_BYTES)
                if not data:
                    raise DamagedGzipError("the gzip data ends early")
        data = member.unused_data


def _with_header(read: Callable[[int], bytes], data: bytes) -> bytes:
    """Return what begins the next member, more than its header; nothing at the end of all.

    ISA-L 2.32 takes a header for corrupt that has several optional fields, or a checksum, and comes
    in parts.
    """
    while len(data) < _HEADER_BYTES and (following := read(_READ_BYTES)):
        data = (data + following).lstrip(b"\0")
    if data and not _GZIP_MAGIC.startswith(data[: len(_GZIP_MAGIC)]):
        raise DamagedGzipError("other data follows the gzip data")
    return data
