"""Reading an input once: a plain or gzip-compressed file or standard input, with its digest."""

import hashlib
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final

from esm1b.errors import UserError

__all__ = ["STANDARD_INPUT", "DamagedGzipError", "InputFile"]

STANDARD_INPUT: Final = "-"

_CHUNK_BYTES: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_FORMAT: Final = 31  # zlib's wbits for the gzip wrapper with the largest window


class DamagedGzipError(Exception):
    """The gzip data is cut short or corrupt; the message says which."""


class InputFile:
    """One input, read once from start to end.

    Whether it is compressed is told by its content, not by its name.

    Attributes:
        name: as the user gave it; `-` is standard input.
        bytes_read: bytes read so far, before decompression.
        size: bytes of the file before decompression, or None for standard input.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == STANDARD_INPUT else name
        self.bytes_read = 0
        self.size: int | None = None
        self._path = None if name == STANDARD_INPUT else Path(name)
        self._digest = hashlib.sha256()
        if self._path is not None:
            try:
                self.size = self._path.stat().st_size
            except OSError as error:
                raise UserError(f"{name}: {error.strerror}; expected a file to read") from error
            if self._path.is_dir():
                raise UserError(f"{name}: is a directory; expected a file")

    def chunks(self, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the decompressed content in pieces of `size` to 2 `size` bytes (the last: fewer).

        Raises:
            UserError: the file cannot be read.
            DamagedGzipError: the compressed data ends early or is corrupt.
        """
        pieces: list[bytes] = []
        gathered = 0
        try:
            for piece in self._pieces(size):
                pieces.append(piece)
                gathered += len(piece)
                if gathered >= size:
                    yield b"".join(pieces)
                    pieces, gathered = [], 0
        except DamagedGzipError:
            yield b"".join(pieces)  # so that the reader can say how far it came
            raise
        if pieces:
            yield b"".join(pieces)

    def identity(self) -> dict[str, Any]:
        """Return name without folder, size and SHA-256, once all has been read."""
        return {
            "file": STANDARD_INPUT if self._path is None else self._path.name,
            "bytes": self.bytes_read,
            "sha256": self._digest.hexdigest(),
        }

    def _pieces(self, size: int) -> Iterator[bytes]:
        with self._open() as file:
            data = self._read(file, len(_GZIP_MAGIC))
            if data == _GZIP_MAGIC:
                yield from self._decompressed(data, file, size)
                return
            while data:
                yield data
                data = self._read(file, size)

    def _open(self) -> AbstractContextManager[BinaryIO]:
        if self._path is None:
            return nullcontext(sys.stdin.buffer)
        try:
            return self._path.open("rb")
        except OSError as error:
            raise UserError(f"{self.name}: {error.strerror}; expected a file to read") from error

    def _read(self, file: BinaryIO, size: int) -> bytes:
        try:
            data = file.read(size)
        except OSError as error:
            raise UserError(f"{self.name}: {error.strerror}; expected a file to read") from error
        self.bytes_read += len(data)
        self._digest.update(data)
        return data

    def _decompressed(self, data: bytes, file: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield the content of all gzip members, at most `size` bytes at a time."""
        while data:
            member = zlib.decompressobj(wbits=_GZIP_FORMAT)
            while not member.eof:
                try:
                    piece = member.decompress(data, size)
                except zlib.error as error:
                    raise DamagedGzipError("the gzip data is corrupt") from error
                if piece:
                    yield piece
                data = member.unconsumed_tail
                # zlib may hold output back although it has taken all input
                if not data and len(piece) < size and not member.eof:
                    data = self._read(file, _CHUNK_BYTES)
                    if not data:
                        raise DamagedGzipError("the gzip data ends early")
            data = member.unused_data or self._read(file, _CHUNK_BYTES)
            while data and not data.strip(b"\0"):  # zero padding, as tape and block devices add
                data = self._read(file, _CHUNK_BYTES)
