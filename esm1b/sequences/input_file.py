"""Reading an input once: a plain or gzip-compressed file or standard input, with its digest."""

import hashlib
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from isal import igzip_lib

from esm1b.errors import UserError

STANDARD_INPUT: Final = "-"
UTF8_MARK: Final = b"\xef\xbb\xbf"
# Large enough that NumPy's overhead per block does not count, small enough to stay in the cache.
CHUNK_BYTES: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"
# Bytes to read and to decompress at a time: larger pieces leave the processor's cache.
_READ_BYTES: Final = 1 << 18
_PIECE_BYTES: Final = 1 << 20
_HEADER_BYTES: Final = 1 << 17  # the longest optional field has 64 KiB, the others are names
_HTML: Final = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_OTHER_FORMATS: Final = {
    b"\x1f\x8b": "gzip data within gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "Parquet",
}


class DamagedInputError(Exception):
    """The input is cut short or corrupt; the message says which."""

    kind = "gz"

    def for_user(self, name: str, place: str = "") -> UserError:
        """Return the error that names the input and the place."""
        return UserError(f"{name}: {self}{place}; expected a complete .{self.kind} file")


class CutShortError(DamagedInputError):
    """The gzip data ends early."""


class InputFile:
    """One input, read once from start to end; its content tells whether it is compressed.

    `size` (None for standard input) and `bytes_read` (so far) count bytes before decompression.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == STANDARD_INPUT else name
        self.bytes_read = 0
        self.size: int | None = None
        self._path = None if name == STANDARD_INPUT else Path(name)
        self._digest = hashlib.sha256()
        self._ended = False
        if self._path is not None:
            try:
                self.size = self._path.stat().st_size
            except OSError as error:
                raise UserError(f"{name}: {error.strerror}; expected a file to read") from error
            if self._path.is_dir():
                raise UserError(f"{name}: is a directory; expected a file")

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the decompressed content in chunks of `size` to 2 `size` bytes; the last: fewer.

        Raises:
            UserError: the file cannot be read.
            DamagedInputError: the compressed data ends early or is corrupt.
        """
        try:
            with self._path.open("rb") if self._path else nullcontext(sys.stdin.buffer) as file:
                yield from prefetch(decompressed_chunks(partial(self._read, file), size))
        except OSError as error:
            raise UserError(f"{self.name}: {error.strerror}; expected a file to read") from error

    def identity(self) -> dict[str, Any]:
        """Return name without folder, size and SHA-256, after all necessary data has been read.

        The digest is None if that was not all of the file: a release archive is read up to the end
        of its UniRef50.
        """
        return {
            "file": STANDARD_INPUT if self._path is None else self._path.name,
            "bytes": self.bytes_read if self._ended else self.size,
            "sha256": self._digest.hexdigest() if self._ended else None,
        }

    def _read(self, file: BinaryIO, size: int) -> bytes:
        data = file.read(size)
        self.bytes_read += len(data)
        self._digest.update(data)
        self._ended = not data
        return data


def foreign_format(start: bytes) -> str | None:
    """Return, in words, what a file is that begins with `start`; None if it may be text."""
    for magic, words in _OTHER_FORMATS.items():
        if start.startswith(magic):
            return words
    is_page = _HTML.match(start.removeprefix(UTF8_MARK).lstrip())
    return "a web page (HTML)" if is_page else None


def prefetch(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield `chunks` while a thread makes the next one.

    Decompression and digests release the interpreter's lock. An error raised by `chunks` comes out
    at its place in the order.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    following = pool.submit(next, chunks, None)
    try:
        while (chunk := following.result()) is not None:
            following = pool.submit(next, chunks, None)
            yield chunk
    finally:
        # The pool's own end joins its thread. That never returns where the garbage collector closes
        # this generator while a thread starts, which holds the lock that the join needs.
        wait([following])
        pool.shutdown(wait=False)


def decompressed_chunks(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Yield the content in chunks of `size` to 2 `size` bytes; the last may have fewer.

    The first bytes tell whether it is compressed. Gzip members may follow one another, with zeros
    between and after them, as tape and block devices add. `read` returns at most the given number
    of bytes, and none at the end.

    Raises:
        DamagedInputError: the compressed data ends early or is corrupt, or `read` found damage.
    """
    pieces: list[bytes] = []
    try:
        for piece in _pieces(read, min(size, _PIECE_BYTES)):
            pieces.append(piece)
            if sum(map(len, pieces)) >= size:
                yield b"".join(pieces)
                pieces.clear()
    except DamagedInputError:
        yield b"".join(pieces)  # so that the reader can say how many records are complete
        raise
    if pieces:
        yield b"".join(pieces)


class ChunkReader:
    """Gives chunks a file object's `read`, which several threads may call."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = filter(None, chunks)
        self._rest = memoryview(b"")  # sliced without a copy
        self._lock = threading.Lock()

    def read(self, size: int) -> bytes:
        """Return `size` bytes; fewer at the end."""
        with self._lock:
            while len(self._rest) < size and (chunk := next(self._chunks, b"")):
                self._rest = memoryview(bytes(self._rest) + chunk)
            data, self._rest = self._rest[:size], self._rest[size:]
            return bytes(data)


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Yield the content, at most `size` bytes at a time."""
    data = read(len(_GZIP_MAGIC))
    if data != _GZIP_MAGIC:
        while data:
            yield data
            data = read(size)
        return
    while True:
        # ISA-L 2.32 takes a header for corrupt if it has several optional fields, or a checksum,
        # and comes in parts: it gets more than the header at once.
        while len(data) < _HEADER_BYTES and (following := read(_READ_BYTES)):
            data = (data + following).lstrip(b"\0")
        if not data:
            return
        if not _GZIP_MAGIC.startswith(data[: len(_GZIP_MAGIC)]):
            raise DamagedInputError("other data follows the gzip data")
        # ISA-L takes half the time of zlib for UniRef's files, and a release is one gzip stream,
        # which only a faster decompressor speeds up.
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not member.eof:
            try:
                piece = member.decompress(data, size)
            except igzip_lib.error as error:  # type: ignore[misc]  # a class, typed as an instance
                raise DamagedInputError("the gzip data is corrupt") from error
            if piece:
                yield piece
            data = b""
            if member.needs_input and not (data := read(_READ_BYTES)):
                raise CutShortError("the gzip data ends early")
        data = member.unused_data.lstrip(b"\0")
