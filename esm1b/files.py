"""Files: atomic writing (temporary name, fsync, rename), unpacking, JSON, and lines of JSON."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from esm1b.errors import Ending, OutputError, UserError

# Earlier versions had fixed names, without a token.
TEMPORARY: Final = re.compile(
    r"\.(?P<name>.+?)(?:~(?P<token>[0-9a-f]{8}))?\.(?P<kind>partial|replaced|input)", re.DOTALL
)
"""Names of what is beside an output while it is written: see `temporary_path`."""

_COMPRESSED: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
}


def new_token() -> str:
    """Return what tells the temporary names of one writer from those of all others."""
    return os.urandom(4).hex()


def temporary_path(
    path: Path, token: str, kind: Literal["partial", "replaced", "input"] = "partial"
) -> Path:
    """Return a temporary name beside `path`.

    It is that of the new content (`partial`), of the old one (`replaced`), or of a copy of what can
    be read only once (`input`).
    """
    return path.with_name(f".{path.name}~{token}.{kind}")


def file_to_write(path: Path) -> Path:
    """Return `path`, or the file that it is a link to, after its folder was made.

    Raises:
        UserError: it exists and is not a regular file, such as a device.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file; expected a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def told_if_removed(path: Path) -> Iterator[None]:
    """Say of an error that `path` or a file in it, which this process made, is gone, if it is.

    Raises:
        OutputError: another program removed it.
    """
    try:
        yield
    except Exception as error:
        gone = path
        if path.exists() and isinstance(error, FileNotFoundError) and error.filename is not None:
            gone = Path(os.fsdecode(error.filename))
        is_ours = gone == path or path in gone.parents
        if isinstance(error, Ending) or gone.exists() or not is_ours:
            raise
        raise OutputError(f"{gone}: removed by another program while it was written") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` if the block ends without an error.

    The data is synced before the rename, so `path` holds the old content or the new, never a part.
    Through a symbolic link, the file that it points to is replaced.

    Raises:
        UserError: `path` exists and is not a regular file, such as a device.
    """
    path = file_to_write(path)
    temporary = temporary_path(path, new_token())
    try:
        with told_if_removed(path.parent):
            yield temporary
        with told_if_removed(temporary):
            fsync(temporary)
            os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a directory (a rename in it is permanent then), to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_content(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is gzip, bzip2 or xz by its first bytes.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
        for mark, decompress in _COMPRESSED.items():
            if content.startswith(mark):
                return decompress(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{path}: cannot be read: {reason or error}") from error
    return content


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: the file is missing, is not JSON or gives a key twice.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON: {error}") from error


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{key}: given twice; expected once")
    return found


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class JsonLines:
    """Appends lines to a file, new or existing.

    A line that a kill or a full disk cut short is ended before the next one is written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: not all of it could be written.
        """
        data = json.dumps(line).encode() + b"\n"
        if self._file.seek(0, os.SEEK_END) > 0:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                data = b"\n" + data
        while data:
            data = data[self._file.write(data) :]  # writes less of it on a disk that fills up

    def sync(self) -> None:
        """Flush the lines to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(
    path: Path, *, having: str, last_bytes: int = sys.maxsize
) -> list[dict[str, Any]]:
    """Return the objects of a file that have the key `having`; lines cut short are left out.

    `last_bytes` limits the reading to the end of the file.

    Raises:
        OSError: the file cannot be read.
    """
    found = []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - last_bytes)
        file.seek(start)
        lines = file.read().splitlines()
    for text in lines[start > 0 :]:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and having in line:
            found.append(line)
    return found
