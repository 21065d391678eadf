"""Writing so that nothing is ever half there: temporary name, fsync, rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError

__all__ = [
    "STAMP",
    "atomic_directory",
    "atomic_file",
    "check_replaceable",
    "fsync_directory",
    "fsync_file",
    "read_json",
    "sha256_file",
    "write_json",
]

STAMP: Final = ".esm1b"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` if the block ends without an error.

    The data is synced before the rename, so `path` holds the old content or the new, never a part.
    A symbolic link stays one: what it points to is replaced.

    Raises:
        UserError: `path` is there and no regular file, such as a device.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no regular file; expected a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        fsync_file(temporary)
        os.replace(temporary, path)
        fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check that `path` can become an output directory: new, without files, or an earlier output.

    Args:
        path: the directory to be.
        inputs: files and directories that are read meanwhile.

    Raises:
        UserError: `path` is a file, holds files that are somebody's own, or is or holds an input.
    """
    for source in inputs:
        if path.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(
                f"{path}: replacing it would remove the input {source}; expected another directory"
            )
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; expected a directory to write to")
    if not (path / STAMP).exists() and any(entry.is_file() for entry in path.rglob("*")):
        raise UserError(
            f"{path}: holds files but no {STAMP}, so it is not an earlier output of esm1b; "
            "expected a new or an empty directory"
        )


@contextmanager
def atomic_directory(path: Path, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; move it to `path` if the block succeeds.

    What was at `path` is replaced whole if an earlier call wrote it, which the empty file `.esm1b`
    in it tells.

    Args:
        path: the directory to be.
        inputs: files and directories that are read meanwhile.

    Raises:
        UserError: `path` is a file, holds files that are somebody's own, or is or holds an input.
    """
    check_replaceable(path, inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    replaced = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        (temporary / STAMP).touch()
        for file in temporary.rglob("*"):
            if file.is_file():
                fsync_file(file)
            else:
                fsync_directory(file)
        fsync_directory(temporary)
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():
            os.rename(path, replaced)
        os.rename(temporary, path)
        fsync_directory(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fsync_file(path: Path) -> None:
    """Flush the content of `path` to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Flush the entries of the directory `path` to the disk, so that a rename in it lasts."""
    fsync_file(path)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
