"""Saving a checkpoint: copied at its update, written behind the next ones, then committed.

Every process writes its share of the parameters from copies in a thread. The checkpoint counts once
its directory, with all files and their digests on the disk, gets its name. On disk: see `files`.
"""

import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from torch import Tensor

from esm1b.errors import RunFailure, UserError
from esm1b.files import fsync
from esm1b.pretraining.checkpoints.checkpoint import shares, verified
from esm1b.pretraining.checkpoints.files import (
    StoredFile,
    StoredState,
    checkpoint_path,
    remove,
    remove_leftovers,
    write_file,
    write_state,
)
from esm1b.pretraining.checkpoints.run_identity import recorded_fingerprint
from esm1b.pretraining.distributed.collectives import ActionError, everywhere, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import in_thread
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.engine.zero_state import PARTS
from esm1b.pretraining.skipped_updates import SkippedUpdate
from esm1b.versions import versions


class SaveError(RunFailure):
    """A checkpoint could not be written; training can continue. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Save:
    """A checkpoint under way: `begin` it, train on, and `commit` it. One at a time.

    Attributes:
        path: path of the checkpoint.
        state: content of its `state.json`, without files.
        writing: this process's files and the seconds since the beginning; None if the checkpoint is
            there already.
        place: place of this process.
    """

    path: Path
    state: StoredState
    writing: Future[tuple[dict[str, StoredFile], float]] | None
    place: Place

    @classmethod
    def begin(
        cls,
        directory: Path,
        engine: Engine,
        *,
        updates: int,
        skipped: list[SkippedUpdate],
        place: Place,
    ) -> Self:
        """Copy the state after `updates` updates and start to write it. Collective.

        An existing checkpoint that is whole stays: the same updates make the same state.

        Raises:
            SaveError: there is no place for it; every process raises the same error.
        """
        began = time.monotonic()
        path = checkpoint_path(directory, updates)
        if on_first(path.exists, place):
            with suppress(UserError, ActionError):
                state = verified(path, engine, place)
                return cls(path=path, state=state, writing=None, place=place)
        try:
            run = on_first(lambda: recorded_fingerprint(directory), place)
            on_first(lambda: _make_room(path), place)
        except (UserError, ActionError) as error:
            raise SaveError(f"{path}: not saved: {error}") from error
        state = StoredState(
            updates=updates,
            adam_steps=engine.adam_steps(),
            scaler=engine.scaler(),
            skipped=list(skipped),
            run=run,
            versions=versions(),
            files={},
        )
        sizes = {name: shape.numel() for name, shape in engine.shapes.items()}
        names = shares(sizes, place.processes)[place.rank]
        copies = engine.copies(names)
        writing = in_thread(partial(_write_share, _unfinished(path), copies, place, began))
        return cls(path=path, state=state, writing=writing, place=place)

    def is_written(self) -> bool:
        """Return whether this process's share is on the disk, or could not be written."""
        return self.writing is None or self.writing.done()

    def wait(self) -> None:
        """Wait until this process writes no more, whatever became of its share."""
        if self.writing is not None:
            wait([self.writing])

    def commit(self) -> float:
        """Wait for all shares and make the checkpoint count. Collective.

        Returns:
            Seconds from the beginning to the last written share, and those of this step; 0 if the
            checkpoint was there already.

        Raises:
            SaveError: some process could not write its share; every process raises the same error.
                No partial checkpoint counts.
        """
        if self.writing is None:
            return 0.0
        unfinished = _unfinished(self.path)
        try:
            written = everywhere(self.writing.result, self.place)
            began = time.monotonic()
            files = {file: stored for mine, _ in written for file, stored in mine.items()}
            state = self.state.model_copy(update={"files": files})
            on_first(lambda: _make_it_count(unfinished, self.path, state), self.place)
        except (UserError, ActionError) as error:
            if self.place.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise SaveError(f"{self.path}: not saved: {error}") from error
        return max(seconds for _, seconds in written) + time.monotonic() - began


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _make_room(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    if path.exists():
        remove(path)
    _unfinished(path).mkdir()


def _write_share(
    directory: Path, copies: Future[dict[str, dict[str, Tensor]]], place: Place, began: float
) -> tuple[dict[str, StoredFile], float]:
    """Write this process's files, all at the same time; return them and the seconds since then."""
    writing = {}
    with ThreadPoolExecutor(max_workers=len(PARTS)) as executor:
        for part, tensors in copies.result().items():
            if tensors:
                file = f"{part}-{place.rank + 1:05d}-of-{place.processes:05d}.safetensors"
                writing[file] = executor.submit(write_file, directory / file, part, tensors)
    return {f: future.result() for f, future in writing.items()}, time.monotonic() - began


def _make_it_count(unfinished: Path, path: Path, state: StoredState) -> None:
    write_state(unfinished, state)
    fsync(unfinished)
    os.rename(unfinished, path)
    fsync(path.parent)
