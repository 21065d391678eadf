"""Files and directories: atomic writing (temporary name, fsync, rename), JSON, and full disks."""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, get_args

from esm1b.errors import UserError

STAMP: Final = ".esm1b"
OutputKind = Literal[
    "audit",
    "contact-maps",
    "contacts",
    "corpus",
    "embeddings",
    "model",
    "perplexity",
    "report",
    "secondary-structure",
    "synthetic",
    "tokens",
]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` if the block ends without an error.

    The data is synced before the rename, so `path` holds the old content or the new, never a part.
    Through a symbolic link, the file that it points to is replaced.

    Raises:
        UserError: `path` exists and is not a regular file, such as a device.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file; expected a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(path: Path, kind: OutputKind, inputs: Iterable[Path] = ()) -> None:
    """Check that `path` can become an output directory: new, without files, or an earlier output.

    Raises:
        UserError: `path` is a file, holds files other than an output of this kind, is or contains
            one of the `inputs`, which are read while it is written, or cannot be created.
    """
    for source in inputs:
        if path.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(
                f"{path}: replacing it would remove the input {source}; expected another directory"
            )
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; expected a directory to write to")
    if path.resolve().is_mount():
        raise UserError(f"{path}: is a mount point, which cannot be replaced; expected another one")
    if any(entry.is_file() and entry != path / STAMP for entry in path.rglob("*")):
        _check_kind(path, kind)
    _check_writable(path)


@contextmanager
def atomic_directory(path: Path, kind: OutputKind, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; move it to `path` if the block succeeds.

    The file `.esm1b` in it records the kind of output. The arguments and errors are those of
    `check_replaceable`.
    """
    check_replaceable(path, kind, inputs)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    replaced = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        (temporary / STAMP).write_text(f"{kind}\n", encoding="utf-8")
        for file in temporary.rglob("*"):
            fsync(file)
        fsync(temporary)
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():
            os.rename(path, replaced)
        os.rename(temporary, path)
        fsync(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a directory (a rename in it is permanent then), to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


@contextmanager
def explain_full_disk(directory: Path, need: Callable[[], str]) -> Iterator[None]:
    """Say what to do when there is no more room in `directory`, where the block writes.

    Raises:
        UserError: the file system or the user's share of it is full; `need` returns, in words, the
            space that the block takes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(place).free
        raise UserError(
            f"{directory}: {os.strerror(error.errno)}, {size_in_words(free)} are free without what "
            f"was written; expected {need()}"
        ) from error


def size_in_words(size: float) -> str:
    """Return a number of bytes as gigabytes, or as megabytes if it is small."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _check_kind(path: Path, kind: OutputKind) -> None:
    stamp = path / STAMP
    found = stamp.read_text(encoding="utf-8", errors="replace").strip() if stamp.exists() else None
    if found == kind:
        return
    if found is None:
        problem = f"holds files but no {STAMP}, so it is not an earlier output of esm1b"
    elif found in get_args(OutputKind):
        problem = f"is an output of another kind, {found}"
    else:
        problem = (
            f"its {STAMP} names no known kind, as in outputs of earlier versions; "
            "remove the directory if you do not need it"
        )
    raise UserError(
        f"{path}: {problem}; expected a new directory or an earlier output of kind {kind}"
    )


def _check_writable(path: Path) -> None:
    """Create and remove a directory beside `path`: its permissions alone do not tell enough."""
    place = next(parent for parent in path.resolve().parents if parent.exists())
    try:
        with TemporaryDirectory(prefix=f".{path.name}.", dir=place):
            pass
    except OSError as error:
        raise UserError(
            f"{path}: cannot be created in {place}: {error.strerror}; expected a writable directory"
        ) from error
