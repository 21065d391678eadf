"""Faults inside the processes of a run: slow, full and read-only disks.

What is to fail is named in an environment variable, so the command line stays that of the run.
"""

import builtins
import errno
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import safetensors.torch
from torch import Tensor

from esm1b.pretraining import pretrain as run
from esm1b.pretraining.checkpoints import files as checkpoint_files
from esm1b.pretraining.checkpoints import save
from esm1b.pretraining.checkpoints.save import Save

__all__ = ["PATCH", "Injection", "begun", "inject"]

PATCH: Final = "tests.pretraining.faults.injection:inject"
_VARIABLE: Final = "INJECTED_FAULTS"
_PIECES: Final = 8

Disk = Literal["full while tensors are written", "full at the marker", "read-only"]


@dataclass(frozen=True, kw_only=True)
class Injection:
    """What goes wrong inside the processes of one start.

    Attributes:
        checkpoints: directory that it happens in.
        folder: where processes leave a file when their run begins.
        write_seconds: what the writing of each file of a checkpoint takes; 0 is as fast as it goes.
        disk: how saves fail.
        rank: where the disk is full while tensors are written.
        first_failure: number of the first save of this start that fails, from 1; 0 fails all that
            is written from the start on.
        failures: saves in a row that fail.
    """

    checkpoints: str
    folder: str
    write_seconds: float = 0.0
    disk: Disk | None = None
    rank: int = 0
    first_failure: int = 1
    failures: int = 0

    def environment(self) -> dict[str, str]:
        """Return what tells a process of it."""
        return {_VARIABLE: json.dumps(asdict(self))}


def begun(folder: Path, rank: int) -> Path:
    """Return the file that says that a process has begun with its run."""
    return folder / f"rank-{rank}.begun"


def inject(rank: int) -> None:
    """Let things go wrong in this process; called before its command."""
    injection = Injection(**json.loads(os.environ[_VARIABLE]))
    _leave_mark(injection, rank)
    if injection.write_seconds:
        _write_slowly(injection.write_seconds)
    if injection.disk is not None:
        _fail_saves(injection, rank)


def _replace(owner: ModuleType | type, name: str, by: Callable[[Any], Any]) -> None:
    """Put `by(original)` in the place of a function of a module or class, in this process alone."""
    setattr(owner, name, by(getattr(owner, name)))


def _leave_mark(injection: Injection, rank: int) -> None:
    def marking(place_from_environment: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*arguments: Any) -> Any:
            begun(Path(injection.folder), rank).touch()
            return place_from_environment(*arguments)

        return marked

    _replace(run, "place_from_environment", marking)


def _write_slowly(seconds: float) -> None:
    def save_file(tensors: dict[str, Tensor], path: Path) -> None:
        content = safetensors.torch.save(tensors)
        piece = -(-len(content) // _PIECES)
        with path.open("wb") as file:
            for start in range(0, len(content), piece):
                file.write(content[start : start + piece])
                file.flush()
                time.sleep(seconds / _PIECES)

    def slow(write_state: Callable[..., None]) -> Callable[..., None]:
        def write(*arguments: Any) -> None:
            time.sleep(seconds / 2)
            write_state(*arguments)
            time.sleep(seconds / 2)

        return write

    _replace(checkpoint_files, "save_file", lambda _: save_file)
    _replace(save, "write_state", slow)


class _Saves:
    """Counts the saves of this process and says whether the one under way is to fail."""

    def __init__(self, first: int, failures: int) -> None:
        self._first = first
        self._failures = failures
        self._count = 0
        self.fail = first == 0

    def count(self, begin: Callable[..., Save]) -> Callable[..., Save]:
        """Return `begin`, counted."""

        def counted(*arguments: Any, **others: Any) -> Save:
            self._count += 1
            self.fail = self._first == 0 or 0 <= self._count - self._first < self._failures
            return begin(*arguments, **others)

        return counted

    def fails(self, path: Path, directory: Path) -> bool:
        """Return whether writing to `path` is to fail: what belongs to a save, or all."""
        if not self.fail or directory not in (path, *path.parents):
            return False
        return self._first == 0 or ".update-" in str(path)


def _fail_saves(injection: Injection, rank: int) -> None:
    saves = _Saves(injection.first_failure, injection.failures)
    _replace(Save, "begin", saves.count)
    if injection.disk == "read-only":
        _refuse_writing(Path(injection.checkpoints), saves)
    elif injection.disk == "full at the marker":
        _fill_at_marker(saves)
    elif rank == injection.rank:
        _fill_at_tensors(saves)


def _fill_at_tensors(saves: _Saves) -> None:
    def full(save_file: Callable[..., None]) -> Callable[..., None]:
        def write(tensors: dict[str, Tensor], path: Path) -> None:
            save_file(tensors, path)
            if saves.fail:
                os.truncate(path, path.stat().st_size // 2)
                raise _error(errno.ENOSPC, path)

        return write

    _replace(checkpoint_files, "save_file", full)


def _fill_at_marker(saves: _Saves) -> None:
    def full(write_state: Callable[..., None]) -> Callable[..., None]:
        def write(path: Path, *others: Any) -> None:
            if saves.fail:
                (path / ".state.json.partial").write_text('{"sha256": "')
                raise _error(errno.ENOSPC, path / "state.json")
            write_state(path, *others)

        return write

    _replace(save, "write_state", full)


def _refuse_writing(directory: Path, saves: _Saves) -> None:
    """Make a directory read-only; its permissions would not do, root ignores them."""

    def refuse(path: Any) -> None:
        if isinstance(path, str | os.PathLike) and saves.fails(
            Path(os.path.abspath(path)), directory
        ):
            raise _error(errno.EROFS, path)

    def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, *arguments: Any, **others: Any) -> Any:
            refuse(path)
            return function(path, *arguments, **others)

        return guarded

    def refusing_to_write(opening: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, mode: str = "r", *arguments: Any, **others: Any) -> Any:
            if set(mode) & set("wax+"):
                refuse(path)
            return opening(path, mode, *arguments, **others)

        return guarded

    def refusing_to_save(save_file: Callable[..., None]) -> Callable[..., None]:
        def guarded(tensors: dict[str, Tensor], path: Path) -> None:
            refuse(path)
            save_file(tensors, path)

        return guarded

    _replace(checkpoint_files, "save_file", refusing_to_save)
    _replace(builtins, "open", refusing_to_write)
    _replace(io, "open", refusing_to_write)
    for name in ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "truncate"):
        _replace(os, name, refusing)


def _error(number: int, path: object) -> OSError:
    return OSError(number, os.strerror(number), str(path))
