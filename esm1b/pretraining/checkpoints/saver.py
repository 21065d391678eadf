"""When a run saves, which checkpoints it keeps, and what happens after a save that fails."""

import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esm1b.config import PretrainingConfig
from esm1b.errors import UserError
from esm1b.pretraining.checkpoints import checkpoint
from esm1b.pretraining.checkpoints.checkpoint import SaveError
from esm1b.pretraining.checkpoints.files import checkpoint_path, remove, saved_checkpoints
from esm1b.pretraining.distributed.collectives import ActionError, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.skipped_updates import SkippedUpdate

_log = logging.getLogger(__name__)

# Saves in a row that fail before the last failure ends the run.
_MOST_FAILURES: Final = 3
# A failed save is tried again after this share of the interval.
_RETRIES_PER_INTERVAL: Final = 10
# A float32 weight and its two moments.
_BYTES_PER_PARAMETER: Final = 12
_BYTES_PER_WEIGHT: Final = 4
# Upper bound, roughly, of the names, shapes and digests of a checkpoint.
_BYTES_BESIDES: Final = 2**20


@dataclass
class Saver:
    """Saves at intervals; after a failure training continues and the save is tried again.

    `export` writes the model directory of the engine's weights; collective.
    """

    directory: Path
    recipe: PretrainingConfig
    engine: Engine
    place: Place
    export: Callable[[Path], None]
    _failures: int = field(default=0, init=False)
    _retry_at: int | None = field(default=None, init=False)

    def is_due(self, updates: int) -> bool:
        """Return whether to save after `updates` updates; the same in all processes."""
        return (
            updates in (self.recipe.updates, self._retry_at)
            or updates % self.recipe.checkpoint_interval == 0
            or is_milestone(updates, self.recipe.milestone_interval)
        )

    def save(self, updates: int, skipped: list[SkippedUpdate], *, is_last: bool = False) -> None:
        """Write a checkpoint and remove old ones. Collective.

        The last save of a run is tried again at once when it fails.

        Raises:
            SaveError: too many saves in a row have failed.
        """
        while True:
            try:
                checkpoint.save(
                    self.directory, self.engine, updates=updates, skipped=skipped, place=self.place
                )
                break
            except SaveError as error:
                self._failures += 1
                if self._failures >= _MOST_FAILURES:
                    raise
                if self.place.rank == 0:
                    _log.warning("failure %d of %d: %s", self._failures, _MOST_FAILURES, error)
            if not is_last:
                interval = self.recipe.checkpoint_interval
                self._retry_at = updates + max(1, interval // _RETRIES_PER_INTERVAL)
                return
        self._failures = 0
        self._retry_at = None
        keep, every = self.recipe.checkpoints_kept, self.recipe.milestone_interval
        try:
            on_first(lambda: remove_old(self.directory, keep=keep, every=every), self.place)
        except ActionError as error:  # the new checkpoint is safe
            if self.place.rank == 0:
                _log.warning("an old checkpoint was not removed: %s", error)

    def export_milestone(self, updates: int) -> None:
        """Write the model directory of a milestone that has none yet; a failure is only logged."""
        if not is_milestone(updates, self.recipe.milestone_interval):
            return
        path = milestone_path(self.directory, updates)
        if on_first(path.exists, self.place):
            return
        try:
            self.export(path)
        except ActionError as error:
            if self.place.rank == 0:
                _log.warning("%s: not written: %s; the run continues", path, error)


def remove_old(directory: Path, *, keep: int, every: int | None) -> None:
    """Remove the checkpoints that are not `kept`.

    Call it after a save, which read back what it wrote, so that a whole one is kept.
    """
    saved = saved_checkpoints(directory)
    for updates in sorted(saved.keys() - kept(saved, directory, keep=keep, every=every)):
        remove(saved[updates])


def kept(updates: Iterable[int], directory: Path, *, keep: int, every: int | None) -> set[int]:
    """Return which of the checkpoints after these updates stay: the newest and milestones.

    A milestone is the checkpoint of each `every`-th update, and any with a model directory: `every`
    may have been different before.
    """
    ordered = sorted(updates)
    return {*ordered[-keep:], *(each for each in ordered if _stays(directory, each, every))}


def is_milestone(updates: int, every: int | None) -> bool:
    """Return whether the checkpoint after `updates` updates is kept for good."""
    return every is not None and updates > 0 and updates % every == 0


def milestone_path(directory: Path, updates: int) -> Path:
    """Return the model directory of the milestone after `updates` updates."""
    return checkpoint_path(directory / "milestones", updates)


def _stays(directory: Path, updates: int, every: int | None) -> bool:
    return is_milestone(updates, every) or milestone_path(directory, updates).exists()


def checkpoint_bytes(parameters: int) -> int:
    """Return the size of a checkpoint, rounded up."""
    return _BYTES_PER_PARAMETER * parameters + _BYTES_BESIDES


def check_free_space(
    directory: Path, recipe: PretrainingConfig, *, parameters: int, has_mirror: bool = False
) -> None:
    """Check that there is room for the checkpoints that are kept, existing ones included.

    A mirror may be copying one more, whose files stay on the disk until then. Milestones fill the
    disk over weeks, and room may be made meanwhile, so for those that do not fit there is only a
    warning.

    Raises:
        UserError: there is too little.
    """
    every = recipe.milestone_interval
    size = checkpoint_bytes(parameters)
    saved = saved_checkpoints(directory)
    passing = [updates for updates in saved if not _stays(directory, updates, every)]
    at_once = 1 + has_mirror  # the next one is written first
    missing = max(recipe.checkpoints_kept + at_once - len(passing), at_once)
    free = shutil.disk_usage(directory).free
    if free < missing * size:
        raise UserError(
            f"{directory}: {free:,} bytes are free; expected {missing * size:,} for {missing} more "
            f"checkpoints of {size:,} bytes, or fewer pretraining.checkpoints_kept"
        )
    if every is not None:
        milestones = recipe.updates // every - max(saved, default=0) // every
        needed = missing * size + milestones * (size + _BYTES_PER_WEIGHT * parameters)
        if free < needed:
            _log.warning(
                f"{directory}: {free:,} bytes are free, and {needed:,} needed for the {milestones} "
                "milestones to come; make room, or raise pretraining.milestone_interval"
            )
