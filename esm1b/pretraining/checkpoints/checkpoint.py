"""Saving and loading: whole or not there, under any number of processes and any ZeRO stage.

Every process writes its share of the parameters. A checkpoint gets its name when all of it is on
the disk; one that fails its digests is passed over for the one before. On disk: `checkpoint_files`.
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from safetensors import safe_open
from torch import Size, Tensor

from esm1b.errors import RunFailure, SharedUserError, UserError
from esm1b.files import fsync
from esm1b.pretraining.checkpoints.files import (
    StoredFile,
    StoredState,
    check_file,
    checkpoint_path,
    checkpoints,
    read_state,
    shares,
    write_file,
    write_state,
)
from esm1b.pretraining.checkpoints.retention import remove, remove_leftovers
from esm1b.pretraining.checkpoints.run_identity import check_same_run, recorded_fingerprint
from esm1b.pretraining.distributed.collectives import ActionError, everywhere, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.skipped_updates import SkippedUpdate
from esm1b.versions import versions

PARTS: Final = ("weights", "first_moments", "second_moments")

# Files that a process reads or writes at the same time; digests are what takes the time.
_THREADS: Final = 4

_log = logging.getLogger(__name__)


class SaveError(RunFailure):
    """A checkpoint could not be written; training can go on. The message is one line."""


class StateHolder(Protocol):
    """What is saved: see `Engine`."""

    shapes: dict[str, Size]

    def state(
        self, names: Collection[str], *, parts: Collection[str]
    ) -> dict[str, dict[str, Tensor]]:
        """Return whole float32 tensors on the CPU, by part and parameter name. Collective."""

    def load_state(
        self,
        read: Callable[[str, str], Tensor],
        *,
        adam_steps: int,
        scaler: Mapping[str, float] | None,
    ) -> None:
        """Go on from what `read` returns for a part and a parameter name. Collective."""

    def adam_steps(self) -> int:
        """Return how many updates Adam did."""

    def scaler(self) -> dict[str, float] | None:
        """Return the loss scale of fp16 and what it counts."""


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What a checkpoint says besides its tensors.

    Attributes:
        updates: done.
        skipped: those of them whose gradient was not finite.
        scaler: loss scale of fp16 and what it counts.
        path: of the checkpoint.
    """

    updates: int
    skipped: list[SkippedUpdate]
    scaler: dict[str, float] | None
    path: Path


def save(
    directory: Path,
    engine: StateHolder,
    *,
    updates: int,
    skipped: list[SkippedUpdate],
    place: Place,
) -> Path:
    """Write the checkpoint after `updates` updates and return its path. Collective.

    One that is there already, and whole, stays as it is: the same updates make the same state.

    Raises:
        SaveError: any process could not write its share; every process raises the same, nothing
            counts as a checkpoint that did not before, and the next save clears up.
    """
    path = checkpoint_path(directory, updates)
    if _is_whole(path, engine, place):
        return path
    partial = path.with_name(f".{path.name}.partial")
    try:
        on_first(lambda: _make_room(path, partial), place)
        files = _write_shares(partial, engine, place)
        state = StoredState(
            updates=updates,
            adam_steps=engine.adam_steps(),
            scaler=engine.scaler(),
            skipped=skipped,
            run=on_first(lambda: recorded_fingerprint(directory), place),
            versions=versions(),
            files=files,
        )
        on_first(lambda: _commit(partial, path, state), place)
    except (UserError, ActionError) as error:
        if place.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise SaveError(f"{path}: not saved: {error}") from error
    return path


def load_newest(directory: Path, engine: StateHolder, *, place: Place) -> SavedState | None:
    """Load the newest checkpoint that is whole and return what it says; None where there is none.

    Collective. A damaged one is passed over, and the log says why.

    Raises:
        UserError: there are checkpoints and none is whole, or the newest that is belongs to
            another run.
    """
    found = on_first(lambda: _found(directory), place)
    for path in reversed(found):
        try:
            state = _verified(path, engine, place)
        except (UserError, ActionError) as error:
            if place.rank == 0:
                _log.warning("%s: damaged, so the checkpoint before it is tried: %s", path, error)
            continue
        on_first(lambda state=state, path=path: _check_run(path, state), place)  # type: ignore[misc]  # mypy takes the defaults for arguments
        _load(path, state, engine)
        return SavedState(
            updates=state.updates, skipped=state.skipped, scaler=state.scaler, path=path
        )
    if found:
        raise SharedUserError(
            f"{directory}: none of its {len(found)} checkpoints is whole; expected one, or none at "
            "all to start from the beginning"
        )
    return None


def _found(directory: Path) -> list[Path]:
    remove_leftovers(directory)
    return list(checkpoints(directory).values())


def _is_whole(path: Path, engine: StateHolder, place: Place) -> bool:
    if not on_first(path.exists, place):
        return False
    try:
        _verified(path, engine, place)
    except (UserError, ActionError):
        return False
    return True


def _make_room(path: Path, partial: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    if path.exists():
        remove(path)
    partial.mkdir()


def _write_shares(partial: Path, engine: StateHolder, place: Place) -> dict[str, StoredFile]:
    """Write every process's share and return what was written, by file name.

    A part is written while the next one is gathered.
    """
    sizes = {name: shape.numel() for name, shape in engine.shapes.items()}
    names = shares(sizes, place.processes)[place.rank]
    with ThreadPoolExecutor(max_workers=len(PARTS)) as executor:
        writing = {}
        for part in PARTS:
            tensors = engine.state(names, parts=(part,))[part]
            if tensors:
                file = f"{part}-{place.rank + 1:05d}-of-{place.processes:05d}.safetensors"
                writing[file] = executor.submit(write_file, partial / file, part, tensors)

        def written() -> dict[str, StoredFile]:
            wait(writing.values())  # nobody writes any more when a failure is known to all
            return {file: future.result() for file, future in writing.items()}

        return {
            file: stored
            for of_process in everywhere(written, place)
            for file, stored in of_process.items()
        }


def _commit(partial: Path, path: Path, state: StoredState) -> None:
    write_state(partial, state)
    fsync(partial)
    os.rename(partial, path)
    fsync(path.parent)


def _verified(path: Path, engine: StateHolder, place: Place) -> StoredState:
    """Return the state of a checkpoint after checking all its files, each in one process.

    Raises:
        UserError: some process found damage; the same in all of them.
        ActionError: some process could not look.
    """
    state = on_first(lambda: _checked_state(path, engine), place)
    sizes = {file: stored.size for file, stored in state.files.items()}
    mine = shares(sizes, place.processes)[place.rank]

    def check(file: str) -> None:
        check_file(path / file, state.files[file], engine.shapes)

    def check_share() -> None:
        with ThreadPoolExecutor(max_workers=_THREADS) as executor:
            list(executor.map(check, mine))

    everywhere(check_share, place)
    return state


def _checked_state(path: Path, engine: StateHolder) -> StoredState:
    state = read_state(path)
    found = sorted((stored.part, name) for stored in state.files.values() for name in stored.names)
    expected = sorted((part, name) for part in PARTS for name in engine.shapes)
    if found != expected:
        different = sorted(set(found) ^ set(expected)) or found
        raise UserError(
            f"{path}: {' of '.join(reversed(different[0]))} is missing, unknown or there twice; "
            f"expected each of {len(engine.shapes)} parameters once in each part"
        )
    return state


def _check_run(path: Path, state: StoredState) -> None:
    recorded = recorded_fingerprint(path.parent)
    if recorded is not None and state.run is not None:
        check_same_run(path, state.run, recorded)


def _load(path: Path, state: StoredState, engine: StateHolder) -> None:
    files = {
        (stored.part, name): path / file
        for file, stored in state.files.items()
        for name in stored.names
    }
    with ExitStack() as opened:
        readers: dict[Path, Any] = {}

        def read(part: str, name: str) -> Tensor:
            file = files[part, name]
            if file not in readers:
                readers[file] = opened.enter_context(safe_open(file, framework="pt"))
            tensor: Tensor = readers[file].get_tensor(name)
            return tensor

        engine.load_state(read, adam_steps=state.adam_steps, scaler=state.scaler)
