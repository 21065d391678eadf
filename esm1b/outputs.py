"""Outputs of commands: each owned by one process from its start, and replaced whole at its end.

Beside an output that is being written are its lock, `.NAME.lock`, and temporary names with a token
of their writer. What a killed process left is removed by the next one that has the lock.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.disk_space import explain_full_disk, full_disk
from esm1b.errors import OutputError, UserError, one_line
from esm1b.files import (
    TEMPORARY,
    atomic_file,
    file_to_write,
    fsync,
    new_token,
    temporary_path,
    told_if_removed,
)
from esm1b.locks import exclusive_lock

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
def own_output(
    path: Path, *, need: Callable[[], float | str] | None = None, patience_seconds: float = 0
) -> Iterator[None]:
    """Keep other processes away from the output `path`, a file or a directory, within the block.

    The same output has the same lock by any path to it. A replacement that was cut short is
    finished, and other leavings of killed processes are removed.

    Args:
        path: output, which need not exist.
        need: bytes that the block takes on the disk, or words for them, asked when it is full.
        patience_seconds: time to wait for another process to end.

    Raises:
        UserError: another process writes it, it cannot be created, or the file system is full.
    """
    place = path.resolve()
    with ExitStack() as owned:
        owned.enter_context(explain_full_disk(path, need))
        _check_writable(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = exclusive_lock(
            place.with_name(f".{place.name}.lock"),
            path=path,
            doing="is writing it",
            patience_seconds=patience_seconds,
        )
        if owned.enter_context(lock):
            _clear(place)
        yield


@contextmanager
def own_contents(
    directory: Path, *, lock: str, doing: str, patience_seconds: float = 0, keep: bool = False
) -> Iterator[None]:
    """Keep other processes out of a directory whose files are written one by one; it must exist.

    For the arguments see `exclusive_lock`; `lock` is the name of its file in the directory.

    Raises:
        UserError: another process is at work there.
    """
    with exclusive_lock(
        directory / lock, path=directory, doing=doing, patience_seconds=patience_seconds, keep=keep
    ) as is_exclusive:
        if is_exclusive:
            for entry in directory.iterdir():
                match = TEMPORARY.fullmatch(entry.name)
                if match and match["kind"] == "partial" and entry.is_file():
                    _remove(entry)
        yield


def check_replaceable(path: Path, kind: OutputKind, inputs: Iterable[Path] = ()) -> None:
    """Check that `path` can become an output directory: new, without files, or an earlier output.

    Raises:
        UserError: `path` is a file, holds files other than an output of this kind, is or contains
            one of the `inputs`, which are read while it is written.
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


@contextmanager
def own_directory(
    path: Path,
    kind: OutputKind,
    inputs: Iterable[Path] = (),
    *,
    need: Callable[[], float | str] | None = None,
) -> Iterator[None]:
    """Own `path` within the block, in which it may become an output directory.

    The arguments and errors are those of `check_replaceable` and `own_output`.
    """
    check_replaceable(path, kind, inputs)
    with own_output(path, need=need):
        yield


@contextmanager
def replace_directory(path: Path, kind: OutputKind) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; move it to `path` if the block succeeds.

    The file `.esm1b` in it records the kind of output. Whoever calls this owns `path`.

    Raises:
        UserError: as `check_replaceable`, before the block and after it.
        OutputError: another program removed the temporary directory.
    """
    check_replaceable(path, kind)
    place = path.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    token = new_token()
    temporary = temporary_path(place, token)
    temporary.mkdir()
    try:
        with told_if_removed(temporary):
            yield temporary
            write_stamp(temporary, kind)
            for file in temporary.rglob("*"):
                fsync(file)
            fsync(temporary)
        check_replaceable(path, kind)
        _replace(place, temporary)
    finally:
        _clear(place, token)


@contextmanager
def atomic_directory(
    path: Path,
    kind: OutputKind,
    inputs: Iterable[Path] = (),
    *,
    need: Callable[[], float | str] | None = None,
) -> Iterator[Path]:
    """Own `path` as `own_directory` does, and replace it as `replace_directory` does."""
    with (
        own_directory(path, kind, inputs, need=need),
        replace_directory(path, kind) as directory,
    ):
        yield directory


@contextmanager
def atomic_files(path: Path, *companions: Path) -> Iterator[list[Path]]:
    """Yield temporary paths for files that belong together; all of them get their names, or none.

    They are in one directory. Cut short between two renames, there is no `path` until the next
    process that owns it has finished what was begun.

    Raises:
        UserError: a path is that of something else than a file.
        OutputError: another program removed a temporary file.
    """
    token = new_token()
    path, *others = map(file_to_write, (path, *companions))
    temporary = temporary_path(path, token)
    beside = {temporary_path(file, token): file for file in others}
    try:
        yield [temporary, *beside]
        for written in (temporary, *beside):
            with told_if_removed(written):
                fsync(written)
        _replace(path, temporary, beside)
    finally:
        _clear(path, token)
        for written in beside:
            _remove(written)


def write_stamp(directory: Path, kind: OutputKind) -> None:
    """Record that `directory` is an output of this kind, so that it may be replaced by one."""
    with atomic_file(directory / STAMP) as temporary:
        temporary.write_text(f"{kind}\n", encoding="utf-8")


@contextmanager
def reading_back() -> Iterator[None]:
    """Check files that were just written, whose faults are no mistake of the user.

    Raises:
        OutputError: instead of a `UserError`.
    """
    try:
        yield
    except UserError as error:
        raise OutputError(f"{error}, as counted while it was written") from error


def check_rows(path: Path, expected: int) -> None:
    """Check the number of rows of a Parquet file that was just written.

    Raises:
        OutputError: it has another number of rows, or cannot be read.
    """
    try:
        found = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        problem = f"cannot be read after it was written: {one_line(error)}"
        raise OutputError(f"{path}: {problem}; expected {expected} rows") from error
    check_count(path, found, expected, "rows")


def check_count(path: Path, found: int, expected: int, unit: str) -> None:
    """Check the number of things in a file or directory that was just written.

    Raises:
        OutputError: it is not the one that was counted on the way.
    """
    if found != expected:
        raise OutputError(
            f"{path}: {found} {unit}; expected {expected}, as counted while it was written"
        )


def _replace(path: Path, finished: Path, beside: Mapping[Path, Path] | None = None) -> None:
    """Move `finished` to `path`, after the files `beside` it have gone to theirs."""
    replaced = finished.with_suffix(".replaced")
    while True:
        with suppress(FileNotFoundError):
            os.rename(path, replaced)
        try:
            return _finish(path, finished, beside or {})
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _remove(replaced)  # without locks, another process may have come in between


def _finish(path: Path, finished: Path, beside: Mapping[Path, Path]) -> None:
    for written, file in beside.items():
        os.replace(written, file)
    os.rename(finished, path)
    with suppress(FileNotFoundError):  # or, half removed, it would look like one to restore
        os.rename(finished.with_suffix(".replaced"), finished)
    fsync(path.parent)


def _clear(path: Path, token: str | None = None) -> None:
    """Finish a replacement of `path` that was cut short, then remove the temporaries.

    They are those with `token`, or without one all of `path`, whose writers must be dead.
    """
    found = _temporaries(path, token)
    for match, entry in found:
        if match["kind"] != "replaced" or match["name"] != path.name or path.exists():
            continue
        finished = entry.with_suffix(".partial")
        if finished.exists():
            beside = {
                other: path.with_name(its["name"])
                for its, other in found
                if its["token"] == match["token"] and its["kind"] == "partial" and other != finished
            }
            _finish(path, finished, beside)
        else:
            os.rename(entry, path)
    for _, entry in _temporaries(path, token):
        _remove(entry)


def _temporaries(path: Path, token: str | None) -> list[tuple[re.Match[str], Path]]:
    """Return the temporaries of `path`, with `token` if there is one, and of their companions."""
    found = [
        (match, entry)
        for entry in (path.parent.iterdir() if path.parent.is_dir() else ())
        if (match := TEMPORARY.fullmatch(entry.name))
    ]
    named = {match["token"] for match, _ in found if match["name"] == path.name}
    tokens = {token} if token else named - {None}
    return [
        (match, entry)
        for match, entry in found
        if match["token"] in tokens or (token is None and match["name"] == path.name)
    ]


def _remove(path: Path) -> None:
    """Remove a temporary file or directory, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


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
    resolved = path.resolve()
    place = next(parent for parent in resolved.parents if parent.exists())
    try:
        temporary = temporary_path(place / resolved.name, new_token())
        temporary.mkdir()
        temporary.rmdir()
    except OSError as error:
        if full_disk(error) is not None:
            raise
        raise UserError(
            f"{path}: cannot be created in {place}: {error.strerror}; expected a writable directory"
        ) from error
