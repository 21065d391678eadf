"""Outputs of commands: each owned by one process from its start, and replaced whole at its end.

Beside an output that is being written are its lock, `.NAME.lock`, and temporary names with a token
of their writer. What a killed process left is removed by the next one that has the lock.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, get_args

from esm1b.disk_space import explain_full_disk, full_disk
from esm1b.errors import UserError
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
from esm1b.replacement import clear_temporaries, move_into_place, remove_temporary

STAMP: Final = ".esm1b"
OutputKind = Literal[
    "audit",
    "contact-maps",
    "contact-map-parts",
    "contacts",
    "corpus",
    "embeddings",
    "model",
    "perplexity",
    "report",
    "scores",
    "secondary-structure",
    "synthetic",
    "tokens",
    "variant-effects",
    "variants",
]


@contextmanager
def own_output(
    path: Path,
    kind: OutputKind | None = None,
    inputs: Iterable[Path] = (),
    *,
    need: Callable[[], float | str] | None = None,
    patience_seconds: float = 0,
) -> Iterator[None]:
    """Keep other processes away from the output `path`, a file or a directory, within the block.

    The same output has the same lock by any path to it. A replacement that was cut short is
    finished, and other leavings of killed processes are removed. Folders are made for the output,
    and removed if nothing comes of it.

    Args:
        path: output, which need not exist.
        kind: kind of the output directory that `path` may become, see `check_replaceable`.
        inputs: files that are read while the directory is written.
        need: bytes that the block takes on the disk, or words for them, asked when it is full.
        patience_seconds: time to wait for another process to end.

    Raises:
        UserError: another process writes it, it cannot be created, the file system is full, or
            `path` cannot become a directory of this kind.
    """
    if kind is not None:
        check_replaceable(path, kind, inputs)
    place = path.resolve()
    with ExitStack() as owned:
        owned.enter_context(explain_full_disk(path, need))
        check_writable(path)
        for folder in [folder for folder in place.parents if not folder.exists()][::-1]:
            owned.callback(_remove_empty, folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = exclusive_lock(
            place.with_name(f".{place.name}.lock"),
            path=path,
            doing="is writing it",
            patience_seconds=patience_seconds,
        )
        with told_if_removed(place.parent):
            is_alone = owned.enter_context(lock)
        if is_alone:
            clear_temporaries(place)
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
                    remove_temporary(entry)
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


def check_writable(path: Path) -> None:
    """Create and remove a directory beside `path`: its permissions alone do not tell enough.

    Raises:
        UserError: nothing can be created there.
        OSError: the file system is full.
    """
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
        move_into_place(place, temporary)
    finally:
        clear_temporaries(place, token)


@contextmanager
def atomic_directory(
    path: Path,
    kind: OutputKind,
    inputs: Iterable[Path] = (),
    *,
    need: Callable[[], float | str] | None = None,
) -> Iterator[Path]:
    """Own `path` as `own_output` does, and replace it as `replace_directory` does."""
    with own_output(path, kind, inputs, need=need), replace_directory(path, kind) as directory:
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
        move_into_place(path, temporary, beside)
    finally:
        clear_temporaries(path, token)
        for written in beside:
            remove_temporary(written)


def write_stamp(directory: Path, kind: OutputKind) -> None:
    """Record that `directory` is an output of this kind, so that it may be replaced by one."""
    with atomic_file(directory / STAMP) as temporary:
        temporary.write_text(f"{kind}\n", encoding="utf-8")


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


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
