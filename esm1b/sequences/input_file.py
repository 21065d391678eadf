"""Reading an input once: a plain or gzip-compressed file or standard input, with its digest."""

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from esm1b.errors import UserError
from esm1b.sequences.compressed import decompressed_chunks

STANDARD_INPUT: Final = "-"
# Large enough that NumPy's overhead per block does not count, small enough to stay in the cache.
CHUNK_BYTES: Final = 1 << 20


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


def prefetch(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield `chunks` while a thread makes the next one.

    Decompression and digests release the interpreter's lock. An error raised by `chunks` comes out
    at its place in the order.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, chunks, None)
        while (chunk := following.result()) is not None:
            following = pool.submit(next, chunks, None)
            yield chunk
