"""Which checkpoints stay, and whether there is room for them."""

import logging
import os
import shutil
from pathlib import Path
from typing import Final

from esm1b.errors import UserError
from esm1b.pretraining.checkpoints import files as checkpoint_files

_log = logging.getLogger(__name__)

# A float32 weight and its two moments.
_BYTES_PER_PARAMETER: Final = 12
_BYTES_PER_WEIGHT: Final = 4
# What the names, shapes and digests of a checkpoint take at most, about.
_BYTES_BESIDES: Final = 2**20


def remove_old(directory: Path, *, keep: int, every: int | None) -> None:
    """Remove checkpoints but the newest `keep`, and milestones.

    A milestone is that of each `every`-th update, and any whose model directory is there: `every`
    may have been another number. It is called after a save, which read back what it wrote, so one
    that is whole stays.

    Raises:
        ValueError: `keep` is less than 1.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; expected 1 or more")
    for updates, path in list(checkpoint_files.checkpoints(directory).items())[:-keep]:
        if not _stays(directory, updates, every):
            remove(path)


def is_milestone(updates: int, every: int | None) -> bool:
    """Return whether the checkpoint after `updates` updates is kept for good."""
    return every is not None and updates > 0 and updates % every == 0


def milestone_path(directory: Path, updates: int) -> Path:
    """Return the model directory of the milestone after `updates` updates."""
    return directory / "milestones" / f"update-{updates:08d}"


def _stays(directory: Path, updates: int, every: int | None) -> bool:
    return is_milestone(updates, every) or milestone_path(directory, updates).exists()


def set_newer_aside(directory: Path, *, than: int) -> None:
    """Rename the damaged checkpoints that `load_newest` passed over: those after update `than`.

    They are not removed: what could not be read now may be readable later, and only their owner
    can tell.
    """
    for updates, path in checkpoint_files.checkpoints(directory).items():
        if updates > than:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)


def remove_leftovers(directory: Path) -> None:
    """Remove what an interrupted save or removal left.

    What does not go, such as a file that NFS keeps while it is read, is left for the next time.
    """
    for path in directory.glob(".update-*"):
        shutil.rmtree(path, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a checkpoint; interrupted, it is gone all the same, and no damaged one is left."""
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def check_free_space(
    directory: Path,
    *,
    parameters: int,
    checkpoints: int,
    every: int | None = None,
    updates: int = 0,
) -> None:
    """Check that `directory` has room for so many checkpoints, those it holds counted in.

    Milestones come over weeks, and room may be made meanwhile: it warns where theirs is missing.

    Args:
        directory: of the checkpoints.
        parameters: of the network.
        checkpoints: to be there at once, besides those of each `every`-th update.
        every: see `remove_old`.
        updates: of the run.

    Raises:
        UserError: naming the bytes that are free and those needed.
    """
    size = _BYTES_PER_PARAMETER * parameters + _BYTES_BESIDES
    held = [u for u in checkpoint_files.checkpoints(directory) if not _stays(directory, u, every)]
    missing = max(checkpoints - len(held), 1)
    free = shutil.disk_usage(directory).free
    if free < missing * size:
        raise UserError(
            f"{directory}: {free:,} bytes are free; expected {missing * size:,} for {missing} more "
            f"checkpoints of {size:,} bytes, or fewer pretraining.checkpoints_kept"
        )
    if every is not None:
        done = max(checkpoint_files.checkpoints(directory), default=0)
        milestones = updates // every - done // every
        needed = missing * size + milestones * (size + _BYTES_PER_WEIGHT * parameters)
        if free < needed:
            _log.warning(
                "%s: %s bytes are free, and %s needed for the %d milestones to come; make room, or "
                "raise pretraining.milestone_interval",
                directory,
                f"{free:,}",
                f"{needed:,}",
                milestones,
            )
