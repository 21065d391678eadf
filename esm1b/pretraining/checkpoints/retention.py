"""Which checkpoints are kept, and whether there is room for them."""

import logging
import os
import shutil
from pathlib import Path
from typing import Final

from esm1b.config import PretrainingConfig
from esm1b.errors import UserError
from esm1b.pretraining.checkpoints.files import checkpoint_path, saved_checkpoints

_log = logging.getLogger(__name__)

# A float32 weight and its two moments.
_BYTES_PER_PARAMETER: Final = 12
_BYTES_PER_WEIGHT: Final = 4
# Upper bound, roughly, of the names, shapes and digests of a checkpoint.
_BYTES_BESIDES: Final = 2**20


def remove_old(directory: Path, *, keep: int, every: int | None) -> None:
    """Remove checkpoints except the newest `keep` and milestones.

    A milestone is the checkpoint of each `every`-th update, and any with a model directory: `every`
    may have been different before. Call it after a save, which read back what it wrote, so that a
    whole one is kept.
    """
    for updates, path in list(saved_checkpoints(directory).items())[:-keep]:
        if not _stays(directory, updates, every):
            remove(path)


def is_milestone(updates: int, every: int | None) -> bool:
    """Return whether the checkpoint after `updates` updates is kept for good."""
    return every is not None and updates > 0 and updates % every == 0


def milestone_path(directory: Path, updates: int) -> Path:
    """Return the model directory of the milestone after `updates` updates."""
    return checkpoint_path(directory / "milestones", updates)


def _stays(directory: Path, updates: int, every: int | None) -> bool:
    return is_milestone(updates, every) or milestone_path(directory, updates).exists()


def set_newer_aside(directory: Path, *, than: int) -> None:
    """Rename the damaged checkpoints that `load_newest` passed over: those after update `than`.

    They are not removed: they may become readable again, which only their owner can tell.
    """
    for updates, path in saved_checkpoints(directory).items():
        if updates > than:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)


def remove_leftovers(directory: Path) -> None:
    """Remove what interrupted saves and removals left.

    Whatever cannot be removed, such as a file that NFS keeps while it is read, waits for next time.
    """
    for path in directory.glob(".update-*"):
        shutil.rmtree(path, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a checkpoint; interrupted, it leaves no damaged one behind."""
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def check_free_space(directory: Path, recipe: PretrainingConfig, *, parameters: int) -> None:
    """Check that there is room for the checkpoints that are kept, existing ones included.

    Milestones fill the disk over weeks, and room may be made meanwhile, so for those that do not
    fit there is only a warning.

    Raises:
        UserError: there is too little.
    """
    every = recipe.milestone_interval
    size = _BYTES_PER_PARAMETER * parameters + _BYTES_BESIDES
    saved = saved_checkpoints(directory)
    passing = [updates for updates in saved if not _stays(directory, updates, every)]
    missing = max(recipe.checkpoints_kept + 1 - len(passing), 1)  # the next one is written first
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
